"""Sums and products of values; a value of rank one is spread over the positions of the others."""

from __future__ import annotations

from dataclasses import dataclass
from functools import reduce
from operator import add, mul
from typing import TYPE_CHECKING, Any, ClassVar

from irgrow.ops.base import Coupling, Evaluation, Lowering, Op, Signature, Sizes, TensorType, Typing, numel
from irgrow.shapes import Array

if TYPE_CHECKING:
    from torch import fx


class _Entrywise(Op):
    """Combine values entry by entry; all have the same type, or are one number per unit."""

    def infer(self, t: Typing, *inputs: TensorType) -> TensorType:
        t.need_floats(*inputs)
        if len(inputs) < 2:
            t.fail(f"{self.kind} takes at least two values, found {len(inputs)}")
        first = max(range(len(inputs)), key=lambda i: inputs[i].rank)
        whole = inputs[first]
        for i, x in enumerate(inputs):
            ends = (first, i)
            if x.rank == whole.rank:
                if x.unit_dim != whole.unit_dim and x.rank > 1:
                    t.fail(f"{self.kind} needs the units of both sides in the same dimension")
                for a, b in zip(whole.dims, x.dims, strict=True):
                    t.unify(a, b, f"both sides of {self.kind}", ends)
            elif x.rank == 1:
                t.unify(whole.units, x.units, f"both sides of {self.kind}", ends)
            else:
                shapes = [[t.size(d) for d in v.dims] for v in (whole, x)]
                t.fail(f"{self.kind} cannot spread {shapes[1]} over {shapes[0]}", code="shape-conflict")
        return whole

    def _spread(self, e: Signature, index: int) -> int:
        """Return how many position dimensions come after the units of the output, for an input of rank one."""
        return e.output.rank - 1 - e.output.unit_dim if e.inputs[index].rank == 1 else 0

    def _arrays(self, e: Evaluation, inputs: tuple[Array, ...]) -> list[Array]:
        shapes = [x.shape[0] for x in inputs]
        found = []
        for i, x in enumerate(inputs):
            s = e.signature
            if s.inputs[i].rank < s.output.rank:
                before, after = s.output.unit_dim, self._spread(s, i)
                x = x.reshape(shapes[i], *(1,) * before, -1, *(1,) * after)
            found.append(x)
        return found

    def _lower(self, b: Lowering, operator: Any, inputs: tuple[fx.Node, ...]) -> fx.Node:
        from irgrow.ops.leaves import spread

        s = b.signature
        ready = [
            b.call(spread, x, s.output.unit_dim, self._spread(s, i)) if s.inputs[i].rank < s.output.rank else x
            for i, x in enumerate(inputs)
        ]
        return reduce(lambda x, y: b.call(operator, x, y), ready)


@dataclass(frozen=True)
class Add(_Entrywise):
    """Sum of values."""

    kind: ClassVar[str] = "add"
    arity: ClassVar[int | None] = None
    coupling: ClassVar[Coupling] = Coupling.SUM

    def evaluate(self, e: Evaluation, *inputs: Array) -> Array:
        return reduce(add, self._arrays(e, inputs))

    def lower(self, b: Lowering, *inputs: fx.Node) -> fx.Node:
        return self._lower(b, add, inputs)


@dataclass(frozen=True)
class Mul(_Entrywise):
    """Product of values; a gate is a product with a value of rank one."""

    kind: ClassVar[str] = "mul"
    arity: ClassVar[int | None] = None
    coupling: ClassVar[Coupling] = Coupling.PRODUCT

    def macs(self, s: Signature, sizes: Sizes) -> int:
        return numel(s.output.dims, sizes) * (len(s.inputs) - 1)

    def evaluate(self, e: Evaluation, *inputs: Array) -> Array:
        return reduce(mul, self._arrays(e, inputs))

    def lower(self, b: Lowering, *inputs: fx.Node) -> fx.Node:
        return self._lower(b, mul, inputs)
