"""Preset growth, to compare with: the same number of units in every hidden layer, at times that are fixed beforehand.

The thesis grows over the first three quarters of training, one unit a time (linear) or in eight equal batches.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from irgrow.attributes import textual_name
from irgrow.errors import OptionError
from irgrow.growth.bundles.base import Bundle
from irgrow.growth.cadences import EverySteps
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
        if self.until < self._times():
            raise OptionError(f"`until` must be at least {self._times()}, once a step; found {self.until}")

    def _times(self) -> int:
        """Return in how many portions the units come."""
        raise NotImplementedError

    def program(self) -> GrowthProgram:
        times = self._times()
        portion = -(-self.units // times)
        require = "exact" if self.init.zero in (None, "fan_out", "fan_in") else "any"
        schedule, every = Schedule(portion, total=self.units), EverySteps(self.until // times)
        return GrowthProgram(
            (Rule(textual_name(type(self)), GrowUnits(init=self.init), schedule, every, require=require),)
        )


@dataclass(frozen=True)
class LinearBundle(_Preset):
    """Linear: one unit a time, at equal intervals.

    Args:
        units: How many each layer gains in all.
        until: The step at which the last one comes; three quarters of the training in the thesis.
        init: How new units start.
    """

    textual: ClassVar[str] = "linear"

    def _times(self) -> int:
        return self.units


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

    def _times(self) -> int:
        return min(self.times, self.units)


@dataclass(frozen=True)
class StaticBundle(Bundle):
    """Static: nothing grows; to compare with."""

    textual: ClassVar[str] = "static"

    def program(self) -> GrowthProgram:
        return GrowthProgram(())
