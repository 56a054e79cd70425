"""Normalisation: batch, instance, group, layer and RMS."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from irgrow.attributes import flag, real, width
from irgrow.axes import Axis, prod, size_of
from irgrow.errors import Diagnostic, ProgramError
from irgrow.fills import ONES, ZERO
from irgrow.ops.base import (
    Coupling,
    Evaluation,
    Facts,
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

_WIDTHS_FOLLOW = "widths follow from the input"
"""Where the same layers of PyTorch are told their width, a number would become `eps` and pass unnoticed."""


def _per_unit(name: str, units: Axis, value: float, trainable: bool = True) -> ParamSpec:
    fill = ONES if value else ZERO
    return ParamSpec(name, (units,), (Role.PER_UNIT,), fill, fill, trainable)


def _columns(values: Array, x: Array) -> Array:
    """Shape per-unit values for a channels-first array."""
    return values.reshape(1, -1, *(1,) * (x.ndim - 2))


class _ChannelsFirst(Op):
    """What the norms over positions share: units in the first dimension, a gain and a shift per unit."""

    affine: bool

    def infer(self, t: Typing, *inputs: TensorType) -> TensorType:
        (x,) = inputs
        t.need_floats(x)
        t.channels_first(x, self.kind)
        return x

    def params(self, s: Signature) -> tuple[ParamSpec, ...]:
        units = s.output.units
        return (_per_unit("weight", units, 1.0), _per_unit("bias", units, 0.0)) if self.affine else ()

    def _affine(self, e: Evaluation, y: Array) -> Array:
        return y * _columns(e.param("weight"), y) + _columns(e.param("bias"), y) if self.affine else y


@dataclass(frozen=True)
class BatchNorm(_ChannelsFirst):
    """Normalise every unit over batch and positions; running statistics in evaluation (Ioffe and Szegedy 2015)."""

    kind: ClassVar[str] = "batchnorm"

    eps: float = real(1e-5, low=0.0, open_low=True, named=_WIDTHS_FOLLOW)
    momentum: float = real(0.1, low=0.0, high=1.0)
    affine: bool = flag(True)

    @property
    def facts(self) -> Facts:
        return Facts(at_zero=None, batch_statistics=True, normalising=True)

    @property
    def zero_if(self) -> tuple[tuple[str, float], ...] | None:
        shift = (("bias", 0.0),) if self.affine else ()
        return (("running_mean", 0.0), *shift)

    def infer(self, t: Typing, *inputs: TensorType) -> TensorType:
        t.need_rank(inputs[0], (1, 2, 3), "batchnorm")
        return super().infer(t, *inputs)

    def params(self, s: Signature) -> tuple[ParamSpec, ...]:
        units = s.output.units
        return (
            *super().params(s),
            _per_unit("running_mean", units, 0.0, trainable=False),
            _per_unit("running_var", units, 1.0, trainable=False),
            ParamSpec("num_batches_tracked", (), (), trainable=False, integer=True),
        )

    def evaluate(self, e: Evaluation, *inputs: Array) -> Array:
        (x,) = inputs
        mean, var = e.param("running_mean"), e.param("running_var")
        if e.training:
            over = (0, *range(2, x.ndim))
            count = x.size / x.shape[1]
            new_mean, new_var = x.mean(over), x.var(over)
            unbiased = new_var * count / max(count - 1, 1)
            e.update("running_mean", (1 - self.momentum) * mean + self.momentum * new_mean)
            e.update("running_var", (1 - self.momentum) * var + self.momentum * unbiased)
            e.update("num_batches_tracked", e.param("num_batches_tracked") + 1)
            mean, var = new_mean, new_var
        return self._affine(e, (x - _columns(mean, x)) / np.sqrt(_columns(var, x) + self.eps))

    def lower(self, b: Lowering, *inputs: fx.Node) -> fx.Node:
        from torch import nn

        layer: Any = nn.BatchNorm2d if b.signature.output.rank == 3 else nn.BatchNorm1d
        units = b.size(b.signature.output.units)
        return b.module(lambda: layer(units, self.eps, self.momentum, self.affine, device="meta"), *inputs)


@dataclass(frozen=True)
class InstanceNorm(_ChannelsFirst):
    """Normalise every unit of every sample over its positions (Ulyanov et al. 2016)."""

    kind: ClassVar[str] = "instancenorm"

    eps: float = real(1e-5, low=0.0, open_low=True, named=_WIDTHS_FOLLOW)
    affine: bool = flag(True)

    @property
    def facts(self) -> Facts:
        return Facts(at_zero=None, normalising=True)

    @property
    def zero_if(self) -> tuple[tuple[str, float], ...] | None:
        return (("bias", 0.0),) if self.affine else ()

    def infer(self, t: Typing, *inputs: TensorType) -> TensorType:
        t.need_rank(inputs[0], (2, 3), "instancenorm")
        if all(t.size(d) == 1 for d in inputs[0].dims[1:]):
            t.fail("instancenorm over a single position gives zero whatever it reads")
        return super().infer(t, *inputs)

    def evaluate(self, e: Evaluation, *inputs: Array) -> Array:
        (x,) = inputs
        over = tuple(range(2, x.ndim))
        centred = x - x.mean(over, keepdims=True)
        return self._affine(e, centred / np.sqrt(x.var(over, keepdims=True) + self.eps))

    def lower(self, b: Lowering, *inputs: fx.Node) -> fx.Node:
        from torch import nn

        layer: Any = nn.InstanceNorm2d if b.signature.output.rank == 3 else nn.InstanceNorm1d
        return b.module(
            lambda: layer(b.size(b.signature.output.units), self.eps, affine=self.affine, device="meta"), *inputs
        )


@dataclass(frozen=True)
class GroupNorm(_ChannelsFirst):
    """Normalise groups of units over units and positions of each sample (Wu and He 2018)."""

    kind: ClassVar[str] = "groupnorm"
    coupling: ClassVar[Coupling] = Coupling.STATISTICS

    groups: Axis = width()
    eps: float = real(1e-5, low=0.0, open_low=True, named=_WIDTHS_FOLLOW)
    affine: bool = flag(True)

    @property
    def zero_if(self) -> tuple[tuple[str, float], ...] | None:
        return (("bias", 0.0),) if self.affine else ()

    def infer(self, t: Typing, *inputs: TensorType) -> TensorType:
        x = super().infer(t, *inputs)
        units, groups = t.size(x.units), t.size(self.groups)
        if units % groups:
            t.fail(f"groupnorm with {groups} groups needs a multiple of {groups} units, found {units}")
        if units == groups and all(t.size(d) == 1 for d in x.dims[1:]):
            t.fail(f"groupnorm with {groups} groups of a single value gives zero whatever it reads")
        local = t.derived("members", units // groups)
        t.unify(x.units, prod([self.groups, local]), f"groupnorm works in {groups} groups")
        return x

    @property
    def centres(self) -> bool:
        return True

    def normalises(self, s: Signature) -> tuple[int, Axis]:
        return 0, s.axes["groups"]

    def resized(self, s: Signature, old: Sizes, new: Sizes) -> GroupNorm:
        if numel(s.output.dims, new) == size_of(s.axes["groups"], new):
            raise ProgramError([Diagnostic("groupnorm of a single value in every group gives zero whatever it reads")])
        return self

    def evaluate(self, e: Evaluation, *inputs: Array) -> Array:
        (x,) = inputs
        grouped = x.reshape(x.shape[0], e.size(e.signature.axes["groups"]), -1)
        centred = grouped - grouped.mean(2, keepdims=True)
        return self._affine(e, (centred / np.sqrt(grouped.var(2, keepdims=True) + self.eps)).reshape(x.shape))

    def lower(self, b: Lowering, *inputs: fx.Node) -> fx.Node:
        from torch import nn

        groups, units = b.size(b.signature.axes["groups"]), b.size(b.signature.output.units)
        return b.module(lambda: nn.GroupNorm(groups, units, self.eps, self.affine, device="meta"), *inputs)


@dataclass(frozen=True)
class LayerNorm(Op):
    """Normalise over the last dimension (Ba et al. 2016)."""

    kind: ClassVar[str] = "layernorm"
    coupling: ClassVar[Coupling] = Coupling.STATISTICS

    eps: float = real(1e-5, low=0.0, open_low=True, named=_WIDTHS_FOLLOW)
    affine: bool = flag(True)
    bias: bool = flag(True)

    @property
    def zero_if(self) -> tuple[tuple[str, float], ...] | None:
        return None

    @property
    def centres(self) -> bool:
        return True

    def filled_up(self, ratio: float) -> LayerNorm | None:
        return replace(self, eps=self.eps * ratio) if self.affine else None

    def params(self, s: Signature) -> tuple[ParamSpec, ...]:
        if not self.affine:
            return ()
        units = s.output.dims[-1]
        gain, shift = _per_unit("weight", units, 1.0), _per_unit("bias", units, 0.0)
        return (gain, shift) if self.bias else (gain,)

    def evaluate(self, e: Evaluation, *inputs: Array) -> Array:
        (x,) = inputs
        y = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + self.eps)
        if not self.affine:
            return y
        return y * e.param("weight") + e.param("bias") if self.bias else y * e.param("weight")

    def lower(self, b: Lowering, *inputs: fx.Node) -> fx.Node:
        from torch import nn

        units = b.size(b.signature.output.dims[-1])
        return b.module(lambda: nn.LayerNorm(units, self.eps, self.affine, self.bias, device="meta"), *inputs)


@dataclass(frozen=True)
class RMSNorm(Op):
    """Divide by the root mean square over the last dimension (Zhang and Sennrich 2019)."""

    kind: ClassVar[str] = "rmsnorm"
    coupling: ClassVar[Coupling] = Coupling.STATISTICS

    eps: float = real(1e-6, low=0.0, open_low=True, named=_WIDTHS_FOLLOW)
    affine: bool = flag(True)

    @property
    def zero_if(self) -> tuple[tuple[str, float], ...] | None:
        return ()

    def filled_up(self, ratio: float) -> RMSNorm | None:
        return replace(self, eps=self.eps * ratio) if self.affine else None

    def params(self, s: Signature) -> tuple[ParamSpec, ...]:
        return (_per_unit("weight", s.output.dims[-1], 1.0),) if self.affine else ()

    def evaluate(self, e: Evaluation, *inputs: Array) -> Array:
        (x,) = inputs
        y = x / np.sqrt((x * x).mean(-1, keepdims=True) + self.eps)
        return y * e.param("weight") if self.affine else y

    def lower(self, b: Lowering, *inputs: fx.Node) -> fx.Node:
        from torch import nn

        units = b.size(b.signature.output.dims[-1])
        return b.module(lambda: nn.RMSNorm(units, self.eps, self.affine, device="meta"), *inputs)
