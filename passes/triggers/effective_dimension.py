"""Growth by effective dimension: a layer whose activity uses nearly all its dimensions gets more of them.

phi(l) = rank_epsilon(H_l) / M_l counts the singular values of the post-activations H_l / sqrt(N) above epsilon. The
trigger is T = max(0, rank - floor(gamma phi_0 M)), phi_0 measured when the site is first seen (Maile 2023, eq. 27, 28;
the printed min(0, .) gives nothing to add, and the printed floor of the difference stops layers narrower than 34 for
ever; `rounding = floor` is the printed form with max). For convolutions and residual networks the baseline is the
running maximum (eq. 35).
"""

from __future__ import annotations

from dataclasses import dataclass
from math import floor

from irgrow.attributes import textual_name
from irgrow.errors import OptionError
from irgrow.graph import Graph
from irgrow.ops import integer, real, word
from irgrow.passes.analyses.places import makers, measured
from irgrow.passes.records.activity import Activity
from irgrow.passes.records.base import WINDOW
from irgrow.passes.triggers.base import Memory, Trigger, View


@dataclass(frozen=True)
class EffectiveDimension(Trigger):
    """Add as many units as the rank of the activity exceeds its share of the width.

    Args:
        gamma: Share of the baseline that must be exceeded.
        epsilon: Singular values up to it count as zero.
        baseline: `initial`, the running `maximum`, or the value after the `last` change, measured at once on the
            latest batches.
        rounding: `count`, rank - floor(gamma phi_0 M); or `floor`, floor(rank - gamma phi_0 M) as printed.
        samples: Columns of activity kept; at least twice the units are.
    """

    gamma: float = real(0.97, low=0.0, open_low=True)
    epsilon: float = real(0.01, low=0.0, open_low=True)
    baseline: str = word("initial", "maximum", "last", default="initial")
    rounding: str = word("count", "floor", default="count")
    samples: int = integer(WINDOW)

    @property
    def fresh(self) -> bool:
        return self.baseline == "last"

    def watches(self, graph: Graph, site: str) -> tuple[Activity, ...]:
        return (Activity(self.samples, measured_at(graph, site, self)),)

    def settle(self, view: View, site: str, memory: Memory) -> None:
        memory.pop("phi", None)
        self._look(view, site, memory)

    def _look(self, view: View, site: str, memory: Memory) -> int | None:
        """Put rank and baseline into the memory and return the width; `None` as long as there is too little."""
        found = rank_of_activity(view, site, self, self.epsilon)
        if found is None:
            return None
        rank, width = found
        if self.baseline == "last" and memory.get("width", width) != width:
            memory.pop("phi", None)  # changed by somebody else
        memory["width"], memory["rank"] = width, rank
        memory.setdefault("phi", rank / width)
        if self.baseline == "maximum":
            memory["phi"] = max(memory["phi"], rank / width)
        return width

    def wanted(self, view: View, site: str, memory: Memory) -> int:
        if (width := self._look(view, site, memory)) is None:
            return 0
        rank, target = int(memory["rank"]), self.gamma * memory["phi"] * width
        if self.rounding == "floor":
            return max(0, floor(rank - target + 1e-9))
        return max(0, rank - floor(target + 1e-9))


def measured_at(graph: Graph, site: str, trigger: Trigger) -> str:
    """Return the node where the activity of a site is measured, that of the first layer that makes its units.

    Raises:
        OptionError: No layer makes them.
    """
    made = makers(graph, site)
    if not made:
        raise OptionError(f"{textual_name(type(trigger))} needs layers that make units, `{site}` has none")
    return measured(graph, made[0])


def rank_of_activity(view: View, site: str, trigger: Trigger, epsilon: float) -> tuple[int, int] | None:
    """Return rank_epsilon of the recorded activity of a site, and of how many units; `None` while columns are too few.

    Raises:
        OptionError: The activity is not finite.
    """
    from irgrow.passes.analyses.spectrum import effective_rank

    gram = view.recorded.get(measured_at(view.graph, site, trigger))
    if gram is None or not gram.ready:
        return None
    if not gram.finite:
        raise OptionError(f"the activity of `{site}` is not finite")
    return effective_rank(gram, epsilon), gram.units
