"""Dense layers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from irgrow.attributes import flag, width
from irgrow.axes import Axis, size_of
from irgrow.fills import FanInUniform
from irgrow.ops.base import (
    Array,
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

if TYPE_CHECKING:
    from torch import fx


@dataclass(frozen=True)
class Dense(Op):
    """y = x W^T + b over the last dimension; W is `(units, fan_in)`."""

    kind: ClassVar[str] = "dense"
    coupling: ClassVar[Coupling] = Coupling.MIXING

    units: Axis = width()
    bias: bool = flag(True)

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
        return (weight, bias) if self.bias else (weight,)

    def macs(self, s: Signature, sizes: Sizes) -> int:
        return numel(s.output.dims, sizes) * size_of(s.inputs[0].dims[-1], sizes)

    def evaluate(self, e: Evaluation, *inputs: Array) -> Array:
        y = inputs[0] @ e.param("weight").T
        return y + e.param("bias") if self.bias else y

    def lower(self, b: Lowering, *inputs: fx.Node) -> fx.Node:
        from torch import nn
        from torch.nn import functional as F

        if b.borrows():
            return b.call(F.linear, inputs[0], b.param("weight"), b.param("bias") if self.bias else None)
        fan_in, fan_out = b.size(b.signature.inputs[0].dims[-1]), b.size(b.signature.output.dims[-1])
        return b.module(lambda: nn.Linear(fan_in, fan_out, self.bias, device="meta"), *inputs)
