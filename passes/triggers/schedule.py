"""Growth by a fixed schedule: the same number of units every time, or so many in all by a step, in equal portions."""

from __future__ import annotations

from dataclasses import dataclass

from irgrow.errors import OptionError
from irgrow.ops import integer
from irgrow.passes.triggers.base import Memory, Trigger, View


@dataclass(frozen=True)
class Schedule(Trigger):
    """Add `units` every time it is asked, `total` of them at the most; or all of these by a step.

    Args:
        units: How many each time; left out with `until`.
        total: The most in all; 0 for no bound.
        until: The training step by which `total` units have come; 0 for no such step.
        times: In how many portions at equal intervals they come until then; 0 for one unit at a time. Portions differ
            by one unit at the most, and what a site has missed comes when it is asked.

    Raises:
        OptionError: `until` was given without `total`, with `units`, or is less than the portions; or `times` without
            `until`.

    >>> str(Schedule(total=10, until=80, times=8))
    'schedule(total = 10, until = 80, times = 8)'
    """

    units: int = integer(1)
    total: int = integer(0, low=0)
    until: int = integer(0, low=0)
    times: int = integer(0, low=0)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.until == 0 and self.times > 0:
            raise OptionError("`times` says in how many portions units come `until` a step; give both")
        if self.until > 0 and self.total == 0:
            raise OptionError("`until` says by when `total` units come; give both")
        if self.until > 0 and self.units != 1:
            raise OptionError("`until` spreads `total` units; how many come each time follows, leave `units` out")
        if 0 < self.until < self._portions:
            raise OptionError(f"`until` must be at least {self._portions}, once a step; found {self.until}")

    @property
    def _portions(self) -> int:
        return min(self.times or self.total, self.total)

    def wanted(self, view: View, site: str, memory: Memory) -> int:
        given = memory.get("given", 0)
        if self.until > 0:
            came = min(self._portions, view.step * self._portions // self.until)
            now = max(0, -(-self.total * came // self._portions) - given)
        else:
            now = self.units if self.total == 0 else max(0, min(self.units, self.total - given))
        memory["given"] = given + now
        return now
