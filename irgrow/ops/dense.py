"""Dense layers."""

from __future__ import annotations

from dataclasses import dataclass
from operator import mul
from typing import TYPE_CHECKING, ClassVar

from irgrow.attributes import flag, width
from irgrow.axes import Axis, size_of
from irgrow.fills import FanInUniform
from irgrow.ops.base import (
    MASK,
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
    mask_of,
    numel,
)
from irgrow.shapes import Array

if TYPE_CHECKING:
    from torch import fx


@dataclass(frozen=True)
class Dense(Op):
    """y = x W^T + b over the last dimension; W is `(units, fan_in)`, times its mask if it is `masked`."""

    kind: ClassVar[str] = "dense"
    coupling: ClassVar[Coupling] = Coupling.MIXING

    units: Axis = width()
    bias: bool = flag(True)
    masked: bool = flag(False)

    def infer(self, t: Typing, *inputs: TensorType) -> TensorType:
        (x,) = inputs
        t.need_floats(x)
        return x.replace(x.rank - 1, self.units)

    def mixes(self, s: Signature) -> int:
        return s.inputs[0].rank - 1

    def params(self, s: Signature) -> tuple[ParamSpec, ...]:
        fan_in, fan_out = s.inputs[0].dims[-1], s.output.dims[-1]
        weight = ParamSpec("weight", (fan_out, fan_in), (Role.MAKES, Role.READS), FanInUniform())
        bias = ParamSpec("bias", (fan_out,), (Role.MAKES,), FanInUniform())
        return (weight, *((bias,) if self.bias else ()), *((mask_of(weight),) if self.masked else ()))

    def macs(self, s: Signature, sizes: Sizes) -> int:
        return numel(s.output.dims, sizes) * size_of(s.inputs[0].dims[-1], sizes)

    def evaluate(self, e: Evaluation, *inputs: Array) -> Array:
        weight = e.param("weight") * e.param(MASK) if self.masked else e.param("weight")
        y = inputs[0] @ weight.T
        return y + e.param("bias") if self.bias else y

    def lower(self, b: Lowering, *inputs: fx.Node) -> fx.Node:
        from torch import nn
        from torch.nn import functional as F

        from irgrow.ops.leaves import MaskedLinear

        if b.borrows():
            weight = b.call(mul, b.param("weight"), b.param(MASK)) if self.masked else b.param("weight")
            return b.call(F.linear, inputs[0], weight, b.param("bias") if self.bias else None)
        fan_in, fan_out = b.size(b.signature.inputs[0].dims[-1]), b.size(b.signature.output.dims[-1])
        layer = MaskedLinear if self.masked else nn.Linear
        return b.module(lambda: layer(fan_in, fan_out, self.bias, device="meta"), *inputs)
