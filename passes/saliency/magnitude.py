"""Magnitude: the norm of the weights that make a unit, that read it, or both.

For a unit with weights w the score is sum |w| or sqrt(sum w^2). Biases and the gains of norms do not count; weights
that a mask switches off count as zero; a weight that makes and reads the same unit counts once.

Source: Li et al. (2017), Pruning filters for efficient ConvNets, 3.1 (L1 norm of the fan-in); Han et al. (2015).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from irgrow.edits import Impossible
from irgrow.graph import Graph
from irgrow.ops import integer, word
from irgrow.passes.analyses.entries import effective, unit_sums
from irgrow.passes.base import Context
from irgrow.passes.saliency.base import Saliency
from irgrow.shapes import Array


@dataclass(frozen=True)
class Magnitude(Saliency):
    """Keep units with large weights.

    Args:
        norm: 1 for the sum of absolute values, 2 for the Euclidean norm.
        side: The weights looked at: those that make a unit, `fan_in`, that read it, `fan_out`, or `both`.

    >>> str(Magnitude(1)), str(Magnitude(side="both"))
    ('magnitude(1)', 'magnitude(side = both)')
    """

    norm: int = integer(2, low=1, high=2)
    side: str = word("fan_in", "fan_out", "both", default="fan_in")

    def scores(self, graph: Graph, axis: str, context: Context) -> Array:
        total = np.zeros(graph.widths[axis])
        found = {n: p for n, p in self.places(graph, axis, self.side).items() if len(graph.params[n].spec.dims) > 1}
        for name, places in found.items():
            self.given(context.params, name, "the values", "the network has no parameters yet")
            assert context.params is not None
            value = effective(context.params, name)
            if not np.isfinite(value).all():
                raise Impossible(f"`{name}` is not finite")
            total += unit_sums(np.abs(value) if self.norm == 1 else value**2, places, len(total))
        return total if self.norm == 1 else np.sqrt(total)
