"""Inputs of a network."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from irgrow.attributes import integer, integers
from irgrow.axes import Const
from irgrow.ops.base import Coupling, Op, TensorType, Typing
from irgrow.unify import Axes


@dataclass(frozen=True)
class Input(Op):
    """A float input of this shape, channels first, or integer tokens below `vocabulary`; the batch is implied."""

    kind: ClassVar[str] = "input"
    arity: ClassVar[int | None] = 0
    coupling: ClassVar[Coupling] = Coupling.SOURCE

    shape: tuple[int, ...] = integers(low=1)
    vocabulary: int | None = integer(None)

    def infer(self, t: Typing, *inputs: TensorType) -> TensorType:
        if self.vocabulary is not None:
            return TensorType(tuple(Const(n) for n in self.shape), ids=self.vocabulary)
        units = t.axes.atom(t.node, self.shape[0], Axes.MADE)
        t.lock(units, f"interface: `{t.node}` is an input of the network")
        return TensorType((units, *(Const(n) for n in self.shape[1:])))
