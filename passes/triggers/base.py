"""What a trigger is: it says how many units an axis should gain now."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from irgrow.attributes import call_text
from irgrow.graph import Graph
from irgrow.passes.records.base import Watch

Memory = dict[str, Any]
"""What a trigger remembers of one site: numbers and lists, so that it can be saved as JSON."""


@dataclass(frozen=True)
class View:
    """What a trigger may look at.

    Args:
        graph: The network.
        step: Training steps done.
        loss: The loss of the latest step, if it is known.
        recorded: What was recorded in training, by the key of its watch.
        params: Parameters and buffers by full name; gradients of the step stand in `.grad` if nobody took them away.
    """

    graph: Graph
    step: int = 0
    loss: float | None = None
    recorded: Mapping[str, Any] = field(default_factory=dict)
    params: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Trigger:
    """Base of triggers; the fields of a subclass are its options. What one remembers lives in `memory`."""

    def __str__(self) -> str:
        return call_text(self)

    @property
    def fresh(self) -> bool:
        """Whether it must be told of every change at once (`settle`), on the latest batches run again."""
        return False

    def watches(self, graph: Graph, site: str) -> tuple[Watch, ...]:
        """Return what to record while training.

        Raises:
            OptionError: It cannot say anything about this site, ever.
        """
        return ()

    def settle(self, view: View, site: str, memory: Memory) -> None:
        """Look at a site whose units have just changed, or whose values have; only if it is `fresh`."""

    def observe(self, loss: float, memory: Memory) -> None:
        """Take the loss of a training step."""

    def wanted(self, view: View, site: str, memory: Memory) -> int:
        """Return how many units the site should gain now; 0 for none.

        Raises:
            OptionError: The trigger cannot say anything about this site, ever.
        """
        raise NotImplementedError
