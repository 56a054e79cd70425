"""Pooling: windows over the positions of channels-first values, or everything at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from irgrow.attributes import window
from irgrow.ops.base import Evaluation, Facts, Lowering, Op, TensorType, Typing
from irgrow.ops.conv import Window, padded, per_dim, slide, taps
from irgrow.shapes import Array

if TYPE_CHECKING:
    from torch import fx


class _Pool(Op):
    kernel: Window | None
    stride: Window | None
    padding: Window

    @property
    def facts(self) -> Facts:
        return Facts(keeps_range=True, homogeneous=True)

    def check(self) -> str | None:
        if self.kernel is None and (self.stride is not None or self.padding != 0):
            return "pooling over everything takes no `stride` and no `padding`"
        return None

    def _windows(self, rank: int) -> dict[str, tuple[int, ...]]:
        assert self.kernel is not None
        windows = {"kernel": self.kernel, "stride": self.stride or self.kernel, "padding": self.padding, "dilation": 1}
        return {n: per_dim(w, rank) for n, w in windows.items()}

    def infer(self, t: Typing, *inputs: TensorType) -> TensorType:
        (x,) = inputs
        t.need_floats(x)
        if self.kernel is None:
            t.need_rank(x, (2, 3), f"{self.kind} over everything")
            for i, dim in enumerate(x.dims):
                if i != x.unit_dim:
                    t.fixed(dim, f"{self.kind} runs over it")
            return TensorType((x.units,))
        t.need_rank(x, (2, 3), self.kind, "its input is channels, then one or two position dimensions")
        t.channels_first(x, self.kind)
        windows = self._windows(x.rank - 1)
        if any(2 * p > k for p, k in zip(windows["padding"], windows["kernel"], strict=False)):
            t.fail(f"the padding of {self.kind} must be at most half its kernel")
        return TensorType((x.units, *slide(t, x, self.kind, windows)))

    def _everything(self, e: Evaluation) -> tuple[int, ...]:
        x = e.signature.inputs[0]
        return tuple(i + 1 for i in range(x.rank) if i != x.unit_dim)

    def _lower(self, b: Lowering, layers: tuple[Any, Any], function: str, x: fx.Node) -> fx.Node:
        s = b.signature
        if self.kernel is None:
            over = tuple(i + 1 for i in range(s.inputs[0].rank) if i != s.inputs[0].unit_dim)
            return b.method(function, x, over)
        rank = s.output.rank - 1
        kernel, stride, padding, _ = self._windows(rank).values()
        return b.module(lambda: layers[rank - 1](kernel, stride, padding), x)


@dataclass(frozen=True)
class MaxPool(_Pool):
    """Largest entry of each window, or of all positions without a `kernel`."""

    kind: ClassVar[str] = "maxpool"

    kernel: Window | None = window(None)
    stride: Window | None = window(None)
    padding: Window = window(0, low=0)

    def evaluate(self, e: Evaluation, *inputs: Array) -> Array:
        (x,) = inputs
        if self.kernel is None:
            return x.max(self._everything(e))
        kernel, stride, padding, dilation = self._windows(x.ndim - 2).values()
        return np.stack(list(taps(padded(x, padding, -np.inf), kernel, stride, dilation))).max(0)

    def lower(self, b: Lowering, *inputs: fx.Node) -> fx.Node:
        from torch import nn

        return self._lower(b, (nn.MaxPool1d, nn.MaxPool2d), "amax", inputs[0])


@dataclass(frozen=True)
class AvgPool(_Pool):
    """Mean of each window, zero padding counted, or of all positions without a `kernel`."""

    kind: ClassVar[str] = "avgpool"

    kernel: Window | None = window(None)
    stride: Window | None = window(None)
    padding: Window = window(0, low=0)

    def evaluate(self, e: Evaluation, *inputs: Array) -> Array:
        (x,) = inputs
        if self.kernel is None:
            return x.mean(self._everything(e))
        kernel, stride, padding, dilation = self._windows(x.ndim - 2).values()
        return np.stack(list(taps(padded(x, padding), kernel, stride, dilation))).mean(0)

    def lower(self, b: Lowering, *inputs: fx.Node) -> fx.Node:
        from torch import nn

        return self._lower(b, (nn.AvgPool1d, nn.AvgPool2d), "mean", inputs[0])
