"""Growing a residual stage of ResNet-50 by 8, with AdamW state, against Torch-Pruning's build and prune of 8 channels.

Also: whether the time depends on parameters that are not touched, and the extra memory.

Torch-Pruning runs the network once on an example input; most of its time goes there, so both the network's own size,
224 x 224, and the smallest sensible one, 64 x 64, are measured.

python benchmarks/rewriting.py
"""

from __future__ import annotations

import tracemalloc
import warnings
from pathlib import Path
from statistics import median
from typing import Any

import torch
from measuring import judged, seconds
from models import ResNet50

from irgrow.grammar import parse, read
from irgrow.network import Network, build
from irgrow.passes import GrowUnits

EXAMPLES = Path(__file__).parent.parent / "examples"
STAGES = (256, 512, 1024, 2048)
SIDES = (224, 64)


def trained(net: Any) -> torch.optim.Optimizer:
    """Fill the state of AdamW for every parameter, by one step of random gradients."""
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-3)
    for p in net.parameters():
        p.grad = torch.randn_like(p)
    optimizer.step()
    optimizer.zero_grad()
    return optimizer


def stage_axes(net: Network) -> list[str]:
    """Return the residual streams of the four stages."""
    sizes = net.graph.widths
    found = {}
    for node in net.graph:
        axis = net.graph.types[node.name].units
        if node.op.kind == "add":
            found.setdefault(sizes[axis.name], axis.name)  # type: ignore[union-attr]
    return [found[size] for size in STAGES]


def torch_pruning(stage: int, side: int) -> float:
    """Return the seconds that Torch-Pruning takes to build its graph and prune 8 channels of a stage."""
    import torch_pruning as tp

    net = ResNet50()
    block = net.blocks[(2, 6, 12, 15)[stage]]

    def prune() -> None:
        graph = tp.DependencyGraph().build_dependency(net, example_inputs=torch.randn(1, 3, side, side))
        group = graph.get_pruning_group(block.conv3, tp.prune_conv_out_channels, idxs=list(range(8)))
        assert graph.check_pruning_group(group)
        group.prune()

    return seconds(prune)


def main(rounds: int = 7) -> None:
    torch.manual_seed(0)
    warnings.simplefilter("ignore")
    graph = read(EXAMPLES / "resnet50.irg")
    axes = stage_axes(build(graph))
    print(f"ResNet-50, grow a stage by 8 with the state of AdamW; median of {rounds}, in turns")
    worst = dict.fromkeys(SIDES, float("inf"))
    for stage, axis in enumerate(axes):
        ours: list[float] = []
        theirs: dict[int, list[float]] = {side: [] for side in SIDES}
        for _ in range(rounds):
            net = build(graph)
            net.track(trained(net))
            ours.append(seconds(lambda net=net, axis=axis: net.rewrite(GrowUnits(axis, 8))))
            for side, times in theirs.items():
                times.append(torch_pruning(stage, side))
        print(f"  stage {stage + 1} ({axis}): irgrow {1e3 * median(ours):.1f} ms")
        for side, times in theirs.items():
            ratio = median(times) / median(ours)
            print(f"    Torch-Pruning, example of {side} x {side}: {1e3 * median(times):.1f} ms, ratio {ratio:.1f}")
            worst[side] = min(worst[side], ratio)
    for side in SIDES:
        print("  " + judged(f"smallest ratio, {side} x {side}", worst[side], 5, at_least=True))

    print("independence of what is not touched: an axis of 64 beside a layer of N x N")
    times = {}
    for width in (64, 1024, 4096):
        body = (
            f"a: dense(64) |> relu |> b: dense(64) |> relu |> dense({width}) |> relu |> c: dense({width}) |> dense(2)"
        )
        text = f"net n(x: [64]) {{ return x |> {body} }}"
        took = []
        for _ in range(rounds):
            net = build(parse(text))
            net.track(trained(net))
            took.append(seconds(lambda net=net: net.rewrite(GrowUnits("a", 8))))
        untouched = net.params["c.weight"].numel()
        times[width] = median(took)
        print(f"  {untouched:>12,} parameters in it: {1e3 * times[width]:.2f} ms")
    print("  " + judged("largest over smallest", times[4096] / times[64], 2))

    print("memory of a rewrite, tensors only")
    net = build(parse("net n(x: [512]) { return x |> a: dense(2048) |> relu |> b: dense(2048) |> relu |> dense(10) }"))
    net.track(trained(net))
    peak, touched = _peak(net)
    print("  " + judged("new bytes at the peak over bytes touched", peak / touched, 2))


def _peak(net: Network) -> tuple[int, int]:
    """Return the bytes that are new at the peak of a rewrite, and those of the tensors it touches with their state."""
    from torch.utils._python_dispatch import TorchDispatchMode

    live: dict[int, int] = {}
    state = {"now": 0, "peak": 0}

    class Counting(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            out = func(*args, **(kwargs or {}))
            for t in out if isinstance(out, tuple | list) else (out,):
                if isinstance(t, torch.Tensor) and t.device.type != "meta":
                    self.note(t)
            return out

        def note(self, t: torch.Tensor) -> None:
            import weakref

            storage = t.untyped_storage()
            key = storage._cdata
            if key in live or any(key == k for k in known):
                return
            live[key] = storage.nbytes()
            state["now"] += live[key]
            state["peak"] = max(state["peak"], state["now"])
            weakref.finalize(storage, self.gone, key)

        def gone(self, key: int) -> None:
            state["now"] -= live.pop(key, 0)

    optimizer = net.tracked[0].optimizer
    slots = [v for s in optimizer.state.values() for v in s.values() if isinstance(v, torch.Tensor)]
    known = {t.untyped_storage()._cdata for t in (*net.parameters(), *net.buffers(), *slots)}
    names = [n for n in net.params if n.startswith(("a.", "b.weight"))]
    touched = sum(3 * net.params[n].numel() * net.params[n].element_size() for n in names)
    tracemalloc.start()
    with Counting():
        receipt = net.rewrite(GrowUnits("a", 64))
    _, arrays = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert receipt.applied
    return state["peak"] + arrays, touched


if __name__ == "__main__":
    main()
