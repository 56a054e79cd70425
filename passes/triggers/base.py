"""What a trigger is: it says how many units an axis should gain now."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from irgrow.attributes import call_text
from irgrow.graph import Graph

WINDOW = 1024
"""Columns of activity (samples times positions) kept for a rank, at least twice as many as there are units."""

Memory = dict[str, Any]
"""What a trigger remembers of one site: numbers and lists, so that it can be saved as JSON."""


@dataclass(frozen=True)
class View:
    """What a trigger may look at.

    Args:
        graph: The network.
        step: Training steps done.
        loss: The loss of the latest step, if it is known.
        recorded: What was recorded in training, by node.
    """

    graph: Graph
    step: int = 0
    loss: float | None = None
    recorded: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Trigger:
    """Base of triggers; the fields of a subclass are its options. What one remembers lives in `memory`."""

    def __str__(self) -> str:
        return call_text(self)

    def watches(self, graph: Graph, site: str) -> dict[str, int]:
        """Return the nodes to record while training, with the number of columns wanted."""
        return {}

    def observe(self, loss: float, memory: Memory) -> None:
        """Take the loss of a training step."""

    def wanted(self, view: View, site: str, memory: Memory) -> int:
        """Return how many units the site should gain now; 0 for none.

        Raises:
            OptionError: The trigger cannot say anything about this site, ever.
        """
        raise NotImplementedError
