"""Growth by effective dimension: a layer whose activity uses nearly all its dimensions gets more of them.

phi(l) = rank_epsilon(H_l) / M_l counts the singular values of the post-activations H_l / sqrt(N) above epsilon, N the
number of columns (samples, for convolutions times positions). The trigger is T = max(0, rank - floor(gamma phi_0 M)),
phi_0 measured when the site is first seen (Maile 2023, eq. 27, 28; `rounding = floor` is the printed form with max,
which stops layers narrower than 34 for ever). For convolutions and residual networks the baseline is the running
maximum (eq. 35). NeurOps, the authors' code, divides by sqrt(M_l) instead, so that the rank rises with the number of
columns: `scale = neurons`.

Activity is measured at the first layer that makes the units, behind its activation and before anything is added to it:
on a residual stream, of a branch its own values and never the sum, so that no connection has to be switched off for it.
What the layer reads is what it reads in training.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import floor
from typing import TYPE_CHECKING

from irgrow.attributes import textual_name
from irgrow.axes import Atom, atoms
from irgrow.errors import OptionError
from irgrow.graph import Graph
from irgrow.ops import integer, real, word
from irgrow.passes.analyses.places import makers, measured
from irgrow.passes.records.activity import Activity
from irgrow.passes.records.base import WINDOW
from irgrow.passes.triggers.base import BASELINES, Relative, Trigger, View

if TYPE_CHECKING:
    from irgrow.passes.analyses.spectrum import Gram


@dataclass(frozen=True)
class EffectiveDimension(Relative):
    """Add as many units as the rank of the activity exceeds its share of the width.

    Args:
        gamma: Share of the baseline that must be exceeded.
        epsilon: Singular values up to it count as zero.
        baseline: `initial`, the running `maximum`, or the value after the `last` change, measured at once on the
            latest batches.
        rounding: `count`, rank - floor(gamma phi_0 M); or `floor`, floor(rank - gamma phi_0 M) as printed.
        samples: Columns of activity kept, over as many steps as it takes; at least twice the units are, whatever is
            asked for, and nothing is said before there are more columns than units.
        scale: What H_l is divided by the root of: the number of `columns`, or of `neurons`.
    """

    gamma: float = real(0.97, low=0.0, open_low=True)
    epsilon: float = real(0.01, low=0.0, open_low=True)
    baseline: str = word(*BASELINES, default="initial")
    rounding: str = word("count", "floor", default="count")
    samples: int = integer(WINDOW)
    scale: str = word("columns", "neurons", default="columns")

    def watches(self, graph: Graph, site: str) -> tuple[Activity, ...]:
        return (activity_at(graph, site, self, self.samples),)

    def measure(self, view: View, site: str) -> tuple[float, int, int] | None:
        found = rank_of_activity(view, site, self, self.epsilon, self.scale)
        return None if found is None else (found[0] / found[1], *found)

    def excess(self, count: int, target: float) -> int:
        return max(0, floor(count - target + 1e-9)) if self.rounding == "floor" else super().excess(count, target)


def activity_at(graph: Graph, site: str, trigger: Trigger, samples: int = WINDOW) -> Activity:
    """Return the activity of a site, measured behind the first layer that makes its units.

    Raises:
        OptionError: No layer makes them.
    """
    made = makers(graph, site)
    if not made:
        raise OptionError(f"{textual_name(type(trigger))} needs layers that make units, `{site}` has none")
    node = measured(graph, made[0])
    usual = Atom(site) in atoms(graph.types[node].units)
    return Activity(samples, node) if usual else Activity(samples, node, site)


def activity_of(view: View, site: str, trigger: Trigger) -> Gram | None:
    """Return the recorded activity of a site; `None` while there are no more columns than units.

    Raises:
        OptionError: The activity is not finite.
    """
    gram: Gram | None = view.recorded.get(activity_at(view.graph, site, trigger).key)
    if gram is None or not gram.ready:
        return None
    if not gram.finite:
        raise OptionError(f"the activity of `{site}` is not finite")
    return gram


def rank_of_activity(
    view: View, site: str, trigger: Trigger, epsilon: float, scale: str = "columns"
) -> tuple[int, int] | None:
    """Return rank_epsilon of the recorded activity of a site, and of how many units; `None` while columns are too few.

    Raises:
        OptionError: The activity is not finite.
    """
    from irgrow.passes.analyses.spectrum import effective_rank

    gram = activity_of(view, site, trigger)
    return None if gram is None else (effective_rank(gram, epsilon, scale), gram.units)
