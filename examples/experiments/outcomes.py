"""What came out of one run, as it is kept in the run's folder."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FILE = "outcome.json"


@dataclass(frozen=True)
class Outcome:
    """What came out of one run.

    Args:
        panel: What it is compared within.
        name: Its strategy.
        seed: Its seed.
        seconds: How long it took, over all sittings.
        summary: The summary of `irgrow.training.loop`.
        history: Its lines, one for each epoch and rewrite.
    """

    panel: str
    name: str
    seed: int
    seconds: float
    summary: dict[str, Any]
    history: list[dict[str, Any]]

    @property
    def accuracy(self) -> float:
        """The accuracy after the last epoch, in [0, 1]."""
        return float(self.summary["test_accuracy"])

    @property
    def parameters(self) -> int:
        """Trainable parameters at the end."""
        return int(self.summary["parameters"]["after"])

    @property
    def macs(self) -> int:
        """Multiply-accumulate operations for one sample at the end."""
        return int(self.summary["macs"]["after"])

    @property
    def widths(self) -> dict[str, int]:
        """Sizes of the hidden axes at the end."""
        return dict(self.summary["widths"]["after"])

    @property
    def refused(self) -> int:
        """How many rewrites were refused."""
        return sum(row["event"] == "refused" for row in self.history)

    @property
    def line(self) -> str:
        """What is said when it is done."""
        sizes = " ".join(map(str, self.widths.values()))
        said = f"{self.panel}, {self.name}, seed {self.seed}: {self.accuracy:.2%}, {self.parameters:,} parameters"
        refused = f", {self.refused} rewrites refused" if self.refused else ""
        return f"{said}, widths {sizes}{refused}, {self.seconds:.1f} s"

    def write(self, folder: Path) -> None:
        """Keep it in the folder of its run; what is there is either whole or not there."""
        draft = folder / f".{FILE}"
        draft.write_text(json.dumps(vars(self)))
        draft.replace(folder / FILE)

    @classmethod
    def read(cls, folder: Path) -> Outcome | None:
        """Return what is kept in the folder of a run; `None` if it is not finished."""
        try:
            return cls(**json.loads((folder / FILE).read_text()))
        except FileNotFoundError:
            return None


def panels(outcomes: list[Outcome]) -> list[str]:
    """Return the panels, in the order they came."""
    return list(dict.fromkeys(o.panel for o in outcomes))


def names(outcomes: list[Outcome], panel: str | None = None) -> list[str]:
    """Return the strategies, of one panel or of all, in the order they came."""
    return list(dict.fromkeys(o.name for o in outcomes if panel in (None, o.panel)))


def chosen(outcomes: list[Outcome], panel: str, name: str) -> list[Outcome]:
    """Return the outcomes of a case, by seed."""
    return sorted((o for o in outcomes if (o.panel, o.name) == (panel, name)), key=lambda o: o.seed)
