"""Norm gain: the absolute gain |gamma| of the batch norms a unit passes, summed over them.

With a penalty on the gains in training, those of units that are not needed go to zero.

Source: Liu et al. (2017), Learning efficient convolutional networks through network slimming, 3.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from irgrow.axes import Atom, atoms
from irgrow.edits import Impossible
from irgrow.graph import Graph
from irgrow.ops import Role
from irgrow.passes.analyses.entries import belonging, unit_sums
from irgrow.passes.base import Context
from irgrow.passes.saliency.base import Saliency
from irgrow.shapes import Array, as_array


@dataclass(frozen=True)
class NormGain(Saliency):
    """Keep units with large batch-norm gains.

    >>> str(NormGain())
    'norm_gain'
    """

    def scores(self, graph: Graph, axis: str, context: Context) -> Array:
        total = np.zeros(graph.widths[axis])
        gains = _gains(graph, axis)
        if not gains:
            raise Impossible(f"norm_gain looks at the gains of batch norms, and `{axis}` passes none")
        found = belonging(graph, axis, frozenset({Role.PER_UNIT}))
        for name in gains:
            value = np.abs(
                as_array(self.given(context.params, name, "the values", "the network has no parameters yet"))
            )
            if not np.isfinite(value).all():
                raise Impossible(f"`{name}` is not finite")
            total += unit_sums(value, found[name], len(total))
        return total


def _gains(graph: Graph, axis: str) -> list[str]:
    """Return the gains of the batch norms that a leaf axis passes."""
    norms = (n for n in graph if n.op.facts.batch_statistics and Atom(axis) in atoms(graph.types[n.name].units))
    names = [graph.param_name(n.name, s.name) for n in norms for s in graph.specs[n.name] if s.name == "weight"]
    return list(dict.fromkeys(names))
