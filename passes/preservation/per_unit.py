"""Ops that treat every unit by itself: an old unit stays what it is, zero stays zero where zero is mapped to zero."""

from __future__ import annotations

from math import inf

import numpy as np
from numpy.typing import NDArray

from irgrow.axes import NEW, Axis, keeps_all
from irgrow.fills import Constant, Fill
from irgrow.graph import Node
from irgrow.ops import ParamSpec
from irgrow.passes.preservation.known import ANY, MEAN, SAME, ZERO, Known
from irgrow.passes.preservation.prover import Prover, mapped


def per_unit(p: Prover, node: Node, old: Node, inputs: list[Known]) -> Known:
    """Look at every unit and at its entries of the parameters."""
    (k,) = inputs
    op, facts, s = node.op, node.op.facts, p.before.signatures[node.name]
    p.eval_only |= facts.stochastic
    dim = s.inputs[0].unit_dim if k.dim is None else k.dim
    if p.op_changed(node, old):
        return k.named(node.name).changed(f"the attributes of `{node.name}` differ")
    if dim != s.inputs[0].unit_dim and not facts.entrywise:
        return k.named(node.name).changed(f"`{node.name}` works across an axis that is edited")
    out = s.output.unit_dim if dim == s.inputs[0].unit_dim else dim
    axis = s.output.dims[out]
    m, size = p.map_of(axis), p.size(axis)
    before = k.spread(p.size(s.inputs[0].dims[dim]))
    filters = size // len(before)
    status = np.repeat(before, filters)
    factor = None if k.factor is None else np.repeat(k.factor, filters)
    new = np.zeros(size, dtype=bool) if m is None else m == NEW
    why = k.why
    if factor is not None and not (facts.homogeneous and (factor > 0).all()):
        status[(factor != 1.0) & (status == SAME)] = ANY
        why, factor = why or f"`{node.name}` does not hand on the factor of a scaled unit", None
    if (status == MEAN).any() and not _keeps_means(p, node, size):
        status[status == MEAN] = ANY
    zero = status == ZERO
    if op.zero_if != ():
        status[zero & ~new] = ANY
        if not stays_zero(p, node):
            status[zero & new] = ANY
    for spec in p.before.specs[node.name] if (status == SAME).any() else ():
        broken = ~new & (status == SAME) & ~unit_entries(p, node, spec, axis, size)
        if broken.any():
            status[broken] = ANY
            why = why or f"`{spec.name}` of `{node.name}` is not carried over as it was"
    followed = k.rows is not None and filters == 1
    return mapped(
        k, status, node.name, out, m, factor, why, k.maker if followed else None, k.rows if followed else None
    )


def _keeps_means(p: Prover, node: Node, size: int) -> bool:
    """Whether what is added to new units is the mean of what is added to the old ones."""
    if node.op.facts.fixed_on == (-inf, inf):
        return True
    if not node.op.facts.additive:
        return False
    for spec in p.before.specs[node.name]:
        carried = p.carried(node.name, spec)
        fill, m = (None, None) if carried is None else (carried.fills[-1], carried.maps[-1])
        if fill is None or m is None or not fill.averages or not keeps_all(m, p.before.size(spec.dims[-1])):
            return False
    return True


def stays_zero(p: Prover, node: Node) -> bool:
    """Whether the new entries of the parameters are such that a new zero unit stays zero."""
    if node.op.zero_if is None:
        return False
    for name, value in node.op.zero_if:
        spec = p.spec(node.name, name)
        fill = None if spec is None else new_fill(p, node, spec)
        if not (isinstance(fill, Constant) and fill.value == value):
            return False
    return True


def new_fill(p: Prover, node: Node, spec: ParamSpec) -> Fill | None:
    """Return what the new entries of a parameter are filled with; `None` if it has none."""
    carried = p.carried(node.name, spec)
    if carried is None:
        return None
    return next((f for f, m in zip(carried.fills, carried.maps, strict=True) if m is not None), None)


def unit_entries(p: Prover, node: Node, spec: ParamSpec, axis: Axis, size: int) -> NDArray[np.bool_]:
    """Return for every unit whether its entries of a parameter came over as they were."""
    carried = p.carried(node.name, spec)
    if carried is None:
        return np.zeros(size, dtype=bool)
    along = next((d for d, a in enumerate(spec.dims) if a == axis), None)
    if along is None:
        return np.full(size, carried.elsewhere(-1))
    return carried.intact(along, size) & carried.elsewhere(along)
