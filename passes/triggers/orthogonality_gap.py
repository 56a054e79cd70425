"""Growth by orthogonality gap: a layer whose units act nearly orthogonally gets more of them.

phi(l) = 1 - || H^T H / ||H||_F^2 - I_n / n ||_F over the M x n activity H (Maile 2023, eq. 29, with the I_n that the
print leaves out). With G = H H^T, ||H^T H||_F = ||G||_F and ||H||_F^2 = tr G, so phi = 1 - sqrt(||G||_F^2 / (tr G)^2
- 1/n) needs the Gram matrix of the units alone. The trigger is T = max(0, ceil(phi M) - floor(gamma phi_0 M)).

phi depends on the width even at the best: M orthonormal rows give 1 - sqrt(1/M - 1/n), which is 0.912 for M = 64,
n = 128 and 0.875 for n much larger. It grows with M towards 1, so that against a baseline measured at a smaller width
a layer that stays as orthogonal as it can be is always above its share: `baseline = maximum` or `last` follows the
width, `initial` alone does not stop. It also grows as columns fill the window.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil

from irgrow.graph import Graph
from irgrow.ops import integer, real, word
from irgrow.passes.records.activity import Activity
from irgrow.passes.records.base import WINDOW
from irgrow.passes.triggers.base import BASELINES, Relative, View
from irgrow.passes.triggers.effective_dimension import activity_at, activity_of


@dataclass(frozen=True)
class OrthogonalityGap(Relative):
    """Add as many units as the orthogonality of the activity exceeds its share of the width.

    Args:
        gamma: Share of the baseline that must be exceeded.
        baseline: `initial`, the running `maximum`, or the value after the `last` change, measured at once on the
            latest batches.
        samples: Columns of activity kept, over as many steps as it takes; at least twice the units are.

    >>> str(OrthogonalityGap(0.9))
    'orthogonality_gap(gamma = 0.9)'
    """

    gamma: float = real(0.97, low=0.0, open_low=True)
    baseline: str = word(*BASELINES, default="initial")
    samples: int = integer(WINDOW)

    def watches(self, graph: Graph, site: str) -> tuple[Activity, ...]:
        return (activity_at(graph, site, self, self.samples),)

    def measure(self, view: View, site: str) -> tuple[float, int, int] | None:
        from irgrow.passes.analyses.spectrum import orthogonality

        gram = activity_of(view, site, self)
        if gram is None:
            return None
        phi = orthogonality(gram)
        return phi, ceil(phi * gram.units - 1e-9), gram.units
