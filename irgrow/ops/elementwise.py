"""Identity, dropout and learned scales."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf
from operator import mul
from typing import TYPE_CHECKING, ClassVar

from irgrow.attributes import real
from irgrow.fills import ONES, Constant
from irgrow.ops.base import Evaluation, Facts, Lowering, Op, ParamSpec, Role, Signature
from irgrow.shapes import Array

if TYPE_CHECKING:
    from torch import fx


@dataclass(frozen=True)
class Identity(Op):
    """Hand the value on unchanged."""

    kind: ClassVar[str] = "identity"

    @property
    def facts(self) -> Facts:
        return Facts(fixed_on=(-inf, inf), homogeneous=True, keeps_range=True, entrywise=True)

    def evaluate(self, e: Evaluation, *inputs: Array) -> Array:
        return inputs[0]

    def lower(self, b: Lowering, *inputs: fx.Node) -> fx.Node:
        return inputs[0]


@dataclass(frozen=True)
class Dropout(Op):
    """Zero entries with probability `p` while training and scale the rest up (Srivastava et al. 2014)."""

    kind: ClassVar[str] = "dropout"

    p: float = real(0.5, low=0.0, high=1.0)

    @property
    def facts(self) -> Facts:
        return Facts(fixed_on=(-inf, inf), homogeneous=True, keeps_range=True, entrywise=True, stochastic=self.p > 0)

    def evaluate(self, e: Evaluation, *inputs: Array) -> Array:
        if e.training and self.p > 0:
            raise ValueError("the reference interpreter has no random numbers; evaluate dropout in inference mode")
        return inputs[0]

    def lower(self, b: Lowering, *inputs: fx.Node) -> fx.Node:
        from torch import nn

        return b.module(lambda: nn.Dropout(self.p), *inputs)


@dataclass(frozen=True)
class Scale(Op):
    """Multiply every unit by a learned number that starts at `init` (LayerScale, Touvron et al. 2021)."""

    kind: ClassVar[str] = "scale"

    init: float = real(1.0)

    @property
    def facts(self) -> Facts:
        return Facts(at_zero=0.0, homogeneous=False)

    def params(self, s: Signature) -> tuple[ParamSpec, ...]:
        return (ParamSpec("weight", (s.output.units,), (Role.PER_UNIT,), Constant(self.init), ONES),)

    def evaluate(self, e: Evaluation, *inputs: Array) -> Array:
        x = e.signature.output
        return inputs[0] * e.param("weight").reshape(1, -1, *(1,) * (x.rank - 1 - x.unit_dim))

    def lower(self, b: Lowering, *inputs: fx.Node) -> fx.Node:
        from irgrow.ops.leaves import along

        x = b.signature.output
        weight = b.param("weight")
        return b.call(mul, inputs[0], b.call(along, weight, x.rank - 1 - x.unit_dim))
