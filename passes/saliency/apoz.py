"""APoZ: the average percentage of zeros in a unit's activity; the score is one minus that share.

It speaks of activations that give exact zeros. Where no unit is ever zero it tells nothing apart and is refused.

Source: Hu et al. (2016), Network trimming, 3.1.
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
class Apoz(ActivitySaliency):
    """Keep units that are seldom zero.

    >>> str(Apoz())
    'apoz'
    """

    def scores(self, graph: Graph, axis: str, context: Context) -> Array:
        parts = self.activity(graph, axis, context)
        return _told(np.concatenate([(part != 0).reshape(len(part), -1) for part in parts], axis=1).mean(1), axis)

    def watches(self, graph: Graph, axis: str) -> tuple[Watch, ...]:
        return (Leveling(axis=axis),) if self.measured(graph, axis) else ()

    def recorded(self, graph: Graph, axis: str, recorded: Mapping[str, Any]) -> Array | None:
        levels = levels_of(recorded, axis)
        return None if levels is None else _told(_share(levels), axis)


def _share(levels: list[Level]) -> Array:
    """Return which share of what a unit gives is not zero."""
    alive: Array = np.sum([as_array(level.alive).sum(0) for level in levels], axis=0)
    return alive / sum(level.count * len(level.alive) for level in levels)


def _told(alive: Array, axis: str) -> Array:
    """Return the shares that are not zero, if they tell anything apart."""
    if (alive == 1.0).all():
        raise Impossible(f"apoz counts zeros, and the activity of `{axis}` has none")
    return alive
