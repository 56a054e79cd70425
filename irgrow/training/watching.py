"""What a run tells whoever watches it; no torch here, so that the command line can load it quickly."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from irgrow.journal import Receipt


@dataclass
class Report:
    """Where a run stands."""

    step: int = 0
    steps: int = 0
    epoch: int = 0
    loss: float = float("nan")
    accuracy: float | None = None
    widths: dict[str, int] = field(default_factory=dict)


class Watcher:
    """Is told what happens in a run; the base does nothing with it."""

    def step(self, report: Report) -> None:
        """Take note of a training step."""

    def rewrite(self, receipt: Receipt, step: int) -> None:
        """Take note of a rewrite, refused ones included."""

    def epoch(self, row: dict[str, Any]) -> None:
        """Take note of an epoch and its line of the history."""

    def stopping(self) -> bool:
        """Return whether to save and stop after this step."""
        return False
