"""What the fan-in of a few new units would receive, given their fan-outs: V^T A without the auxiliary gradient A.

For k units this takes the time of two convolutions with k channels instead of as many as A has rows. The signal is
carried back through the reader by the k fan-outs, which gives the gradient by what the units would give; the fan-in
receives its product with what the maker reads. A maximum of entries that stand t apart from one another is the maximum
over the value itself, t further on: pooled with a stride of one, the value is read by a convolution that has the
stride of the pooling. The result is exactly V^T A of `irgrow.passes.analyses.auxiliary` (`borders = exact`).

It works where one layer reads the units, behind activations, norms, at most one pooling without padding (of a maker
with a stride of one) and a flatten; not in groups, and not behind depthwise convolutions, attention and products. `way`
says whether that is so.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any

from irgrow.graph import Graph, Node, remembered
from irgrow.ops import AvgPool, Conv, Coupling, Flatten, MaxPool
from irgrow.ops.conv import per_dim
from irgrow.passes.analyses.bridge import bridge
from irgrow.passes.analyses.lanes import plain

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Way:
    """The one way from a maker to its reader.

    Args:
        maker: The layer that makes the units.
        reader: The layer that reads them.
        pool: The pooling between them.
        flat: Shape of the positions before a flatten.
    """

    maker: Node
    reader: Node
    pool: Node | None = None
    flat: tuple[int, ...] | None = None


@remembered
def way(graph: Graph, axis: str) -> Way | None:
    """Return the way from the maker of an axis to its reader; `None` if it is none that `received` knows.

    >>> from irgrow.grammar import parse
    >>> g = parse("net n(x: [1, 6, 6]) { return x |> c: conv(4, kernel = 3) |> maxpool(2) |> flatten |> y: dense(2) }")
    >>> way(g, "c").flat
    (2, 2)
    """
    found = bridge(graph, axis)
    maker, pool, flat = graph[found.maker], None, None
    if len(found.routes) != 1 or found.lanes > 1 or found.passed:
        return None
    if not (plain(graph, found.maker) and plain(graph, found.routes[0].node)):
        return None
    node = maker
    while len(graph.users[node.name]) == 1:
        before, node = node, graph[graph.users[node.name][0]]
        if node.name == found.routes[0].node:
            return Way(maker, node, pool, flat)
        if isinstance(node.op, Flatten) and flat is None and node.op.start == 0:
            if maker.op.mixes(graph.signatures[maker.name]) != 0:
                return None
            flat = graph.shape(before.name)[1:]
        elif isinstance(node.op, MaxPool | AvgPool) and pool is None and flat is None and _simple(graph, maker, node):
            pool = node
        elif not _by_entry(graph, before, node):
            return None
    return None


def _by_entry(graph: Graph, before: Node, node: Node) -> bool:
    """Whether a node counts as one: an activation or a norm."""
    kept = graph.types[node.name] == graph.types[before.name] and not isinstance(node.op, MaxPool | AvgPool)
    return kept and node.op.coupling in (Coupling.PER_UNIT, Coupling.STATISTICS)


def _simple(graph: Graph, maker: Node, pool: Node) -> bool:
    """Whether a pooling has windows without padding, and its maker a stride of one."""
    assert isinstance(pool.op, MaxPool | AvgPool)
    if pool.op.kernel is None or not isinstance(maker.op, Conv):
        return False
    rank = graph.types[pool.name].rank - 1
    return set(per_dim(pool.op.padding, rank)) == {0} and set(per_dim(maker.op.stride, rank)) == {1}


def received(graph: Graph, along: Way, value: Tensor, signal: Tensor, fan_outs: Tensor) -> Tensor:
    """Return what the fan-in of new units receives on a batch, shape (units, fan-in entries).

    Args:
        graph: The network.
        along: The way of its units.
        value: What the maker reads, batch first.
        signal: Gradient of the loss by what the reader gives.
        fan_outs: Shape (fan-out entries, units), in the order of the rows of the auxiliary gradient.
    """
    import torch

    before = _before(graph, along, signal, fan_outs)
    if not isinstance(along.maker.op, Conv):
        return before.flatten(0, -2).T @ value.flatten(0, -2)
    rank = value.dim() - 2
    kernel, stride, padding, dilation = along.maker.op._windows(rank).values()
    value = value.to(before)
    if along.pool is not None:
        assert isinstance(along.pool.op, MaxPool | AvgPool)
        window, stride, *_ = along.pool.op._windows(rank).values()
        value = torch.nn.functional.pad(value, [p for size in reversed(padding) for p in (size, size)])
        value = _pooled(value, window, isinstance(along.pool.op, MaxPool))
        padding = (0,) * rank
    rule: Any = torch.nn.grad.conv1d_weight if rank == 1 else torch.nn.grad.conv2d_weight
    found: Tensor = rule(value, (before.shape[1], value.shape[1], *kernel), before, stride, padding, dilation)
    return found.movedim(1, -1).flatten(1, -2).mT.flatten(1)


def _before(graph: Graph, along: Way, signal: Tensor, fan_outs: Tensor) -> Tensor:
    """Return the gradient by what the new units give to the reader, laid out as an output of the maker."""
    import torch

    units = fan_outs.shape[1]
    if along.flat is not None:
        spread = signal @ fan_outs.unflatten(0, (-1, prod(along.flat))).flatten(1)
        return spread.unflatten(1, (*along.flat, units)).movedim(-1, 1)
    if not isinstance(along.reader.op, Conv):
        return signal @ fan_outs
    rank = signal.dim() - 2
    kernel, stride, padding, dilation = along.reader.op._windows(rank).values()
    weight = fan_outs.unflatten(0, (-1, *kernel)).movedim(-1, 1)
    around = tuple(d * (k - 1) - p for d, k, p in zip(dilation, kernel, padding, strict=True))
    if set(stride) == {1} and min(around) >= 0:  # the same numbers, by a forward convolution, which is faster
        turned = weight.flip(tuple(range(2, 2 + rank))).transpose(0, 1)
        convolve: Any = torch.nn.functional.conv1d if rank == 1 else torch.nn.functional.conv2d
        back: Tensor = convolve(signal, turned, None, 1, around, dilation)
        return back
    rule: Any = torch.nn.grad.conv1d_input if rank == 1 else torch.nn.grad.conv2d_input
    places = graph.shape(along.reader.inputs[0])[1:]
    found: Tensor = rule((len(signal), units, *places), weight, signal, stride, padding, dilation)
    return found


def _pooled(value: Tensor, window: tuple[int, ...], largest: bool) -> Tensor:
    """Pool with a stride of one, a dimension at a time: for small windows several times as fast as torch's kernels."""
    import torch

    for dim, size in enumerate(window, 2):
        parts = [value.narrow(dim, i, value.shape[dim] - size + 1) for i in range(size)]
        value = parts[0]
        for part in parts[1:]:
            value = torch.maximum(value, part) if largest else value + part
        value = value if largest else value / size
    return value
