"""Units normalised together: a unit stays what it is if its company does."""

from __future__ import annotations

from math import sqrt

import numpy as np
from numpy.typing import NDArray

from irgrow.axes import NEW, IndexMap, in_full
from irgrow.graph import Node
from irgrow.passes.preservation.centred import is_centred
from irgrow.passes.preservation.known import ANY, MEAN, SAME, ZERO, Known
from irgrow.passes.preservation.per_unit import new_fill, stays_zero
from irgrow.passes.preservation.prover import Prover, mapped


def statistics(p: Prover, node: Node, old: Node, inputs: list[Known]) -> Known:
    """Look at every group of units that is normalised together.

    A root mean square over more units, the new ones zero, is the old one times sqrt(d / d'); a gain times sqrt(d / d')
    undoes that exactly if eps is scaled by d / d' as well. The same holds of a standard deviation when the new units
    are the mean of the old ones, or zero where that mean is always zero.
    """
    (k,) = inputs
    s = p.before.signatures[node.name]
    dim, groups = old.op.normalises(s)
    if k.dim not in (None, dim):
        return _beside(p, node, k)
    axis = s.output.dims[dim]
    size, m = p.size(axis), p.map_of(axis)
    count = p.size(groups)
    members, old_members = size // count, p.before.size(axis) // p.before.size(groups)
    shrunk = _filled_up(node, old, old_members / members)
    harmless_company = MEAN if old.op.centres else ZERO
    centred = shrunk is not None and old.op.centres and is_centred(p, old.inputs[0])
    if p.op_changed(node, old, ("eps",) if shrunk is not None else ()):
        return k.named(node.name).changed(f"the attributes of `{node.name}` differ")
    gain = _gain(p, node, size) * (shrunk or 1.0)
    status, source = k.spread(size), in_full(k.map, size)
    result = np.full(size, ANY, dtype=np.int8)
    why = k.why
    for g in range(count):
        part = slice(g * members, (g + 1) * members)
        old_units, company = source[part] != NEW, status[part]
        replicas = len(np.unique(source[part][old_units])) < int(old_units.sum())
        whole = _complete(source[part], old_members) and (old.op.averages or not replicas)
        intact = whole and k.factor is None and bool((company[old_units] == SAME).all())
        joining = company[~old_units]
        harmless = shrunk is not None and (
            bool((joining == harmless_company).all()) or (centred and bool((joining == ZERO).all()))
        )
        if intact and (old_units.all() or harmless):
            fits = np.isclose(gain[part], 1.0, rtol=1e-12, atol=0.0)
            rest = ZERO if harmless and _no_shift(p, node) else ANY
            result[part] = np.where(old_units & fits, SAME, np.where(old_units, ANY, rest))
            if not fits[old_units].all():
                why = why or f"the parameters of `{node.name}` are not carried over as they were"
        elif old_units.any():
            why = why or _reason(node, str(axis), old_units, old_members)
        elif (company == ZERO).all() and stays_zero(p, node):
            result[part] = ZERO
    if old.op.zero_if == () and not old.op.centres:
        result[status == ZERO] = ZERO
    return mapped(k, result, node.name, dim, m, why=why)


def _complete(source: IndexMap, members: int) -> bool:
    """Whether the old units of a group are one old group, each as often as the others."""
    kept = np.sort(source[source != NEW])
    first = int(kept[0]) // members * members if kept.size else 0
    return np.array_equal(kept, np.repeat(np.arange(first, first + members), max(len(kept) // members, 1)))


def _reason(node: Node, axis: str, old_units: NDArray[np.bool_], members: int) -> str:
    added, gone = int((~old_units).sum()), members - int(old_units.sum())
    found = f"gains {added}" if added else f"loses {gone}" if gone > 0 else "changes"
    return f"`{node.name}` normalises over units of `{axis}`, which {found}"


def _filled_up(node: Node, old: Node, ratio: float) -> float | None:
    """Return by what a norm multiplies old units when others fill them up, if its eps was scaled for it."""
    wanted = None if ratio == 1.0 else old.op.filled_up(ratio)
    if wanted is None:
        return None
    eps, scaled = getattr(node.op, "eps"), getattr(wanted, "eps")  # noqa: B009
    return 1.0 / sqrt(ratio) if np.isclose(eps, scaled, rtol=1e-12, atol=0.0) else None


def _no_shift(p: Prover, node: Node) -> bool:
    """Whether nothing is added to new units."""
    spec = p.spec(node.name, "bias")
    fill = None if spec is None else new_fill(p, node, spec)
    return spec is None or (fill is not None and fill.is_zero)


def _gain(p: Prover, node: Node, size: int) -> NDArray[np.float64]:
    """Return by what the gain and shift of every unit were multiplied; NaN where they are not the old ones."""
    factor = np.ones(size)
    for spec in p.before.specs[node.name]:
        carried = p.carried(node.name, spec)
        if carried is None:
            return np.full(size, np.nan)
        own = np.ones(size) if carried.scale[0] is None else carried.scale[0]
        moved = in_full(carried.maps[0], size) == in_full(carried.expected[0], size)
        factor = np.where(moved, factor * own, np.nan)
    return factor


def _beside(p: Prover, node: Node, k: Known) -> Known:
    """Follow a norm that is done at every unit of another dimension."""
    if node.op.kind == "groupnorm":
        return k.named(node.name).changed(f"`{node.name}` works across an axis that is edited")
    for spec in p.before.specs[node.name]:
        carried = p.carried(node.name, spec)
        if carried is None or not carried.elsewhere(-1):
            return k.named(node.name).changed(f"`{node.name}` has other parameters")
    status = k.status.copy()
    if node.op.zero_if != ():
        status[status == ZERO] = ANY
    return Known(node.name, k.dim, status, k.map, why=k.why)
