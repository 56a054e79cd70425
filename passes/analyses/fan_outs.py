"""Fan-outs of new units: the new columns of the weights that read them, and how large those of old units are."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from irgrow.axes import NEW, positions
from irgrow.graph import Graph
from irgrow.passes.analyses.entries import effective
from irgrow.shapes import Array


def new_columns(graph: Graph, axis: str, weight: str, fan_outs: Array) -> Array:
    """Return what a weight gains along its second dimension, in the order of the new columns.

    Args:
        graph: The network before units are appended to the axis.
        axis: The axis.
        weight: Full name of a weight that reads it.
        fan_outs: One row of entries per new unit, shape (units, *shape) as `Auxiliary.parts` has it.

    Returns:
        Shape (outputs, new columns, *taps).
    """
    old, shape = graph.widths[axis], graph.param_shape(weight)
    widths = dict(graph.widths) | {axis: old + len(fan_outs)}
    (unit_at,) = positions(graph.params[weight].spec.dims[1], widths)[axis]
    entries = fan_outs.reshape(len(fan_outs), shape[0], -1, *shape[2:])
    seen = dict.fromkeys(range(len(fan_outs)), 0)
    found = []
    for unit in (unit_at[unit_at >= old] - old).tolist():
        found.append(entries[unit, :, seen[unit]])
        seen[unit] += 1
    return np.stack(found, 1)


def fan_out_norm(graph: Graph, axis: str, readers: Iterable[str], params: Mapping[str, Any]) -> float:
    """Return the mean norm of the fan-outs of the units of an axis, over all the weights that read them.

    It is 1 if they are all zero, so that it can be scaled to.
    """
    total = np.zeros(graph.widths[axis])
    for weight in readers:
        value = effective(params, weight)
        (unit_at,) = positions(graph.params[weight].spec.dims[1], graph.widths)[axis]
        squares = (value**2).sum(tuple(d for d in range(value.ndim) if d != 1))
        total += np.bincount(unit_at[unit_at != NEW], squares[unit_at != NEW], minlength=len(total))
    return float(np.sqrt(total).mean()) or 1.0
