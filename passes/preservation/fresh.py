"""Nodes that were not there before: what inserted layers do to a value they start from.

A new node gives back an old value, nothing at all, or a stack of multiples of an old value; of anything else nothing is
known. Its numbers are taken from the fills and looked at, whoever chose them.
"""

from __future__ import annotations

from dataclasses import replace
from math import inf

import numpy as np

from irgrow.fills import Eye
from irgrow.graph import Node
from irgrow.ops import (
    Activate,
    BatchNorm,
    Conv,
    Coupling,
    Dense,
    Depthwise,
    Facts,
    GroupNorm,
    Identity,
    InstanceNorm,
    LayerNorm,
    LeakyReLU,
    RMSNorm,
    Scale,
)
from irgrow.ops.conv import per_dim
from irgrow.passes.preservation.blocks import (
    eye_of,
    has,
    is_all,
    numbers,
    rounding,
    unshifted,
    weight_is_zero,
)
from irgrow.passes.preservation.known import ANY, SAME, ZERO, Known, uniform
from irgrow.passes.preservation.prover import Prover

_NORMS = BatchNorm | InstanceNorm | GroupNorm | LayerNorm | RMSNorm
_LARGEST = 1e3
"""The largest factor a sum may be multiplied by for its rounding to count as rounding."""


def fresh(p: Prover, node: Node, inputs: list[Known]) -> Known:
    """Say whether a new node gives back an old value, nothing at all, or a stack of multiples of an old value."""
    found = _found(p, node, inputs)
    return found if _has_its_shape(p, node, found) else _unknown(f"`{node.name}` has another shape than `{found.base}`")


def _found(p: Prover, node: Node, inputs: list[Known]) -> Known:
    op = node.op
    if op.coupling is Coupling.SUM:
        return _sum(node, inputs)
    if op.coupling is Coupling.PRODUCT and (zero := next((k for k in inputs if k.zero), None)):
        return uniform(zero.base, ZERO)
    if len(inputs) == 1 and op.coupling is Coupling.MIXING and isinstance(op, Dense | Conv):
        return _mixing(p, node, inputs[0])
    if len(inputs) == 1 and op.coupling in (Coupling.PER_UNIT, Coupling.STATISTICS, Coupling.MOVEMENT):
        return _per_unit(p, node, inputs[0])
    return _stuck(node, inputs)


def _has_its_shape(p: Prover, node: Node, found: Known) -> bool:
    """Whether a value said to be an old one has its layout: sums spread vectors, layers with one unit may repeat it."""
    if found.forms or not (found.status == SAME).any() or found.base not in p.before:
        return True
    was, now = p.before.types[found.base], p.after.types[node.name]
    sizes = [p.size(a) for a in was.dims], [p.after.size(a) for a in now.dims]
    return sizes[0] == sizes[1] and (was.unit_dim, was.ids) == (now.unit_dim, now.ids)


def _unknown(why: str) -> Known:
    return uniform("", ANY, why)


def _stuck(node: Node, inputs: list[Known]) -> Known:
    """What lets no knowledge through, with the first reason there is."""
    why = next((k.why for k in inputs if k.why), None)
    return _unknown(why or f"`{node.name}` is not known to hand on what it reads")


def _sum(node: Node, inputs: list[Known]) -> Known:
    rest = [k for k in inputs if not k.zero]
    if not rest:
        return inputs[0]
    if len(rest) == 1 and not rest[0].forms:
        return rest[0]
    why = next((k.why for k in rest if k.why), None)
    names = " and ".join(f"`{name}`" for name, k in zip(node.inputs, inputs, strict=True) if not k.zero)
    return _unknown(why or f"`{node.name}` adds {names}, none of them known to be zero")


def _mixing(p: Prover, node: Node, k: Known) -> Known:
    """A new layer: zero, or identity blocks over a value it keeps the positions of."""
    name = node.name
    if not unshifted(p, name):
        return _unknown(f"the bias of `{name}` is not known to be zero")
    if weight_is_zero(p, name) or k.zero:
        return uniform(k.base, ZERO)
    eye = eye_of(p, name) if _keeps_positions(p, node) else None
    if eye is None:
        return _unknown(f"the weight of `{name}` is known neither as zero nor as an identity")
    axes = p.after.signatures[name].axes
    if "groups" in axes and p.after.size(axes["groups"]) > 1:  # an identity is a stack of smaller ones
        return k if k.same and _all_ones(eye) else _stuck(node, [k])
    if eye.blocks == (1.0,):
        return k
    if eye.side == "rows" and k.same:
        return replace(k, forms=tuple((c, None) for c in eye.blocks))
    if eye.side == "columns" and len(eye.blocks) == len(k.forms):
        return _gathered(p, eye.blocks, k) or _unknown(f"`{name}` does not make `{k.base}` of its multiples")
    return _stuck(node, [k])


def _all_ones(eye: Eye) -> bool:
    return eye.side == "rows" and all(c == 1.0 for c in eye.blocks)


def _keeps_positions(p: Prover, node: Node) -> bool:
    """Whether the centre tap of every row meets the position it makes, given that the shape stays."""
    op = node.op
    if not isinstance(op, Conv | Depthwise):
        return True
    rank = p.after.types[node.name].rank - 1
    windows = [per_dim(w, rank) for w in (op.kernel, op.stride, op.padding, op.dilation)]
    return all(k % 2 == 1 and s == 1 and 2 * q == d * (k - 1) for k, s, q, d in zip(*windows, strict=True))


def _gathered(p: Prover, blocks: tuple[float, ...], k: Known) -> Known | None:
    """Sum multiples of activated multiples: c f(x) - c f(-x) is x where f has an odd part of slope 1 / c."""
    if len(blocks) != 2:
        return None
    (a, f), (b, g) = k.forms
    if f != g or (a, b) != (1.0, -1.0) or blocks[0] != -blocks[1] or abs(blocks[0]) > _LARGEST:
        return None
    slope = 2.0 if f is None else (f.odd_slope if isinstance(f, Facts) else None)
    if slope is None or not abs(blocks[0] * slope - 1.0) <= rounding(p):
        return None
    return replace(k, forms=())


def _per_unit(p: Prover, node: Node, k: Known) -> Known:
    """A new op that treats units by themselves, normalises or moves them."""
    op, name = node.op, node.name
    if k.zero and op.zero_if is not None and all(is_all(p, name, local, value) for local, value in op.zero_if):
        return k
    if isinstance(op, Scale | Depthwise | _NORMS) and _is_silent(p, node):
        return uniform(k.base, ZERO)
    if not p.after.specs[name] and op.coupling is Coupling.PER_UNIT:
        return _activation(p, node, k)
    if isinstance(op, Scale) and is_all(p, name, "weight", 1.0):
        return k if not k.forms else _stuck(node, [k])
    if isinstance(op, Depthwise) and k.same and op.multiplier == 1 and _keeps_positions(p, node) and unshifted(p, name):
        eye = eye_of(p, name)
        return k if eye is not None and _all_ones(eye) else _stuck(node, [k])
    if isinstance(op, BatchNorm) and k.same:
        return _batchnorm(p, node, k)
    return _stuck(node, [k])


def _is_silent(p: Prover, node: Node) -> bool:
    """Whether a weight, gain or scale of zero, without a shift, lets nothing through."""
    return has(p, node.name, "weight") and weight_is_zero(p, node.name) and unshifted(p, node.name)


def _batchnorm(p: Prover, node: Node, k: Known) -> Known:
    """(x - m) / sqrt(v + eps) times a gain of sqrt(v + eps), plus m: the identity, in evaluation."""
    op, name = node.op, node.name
    assert isinstance(op, BatchNorm)
    wanted = ("running_mean", "running_var", *(("weight", "bias") if op.affine else ()))
    found = [numbers(p, name, local) for local in wanted]
    mean, var, gain, shift = (*found, 1.0, 0.0)[:4]
    if mean is None or var is None or gain is None or shift is None:
        return _unknown(f"the statistics or the gain of `{name}` are not known")
    deviation = np.sqrt(var + op.eps)
    if not np.all(np.abs(gain - deviation) <= rounding(p) * deviation) or not np.all(shift == mean):
        return _unknown(f"`{name}` does not undo its own normalisation, even in evaluation")
    p.eval_only = True
    return k


def _activation(p: Prover, node: Node, k: Known) -> Known:
    """A new activation: it hands on what it leaves unchanged."""
    facts = node.op.facts
    if k.forms and isinstance(node.op, Identity):
        return k
    if k.forms and isinstance(node.op, Activate | LeakyReLU) and all(f is None for _, f in k.forms):
        return replace(k, forms=tuple((c, facts) for c, _ in k.forms))
    if not k.same:
        return _stuck(node, [k])
    if facts.fixed_on is None or not facts.entrywise:
        return _unknown(f"`{node.name}` leaves no range of values unchanged")
    low, high = p.range_of(k.base) if k.base in p.before else (-inf, inf)
    first, last = facts.fixed_on
    if not (first <= low and high <= last):
        reach = "nothing is known" if (low, high) == (-inf, inf) else f"`{k.base}` reaches from {low:g} to {high:g}"
        return _unknown(f"`{node.name}` leaves only what is from {first:g} to {last:g} unchanged, {reach}")
    if facts.stochastic:
        p.eval_only = True
    return k
