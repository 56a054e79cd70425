"""Dormancy: a unit's mean absolute activity, divided by the mean of that over the units of its layer.

s_i = E|h_i| / (1/H sum_k E|h_k|). A unit is tau-dormant if its score is at most tau; dead units score 0, and the mean
score of a layer is 1. Where a unit stands at several places (the entries of a head, the layers that write to a stream)
each is normalised by itself and the scores are averaged, so that a loud layer does not drown the others.

Source: Sokar et al. (2023), The dormant neuron phenomenon in deep reinforcement learning, definition 3.1.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from irgrow.graph import Graph
from irgrow.passes.base import Context
from irgrow.passes.records.base import Watch
from irgrow.passes.records.levels import Leveling, levels_of
from irgrow.passes.saliency.base import ActivitySaliency
from irgrow.shapes import Array, as_array


@dataclass(frozen=True)
class Dormancy(ActivitySaliency):
    """Keep units that are active.

    >>> str(Dormancy())
    'dormancy'
    """

    def scores(self, graph: Graph, axis: str, context: Context) -> Array:
        return _relative(np.abs(part).mean((1, 2)) for part in self.activity(graph, axis, context))

    def watches(self, graph: Graph, axis: str) -> tuple[Watch, ...]:
        return (Leveling(axis=axis),) if self.measured(graph, axis) else ()

    def recorded(self, graph: Graph, axis: str, recorded: Mapping[str, Any]) -> Array | None:
        levels = levels_of(recorded, axis)
        return (
            None
            if levels is None
            else _relative(size / level.count for level in levels for size in as_array(level.size))
        )


def _relative(sizes: Iterable[Array]) -> Array:
    """Return the mean over the places of how large units are there, each divided by the mean of its units."""
    found = [size / size.mean() if size.mean() > 0 else size for size in sizes]
    mean: Array = np.mean(found, axis=0)
    return mean
