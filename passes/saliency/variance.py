"""Variance: how much a unit's activity varies; one that never varies does no more than a bias.

The variance is taken over samples and positions, and summed over the places a unit stands at (the entries of a head,
the layers that write to a stream).

Source: Molchanov et al. (2017), Pruning convolutional neural networks for resource efficient inference, 2.2
(activation).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from irgrow.edits import Impossible
from irgrow.graph import Graph
from irgrow.passes.base import Context
from irgrow.passes.records.base import Watch
from irgrow.passes.records.levels import Level, Leveling, levels_of
from irgrow.passes.saliency.base import ActivitySaliency
from irgrow.shapes import Array, as_array


@dataclass(frozen=True)
class Variance(ActivitySaliency):
    """Keep units whose activity varies.

    >>> str(Variance())
    'variance'
    """

    def scores(self, graph: Graph, axis: str, context: Context) -> Array:
        parts = self.activity(graph, axis, context)
        if all(part[0].size == 1 for part in parts):
            raise Impossible(f"variance needs more than one sample of the activity of `{axis}`")
        return np.sum([part.var((1, 2)) for part in parts], axis=0)

    def watches(self, graph: Graph, axis: str) -> tuple[Watch, ...]:
        return (Leveling(axis=axis),) if self.measured(graph, axis) else ()

    def recorded(self, graph: Graph, axis: str, recorded: Mapping[str, Any]) -> Array | None:
        levels = levels_of(recorded, axis)
        return None if levels is None else _summed(levels)


def _summed(levels: list[Level]) -> Array | None:
    """Return the sum of the variances at all places; `None` for a single sample."""
    if all(level.count == 1 for level in levels):
        return None
    total: Array = np.sum([as_array(level.spread).sum(0) / level.count for level in levels], axis=0)
    return total
