"""Pure data movement: concatenation, slices, flips, shuffles, flattening, transposition and padding."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from irgrow.attributes import integer, integers, width, window
from irgrow.axes import Axis, Const, cat, prod, reverse
from irgrow.ops.base import Coupling, Evaluation, Facts, Lowering, Op, TensorType, Typing
from irgrow.ops.conv import Window, padded, per_dim
from irgrow.shapes import Array

if TYPE_CHECKING:
    from torch import fx


class _Movement(Op):
    coupling: ClassVar[Coupling] = Coupling.MOVEMENT

    @property
    def facts(self) -> Facts:
        return Facts(homogeneous=True, keeps_range=True)


def _dim(t: Typing, x: TensorType, dim: int | None) -> int:
    """Return the dimension an op works along: the one given, else that of the units."""
    if dim is None:
        return x.unit_dim
    if not 0 <= dim < x.rank:
        t.fail(f"`dim` must be below {x.rank}, the number of dimensions without the batch, found {dim}")
    return dim


@dataclass(frozen=True)
class Concat(_Movement):
    """Put values one after the other, along the units unless `dim` is given."""

    kind: ClassVar[str] = "concat"
    arity: ClassVar[int | None] = None

    dim: int | None = integer(None, low=0)

    def infer(self, t: Typing, *inputs: TensorType) -> TensorType:
        t.need_floats(*inputs)
        if not inputs:
            t.fail("concat takes at least one value")
        first = inputs[0]
        dim = _dim(t, first, self.dim)
        for i, x in enumerate(inputs[1:], 1):
            if (x.rank, x.unit_dim) != (first.rank, first.unit_dim):
                shapes = [[t.size(d) for d in v.dims] for v in (first, x)]
                t.fail(f"concat takes values of one layout, found {shapes[0]} and {shapes[1]}", code="shape-conflict")
            for j, (a, b) in enumerate(zip(first.dims, x.dims, strict=True)):
                if j != dim:
                    t.unify(a, b, f"concat along dimension {dim} needs dimension {j} equal", (0, i))
        return first.replace(dim, cat(x.dims[dim] for x in inputs))

    def evaluate(self, e: Evaluation, *inputs: Array) -> Array:
        first = e.signature.output
        return np.concatenate(inputs, axis=1 + (first.unit_dim if self.dim is None else self.dim))

    def lower(self, b: Lowering, *inputs: fx.Node) -> fx.Node:
        import torch

        first = b.signature.output
        return b.call(torch.cat, tuple(inputs), 1 + (first.unit_dim if self.dim is None else self.dim))


@dataclass(frozen=True)
class Part(_Movement):
    """Take `take` entries after the first `before` ones and leave `after`, along the units unless `dim` is given.

    The three parts are axes, so an edit of the input moves the cut with it. `slice`, `split` and `chunk` are written
    in terms of it.
    """

    kind: ClassVar[str] = "part"

    before: Axis = width(low=0, implied=True)
    take: Axis = width(implied=True)
    after: Axis = width(low=0, implied=True)
    dim: int | None = integer(None, low=0)

    def infer(self, t: Typing, *inputs: TensorType) -> TensorType:
        (x,) = inputs
        t.need_floats(x)
        dim = _dim(t, x, self.dim)
        t.unify(x.dims[dim], cat([self.before, self.take, self.after]), "part cuts its input in three")
        return x.replace(dim, self.take)

    def _cut(self, s: TensorType) -> int:
        return 1 + (s.unit_dim if self.dim is None else self.dim)

    def evaluate(self, e: Evaluation, *inputs: Array) -> Array:
        start, length = e.size(e.signature.axes["before"]), e.size(e.signature.axes["take"])
        return np.take(inputs[0], np.arange(start, start + length), axis=self._cut(e.signature.output))

    def lower(self, b: Lowering, *inputs: fx.Node) -> fx.Node:
        from irgrow.ops.leaves import Part as Leaf

        axes = b.signature.axes
        return b.module(
            lambda: Leaf(self._cut(b.signature.output), b.size(axes["before"]), b.size(axes["take"])), *inputs
        )


@dataclass(frozen=True)
class Flip(_Movement):
    """Reverse the order along the units, or along `dim`."""

    kind: ClassVar[str] = "flip"

    dim: int | None = integer(None, low=0)

    def infer(self, t: Typing, *inputs: TensorType) -> TensorType:
        (x,) = inputs
        t.need_floats(x)
        dim = _dim(t, x, self.dim)
        return x.replace(dim, reverse(t.axes.resolve(x.dims[dim])))

    def evaluate(self, e: Evaluation, *inputs: Array) -> Array:
        x = e.signature.output
        return np.flip(inputs[0], 1 + (x.unit_dim if self.dim is None else self.dim))

    def lower(self, b: Lowering, *inputs: fx.Node) -> fx.Node:
        x = b.signature.output
        return b.method("flip", inputs[0], (1 + (x.unit_dim if self.dim is None else self.dim),))


@dataclass(frozen=True)
class ChannelShuffle(_Movement):
    """Deal units out again so that each group gets some of every old one (Zhang et al. 2018, ShuffleNet)."""

    kind: ClassVar[str] = "channelshuffle"

    groups: Axis = width()

    def infer(self, t: Typing, *inputs: TensorType) -> TensorType:
        (x,) = inputs
        t.need_floats(x)
        t.need_rank(x, (2, 3), "channelshuffle")
        t.channels_first(x, "channelshuffle")
        units, groups = t.size(x.units), t.size(self.groups)
        if units % groups:
            t.fail(f"channelshuffle with {groups} groups needs a multiple of {groups} units, found {units}")
        local = t.derived("members", units // groups)
        t.unify(x.units, prod([self.groups, local]), f"channelshuffle works in {groups} groups")
        return x.replace(0, prod([local, self.groups]))

    def evaluate(self, e: Evaluation, *inputs: Array) -> Array:
        (x,) = inputs
        groups = e.size(e.signature.axes["groups"])
        return x.reshape(x.shape[0], groups, -1, *x.shape[2:]).swapaxes(1, 2).reshape(x.shape)

    def lower(self, b: Lowering, *inputs: fx.Node) -> fx.Node:
        from irgrow.ops.leaves import ChannelShuffle as Leaf

        return b.module(lambda: Leaf(b.size(b.signature.axes["groups"])), *inputs)


@dataclass(frozen=True)
class PixelShuffle(_Movement):
    """(c * r * r, h, w) to (c, h * r, w * r) with r = `factor` (Shi et al. 2016)."""

    kind: ClassVar[str] = "pixelshuffle"

    factor: int = integer(low=2)

    def infer(self, t: Typing, *inputs: TensorType) -> TensorType:
        (x,) = inputs
        t.need_floats(x)
        t.need_rank(x, (3,), "pixelshuffle")
        t.channels_first(x, "pixelshuffle")
        block, units = self.factor**2, t.size(x.units)
        if units % block:
            t.fail(f"pixelshuffle by {self.factor} needs a multiple of {block} units, found {units}")
        kept = t.derived("makes", units // block)
        t.unify(x.units, prod([kept, Const(block)]), f"pixelshuffle gathers {block} units in one")
        rows, columns = (Const(t.fixed(d, "pixelshuffle enlarges it") * self.factor) for d in x.dims[1:])
        return TensorType((kept, rows, columns))

    def evaluate(self, e: Evaluation, *inputs: Array) -> Array:
        (x,), r = inputs, self.factor
        n, _, h, w = x.shape
        return x.reshape(n, -1, r, r, h, w).transpose(0, 1, 4, 2, 5, 3).reshape(n, -1, h * r, w * r)

    def lower(self, b: Lowering, *inputs: fx.Node) -> fx.Node:
        from torch import nn

        return b.module(lambda: nn.PixelShuffle(self.factor), *inputs)


@dataclass(frozen=True)
class Flatten(_Movement):
    """Join all dimensions from `start` on into one, row-major."""

    kind: ClassVar[str] = "flatten"

    start: int = integer(0, low=0)

    def infer(self, t: Typing, *inputs: TensorType) -> TensorType:
        (x,) = inputs
        t.need_floats(x)
        if self.start >= x.rank:
            t.fail(f"`start` must be below {x.rank}, the number of dimensions without the batch, found {self.start}")
        dims = (*x.dims[: self.start], prod(x.dims[self.start :]))
        return TensorType(dims, min(x.unit_dim, self.start))

    def evaluate(self, e: Evaluation, *inputs: Array) -> Array:
        return inputs[0].reshape(*inputs[0].shape[: self.start + 1], -1)

    def lower(self, b: Lowering, *inputs: fx.Node) -> fx.Node:
        return b.method("flatten", inputs[0], self.start + 1)


@dataclass(frozen=True)
class Transpose(_Movement):
    """Reorder the dimensions (the batch stays first); the last two change places unless `order` is given."""

    kind: ClassVar[str] = "transpose"

    order: tuple[int, ...] | None = integers(None)

    def _order(self, rank: int) -> tuple[int, ...]:
        if self.order is not None:
            return self.order if isinstance(self.order, tuple) else (self.order,)
        return (*range(rank - 2), rank - 1, rank - 2)

    def infer(self, t: Typing, *inputs: TensorType) -> TensorType:
        (x,) = inputs
        t.need_floats(x)
        order = self._order(x.rank)
        if x.rank < 2 or sorted(order) != list(range(x.rank)):
            t.fail(f"`order` must be a permutation of {list(range(x.rank))}, found {list(order)}")
        return TensorType(tuple(x.dims[i] for i in order), order.index(x.unit_dim))

    def evaluate(self, e: Evaluation, *inputs: Array) -> Array:
        return inputs[0].transpose(0, *(i + 1 for i in self._order(inputs[0].ndim - 1)))

    def lower(self, b: Lowering, *inputs: fx.Node) -> fx.Node:
        return b.method("permute", inputs[0], (0, *(i + 1 for i in self._order(b.signature.output.rank))))


@dataclass(frozen=True)
class Pad(_Movement):
    """Put `size` zeros on both sides of every position dimension of a channels-first value."""

    kind: ClassVar[str] = "pad"

    size: Window = window(low=0)

    def infer(self, t: Typing, *inputs: TensorType) -> TensorType:
        (x,) = inputs
        t.need_floats(x)
        t.need_rank(x, (2, 3), "pad", "its input is channels, then one or two position dimensions")
        t.channels_first(x, "pad")
        sizes = per_dim(self.size, x.rank - 1)
        if len(sizes) != x.rank - 1:
            t.fail(f"`size` of pad takes {x.rank - 1} entries, one per position dimension, found {len(sizes)}")
        grown = (Const(t.fixed(d, "pad enlarges it") + 2 * p) for d, p in zip(x.dims[1:], sizes, strict=True))
        return TensorType((x.units, *grown))

    def evaluate(self, e: Evaluation, *inputs: Array) -> Array:
        return padded(inputs[0], per_dim(self.size, inputs[0].ndim - 2))

    def lower(self, b: Lowering, *inputs: fx.Node) -> fx.Node:
        from torch.nn import functional as F

        sizes = per_dim(self.size, b.signature.output.rank - 1)
        return b.call(F.pad, inputs[0], tuple(p for size in reversed(sizes) for p in (size, size)))


@dataclass(frozen=True)
class PadUnits(_Movement):
    """Put zero units before and after those of a value, as in shortcuts without projection (He et al. 2016, A)."""

    kind: ClassVar[str] = "padunits"

    before: Axis = width(low=0)
    after: Axis = width(low=0)

    def infer(self, t: Typing, *inputs: TensorType) -> TensorType:
        (x,) = inputs
        t.need_floats(x)
        return x.replace(x.unit_dim, cat([self.before, x.units, self.after]))

    def _sizes(self, s: TensorType, before: int, after: int) -> list[tuple[int, int]]:
        pairs = [(0, 0)] * (s.rank + 1)
        pairs[s.unit_dim + 1] = (before, after)
        return pairs

    def evaluate(self, e: Evaluation, *inputs: Array) -> Array:
        axes = e.signature.axes
        return np.pad(inputs[0], self._sizes(e.signature.output, e.size(axes["before"]), e.size(axes["after"])))

    def lower(self, b: Lowering, *inputs: fx.Node) -> fx.Node:
        from irgrow.ops.leaves import Pad as Leaf

        axes = b.signature.axes
        pairs = self._sizes(b.signature.output, b.size(axes["before"]), b.size(axes["after"]))
        return b.module(lambda: Leaf(tuple(n for pair in reversed(pairs) for n in pair)), *inputs)
