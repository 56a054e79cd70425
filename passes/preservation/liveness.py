"""Whether new units can learn at all: a unit with zero fan-in and zero fan-out never receives a gradient."""

from __future__ import annotations

import numpy as np

from irgrow.axes import NEW, atoms
from irgrow.graph import Node
from irgrow.morphism import Select
from irgrow.ops import Coupling
from irgrow.passes.preservation.known import ZERO, Known
from irgrow.passes.preservation.prover import Prover


def _has_new(k: Known) -> bool:
    return bool(k.new.any())


def _new_is_zero(k: Known) -> bool:
    return bool((k.status[k.new] == ZERO).all())


def _reads_new(p: Prover, node: Node, k: Known) -> bool:
    """Whether a mixing node reads new units with weights that are not zero."""
    weight = p.before.specs[node.name][0]
    carried = p.carried(node.name, weight)
    fill = None if carried is None else carried.fills[1]
    return fill is not None and not fill.is_zero


def _demands(p: Prover, node: Node, wanted: bool) -> list[bool]:
    """Return for every input of a node whether a gradient reaches its new units, given that of the output."""
    inputs = [p.known[i] for i in node.inputs]
    s = p.before.signatures[node.name]
    match node.op.coupling:
        case Coupling.MIXING if inputs[0].dim == node.op.mixes(s):
            return [_reads_new(p, node, inputs[0])]
        case Coupling.PER_UNIT:
            return [wanted and (not _new_is_zero(inputs[0]) or node.op.facts.slope_at_zero != 0.0)]
        case Coupling.PRODUCT:
            others = [[k for j, k in enumerate(inputs) if j != i] for i in range(len(inputs))]
            return [wanted and not any(_has_new(k) and _new_is_zero(k) for k in rest) for rest in others]
        case Coupling.ATTENTION:
            q, k, _ = inputs
            inner = not _has_new(p.known[node.name]) or p.map_of(s.axes["head_dim"]) is not None
            through = [not _new_is_zero(k), not _new_is_zero(q)] if inner else [wanted, wanted]
            return [*through, wanted]
        case _:
            return [wanted] * len(inputs)


def newborns_without_gradient(p: Prover) -> str | None:
    """Return why the new units of a morphism would never receive a gradient, or `None` if they do.

    The prover must have run. The question is answered for all new units together; it assumes that values that are not
    known to be zero are not.
    """
    if not any((m == NEW).any() for m in p.morphism.edits.values()):
        return None
    demand = dict.fromkeys(p.after.outputs, True)
    told = [node for node in p.after if not p.known.keys().isdisjoint((node.name, *node.inputs))]
    for node in reversed(told):
        if p.old(node) is None:
            demand.update(dict.fromkeys(node.inputs, True))
            continue
        if not any(_has_new(p.known[i]) for i in node.inputs):
            continue
        for name, wanted in zip(node.inputs, _demands(p, node, demand.get(node.name, False)), strict=True):
            demand[name] = demand.get(name, False) or wanted
    for node in told:
        if p.old(node) is None or not p.before.specs[node.name]:
            continue
        if _has_new(p.known[node.name]) and demand.get(node.name, False):
            return None
        s = p.before.signatures[node.name]
        if node.op.coupling is Coupling.MIXING:
            read = p.known[node.inputs[0]]
            if read.dim == node.op.mixes(s) and _has_new(read) and not _new_is_zero(read):
                return None
    return (
        "the new units would never receive a gradient: their fan-in and fan-out are zero, "
        "or a slope of zero at zero stands between them (ReLU)"
    )


def inseparable_copies(p: Prover) -> str | None:
    """Return why copies of a unit would receive the same gradients for ever, or `None`.

    They differ if somewhere their entries of a parameter do: by their factors or by noise.
    """
    for atom, m in p.morphism.edits.items():
        units, counts = np.unique(m[m != NEW], return_counts=True)
        if (counts > 1).any() and not any(_parted(p, name, atom) for name in p.morphism.touched):
            unit = int(units[counts > 1][0])
            return (
                f"the copies of unit {unit} of `{atom}` would receive the same gradients for ever: "
                "give them unequal shares, or noise where weights read or make them"
            )
    return None


def _parted(p: Prover, name: str, atom: str) -> bool:
    """Whether a trainable parameter tells the copies of units of an atom apart."""
    param, transfer = p.before.params.get(name), p.morphism.transfers[name]
    if param is None or not isinstance(transfer, Select) or not param.spec.trainable:
        return False
    for dim, axis in enumerate(param.spec.dims):
        m, factor = transfer.maps[dim], transfer.factor(dim)
        if m is None or atom not in (a.name for a in atoms(axis)):
            continue
        if transfer.noise and transfer.noise[dim]:
            return True
        if factor is not None and any(len(np.unique(factor[m == u])) > 1 for u in np.unique(m[m != NEW])):
            return True
    return False


def normalised_zeros(p: Prover) -> str | None:
    """Return the norm that divides constant zeros by their own deviation, or `None`.

    Their variance is zero, so the gradient of the fan-in is multiplied by 1 / sqrt(eps), and a fan-in of norm 1e-2
    already changes the output by more than half. That is so of new units behind a batch or an instance norm, and of new
    groups of a group norm; new units that join old ones in a group are divided by the deviation of all.
    """
    for node in p.after:
        if node.inputs and p.old(node) is not None and _apart(p, node):
            read = p.known[node.inputs[0]]
            if _has_new(read) and _new_is_zero(read):
                return node.name
    return None


def _apart(p: Prover, node: Node) -> bool:
    """Whether new units are normalised without any old one."""
    if node.op.coupling is not Coupling.STATISTICS:
        return node.op.facts.normalising
    _, groups = node.op.normalises(p.before.signatures[node.name])
    m = p.map_of(groups)
    return m is not None and bool((m == NEW).any())
