"""What rewrites cost: in proportion to the tensors they touch, whatever stands beside them, and without tracing.

Three operators on networks with the state of AdamW: pruning a residual stage of ResNet-50 by 8 units, growing the model
width of a GPT by 64 (or the hidden width of one of its blocks), and masking a layer at 90 percent. Each is timed

- on networks in which it touches the same tensors and which differ in what it does not touch: the ratio of times;
- on several sizes of what it touches: the ratio of the times for a byte.

Times are the least of several, taken in turns on one thread: what disturbs a rewrite only adds to it. Bytes touched
are those of the new tensors with their two moments. Then the calls of tracing and code generation of `torch.fx` in a
rewrite are counted; inserting a layer, which does change the code, shows that the counter counts.

python benchmarks/operators.py
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from measuring import judged, seconds
from torch import fx

from irgrow.grammar import parse, read
from irgrow.graph import Graph
from irgrow.network import Network, build
from irgrow.passes import GrowUnits, InsertLayer, Pass, PruneEdges, PruneUnits

EXAMPLES = Path(__file__).parent.parent / "examples"
RESNET = (EXAMPLES / "resnet50.irg").read_text(encoding="utf-8")
MEBIBYTE = 2**20

Case = tuple[Graph, Pass]


def trained(graph: Graph) -> Network:
    """Return a network whose every parameter has state in AdamW."""
    net = build(graph)
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-3)
    for p in net.parameters():
        p.grad = torch.full_like(p, 1e-3)
    optimizer.step()
    optimizer.zero_grad()
    return net.track(optimizer)


def touched(net: Network, names: tuple[str, ...]) -> int:
    """Return the bytes of tensors with their state."""
    tensors = [net.params[name] for name in names]
    state = net.tracked[0].optimizer.state
    slots = [v for t in tensors for v in state.get(t, {}).values() if isinstance(v, torch.Tensor)]
    return sum(t.numel() * t.element_size() for t in (*tensors, *slots))


def measured(cases: Mapping[str, Case], rounds: int) -> dict[str, tuple[float, int]]:
    """Time rewrites in turns; return the least seconds and the bytes touched of each."""
    times: dict[str, list[float]] = {name: [] for name in cases}
    size: dict[str, int] = {}
    for i in range(rounds + 1):
        for name, (graph, rewrite) in cases.items() if i % 2 else reversed(cases.items()):
            net = trained(graph)
            total = sum(p.numel() for p in net.params.values())
            receipts: list[Any] = []
            took = seconds(lambda net=net, rewrite=rewrite, to=receipts: to.append(net.rewrite(rewrite)))
            assert receipts[0].applied, receipts[0]
            size[name] = touched(net, receipts[0].morphism.touched)
            if i:  # the first round warms up
                times[name].append(took)
            else:
                print(f"    {name}: {total:,} numbers, {size[name] / MEBIBYTE:.1f} MiB touched, {receipts[0].verdict}")
            del net, receipts
    return {name: (min(t), size[name]) for name, t in times.items()}


def report(what: str, same: Mapping[str, Case], sizes: Mapping[str, Case], rounds: int) -> None:
    """Print the two ratios of an operator.

    Args:
        what: Its name.
        same: Cases that touch the same and differ in what is not touched, the smallest network first.
        sizes: Cases that touch more and more.
        rounds: How often each is timed.
    """
    print(what)
    found = measured({**same, **sizes}, rounds)
    for name, (took, size) in found.items():
        print(f"  {name}: {1e3 * took:.2f} ms, {1e9 * took / size:.2f} ns a byte")
    first, *others = same
    for name in others:
        assert found[name][1] == found[first][1], "all touch the same"
        print("  " + judged(f"same tensors touched, {name} over {first}", found[name][0] / found[first][0], 2))
    for few, many in pairwise(found[name] for name in sizes):
        per_byte = (many[0] / many[1]) / (few[0] / few[1])
        print("  " + judged(f"time for a byte, {many[1] / few[1]:.1f} times as many touched over fewer", per_byte, 2))


def resnet(rounds: int) -> None:
    eight = tuple(range(8))
    graph, wide = parse(RESNET), parse(RESNET, base=128)
    large, deep = parse(RESNET, classes=30_000), parse(RESNET.replace("stage(4 * base, 6", "stage(4 * base, 24"))
    first, last = (graph.types[f"{stage}.first.conv_3"].units.name for stage in ("s1", "s4"))  # type: ignore[union-attr]
    report(
        "ResNet-50: prune a residual stage by 8",
        {
            "stage 1": (graph, PruneUnits(first, eight)),
            "stage 1, 30,000 classes": (large, PruneUnits(first, eight)),
            "stage 1, 18 more blocks": (deep, PruneUnits(first, eight)),
        },
        {"stage 4": (graph, PruneUnits(last, eight)), "stage 4, twice as wide": (wide, PruneUnits(last, eight))},
        rounds,
    )


def gpt(rounds: int) -> None:
    by_depth = {depth: read(EXAMPLES / "gpt.irg", depth=depth) for depth in (2, 4, 12)}
    width, hidden = GrowUnits("d", 64, zero="mean"), GrowUnits("blocks.0.up", 64)
    report(
        "GPT-2: grow the hidden width of a block by 64; grow the model width by 64",
        {"hidden, 2 blocks": (by_depth[2], hidden), "hidden, 12 blocks": (by_depth[12], hidden)},
        {"width, 2 blocks": (by_depth[2], width), "width, 4 blocks": (by_depth[4], width)},
        rounds,
    )


def layers(masked: int, beside: int) -> Graph:
    """Return a masked layer beside one that has nothing to do with it."""
    body = f"a: dense({masked}, masked = true) |> relu |> dense(64) |> relu |> dense({beside}) |> relu"
    return parse(f"net n(x: [{masked}]) {{ return x |> {body} |> dense({beside}) |> dense(2) }}")


def masks(rounds: int) -> None:
    prune = PruneEdges("a", "magnitude", fraction=0.9)
    report(
        "masking a layer at 90 percent",
        {"1024 x 1024": (layers(1024, 64), prune), "1024 x 1024 beside 4096 x 4096": (layers(1024, 4096), prune)},
        {f"{n} x {n}, alone": (layers(n, 64), prune) for n in (1024, 2048, 4096)},
        rounds,
    )


@contextmanager
def counted() -> Iterator[dict[str, int]]:
    """Count the calls of tracing and code generation of `torch.fx`."""
    calls: dict[str, int] = {}

    def counting(cls: Any, name: str) -> Any:
        real = getattr(cls, name)

        def call(*args: Any, **kwargs: Any) -> Any:
            calls[name] = calls.get(name, 0) + 1
            return real(*args, **kwargs)

        return mock.patch.object(cls, name, call)

    names = ((fx.GraphModule, "recompile"), (fx.Graph, "python_code"), (fx.Tracer, "trace"))
    with counting(*names[0]), counting(*names[1]), counting(*names[2]):
        calls |= {name: 0 for _, name in names}
        yield calls


def code() -> None:
    print("calls of fx in a rewrite")
    resnet50, gpt2 = parse(RESNET), read(EXAMPLES / "gpt.irg", depth=2)
    stage = resnet50.types["s1.first.conv_3"].units.name  # type: ignore[union-attr]
    plain = parse("net n(x: [64]) { return x |> a: dense(64) |> relu |> dense(2) }")
    cases: dict[str, Case] = {
        "prune a stage of ResNet-50": (resnet50, PruneUnits(stage, (0, 1))),
        "grow the hidden width of a GPT": (gpt2, GrowUnits("blocks.0.up", 64)),
        "grow the model width of a GPT": (gpt2, GrowUnits("d", 64, zero="mean")),
        "prune edges of a layer with a mask": (layers(64, 64), PruneEdges("a", fraction=0.9)),
        "prune edges of a layer without one": (plain, PruneEdges("a", fraction=0.9)),
        "insert a layer": (plain, InsertLayer("relu_1")),
    }
    for name, (graph, rewrite) in cases.items():
        net = trained(graph)
        with counted() as calls:
            assert net.rewrite(rewrite).applied
        print(f"  {name}: {', '.join(f'{call} {times}' for call, times in calls.items())}")


def main() -> None:
    torch.set_num_threads(1)
    resnet(9)
    gpt(4)
    masks(9)
    code()


if __name__ == "__main__":
    main()
