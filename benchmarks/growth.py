"""What asking growth triggers after every step costs on a network like VGG, when nothing grows.

Eight convolutions of 3 x 3 with four poolings and a dense head, on images of 32 x 32, batches of 128, Adam. The parties
take turns; every figure is a ratio to the step of the same network without a controller, in the same run. Triggers have
options with which they never want units here; `gradient_rank` has those of the paper, and what it wanted is counted.
On a CPU it is processor time that counts, so that other programs on the machine do not; with OMP_NUM_THREADS=1 threads
that wait for one another do not count either.

python benchmarks/growth.py [--full] [--norm] [--rounds 15] [--device cuda]

--full: widths of 64 to 512; a quarter of them without. --norm: batch norm behind every convolution.
"""

from __future__ import annotations

import time
from argparse import ArgumentParser
from functools import partial

import torch
from measuring import compare, judged
from torch.nn import functional as F

from irgrow.errors import OptionError
from irgrow.grammar import parse
from irgrow.growth import GrowthProgram, NorthRandomBundle, NorthSelectBundle, Rule
from irgrow.growth.controller import Controller
from irgrow.network import Network, build
from irgrow.passes import GradientRank, GrowUnits, OrthogonalityGap, Trigger, WeightRank

WIDTHS = (64, 128, 256, 256, 512, 512, 512, 512)
POOLED = (0, 1, 3, 5, 7)
BOUNDS = {"north_random": 1.05, "north_select": 1.05, "gradient_rank": 1.25}


def program(full: bool, norm: bool) -> str:
    """Return the network as a program."""
    share = 1 if full else 4
    lines = []
    for i, width in enumerate(WIDTHS):
        lines.append(f"c{i + 1}: conv({width // share}, kernel = 3, padding = 1)")
        lines += ["batchnorm"] if norm else []
        lines += ["relu", *(["maxpool(2)"] if i in POOLED else [])]
    lines += ["flatten", f"f1: dense({512 // share})", "relu", "head: dense(10)"]
    return "net vgg(x: [3, 32, 32]) { return x |> " + " |> ".join(lines) + " }"


def asked(when: Trigger) -> GrowthProgram:
    """Return the program that asks a trigger at every step."""
    return GrowthProgram((Rule("look", GrowUnits(), when),))


PROGRAMS = {
    "north_random": NorthRandomBundle(gamma=1e6).program(),
    "north_select": NorthSelectBundle(gamma=1e6).program(),
    "orthogonality_gap": asked(OrthogonalityGap(gamma=1e6)),
    "weight_rank": asked(WeightRank(gamma=1e6)),
    "gradient_rank": asked(GradientRank()),
}


class Loop:
    """One training loop, with a controller if there is a program."""

    def __init__(self, text: str, growth: GrowthProgram | None, device: str) -> None:
        self.net: Network = build(parse(text), seed=0, device=device, init="xavier_uniform")
        self.optimizer = torch.optim.Adam(self.net.parameters(), lr=3e-4)
        self.net.track(self.optimizer)
        generator = torch.Generator().manual_seed(0)
        self.x = torch.randn(128, 3, 32, 32, generator=generator).to(device)
        self.y = torch.randint(10, (128,), generator=generator).to(device)
        self.controller = None if growth is None else Controller(self.net, growth)
        self.device, self.rewrites = device, 0

    def step(self) -> None:
        """Do a training step, and ask."""
        loss = F.cross_entropy(self.net(self.x), self.y)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        if self.controller is not None:
            self.rewrites += len(self.controller.step(self.x))
        if self.device == "cuda":
            torch.cuda.synchronize()


def main() -> None:
    options = ArgumentParser(description=__doc__.partition("\n")[0])
    options.add_argument("--full", action="store_true")
    options.add_argument("--norm", action="store_true")
    options.add_argument("--rounds", type=int, default=15)
    options.add_argument("--device", default="cpu")
    given = options.parse_args()
    if given.device == "cuda" and not torch.cuda.is_available():
        raise OptionError("there is no GPU here")
    make = partial(Loop, program(given.full, given.norm), device=given.device)
    loops = {"static": make(None), **{name: make(growth) for name, growth in PROGRAMS.items()}}
    clock = time.process_time if given.device == "cpu" else time.perf_counter
    times = compare({name: loop.step for name, loop in loops.items()}, given.rounds, warm=12, clock=clock)
    share, norm = 1 if given.full else 4, ", batch norm" if given.norm else ""
    print(f"VGG-like, widths {WIDTHS[0] // share} to {WIDTHS[-1] // share}{norm}, batch 128, on {given.device}")
    print(f"  static step: {1e3 * times['static']:.1f} ms; ratios to it:")
    for name in PROGRAMS:
        ratio = times[name] / times["static"]
        found = judged(name, ratio, BOUNDS[name]) if name in BOUNDS else f"{name}: {ratio:.3g}"
        print(f"  {found}" + (f"; {loops[name].rewrites} rewrites" if loops[name].rewrites else ""))


if __name__ == "__main__":
    main()
