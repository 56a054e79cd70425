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

from irgrow.errors import OptionError
from irgrow.graph import Graph
from irgrow.ops import integer, real, word
from irgrow.passes.analyses.places import makers, measured
from irgrow.passes.triggers.base import WINDOW, Memory, Trigger, View


@dataclass(frozen=True)
class EffectiveDimension(Trigger):
    """Add as many units as the rank of the activity exceeds its share of the width.

    Args:
        gamma: Share of the baseline that must be exceeded.
        epsilon: Singular values up to it count as zero.
        baseline: `initial`, the running `maximum`, or the value after the `last` change.
        rounding: `count`, rank - floor(gamma phi_0 M); or `floor`, floor(rank - gamma phi_0 M) as printed.
        samples: Columns of activity kept; at least twice the units are.
    """

    gamma: float = real(0.97, low=0.0, open_low=True)
    epsilon: float = real(0.01, low=0.0, open_low=True)
    baseline: str = word("initial", "maximum", "last", default="initial")
    rounding: str = word("count", "floor", default="count")
    samples: int = integer(WINDOW)

    def watches(self, graph: Graph, site: str) -> dict[str, int]:
        return {self._node(graph, site): self.samples}

    def _node(self, graph: Graph, site: str) -> str:
        made = makers(graph, site)
        if not made:
            raise OptionError(f"effective_dimension needs layers that make units, `{site}` has none")
        return measured(graph, made[0])

    def wanted(self, view: View, site: str, memory: Memory) -> int:
        from irgrow.passes.analyses.spectrum import effective_rank

        gram = view.recorded.get(self._node(view.graph, site))
        if gram is None or not gram.ready:
            return 0
        if not gram.finite:
            raise OptionError(f"the activity of `{site}` is not finite")
        width = gram.units
        rank = effective_rank(gram, self.epsilon)
        phi = rank / width
        if memory.get("width") not in (None, width) and self.baseline == "last":
            memory.pop("phi", None)
        memory["width"], memory["rank"] = width, rank
        if "phi" not in memory:
            memory["phi"] = phi
        if self.baseline == "maximum":
            memory["phi"] = max(memory["phi"], phi)
        target = self.gamma * memory["phi"] * width
        if self.rounding == "floor":
            return max(0, floor(rank - target + 1e-9))
        return max(0, rank - floor(target + 1e-9))
