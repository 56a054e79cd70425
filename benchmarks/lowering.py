"""The lowered module against the same network written by hand: forward and backward, side by side.

python benchmarks/lowering.py
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from measuring import compare, judged
from models import GPT, ResNet50, mlp
from torch import Tensor, nn

from irgrow.grammar import parse, read
from irgrow.network import build

EXAMPLES = Path(__file__).parent.parent / "examples"


def step(net: nn.Module, x: Tensor) -> Callable[[], None]:
    """Return forward and backward as one call."""

    def run() -> None:
        net.zero_grad()
        net(x).float().square().mean().backward()

    return run


def measured(name: str, ours: nn.Module, theirs: nn.Module, x: Tensor, bound: float, rounds: int) -> None:
    """Time two modules in turns and print the ratio."""
    counts = [sum(p.numel() for p in net.parameters()) for net in (ours, theirs)]
    assert counts[0] == counts[1], f"{name}: {counts[0]:,} parameters and {counts[1]:,}"
    times = compare({"ours": step(ours, x), "theirs": step(theirs, x)}, rounds)
    print(f"{name}: irgrow {1e3 * times['ours']:.2f} ms, by hand {1e3 * times['theirs']:.2f} ms")
    print("  " + judged("irgrow over by hand", times["ours"] / times["theirs"], bound))


def main() -> None:
    torch.manual_seed(0)
    net = build(read(EXAMPLES / "resnet50.irg"))
    measured("ResNet-50, 4 images of 96 x 96", net, ResNet50(), torch.randn(4, 3, 96, 96), 1.05, 15)
    sizes = {"depth": 4, "heads": 4, "hidden": 1024}
    net = build(read(EXAMPLES / "gpt.irg", **sizes))
    length = net.graph.shape("tokens")[0]
    by_hand = GPT(50257, length, **sizes)
    measured(f"GPT, 4 blocks, {length} tokens", net, by_hand, torch.randint(50257, (1, length)), 1.05, 11)
    net = build(parse("net n(x: [64]) { return x |> dense(32) |> relu |> dense(32) |> relu |> dense(10) }"))
    measured("MLP 64-32-32-10, batch 64", net, mlp(64, 32, 32, 10), torch.randn(64, 64), 1.10, 401)


if __name__ == "__main__":
    main()
