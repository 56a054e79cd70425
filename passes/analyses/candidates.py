"""What candidate units would do: the fields they would read, and their activity behind the layer's activation."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from irgrow.backends.reference import as_array
from irgrow.edits import Impossible
from irgrow.graph import Graph
from irgrow.ops import Activate, LeakyReLU
from irgrow.ops.activations import ACTIVATIONS
from irgrow.ops.conv import Conv, padded, per_dim, taps
from irgrow.passes.analyses.places import path, unit_dim
from irgrow.shapes import Float64

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
        return flat_units(value, unit_dim(graph, maker))
    if str(op.groups) != "1":
        raise Impossible(f"`{maker}` is a grouped convolution")
    rank = array.ndim - 2
    kernel, stride, padding, dilation = (per_dim(w, rank) for w in (op.kernel, op.stride, op.padding, op.dilation))
    windows = np.stack(list(taps(padded(array, padding), kernel, stride, dilation)), axis=2)
    return np.moveaxis(windows, 0, 2).reshape(windows.shape[1] * windows.shape[2], -1)


def candidate_activity(
    graph: Graph, maker: str, before: Float64[np.ndarray, "candidates columns"]
) -> Float64[np.ndarray, "candidates columns"]:
    """Return the activity of candidates behind the layer's norm and activation; `before` is (candidates, columns)."""
    for node in path(graph, maker):
        match node.op:
            case Activate(function):
                return ACTIVATIONS[function].define(before)
            case LeakyReLU(slope):
                return np.where(before > 0, before, slope * before)
            case _ if node.op.facts.batch_statistics:
                centred = before - before.mean(1, keepdims=True)
                before = centred / np.sqrt(before.var(1, keepdims=True) + 1e-5)
    return before


def torch_activity(graph: Graph, maker: str, before: Tensor) -> Tensor:
    """Return what `candidate_activity` does, differentiable."""
    from torch.nn import functional as F

    for node in path(graph, maker):
        match node.op:
            case Activate(function):
                after: Tensor = ACTIVATIONS[function].layer()(before)
                return after
            case LeakyReLU(slope):
                return F.leaky_relu(before, slope)
            case _ if node.op.facts.batch_statistics:
                centred = before - before.mean(1, keepdim=True)
                before = centred / (before.var(1, keepdim=True, unbiased=False) + 1e-5).sqrt()
    return before
