"""Weighted sums: a row stays what it is if old units are read as before and new ones are zero, or read with zero."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from irgrow.axes import NEW, Axis, IndexMap, in_full, keeps_all
from irgrow.fills import Masked
from irgrow.graph import Node
from irgrow.ops import MASK, ParamSpec
from irgrow.passes.preservation.known import ANY, MEAN, SAME, ZERO, Known, Status
from irgrow.passes.preservation.prover import Carried, Prover, equal, mapped
from irgrow.passes.preservation.sums import same_by_numbers
from irgrow.passes.preservation.synapses import other_weights


def mixing(p: Prover, node: Node, old: Node, inputs: list[Known]) -> Known:
    """Look at the fan-in of every group, then at every row."""
    (k,) = inputs
    s = p.before.signatures[node.name]
    dim = old.op.mixes(s)
    weight, *rest = (s for s in p.before.specs[node.name] if s.name != MASK)
    masks = [s for s in p.before.specs[node.name] if s.name == MASK]
    if p.op_changed(node, old):
        return k.named(node.name).changed(f"the attributes of `{node.name}` differ")
    if k.dim not in (None, dim):
        return _beside(p, node, k, [weight, *rest], masks)
    axis = s.output.dims[dim]
    size, m = p.size(axis), p.map_of(axis)
    carried = p.carried(node.name, weight)
    if carried is None:
        status = _settled(p, node, old, k, np.full(size, ANY, dtype=np.int8), m)
        return mapped(k, status, node.name, dim, m, why=k.why or other_weights(p.morphism, node.name, p.params))
    groups = p.size(s.axes["groups"]) if "groups" in s.axes else 1
    source = s.inputs[0].dims[dim]
    fan_in, why = _fan_in(p, node, k, weight, carried, groups, source)
    silent = (k.spread(p.size(source)).reshape(groups, -1) == ZERO).all(1).repeat(size // groups)
    rows = in_full(carried.maps[0], size)
    new = rows == NEW
    fine = np.repeat(fan_in, size // groups) & (rows == in_full(m, size))
    for spec in rest:
        came = p.carried(node.name, spec)
        if came is None or not np.array_equal(in_full(came.maps[0], size), rows) or not _alike(came, carried):
            fine[:] = False
            why = why or f"the bias of `{node.name}` is not carried over as it was"
    for spec in masks:
        came = p.carried(node.name, spec)
        if came is None or not all(equal(a, b) for a, b in zip(came.maps, carried.maps, strict=True)):
            fine[:] = False
            why = why or f"the mask of `{node.name}` is not carried over as its weight is"
    status = np.where(fine & ~new, SAME, ANY).astype(np.int8)
    zero_rows = _zero_rows(p, node, [weight, *rest], size) | (silent & _zero_rows(p, node, rest, size))
    status[new & zero_rows] = ZERO
    averages = carried.fills[0] is not None and carried.scale[0] is None and _average(p, node, [weight, *rest])
    if averages and groups == 1 and bool(fan_in.all()) and keeps_all(rows, p.before.size(axis)):
        status[new] = MEAN
    if carried.scale[0] is None and not carried.parted(0):
        status = _settled(p, node, old, k, status, m)
    if carried.parted(0) and not new.all():
        p.perturbed[node.name] = None
    made = np.where(new, np.arange(size), -1) if new.any() else None
    return mapped(k, status, node.name, dim, m, carried.scale[0], why, node.name, made)


def _settled(p: Prover, node: Node, old: Node, k: Known, status: Status, m: IndexMap | None) -> Status:
    """Return the status of rows, those looked at number by number that nothing else is known of."""
    new = np.zeros(len(status), dtype=bool) if m is None else m == NEW
    if not (status[~new] == ANY).any():
        return status
    same, zero = same_by_numbers(p, node, old, k)
    return np.where(same, SAME, np.where(zero & (status == ANY), ZERO, status)).astype(np.int8)


def _average(p: Prover, node: Node, specs: list[ParamSpec]) -> bool:
    """Whether new rows of all these parameters are the mean of the old ones."""
    fills = [None if (c := p.carried(node.name, spec)) is None else c.fills[0] for spec in specs]
    return all(f is not None and f.averages for f in fills)


def _alike(a: Carried, b: Carried) -> bool:
    """Whether two parameters were scaled alike along their rows."""
    x, y = a.scale[0], b.scale[0]
    return (x is None and y is None) or (x is not None and y is not None and np.array_equal(x, y))


def _zero_rows(p: Prover, node: Node, specs: list[ParamSpec], size: int) -> NDArray[np.bool_]:
    """Return the rows that are zero in all these parameters if they are new."""
    zero = np.ones(size, dtype=bool)
    for spec in specs:
        carried = p.carried(node.name, spec)
        fill = None if carried is None else carried.fills[0]
        if isinstance(fill, Masked):
            chosen = np.zeros(size, dtype=bool)
            chosen[list(fill.zeros)] = True
            zero &= chosen
        elif fill is None or not fill.is_zero:
            zero[:] = False
    return zero


def _beside(p: Prover, node: Node, k: Known, specs: list[ParamSpec], masks: list[ParamSpec]) -> Known:
    """Follow a mixing op that is done at every unit of another dimension: each goes its own way."""
    for spec in (*specs, *masks):
        carried = p.carried(node.name, spec)
        if carried is None or not carried.elsewhere(-1):
            return k.named(node.name).changed(other_weights(p.morphism, node.name, p.params))
    status = k.status.copy()
    if len(specs) > 1:
        status[status == ZERO] = ANY
    return Known(node.name, k.dim, status, k.map, k.factor, why=k.why)


def _whole(read: IndexMap, factor: NDArray[np.float64], m: IndexMap | None) -> bool:
    """Whether of every unit with several copies all are read as they were, so that noise between them cancels."""
    if m is None:
        return True
    units, counts = np.unique(m[m != NEW], return_counts=True)
    return all(
        np.count_nonzero(read == u) == n and bool((factor[read == u] == 1.0).all())
        for u, n in zip(units[counts > 1], counts[counts > 1], strict=True)
    )


def _fan_in(
    p: Prover, node: Node, k: Known, weight: ParamSpec, carried: Carried, groups: int, axis: Axis
) -> tuple[NDArray[np.bool_], str | None]:
    """Return for every group whether its weighted sum over the old units is what it was, and why not."""
    size, local, old_local = p.size(axis), p.size(weight.dims[1]), p.before.size(weight.dims[1])
    shape = groups, local
    status, factor = k.spread(size).reshape(shape), k.factors(size).reshape(shape)
    source = in_full(k.map, size).reshape(shape)
    columns = in_full(carried.maps[1], local)
    scale = np.ones(local) if carried.scale[1] is None else carried.scale[1]
    fill = carried.fills[1]
    added = columns == NEW
    fine = np.ones(groups, dtype=bool)
    if groups == 1 and k.factor is None and carried.scale[1] is None and not carried.parted(1):
        as_before = np.array_equal(columns, source[0]) and np.array_equal(columns[~added], np.arange(old_local))
        unread = not added.any() or (fill is not None and fill.is_zero)
        if as_before and unread and bool((status[0][~added] == SAME).all()):
            return fine, None
    why = None
    for g in range(groups):
        home = source[g][source[g] != NEW] // old_local
        if groups > 1 and not home.size:
            continue  # a new group: its rows are new as well
        wanted = np.where(source[g] == NEW, NEW, source[g] % old_local)
        live = ~added & (status[g] == SAME)
        shares = np.bincount(wanted[live], (scale * factor[g])[live], old_local)
        off = np.flatnonzero(np.abs(shares - 1.0) > 1e-12)
        if (home != home[:1]).any():
            reason = f"a group of `{node.name}` reads units of several old ones"
        elif (added & (status[g] != ZERO)).any() and fill is not None and not fill.is_zero:
            reason = f"`{node.name}` reads new units with weights that are not zero"
        elif (~added & (columns != wanted) & (status[g] != ZERO)).any():
            reason = f"`{node.name}` reads units with the weights of others"
        elif (~added & (status[g] == ANY)).any():
            reason = k.why or f"`{node.name}` reads units that changed"
        elif carried.parted(1) and not _whole(wanted[live], factor[g][live], carried.maps[1]):
            reason = f"the noise between copies that `{node.name}` reads does not cancel"
        elif off.size and (shares[off] != 0).any():
            reason = f"the shares of the split units that `{node.name}` reads do not sum to one"
        elif off.size and not p.column_is_zero(node.name, weight, off):
            gone = "1 unit that is" if off.size == 1 else f"{off.size} units that are"
            reason = k.why or f"`{node.name}` reads {gone} gone"
        else:
            continue
        fine[g], why = False, why or reason
    return fine, why
