"""What the window of activity makes of a rank: its columns are of several steps, and there are many of them.

A perceptron learns digits. After some epochs the rank of the activity of each hidden layer is counted three times: over
the window the triggers keep, whose columns saw weights that have changed since; over as many samples run through the
network as it is; and over 128 of those, the batch that the thesis takes on a GPU (Maile 2023, Table 8).

python benchmarks/window.py
"""

from __future__ import annotations

from argparse import ArgumentParser
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from irgrow.grammar import read_program
from irgrow.network import build
from irgrow.passes.analyses.spectrum import Gram, effective_rank, rank_of
from irgrow.training.data import Digits

PROGRAM = Path(__file__).parent.parent / "examples" / "experiments" / "mlp.irg"
LOOKS = (1, 2, 5, 10, 30)
BATCH = 128


def learn(width: int, seed: int) -> None:
    """Train the perceptron and print the ranks."""
    graph = read_program(PROGRAM).graph("digits", {"width": width})
    net = build(graph, seed=seed, init="xavier_uniform")
    optimizer = torch.optim.Adam(net.parameters(), lr=3e-3)
    images, labels = (torch.as_tensor(part) for part in Digits().load(seed).train)
    windows = [Gram(0, node=node.name) for node in graph if node.name.startswith("right_relu")]
    now: dict[str, Tensor] = {}

    def keep(gram: Gram, leaf: nn.Module, value: Tensor) -> None:
        if leaf.training:
            gram.add(value)
        else:
            now[gram.node] = value

    for gram in windows:
        leaf = net.module.meta["leaves"][gram.node]
        leaf.register_forward_hook(lambda module, _, value, gram=gram: keep(gram, module, value))
    draw = torch.Generator().manual_seed(seed)
    for epoch in range(1, max(LOOKS) + 1):
        order = torch.randperm(len(images), generator=draw)
        for part in order.split(64):
            loss = F.cross_entropy(net.train()(images[part]), labels[part])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        if epoch not in LOOKS:
            continue
        with torch.no_grad():
            net.eval()(images[order[-windows[0].window :]])
        for epsilon in (0.01, 0.1):
            counts = [
                (effective_rank(g, epsilon), rank_of(now[g.node].T, epsilon), rank_of(now[g.node][-BATCH:].T, epsilon))
                for g in windows
            ]
            print(
                f"  {width:>5} {epoch:>5} {epsilon:>7}   " + "   ".join("{:4d} {:4d} {:4d}".format(*c) for c in counts)
            )


def main() -> None:
    options = ArgumentParser(description=__doc__.partition("\n")[0])
    options.add_argument("--seed", type=int, default=1)
    seed = options.parse_args().seed
    print(f"rank of the activity of both hidden layers: window, weights as they are, {BATCH} columns")
    print("  width epoch epsilon   first            second")
    for width in (16, 64, 256):
        learn(width, seed)


if __name__ == "__main__":
    main()
