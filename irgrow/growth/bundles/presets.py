"""Preset growth, to compare with: the same number of units in every hidden layer, at times that are fixed beforehand.

The thesis grows over the first three quarters of training, one unit at a time (linear) or in eight equal batches.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from irgrow.attributes import textual_name
from irgrow.growth.bundles.base import Bundle
from irgrow.growth.rules import GrowthProgram, Rule
from irgrow.ops import integer, plan
from irgrow.passes import GrowUnits, Initializer, Random, Schedule


@dataclass(frozen=True)
class _Preset(Bundle):
    """Every hidden layer gains `units` by the step `until`."""

    units: int = integer(64)
    until: int = integer(1000)
    init: Initializer = plan("initializer", Random())

    def __post_init__(self) -> None:
        super().__post_init__()
        self._schedule()

    def _schedule(self) -> Schedule:
        """Return when the units come; building it says what is wrong with the options taken together."""
        raise NotImplementedError

    def program(self) -> GrowthProgram:
        require = "exact" if self.init.zero in (None, "fan_out", "fan_in") else "any"
        grow = GrowUnits(init=self.init)
        return GrowthProgram((Rule(textual_name(type(self)), grow, self._schedule(), require=require),))


@dataclass(frozen=True)
class LinearBundle(_Preset):
    """Linear: one unit at a time, at equal intervals.

    Args:
        units: How many each layer gains in all.
        until: The step at which the last one comes; three quarters of the training in the thesis.
        init: How new units start.
    """

    textual: ClassVar[str] = "linear"

    def _schedule(self) -> Schedule:
        return Schedule(total=self.units, until=self.until)


@dataclass(frozen=True)
class BatchedBundle(_Preset):
    """Batched: a few equal portions, at equal intervals.

    Args:
        units: How many each layer gains in all.
        until: The step at which the last ones come.
        init: How new units start.
        times: In how many portions.
    """

    textual: ClassVar[str] = "batched"

    times: int = integer(8)

    def _schedule(self) -> Schedule:
        return Schedule(total=self.units, until=self.until, times=self.times)


@dataclass(frozen=True)
class StaticBundle(Bundle):
    """Static: nothing grows; to compare with."""

    textual: ClassVar[str] = "static"

    def program(self) -> GrowthProgram:
        return GrowthProgram(())
