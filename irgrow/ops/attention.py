"""Dot-product attention over heads; the projections around it are ordinary dense layers."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import sqrt
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from irgrow.attributes import flag, real, width
from irgrow.axes import Axis, Const, prod
from irgrow.fills import Frequencies
from irgrow.ops.base import (
    Coupling,
    Evaluation,
    Lowering,
    Op,
    ParamSpec,
    Role,
    Signature,
    Sizes,
    TensorType,
    Typing,
    numel,
)
from irgrow.shapes import Array

if TYPE_CHECKING:
    from torch import fx


@dataclass(frozen=True)
class DotProductAttention(Op):
    """softmax(scale * q k^T) v for every head (Vaswani et al. 2017, 3.2).

    The units of q are `heads * head_dim`, those of k `kv_heads * head_dim`, those of v `kv_heads * value_dim`; head h
    reads key/value head `h // (heads / kv_heads)` (grouped queries, Ainslie et al. 2023). With `rotary`, q and k are
    rotated by position in pairs (i, i + head_dim / 2) (Su et al. 2021); the frequencies are a buffer, so they keep
    their values when the head grows. `scale` is 1 / sqrt(head_dim) unless given.
    """

    kind: ClassVar[str] = "dot_product_attention"
    arity: ClassVar[int | None] = 3
    coupling: ClassVar[Coupling] = Coupling.ATTENTION

    heads: Axis = width()
    kv_heads: Axis | None = width(None)
    causal: bool = flag(False)
    rotary: bool = flag(False)
    base: float = real(10000.0, low=0.0, open_low=True)
    scale: float | None = real(None, low=0.0, open_low=True)

    def infer(self, t: Typing, *inputs: TensorType) -> TensorType:
        q, k, v = inputs
        t.need_floats(q, k, v)
        for name, value in zip(t.inputs, inputs, strict=True):
            t.need_rank(value, (2,), self.kind)
            if value.unit_dim != 1:
                t.fail(f"{self.kind} works on (positions, units) values, `{name}` has units first", "use `transpose`")
        heads, groups = self.heads, self.kv_heads or self.heads
        n_heads, n_groups = t.size(heads), t.size(groups)
        if n_heads % n_groups:
            t.fail(f"`heads` must be a multiple of `kv_heads`, found {n_heads} and {n_groups}")
        repeats = t.derived("repeats", n_heads // n_groups)
        t.unify(heads, prod([groups, repeats]), "each key/value head serves as many query heads")
        head_dim = self._part(t, "head_dim", 0, q, n_heads)
        if self.rotary:
            size = t.size(head_dim)
            if size % 2:
                t.fail(f"rotary attention needs an even head dimension, found {size}")
            t.unify(head_dim, prod([Const(2), t.derived("pairs", size // 2)]), "rotary positions turn pairs")
        value_dim = self._part(t, "value_dim", 2, v, n_groups)
        key_dim = t.size(k.units)
        if key_dim != n_groups * t.size(head_dim):
            found = f"{key_dim} units in `{t.inputs[1]}` for {n_groups} heads of {t.size(head_dim)}"
            t.fail(f"queries and keys need the same head dimension, found {found}", code="shape-conflict")
        t.unify(q.units, prod([heads, head_dim]), "queries are heads * head_dim")
        t.unify(k.units, prod([groups, head_dim]), "keys are kv_heads * head_dim")
        t.unify(v.units, prod([groups, value_dim]), "values are kv_heads * value_dim")
        t.unify(k.dims[0], v.dims[0], "keys and values have the same positions", (1, 2))
        if self.causal:
            t.unify(q.dims[0], k.dims[0], "causal attention needs as many queries as keys", (0, 1))
        return TensorType((q.dims[0], prod([heads, value_dim])), 1)

    def _part(self, t: Typing, name: str, index: int, value: TensorType, heads: int) -> Axis:
        total = t.size(value.units)
        if total % heads:
            t.fail(f"{heads} heads need a multiple of {heads} units, found {total} in `{t.inputs[index]}`")
        return t.derived(name, total // heads)

    def params(self, s: Signature) -> tuple[ParamSpec, ...]:
        if not self.rotary:
            return ()
        spec = ParamSpec("frequencies", (s.axes["pairs"],), (Role.PER_UNIT,), Frequencies(self.base), trainable=False)
        return (replace(spec, neutral=Frequencies(self.base)),)

    def macs(self, s: Signature, sizes: Sizes) -> int:
        keys = numel(s.inputs[1].dims[:1], sizes)
        return keys * (numel(s.inputs[0].dims, sizes) + numel(s.output.dims, sizes))

    def resized(self, s: Signature, old: Sizes, new: Sizes) -> Op:
        before, after = numel([s.axes["head_dim"]], old), numel([s.axes["head_dim"]], new)
        return self if self.scale or before == after else replace(self, scale=1.0 / sqrt(before))

    def evaluate(self, e: Evaluation, *inputs: Array) -> Array:
        axes = e.signature.axes
        heads, groups = e.size(axes["heads"]), e.size(axes.get("kv_heads", axes["heads"]))
        q, k, v = (
            x.reshape(*x.shape[:2], count, -1).transpose(0, 2, 1, 3)
            for x, count in zip(inputs, (heads, groups, groups), strict=True)
        )
        if self.rotary:
            q, k = (_rotated(x, e.param("frequencies")) for x in (q, k))
        k, v = (np.repeat(x, heads // groups, axis=1) for x in (k, v))
        scores = q @ k.transpose(0, 1, 3, 2) * (self.scale or 1.0 / sqrt(q.shape[-1]))
        if self.causal:
            scores = np.where(np.tri(scores.shape[-2], dtype=bool), scores, -np.inf)
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        y = weights / weights.sum(-1, keepdims=True) @ v
        return y.transpose(0, 2, 1, 3).reshape(*inputs[0].shape[:2], -1)

    def lower(self, b: Lowering, *inputs: fx.Node) -> fx.Node:
        from irgrow.ops.leaves import DotProductAttention as Leaf

        axes = b.signature.axes
        heads = b.size(axes["heads"])
        groups = b.size(axes.get("kv_heads", axes["heads"]))
        pairs = b.size(axes["pairs"]) if self.rotary else None
        return b.module(lambda: Leaf(heads, groups, self.causal, self.scale, pairs), *inputs)


def _rotated(x: Array, frequencies: Array) -> Array:
    """Rotate the pairs (i, i + half) of the last dimension by position * frequency."""
    angle = np.arange(x.shape[-2])[:, None] * frequencies
    cos, sin = np.cos(angle), np.sin(angle)
    half = x.shape[-1] // 2
    a, b = x[..., :half], x[..., half:]
    return np.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1)
