"""Nodes that were not there before: what inserted layers do to a value they start from."""

from __future__ import annotations

from dataclasses import replace
from math import inf

from irgrow.fills import Eye, Fill
from irgrow.graph import Node
from irgrow.ops import Activate, Conv, Coupling, Facts, Identity, LeakyReLU
from irgrow.passes.preservation.known import ANY, ZERO, Known, uniform
from irgrow.passes.preservation.prover import Prover


def fresh(p: Prover, node: Node, inputs: list[Known]) -> Known:
    """Say whether a new node gives back an old value, nothing at all, or a stack of multiples of an old value."""
    op = node.op
    if op.coupling is Coupling.SUM:
        rest = [k for k in inputs if not k.zero]
        if not rest:
            return inputs[0]
        return rest[0] if len(rest) == 1 and not rest[0].forms else _unknown(node)
    if len(inputs) != 1:
        return _unknown(node)
    (k,) = inputs
    if op.coupling is Coupling.MIXING:
        return _mixing(p, node, k)
    if op.coupling is Coupling.PER_UNIT and not p.after.specs[node.name]:
        return _activation(p, node, k)
    if op.coupling is Coupling.PER_UNIT and k.zero and op.zero_if == ():
        return k
    return _unknown(node)


def _unknown(node: Node) -> Known:
    return uniform("", ANY, f"`{node.name}` is new and not known to hand its input on")


def _fill(p: Prover, node: str, name: str) -> Fill | None:
    new = p.fresh(node, name)
    return None if new is None else new.fill


def _mixing(p: Prover, node: Node, k: Known) -> Known:
    """A new layer: zero, or identity blocks over a value it keeps the positions of."""
    weight = _fill(p, node.name, "weight")
    names = [s.name for s in p.after.specs[node.name]]
    bias = _fill(p, node.name, "bias") if "bias" in names else None
    if weight is None or ("bias" in names and (bias is None or not bias.is_zero)):
        return _unknown(node)
    if weight.is_zero:
        return uniform(k.base, ZERO)
    if not isinstance(weight, Eye) or not _keeps_positions(node):
        return _unknown(node)
    if weight.side == "rows" and k.same:
        forms = tuple((c, None) for c in weight.blocks)
        return k if weight.blocks == (1.0,) else replace(k, forms=forms)
    if weight.side == "columns" and k.forms and len(weight.blocks) == len(k.forms):
        return _gathered(weight.blocks, k) or _unknown(node)
    return _unknown(node)


def _keeps_positions(node: Node) -> bool:
    op = node.op
    if not isinstance(op, Conv):
        return True
    kernel, padding, dilation = (w if isinstance(w, tuple) else (w,) for w in (op.kernel, op.padding, op.dilation))
    strides = op.stride if isinstance(op.stride, tuple) else (op.stride,)
    reach = [d * (k - 1) for k, d in zip(kernel, dilation * len(kernel), strict=False)]
    same = all(2 * q == r for q, r in zip(padding * len(reach), reach, strict=False))
    return same and all(k % 2 == 1 for k in kernel) and all(s == 1 for s in strides) and str(op.groups) == "1"


def _gathered(blocks: tuple[float, ...], k: Known) -> Known | None:
    """Sum multiples of activated multiples: c f(x) - c f(-x) is x where f has an odd part of slope 1 / c."""
    if len(blocks) != 2:
        return None
    (a, f), (b, g) = k.forms
    if f != g or (a, b) != (1.0, -1.0) or blocks[0] != -blocks[1]:
        return None
    slope = 2.0 if f is None else (f.odd_slope if isinstance(f, Facts) else None)
    if slope is None or abs(blocks[0] * slope - 1.0) > 1e-15:
        return None
    return replace(k, forms=())


def _activation(p: Prover, node: Node, k: Known) -> Known:
    """A new activation: it hands on what it leaves unchanged."""
    facts = node.op.facts
    if k.zero:
        return k if facts.at_zero == 0.0 else _unknown(node)
    if k.forms and isinstance(node.op, Identity):
        return k
    if k.forms:
        entrywise = isinstance(node.op, Activate | LeakyReLU)
        fine = entrywise and all(f is None for _, f in k.forms)
        return replace(k, forms=tuple((c, facts) for c, _ in k.forms)) if fine else _unknown(node)
    if not k.same or facts.fixed_on is None or not facts.entrywise:
        return _unknown(node)
    if facts.stochastic:
        p.eval_only = True
        return k
    low, high = p.range_of(k.base) if k.base in p.before else (-inf, inf)
    fixed = facts.fixed_on
    return k if fixed[0] <= low and high <= fixed[1] else _unknown(node)
