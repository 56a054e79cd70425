"""NORTH*: growth by what is missing in the activity or the weights (Maile 2023, section 6)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from irgrow.attributes import textual_name
from irgrow.growth.bundles.base import Bundle
from irgrow.growth.cadences import EverySteps
from irgrow.growth.rules import GrowthProgram, Limit, Rule
from irgrow.ops import integer, real, word
from irgrow.passes import (
    EffectiveDimension,
    GrowUnits,
    Initializer,
    NorthPre,
    NorthSelect,
    NorthWeight,
    Random,
    Trigger,
    WeightRank,
)


@dataclass(frozen=True)
class _North(Bundle):
    """NORTH*: after every step, every hidden layer; by its activity (Maile 2023, Algorithm 4 and Table 8)."""

    gamma: float = real(0.97, low=0.0, open_low=True)
    epsilon: float = real(0.01, low=0.0, open_low=True)
    baseline: str = word("initial", "maximum", "last", default="initial")
    every: int = integer(1)
    most: int = integer(512)

    def _initializer(self) -> Initializer:
        raise NotImplementedError

    def _trigger(self) -> Trigger:
        return EffectiveDimension(self.gamma, self.epsilon, self.baseline)

    def program(self) -> GrowthProgram:
        grow, limit = GrowUnits(init=self._initializer()), (Limit("width", self.most),)
        rule = Rule(textual_name(type(self)), grow, self._trigger(), EverySteps(self.every), limit=limit)
        return GrowthProgram((rule,))


@dataclass(frozen=True)
class NorthSelectBundle(_North):
    """NORTH-Select: new units are chosen among random candidates by how new their activity is.

    Args:
        gamma: Share of the baseline dimension that must be exceeded.
        epsilon: Singular values up to it count as zero.
        baseline: What the dimension is compared with.
        every: Steps between looks.
        most: The largest width.
        candidates: Candidates beyond those needed; 0 for the paper's.
    """

    textual: ClassVar[str] = "north_select"

    candidates: int = integer(0, low=0)

    def _initializer(self) -> Initializer:
        return NorthSelect(self.candidates, epsilon=self.epsilon)


@dataclass(frozen=True)
class NorthRandomBundle(_North):
    """NORTH-Random: the same trigger, new units at random."""

    textual: ClassVar[str] = "north_random"

    def _initializer(self) -> Initializer:
        return Random()


@dataclass(frozen=True)
class NorthPreBundle(_North):
    """NORTH-Pre: the same trigger, new units with pre-activations orthogonal to those there are.

    Args:
        gamma: Share of the baseline dimension that must be exceeded.
        epsilon: Singular values up to it count as zero.
        baseline: What the dimension is compared with.
        every: Steps between looks.
        most: The largest width.
        bias: Whether new units keep the bias that is solved for; the text starts them at zero.
    """

    textual: ClassVar[str] = "north_pre"

    bias: str = word("solved", "zero", default="solved")

    def _initializer(self) -> Initializer:
        return NorthPre(self.bias, epsilon=self.epsilon)


@dataclass(frozen=True)
class NorthWeightBundle(_North):
    """NORTH-Weight: grown by the rank of the weights, with fan-ins orthogonal to those there are.

    It needs no data. A layer with more units than inputs can have no such fan-in, and its rank cannot rise either.

    Args:
        gamma: Share of the baseline rank that must be exceeded.
        epsilon: Singular values up to it count as zero.
        baseline: What the rank is compared with.
        every: Steps between looks.
        most: The largest width.
    """

    textual: ClassVar[str] = "north_weight"

    gamma: float = real(0.99, low=0.0, open_low=True)

    def _initializer(self) -> Initializer:
        return NorthWeight()

    def _trigger(self) -> Trigger:
        return WeightRank(self.gamma, self.epsilon, self.baseline)
