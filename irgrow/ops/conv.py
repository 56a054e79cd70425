"""Convolutions over one or two dimensions: plain, grouped, depthwise; channels first, cross-correlation as in torch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from operator import mul
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from irgrow.attributes import flag, integer, width, window
from irgrow.axes import ONE, Axis, Const, prod
from irgrow.fills import FanInUniform
from irgrow.ops.base import (
    MASK,
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
    mask_of,
    numel,
    spatial,
)
from irgrow.shapes import Array

if TYPE_CHECKING:
    from torch import fx

Window = int | tuple[int, ...]


def per_dim(value: Window, rank: int) -> tuple[int, ...]:
    """Spread an integer over the position dimensions."""
    return value if isinstance(value, tuple) else (value,) * rank


def slide(t: Typing, x: TensorType, what: str, windows: Mapping[str, tuple[int, ...]]) -> tuple[Axis, ...]:
    """Return the position dimensions after a sliding window (`kernel`, `stride`, `padding`, `dilation`)."""
    rank = x.rank - 1
    for name, entries in windows.items():
        if len(entries) != rank:
            t.fail(f"`{name}` of {what} takes {rank} entries, one per position dimension, found {len(entries)}")
    found = []
    for dim, kernel, stride, padding, dilation in zip(x.dims[1:], *windows.values(), strict=True):
        size = t.fixed(dim, f"{what} slides over it") + 2 * padding
        reach = dilation * (kernel - 1) + 1
        if size < reach:
            t.fail(f"{what} needs at least {reach} positions, found {size}", "use a smaller kernel or more padding")
        found.append(Const((size - reach) // stride + 1))
    return tuple(found)


def taps(x: Array, kernel: Sequence[int], stride: Sequence[int], dilation: Sequence[int]) -> Iterator[Array]:
    """Yield, for every kernel position in row-major order, the entries of the padded input it meets."""
    out = [(n - d * (k - 1) - 1) // s + 1 for n, k, s, d in zip(x.shape[2:], kernel, stride, dilation, strict=True)]
    for offsets in product(*(range(k) for k in kernel)):
        cut = tuple(
            slice(o * d, o * d + s * (n - 1) + 1, s) for o, d, s, n in zip(offsets, dilation, stride, out, strict=True)
        )
        yield x[(slice(None), slice(None), *cut)]


def padded(x: Array, padding: Sequence[int], value: float = 0.0) -> Array:
    """Pad the position dimensions on both sides."""
    return np.pad(x, [(0, 0), (0, 0), *((p, p) for p in padding)], constant_values=value)


class _Sliding(Op):
    """What plain and depthwise convolutions share."""

    bias: bool
    masked: bool

    def _groups(self, s: Signature) -> Axis:
        raise NotImplementedError

    def _windows(self, rank: int) -> dict[str, tuple[int, ...]]:
        return {n: per_dim(getattr(self, n), rank) for n in ("kernel", "stride", "padding", "dilation")}

    def _filter(self, s: Signature, roles: tuple[Role, Role], reads: Axis) -> tuple[ParamSpec, ...]:
        rank = s.output.rank - 1
        kernel = tuple(Const(k) for k in self._windows(rank)["kernel"])
        makes = s.output.units
        weight = ParamSpec("weight", (makes, reads, *kernel), (*roles, *(Role.FIXED,) * rank), FanInUniform())
        bias = ParamSpec("bias", (makes,), roles[:1], FanInUniform())
        return (weight, *((bias,) if self.bias else ()), *((mask_of(weight),) if self.masked else ()))

    def macs(self, s: Signature, sizes: Sizes) -> int:
        return numel(self.params(s)[0].dims, sizes) * spatial(s.output, sizes)

    def evaluate(self, e: Evaluation, *inputs: Array) -> Array:
        (x,), weight = inputs, e.param("weight") * e.param(MASK) if self.masked else e.param("weight")
        rank, fan_out, reads = x.ndim - 2, weight.shape[0], weight.shape[1]
        windows, groups = self._windows(rank), e.size(self._groups(e.signature))
        by_group = weight.reshape(groups, fan_out // groups, reads, -1)
        x = padded(x, windows["padding"])
        y: Array = np.zeros(())
        for i, tap in enumerate(taps(x, windows["kernel"], windows["stride"], windows["dilation"])):
            units = tap.reshape(tap.shape[0], groups, reads, *tap.shape[2:])
            y = y + np.einsum("goi,ngi...->ngo...", by_group[..., i], units)
        y = y.reshape(y.shape[0], fan_out, *y.shape[3:])
        return y + e.param("bias").reshape(-1, *(1,) * rank) if self.bias else y

    def lower(self, b: Lowering, *inputs: fx.Node) -> fx.Node:
        from torch import nn
        from torch.nn import functional as F

        from irgrow.ops.leaves import MaskedConv1d, MaskedConv2d

        s = b.signature
        rank, bias = s.output.rank - 1, self.bias
        kernel, stride, padding, dilation = self._windows(rank).values()
        groups = b.size(self._groups(s))
        if b.borrows():
            convolve = F.conv1d if rank == 1 else F.conv2d
            shift = b.param("bias") if bias else None
            weight = b.call(mul, b.param("weight"), b.param(MASK)) if self.masked else b.param("weight")
            return b.call(convolve, inputs[0], weight, shift, stride, padding, dilation, groups)
        kinds: tuple[Any, Any] = (MaskedConv1d, MaskedConv2d) if self.masked else (nn.Conv1d, nn.Conv2d)
        layer = kinds[rank - 1]
        fan_in, fan_out = b.size(s.inputs[0].units), b.size(s.output.units)
        options = kernel, stride, padding, dilation, groups, bias
        return b.module(lambda: layer(fan_in, fan_out, *options, device="meta"), *inputs)


@dataclass(frozen=True)
class Conv(_Sliding):
    """Convolution over the positions of a channels-first value; with `groups`, each group reads its own channels."""

    kind: ClassVar[str] = "conv"
    coupling: ClassVar[Coupling] = Coupling.MIXING

    units: Axis = width()
    kernel: Window = window()
    stride: Window = window(1, named="the channels it reads follow from the input")
    padding: Window = window(0, low=0)
    dilation: Window = window(1)
    groups: Axis = width(ONE)
    bias: bool = flag(True)
    masked: bool = flag(False)

    def _groups(self, s: Signature) -> Axis:
        return s.axes["groups"]

    def infer(self, t: Typing, *inputs: TensorType) -> TensorType:
        (x,) = inputs
        t.need_floats(x)
        t.need_rank(x, (2, 3), "conv", "its input is channels, then one or two position dimensions")
        t.channels_first(x, "conv")
        if self.groups != ONE:
            for axis, side in ((x.units, "reads"), (self.units, "makes")):
                total, groups = t.size(axis), t.size(self.groups)
                if total % groups:
                    t.fail(f"conv with {groups} groups {side} a multiple of {groups} units, found {total}")
                local = t.derived(side, total // groups)
                t.unify(axis, prod([self.groups, local]), f"conv works in {groups} groups")
        return TensorType((self.units, *slide(t, x, self.kind, self._windows(x.rank - 1))))

    def params(self, s: Signature) -> tuple[ParamSpec, ...]:
        return self._filter(s, (Role.MAKES, Role.READS), s.axes.get("reads", s.inputs[0].units))


@dataclass(frozen=True)
class Depthwise(_Sliding):
    """Convolution of every channel with `multiplier` filters of its own."""

    kind: ClassVar[str] = "depthwise"

    kernel: Window = window()
    stride: Window = window(1)
    padding: Window = window(0, low=0)
    dilation: Window = window(1)
    multiplier: int = integer(1)
    bias: bool = flag(True)
    masked: bool = flag(False)

    @property
    def facts(self) -> Facts:
        return Facts(at_zero=None)

    @property
    def zero_if(self) -> tuple[tuple[str, float], ...] | None:
        return (("bias", 0.0),) if self.bias else ()

    def _groups(self, s: Signature) -> Axis:
        return s.inputs[0].units

    def infer(self, t: Typing, *inputs: TensorType) -> TensorType:
        (x,) = inputs
        t.need_floats(x)
        t.need_rank(x, (2, 3), "depthwise", "its input is channels, then one or two position dimensions")
        t.channels_first(x, "depthwise")
        units = prod([x.units, Const(self.multiplier)])
        return TensorType((units, *slide(t, x, self.kind, self._windows(x.rank - 1))))

    def params(self, s: Signature) -> tuple[ParamSpec, ...]:
        weight, *rest = self._filter(s, (Role.PER_UNIT, Role.FIXED), ONE)
        return (replace(weight, neutral=FanInUniform()), *rest)
