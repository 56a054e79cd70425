"""What is done to numbers that are carried along the ways of new units: one rule for every kind of node.

Values have a shape (lanes * samples, ...): the samples of the first lane, then those of the second, and so on, and else
the layout of the node, with one channel per number that is carried in the place of the units.

In a depthwise convolution a new unit has filters that hand on what they read: a one at the centre tap, of further
filters at the taps next to it, and no shift (`unit_filters`). In attention values are mixed over the positions by the
weights of their head; new heads, whose queries are zero, attend to all positions alike.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from irgrow.edits import Impossible
from irgrow.graph import Graph, Node
from irgrow.ops import (
    ACTIVATIONS,
    Activate,
    AvgPool,
    BatchNorm,
    Depthwise,
    DotProductAttention,
    InstanceNorm,
    LeakyReLU,
    MaxPool,
    Op,
    Pad,
    Transpose,
)
from irgrow.ops.conv import per_dim, taps

if TYPE_CHECKING:
    from torch import Tensor


def pooled(op: MaxPool | AvgPool, value: Tensor, unit_dim: int) -> Tensor:
    """Pool, over all positions if the op says no kernel; `unit_dim` is the dimension of the units."""
    import torch.nn.functional as F

    mean = isinstance(op, AvgPool)
    if op.kernel is None:
        over = tuple(d for d in range(1, value.dim()) if d != 1 + unit_dim)
        return value.mean(over) if mean else value.amax(over)
    kernel, stride, padding, _ = op._windows(value.dim() - 2).values()
    pools: Any = (F.avg_pool1d, F.avg_pool2d) if mean else (F.max_pool1d, F.max_pool2d)
    found: Tensor = pools[value.dim() - 3](value, kernel, stride, padding)
    return found


def moved(op: Pad | Transpose, value: Tensor) -> Tensor:
    """Pad with zeros, or exchange dimensions."""
    import torch.nn.functional as F

    if isinstance(op, Pad):
        return F.pad(value, both_sides(per_dim(op.size, value.dim() - 2)))
    return value.permute(0, *(i + 1 for i in op._order(value.dim() - 1)))


def both_sides(padding: tuple[int, ...]) -> list[int]:
    """Return the padding of all position dimensions as torch takes it."""
    return [p for size in reversed(padding) for p in (size, size)]


def flattened(value: Tensor, lanes: int, dim: int) -> Tensor:
    """Make a lane of every position; those in dimensions before the units are outermost, those behind innermost."""
    parts = value.unflatten(0, (lanes, -1)).movedim(2 + dim, -1)
    before, behind = range(2, 2 + dim), range(2 + dim, parts.dim() - 1)
    return parts.permute(*before, 0, *behind, 1, parts.dim() - 1).flatten(0, -2)


def done(op: Op, value: Tensor, lanes: int) -> Tensor | None:
    """Do what an activation does, or a norm with gain 1 and shift 0 over the batch; `None` if it is not known."""
    from torch.nn import functional as F

    match op:
        case Activate(function):
            after: Tensor = ACTIVATIONS[function].layer()(value)
            return after
        case LeakyReLU(slope):
            return F.leaky_relu(value, slope)
        case BatchNorm(eps):
            parts = value.unflatten(0, (lanes, -1))
            over = (1, *range(3, parts.dim()))
            centred = parts - parts.mean(over, keepdim=True)
            return (centred / (centred.pow(2).mean(over, keepdim=True) + eps).sqrt()).flatten(0, 1)
        case InstanceNorm():
            return None
    return value


# depthwise convolutions ----------------------------------------------------------------------------------------------


def filter_taps(op: Depthwise, rank: int) -> list[int]:
    """Return the taps of a kernel, in row-major order, those next to the centre first.

    >>> filter_taps(Depthwise(kernel=3), 2)[:3]
    [4, 1, 3]
    """
    kernel = per_dim(op.kernel, rank)
    places = list(product(*(range(k) for k in kernel)))
    far = [sum((i - k // 2) ** 2 for i, k in zip(place, kernel, strict=True)) for place in places]
    return sorted(range(len(places)), key=far.__getitem__)


def unit_filters(op: Depthwise, rank: int) -> NDArray[np.float64]:
    """Return the filters of a new unit, shape (filters, 1, *kernel)."""
    chosen = filter_taps(op, rank)[: op.multiplier]
    kernel = per_dim(op.kernel, rank)
    return np.eye(int(np.prod(kernel)))[chosen].reshape(op.multiplier, 1, *kernel)


def filtered(op: Depthwise, value: Tensor, lanes: int) -> Tensor:
    """Apply unit filters; every lane becomes one for each of them."""
    import torch

    rank = value.dim() - 2
    kernel, stride, padding, dilation = op._windows(rank).values()
    wide = torch.nn.functional.pad(value, both_sides(padding))
    sliding: Any = list(taps(wide, kernel, stride, dilation))  # type: ignore[arg-type]
    found = torch.stack([sliding[tap] for tap in filter_taps(op, rank)[: op.multiplier]])
    return found.unflatten(1, (lanes, -1)).transpose(0, 1).flatten(0, 2)


# attention -----------------------------------------------------------------------------------------------------------


def attended(value: Tensor, lanes: int, sources: NDArray[np.int64], mixing: Tensor) -> Tensor:
    """Mix positions; a new lane comes from the old lane that `sources` names.

    Args:
        value: Shape (lanes * samples, keys, channels).
        lanes: How many there are before.
        sources: For every new lane the old one.
        mixing: Attention weights, shape ([new lanes, samples,] queries, keys).
    """
    parts = value.unflatten(0, (lanes, -1))[sources.tolist()]
    return (mixing @ parts).flatten(0, 1)


def uniform(graph: Graph, node: Node, value: Tensor) -> Tensor:
    """Return the weights of a head whose queries are zero, shape (queries, keys)."""
    import torch

    queries, keys = (graph.size(t.dims[0]) for t in graph.signatures[node.name].inputs[:2])
    assert isinstance(node.op, DotProductAttention)
    allowed = torch.ones(queries, keys, dtype=value.dtype, device=value.device)
    allowed = allowed.tril() if node.op.causal else allowed
    return allowed / allowed.sum(1, keepdim=True)


def weights(graph: Graph, node: Node, value: Tensor, beside: Mapping[str, Any]) -> Tensor:
    """Return the attention weights on the batch, shape (heads, samples, queries, keys): its output for unit values.

    Args:
        graph: The network.
        node: The attention.
        value: Something of the precision and on the device of the result.
        beside: Queries and keys by node, (samples, positions, units), and the frequencies of rotary positions.

    Raises:
        Impossible: The frequencies are not there.
    """
    import torch

    from irgrow.ops.leaves import DotProductAttention as Leaf

    op, axes = node.op, graph.signatures[node.name].axes
    assert isinstance(op, DotProductAttention)
    heads, groups = graph.size(axes["heads"]), graph.size(axes.get("kv_heads", axes["heads"]))
    queries, keys = (torch.as_tensor(beside[name]).detach().to(value) for name in node.inputs[:2])
    leaf = Leaf(heads, groups, op.causal, op.scale, None)
    if op.rotary:
        name = graph.param_name(node.name, "frequencies")
        if name not in beside:
            raise Impossible(f"the weights of `{node.name}` take its frequencies, `{name}`")
        leaf.frequencies = torch.as_tensor(beside[name]).detach().to(value)
    positions = keys.shape[1]
    unit = torch.eye(positions).to(value).repeat(1, groups).expand(len(keys), -1, -1)
    found: Tensor = leaf(queries, keys, unit)
    return found.unflatten(2, (heads, positions)).permute(2, 0, 1, 3)
