"""Tokens: embeddings, positions and class tokens; values are (positions, units), units last."""

from __future__ import annotations

from dataclasses import dataclass
from operator import add
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from irgrow.attributes import integer, real, width, word
from irgrow.axes import Axis, Const, cat
from irgrow.fills import ZERO, Normal, Sinusoid
from irgrow.ops.base import (
    Coupling,
    Evaluation,
    Facts,
    Lowering,
    Op,
    ParamSpec,
    Role,
    Signature,
    TensorType,
    Typing,
)
from irgrow.shapes import Array

if TYPE_CHECKING:
    from torch import fx


@dataclass(frozen=True)
class Embedding(Op):
    """Look up one row of a `(vocabulary, units)` table for every token."""

    kind: ClassVar[str] = "embedding"
    coupling: ClassVar[Coupling] = Coupling.SOURCE

    units: Axis = width()

    def infer(self, t: Typing, *inputs: TensorType) -> TensorType:
        (x,) = inputs
        if x.ids is None:
            t.fail(
                f"embedding reads integer ids, `{t.inputs[0]}` holds floats", "declare the input as `ids(size)[length]`"
            )
        return TensorType((*x.dims, self.units), x.rank)

    def params(self, s: Signature) -> tuple[ParamSpec, ...]:
        dims = (Const(s.inputs[0].ids or 0), s.output.units)
        return (ParamSpec("weight", dims, (Role.FIXED, Role.MAKES), Normal(1.0)),)

    def evaluate(self, e: Evaluation, *inputs: Array) -> Array:
        return e.param("weight")[inputs[0].astype(np.int64)]

    def lower(self, b: Lowering, *inputs: fx.Node) -> fx.Node:
        from torch import nn
        from torch.nn import functional as F

        if b.borrows():
            return b.call(F.embedding, inputs[0], b.param("weight"))
        rows, units = (b.size(d) for d in self.params(b.signature)[0].dims)
        return b.module(lambda: nn.Embedding(rows, units, device="meta"), *inputs)


@dataclass(frozen=True)
class Positions(Op):
    """Add a table over (positions, units) to every sample: learned, or fixed sinusoids (Vaswani et al. 2017, 3.5).

    Shorter sequences than the declared one use the first rows.
    """

    kind: ClassVar[str] = "positions"

    table: str = word("learned", "sinusoidal", default="learned")
    base: float = real(10000.0, low=0.0, open_low=True)

    @property
    def facts(self) -> Facts:
        return Facts(at_zero=None, additive=True)

    @property
    def zero_if(self) -> tuple[tuple[str, float], ...] | None:
        return (("weight", 0.0),)

    def infer(self, t: Typing, *inputs: TensorType) -> TensorType:
        (x,) = inputs
        t.need_floats(x)
        t.need_rank(x, (2,), "positions")
        if x.unit_dim != 1:
            t.fail("positions works on (positions, units) values, found units first", "use `transpose` before it")
        t.fixed(x.dims[0], "positions has one row for each")
        return x

    def params(self, s: Signature) -> tuple[ParamSpec, ...]:
        learned = self.table == "learned"
        init = Normal(0.02) if learned else Sinusoid(self.base)
        roles = (Role.FIXED, Role.MAKES if learned else Role.PER_UNIT)
        return (ParamSpec("weight", s.output.dims, roles, init, ZERO if learned else init, trainable=learned),)

    def evaluate(self, e: Evaluation, *inputs: Array) -> Array:
        return inputs[0] + e.param("weight")[: inputs[0].shape[1]]

    def lower(self, b: Lowering, *inputs: fx.Node) -> fx.Node:
        from irgrow.ops.leaves import first_rows

        return b.call(add, inputs[0], b.call(first_rows, b.param("weight"), inputs[0]))


@dataclass(frozen=True)
class ClassToken(Op):
    """Put `count` learned tokens in front of the sequence (Dosovitskiy et al. 2021)."""

    kind: ClassVar[str] = "classtoken"
    coupling: ClassVar[Coupling] = Coupling.PER_UNIT

    count: int = integer(1)

    @property
    def facts(self) -> Facts:
        return Facts(at_zero=None, additive=True)

    @property
    def zero_if(self) -> tuple[tuple[str, float], ...] | None:
        return (("weight", 0.0),)

    def infer(self, t: Typing, *inputs: TensorType) -> TensorType:
        (x,) = inputs
        t.need_floats(x)
        t.need_rank(x, (2,), "classtoken")
        if x.unit_dim != 1:
            t.fail("classtoken works on (positions, units) values, found units first", "use `transpose` before it")
        return x.replace(0, cat([Const(self.count), x.dims[0]]))

    def params(self, s: Signature) -> tuple[ParamSpec, ...]:
        dims = (Const(self.count), s.output.units)
        return (ParamSpec("weight", dims, (Role.FIXED, Role.MAKES), Normal(0.02)),)

    def evaluate(self, e: Evaluation, *inputs: Array) -> Array:
        token = np.broadcast_to(e.param("weight"), (inputs[0].shape[0], self.count, inputs[0].shape[2]))
        return np.concatenate([token, inputs[0]], axis=1)

    def lower(self, b: Lowering, *inputs: fx.Node) -> fx.Node:
        from irgrow.ops.leaves import prepend_rows

        return b.call(prepend_rows, b.param("weight"), inputs[0])
