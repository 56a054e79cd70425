"""What a trigger is: it says how many units an axis should gain now."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import floor
from typing import Any, ClassVar

from irgrow.attributes import Options
from irgrow.graph import Graph
from irgrow.passes.records.base import Watch

Memory = dict[str, Any]
"""What a trigger remembers of one site: numbers and lists, so that it can be saved as JSON."""


@dataclass(frozen=True)
class View:
    """What a trigger may look at, and a pass that takes its numbers from training.

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
class Trigger(Options):
    """Base of triggers. What one remembers lives in `memory`.

    Class attributes:
        removes: Whether it says how many units should go, so that the pass of the rule must take units away.
    """

    removes: ClassVar[bool] = False

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


def entries(view: View, site: str, measured: int) -> int:
    """Return how many of the measured units one unit of a site stands for: of a head, its entries."""
    return max(1, measured // view.graph.widths[site])


BASELINES = ("initial", "maximum", "last")
"""What a measurement is compared with: the first, the running maximum, or that after the last change."""


@dataclass(frozen=True)
class Relative(Trigger):
    """Base of triggers that want as many units as a count exceeds its baseline share of the width.

    T = max(0, count - floor(gamma phi_0 M)), phi_0 the baseline of the measured share phi of the M units (Maile 2023,
    eq. 28, 31; the printed min(0, .) gives nothing to add, and the printed floor of the difference stops layers
    narrower than 34 for ever). The running maximum takes in what is measured now (eq. 35).

    Subclasses have the options `gamma` and `baseline`.
    """

    @property
    def gamma(self) -> float:
        """Share of the baseline that must be exceeded."""
        raise NotImplementedError

    @property
    def baseline(self) -> str:
        """One of `BASELINES`."""
        raise NotImplementedError

    @property
    def fresh(self) -> bool:
        return self.baseline == "last"

    def measure(self, view: View, site: str) -> tuple[float, int, int] | None:
        """Return phi, the count and the width now; `None` as long as there is too little to go by."""
        raise NotImplementedError

    def settle(self, view: View, site: str, memory: Memory) -> None:
        memory.pop("phi", None)
        self._look(view, site, memory)

    def _look(self, view: View, site: str, memory: Memory) -> bool:
        """Put count, width and baseline into the memory; return whether there was something to go by."""
        found = self.measure(view, site)
        if found is None:
            return False
        phi, count, width = found
        if self.baseline == "last" and memory.get("width", width) != width:
            memory.pop("phi", None)  # changed by somebody else
        memory["width"], memory["count"] = width, count
        memory.setdefault("phi", phi)
        if self.baseline == "maximum":
            memory["phi"] = max(memory["phi"], phi)
        return True

    def wanted(self, view: View, site: str, memory: Memory) -> int:
        if not self._look(view, site, memory):
            return 0
        excess = self.excess(memory["count"], self.gamma * memory["phi"] * memory["width"])
        return -(-excess // entries(view, site, memory["width"]))

    def excess(self, count: int, target: float) -> int:
        """Return by how many units a count exceeds its target; a product a rounding error below an integer is it."""
        return max(0, count - floor(target + 1e-9))
