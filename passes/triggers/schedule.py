"""Growth by a fixed schedule: the same number of units every time (linear), or a few large steps (batched)."""

from __future__ import annotations

from dataclasses import dataclass

from irgrow.ops import integer
from irgrow.passes.triggers.base import Memory, Trigger, View


@dataclass(frozen=True)
class Schedule(Trigger):
    """Add `units` every time it is asked, `total` of them at the most.

    Args:
        units: How many each time.
        total: The most in all; 0 for no bound.
    """

    units: int = integer(1)
    total: int = integer(0, low=0)

    def wanted(self, view: View, site: str, memory: Memory) -> int:
        given = memory.get("given", 0)
        now = self.units if self.total == 0 else max(0, min(self.units, self.total - given))
        memory["given"] = given + now
        return now
