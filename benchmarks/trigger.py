"""What asking `effective_dimension` after every step costs, on the MLP 784-256-256-10 with Adam.

Batches of 512, and of 128, where a step is cheaper and asking is not. Beside it: the singular values of a buffer of
activations, taken at every step.

python benchmarks/trigger.py
"""

from __future__ import annotations

from statistics import median

import torch
from measuring import judged, seconds
from torch.nn import functional as F

from irgrow.grammar import parse
from irgrow.growth import GrowthProgram, Rule
from irgrow.growth.controller import Controller
from irgrow.network import Network, build
from irgrow.passes import EffectiveDimension, GrowUnits

TEXT = "net n(x: [784]) { return x |> h1: dense(256) |> relu |> h2: dense(256) |> relu |> dense(10) }"


class Loop:
    """One training loop; `ask` is called after every step."""

    def __init__(self, batch: int) -> None:
        self.net: Network = build(parse(TEXT), seed=0)
        self.optimizer = torch.optim.Adam(self.net.parameters())
        self.net.track(self.optimizer)
        generator = torch.Generator().manual_seed(0)
        self.x, self.y = torch.randn(batch, 784, generator=generator), torch.randint(10, (batch,), generator=generator)

    def step(self) -> None:
        """Do a training step."""
        loss = F.cross_entropy(self.net(self.x), self.y)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()


class Asked(Loop):
    """The loop with the trigger asked at every step, on both hidden layers; it never wants units here."""

    def __init__(self, batch: int) -> None:
        super().__init__(batch)
        rule = Rule("look", GrowUnits(), EffectiveDimension(gamma=2.0))
        self.controller = Controller(self.net, GrowthProgram((rule,)))

    def step(self) -> None:
        """Do a training step and ask."""
        super().step()
        assert not self.controller.step(self.x)


class Buffered(Loop):
    """The loop with the singular values of the last 512 activations of both layers at every step."""

    def __init__(self, batch: int) -> None:
        super().__init__(batch)
        self.kept: dict[str, list[torch.Tensor]] = {}
        leaves = self.net.module.meta["leaves"]
        for name in ("relu_1", "relu_2"):
            leaves[name].register_forward_hook(lambda m, i, o, name=name: self.keep(name, o))

    def keep(self, name: str, value: torch.Tensor) -> None:
        """Keep the last 512 columns of activity."""
        self.kept[name] = [*self.kept.get(name, []), value.detach()][-max(1, 512 // len(value)) :]

    def step(self) -> None:
        """Do a training step and decompose."""
        super().step()
        for values in self.kept.values():
            torch.linalg.svdvals(torch.cat(values).double() / 512**0.5)


def main(batch: int = 512, rounds: int = 200) -> None:
    plain, asked, buffered = Loop(batch), Asked(batch), Buffered(batch)
    times: dict[str, list[float]] = {"plain": [], "asked": [], "buffered": []}
    for i in range(rounds + 20):
        for name, loop in (("plain", plain), ("asked", asked), ("buffered", buffered)):
            if name == "buffered" and i >= 40:
                continue
            took = seconds(loop.step)
            if i >= 20:
                times[name].append(took)
    step, ask, svd = (median(times[n]) for n in ("plain", "asked", "buffered"))
    figures = f"step {1e3 * step:.2f} ms, asking at every step {1e3 * ask:.2f} ms, singular values {1e3 * svd:.2f} ms"
    print(f"batch {batch}: {figures}")
    cost = ask / step - 1
    print("  " + (judged("cost of the trigger over the step", cost, 0.45) if batch == 512 else f"cost {cost:.2f}"))
    print(f"  cost of the singular values of a buffer over the step: {svd / step - 1:.2f}")


if __name__ == "__main__":
    main(512)
    main(128)
