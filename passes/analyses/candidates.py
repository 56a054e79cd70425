"""What candidate units would do: the fields they would read, and their activity behind the layer's activation."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from irgrow.edits import Impossible
from irgrow.graph import Graph, Node
from irgrow.ops import Depthwise, InstanceNorm
from irgrow.ops.conv import Conv, padded, per_dim, taps
from irgrow.passes.analyses.carrying import done
from irgrow.passes.analyses.places import activation, mixed_dim, path
from irgrow.shapes import Float, Float64, as_array

if TYPE_CHECKING:
    from torch import Tensor


def sampled(columns: Float64[np.ndarray, "rows n"], most: int) -> Float64[np.ndarray, "rows kept"]:
    """Return at most so many columns, evenly spaced."""
    n = columns.shape[1]
    return columns[:, np.linspace(0, n - 1, min(most, n)).astype(np.int64)]


def flat_units(value: Any, dim: int) -> Float64[np.ndarray, "units columns"]:
    """Return a recorded value as (units, columns): samples, and within them positions, in order.

    Args:
        value: The value, batch first.
        dim: The dimension of the units, the batch not counted.
    """
    array = as_array(value)
    return np.moveaxis(array, 1 + dim, 0).reshape(array.shape[1 + dim], -1)


def receptive_fields(graph: Graph, maker: str, value: Any) -> Float64[np.ndarray, "fan_in columns"]:
    """Return what a unit of a layer reads, as (fan_in, columns), from the recorded input of the layer."""
    op, array = graph[maker].op, as_array(value)
    if not isinstance(op, Conv):
        return flat_units(value, mixed_dim(graph, maker))
    if str(op.groups) != "1":
        raise Impossible(f"`{maker}` is a grouped convolution")
    rank = array.ndim - 2
    kernel, stride, padding, dilation = (per_dim(w, rank) for w in (op.kernel, op.stride, op.padding, op.dilation))
    windows = np.stack(list(taps(padded(array, padding), kernel, stride, dilation)), axis=2)
    return np.moveaxis(windows, 0, 2).reshape(windows.shape[1] * windows.shape[2], -1)


def candidate_activity(
    graph: Graph, maker: str, before: Float[Tensor, "candidates columns"]
) -> Float[Tensor, "candidates columns"]:
    """Return the activity of candidates behind the layer's norm and activation; it is differentiable.

    There must be nothing `untried` between them.
    """
    value = before.T
    for node in between(graph, maker):
        after = done(node.op, value, 1)
        assert after is not None
        value = after
    return value.T


def between(graph: Graph, maker: str) -> Iterator[Node]:
    """Yield the nodes behind a layer up to its activation; all there are where there is none."""
    last = activation(graph, maker)
    for node in path(graph, maker):
        yield node
        if node.name == last:
            return


def untried(graph: Graph, maker: str) -> str | None:
    """Return the node whose effect on candidates is not known from what the layer reads, or `None`.

    A depthwise convolution has filters of its own for every unit, and an instance norm looks at the samples one by one.
    """
    nodes = between(graph, maker)
    return next((n.name for n in nodes if isinstance(n.op, Depthwise | InstanceNorm)), None)
