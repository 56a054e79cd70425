"""Sums and products of values, and the sources that values start from."""

from __future__ import annotations

import numpy as np

from irgrow.axes import NEW, in_full, keeps_all
from irgrow.graph import Node
from irgrow.ops import Coupling
from irgrow.passes.preservation.known import ANY, MEAN, SAME, ZERO, Known, uniform
from irgrow.passes.preservation.prover import Prover, mapped


def entrywise(p: Prover, node: Node, old: Node, inputs: list[Known]) -> Known:
    """Join values entry by entry; a value of rank one is spread along the units of the others."""
    s = p.before.signatures[node.name]
    edited = {
        s.output.unit_dim if t.rank == 1 else k.dim for k, t in zip(inputs, s.inputs, strict=True) if k.dim is not None
    }
    why = next((k.why for k in inputs if k.why), None)
    if len(edited) > 1:
        return uniform(node.name, ANY, why or f"`{node.name}` joins values edited along different dimensions")
    dim = edited.pop() if edited else s.output.unit_dim
    assert dim is not None
    size, m = p.size(s.output.dims[dim]), p.map_of(s.output.dims[dim])
    statuses = np.stack([k.spread(size) for k in inputs])
    factors = np.stack([k.factors(size) for k in inputs])
    aligned = all(np.array_equal(in_full(k.map, size), in_full(m, size)) for k in inputs if k.dim is not None)
    same = (statuses == SAME).all(0) & (in_full(m, size) != NEW) & aligned
    if node.op.coupling is Coupling.SUM:
        zero, factor = (statuses == ZERO).all(0), factors[0]
        same &= (factors == factors[0]).all(0)
    else:
        zero, factor = (statuses == ZERO).any(0), factors.prod(0)
    status = np.where(same, SAME, ANY).astype(np.int8)
    status[zero] = ZERO
    if node.op.coupling is Coupling.SUM and aligned:
        status[(statuses == MEAN).all(0)] = MEAN
    scaled = None if (factor[same] == 1.0).all() else np.where(same, factor, 1.0)
    return mapped(inputs[0], status, node.name, dim, m, scaled, why or f"`{node.name}` joins old units with others")


def source(p: Prover, node: Node, old: Node, inputs: list[Known]) -> Known:
    """Make units from none: inputs, and the rows of a table."""
    s = p.before.signatures[node.name]
    if not inputs:
        same = node.op == old.op
        return uniform(node.name, SAME if same else ANY, None if same else f"the input `{node.name}` differs")
    (spec,) = p.before.specs[node.name]
    axis, along = s.output.units, len(spec.dims) - 1
    size, m = p.size(axis), p.map_of(axis)
    carried = p.carried(node.name, spec)
    if carried is None or not inputs[0].same:
        return uniform(node.name, ANY, f"`{node.name}` has another table")
    new = in_full(m, size) == NEW
    status = np.where(carried.intact(along, size) & carried.elsewhere(along) & ~new, SAME, ANY).astype(np.int8)
    fill = carried.fills[along]
    if fill is not None and fill.is_zero:
        status[new] = ZERO
    if fill is not None and fill.averages and keeps_all(in_full(m, size), p.before.size(axis)):
        status[new] = MEAN
    made = np.where(new, np.arange(size), -1) if new.any() else None
    return mapped(inputs[0], status, node.name, s.output.unit_dim, m, None, None, node.name, made)
