"""Redundancy: how little a unit does what others do already, by the cosine of their activities.

The score is what a unit has when its turn to go comes: units leave one by one, the most redundant first, and the
others are compared with the survivors only. So of two that do the same one scores 0 and the other is judged without it.
Scores computed this way rise along the order of leaving, so taking the lowest of them is the greedy selection.

With `measure = largest` the score is 1 - max |cos| over the survivors. With `norm` it is 1 - sqrt(mean of cos^2), the
sum over the survivors and the mean over all others, which orders units as the row norm of the similarity matrix of
the survivors does. Units that are never active score -1 and go first.

Source: Maile (2023), section 7, Algorithm 5 (the selection of DYNO; `norm`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from irgrow.graph import Graph
from irgrow.ops import word
from irgrow.passes.base import Context
from irgrow.passes.records.activity import activities, similarities
from irgrow.passes.records.base import Watch
from irgrow.passes.saliency.base import ActivitySaliency
from irgrow.shapes import Array, as_array

DECIMALS = 12
"""Similarities that agree so far are equal, and the unit that stands first goes; rounding is not to decide."""


@dataclass(frozen=True)
class Redundancy(ActivitySaliency):
    """Keep units that do what no other does.

    Args:
        measure: Compare with the most similar unit, `largest`, or with all of them, `norm`.

    >>> str(Redundancy("norm"))
    'redundancy(norm)'
    """

    measure: str = word("largest", "norm", default="largest")

    def scores(self, graph: Graph, axis: str, context: Context) -> Array:
        parts = self.activity(graph, axis, context)
        rows = np.concatenate([part.reshape(len(part), -1) for part in parts], axis=1)
        largest = np.abs(rows).max(1)
        active = largest > 0
        rows = rows[active] / largest[active, None]
        rows /= np.sqrt((rows**2).sum(1, keepdims=True))
        return self._scored(rows @ rows.T, active)

    def watches(self, graph: Graph, axis: str) -> tuple[Watch, ...]:
        return tuple(activities(graph, axis).values()) if self.measured(graph, axis) else ()

    def recorded(self, graph: Graph, axis: str, recorded: Mapping[str, Any]) -> Array | None:
        found = similarities(graph, axis, recorded)
        if found is None:
            return None
        cosines = as_array(found)
        active = cosines.diagonal() > 0
        return self._scored(cosines[np.ix_(active, active)], active)

    def _scored(self, cosines: Array, active: NDArray[np.bool_]) -> Array:
        """Return the scores of all units, given the cosines of the active ones."""
        similar = np.asarray(np.round(np.minimum(np.abs(cosines), 1.0), DECIMALS), dtype=np.float64)
        np.fill_diagonal(similar, 0.0)
        scores = np.full(len(active), -1.0)
        scores[active] = _leaving(similar) if self.measure == "largest" else _leaving_by_norm(similar)
        return scores


def _leaving(similar: Array) -> Array:
    """Return 1 - the largest similarity to another survivor, for each unit when it leaves."""
    similar, units = similar.copy(), len(similar)
    scores, here = np.ones(units), np.ones(units, dtype=bool)
    closest = similar.argmax(1) if units else np.zeros(0, dtype=np.int64)
    value = similar[np.arange(units), closest]
    for _ in range(units):
        unit = int(np.argmax(np.where(here, value, -1.0)))
        scores[unit], here[unit] = 1.0 - value[unit], False
        similar[:, unit] = 0.0
        stale = np.flatnonzero(here & (closest == unit))
        closest[stale] = similar[stale].argmax(1)
        value[stale] = similar[stale, closest[stale]]
    return scores


def _leaving_by_norm(similar: Array) -> Array:
    """Return 1 - sqrt(mean of squared similarity), the sum over the survivors, for each unit when it leaves."""
    squares, units = similar**2, len(similar)
    scores, here = np.ones(units), np.ones(units, dtype=bool)
    total, last = squares.sum(1), 0.0
    for _ in range(units):
        unit = int(np.argmax(np.where(here, np.round(total, DECIMALS), -np.inf)))
        last = max(last, 1.0 - float(np.sqrt(max(total[unit], 0.0) / max(units - 1, 1))))
        scores[unit], here[unit] = last, False
        total = total - squares[:, unit]
    return scores
