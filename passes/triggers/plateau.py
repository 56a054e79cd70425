"""Growth when learning stalls: the smoothed training loss has stopped falling."""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite

from irgrow.errors import OptionError
from irgrow.ops import integer, real
from irgrow.passes.triggers.base import Memory, Trigger, View


@dataclass(frozen=True)
class Plateau(Trigger):
    """Add `units` when the loss has not improved by `threshold` for `patience` looks.

    A look is each time the rule asks; the loss looked at is the mean over the steps since the last look.

    Args:
        patience: Looks without improvement.
        threshold: Relative improvement that counts.
        units: How many units each time.
    """

    patience: int = integer(3)
    threshold: float = real(0.01, low=0.0)
    units: int = integer(1)

    def observe(self, loss: float, memory: Memory) -> None:
        collect(loss, memory)

    def wanted(self, view: View, site: str, memory: Memory) -> int:
        if view.loss is None:
            raise OptionError("`plateau` watches the loss, and none was given: controller.step(batch, loss)")
        return self.units if stalled(memory, self.patience, self.threshold) else 0


def collect(loss: float, memory: Memory) -> None:
    """Take the loss of one step."""
    memory["sum"] = memory.get("sum", 0.0) + loss
    memory["steps"] = memory.get("steps", 0) + 1


def stalled(memory: Memory, patience: int, threshold: float) -> bool:
    """Look at the mean loss since the last look; return whether it has not improved `patience` times running."""
    steps = memory.pop("steps", 0)
    mean = memory.pop("sum", 0.0) / max(steps, 1)
    if steps == 0 or not isfinite(mean):
        return False
    best = memory.get("best")
    if best is None or mean < best - threshold * abs(best):
        memory["best"], memory["bad"] = mean, 0
        return False
    memory["bad"] = memory.get("bad", 0) + 1
    if memory["bad"] < patience:
        return False
    memory["bad"] = 0
    return True
