"""Cadences: after which training steps a rule asks its trigger."""

from __future__ import annotations

from dataclasses import dataclass

from irgrow.attributes import Options
from irgrow.errors import OptionError
from irgrow.ops import integer, integers, real
from irgrow.passes import Memory
from irgrow.passes.triggers.plateau import collect, stalled


@dataclass(frozen=True)
class Moment:
    """Where training stands.

    Args:
        step: Steps done; the first is 1.
        per_epoch: Steps of an epoch, if that is known.
    """

    step: int
    per_epoch: int | None = None

    def every(self, steps: int) -> bool:
        """Return whether this many steps have passed."""
        return self.step % steps == 0

    def epochs(self, count: int) -> int:
        """Return the steps of this many epochs."""
        if self.per_epoch is None:
            raise OptionError("a rule counts epochs; say how many steps one has (`steps_per_epoch`)")
        return count * self.per_epoch


@dataclass(frozen=True)
class Cadence(Options):
    """Base of cadences; what one remembers lives in `memory`."""

    def observe(self, loss: float, memory: Memory) -> None:
        """Take the loss of a training step."""

    def due(self, moment: Moment, memory: Memory) -> bool:
        """Return whether to ask now."""
        raise NotImplementedError

    def soon(self, moment: Moment, within: int) -> bool:
        """Return whether it may ask within so many steps, so that recording must be on."""
        return True


@dataclass(frozen=True)
class EverySteps(Cadence):
    """Ask every `count` steps; written as the plain number."""

    count: int = integer(1)

    def __str__(self) -> str:
        return str(self.count)

    def due(self, moment: Moment, memory: Memory) -> bool:
        return moment.every(self.count)

    def soon(self, moment: Moment, within: int) -> bool:
        return self.count - moment.step % self.count <= within


@dataclass(frozen=True)
class Epochs(Cadence):
    """Ask at the end of every `count` epochs."""

    count: int = integer(1)

    def due(self, moment: Moment, memory: Memory) -> bool:
        return moment.every(moment.epochs(self.count))

    def soon(self, moment: Moment, within: int) -> bool:
        return EverySteps(moment.epochs(self.count)).soon(moment, within)


@dataclass(frozen=True)
class Steps(Cadence):
    """Ask after these steps only."""

    at: tuple[int, ...] = integers(low=1)

    def due(self, moment: Moment, memory: Memory) -> bool:
        return moment.step in self.at

    def soon(self, moment: Moment, within: int) -> bool:
        return any(0 < s - moment.step <= within for s in self.at)


@dataclass(frozen=True)
class Plateau(Cadence):
    """Ask when the training loss has not improved by `threshold` for `patience` looks.

    Args:
        patience: Looks without improvement.
        threshold: Relative improvement that counts.
        interval: Steps between looks; 0 for an epoch.
    """

    patience: int = integer(3)
    threshold: float = real(0.01, low=0.0)
    interval: int = integer(0, low=0)

    def observe(self, loss: float, memory: Memory) -> None:
        collect(loss, memory)

    def due(self, moment: Moment, memory: Memory) -> bool:
        interval = self.interval or moment.epochs(1)
        return moment.every(interval) and stalled(memory, self.patience, self.threshold)


CADENCES: tuple[type[Cadence], ...] = (EverySteps, Epochs, Steps, Plateau)
