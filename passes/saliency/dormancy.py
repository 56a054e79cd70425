"""Dormancy: a unit's mean absolute activity, divided by the mean of that over the units of its layer.

s_i = E|h_i| / (1/H sum_k E|h_k|). A unit is tau-dormant if its score is at most tau; dead units score 0, and the mean
score of a layer is 1. Where a unit stands at several places (the entries of a head, the layers that write to a stream)
each is normalised by itself and the scores are averaged, so that a loud layer does not drown the others.

Source: Sokar et al. (2023), The dormant neuron phenomenon in deep reinforcement learning, definition 3.1.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from irgrow.graph import Graph
from irgrow.passes.base import Context
from irgrow.passes.saliency.base import ActivitySaliency, Array


@dataclass(frozen=True)
class Dormancy(ActivitySaliency):
    """Keep units that are active.

    >>> str(Dormancy())
    'dormancy'
    """

    def scores(self, graph: Graph, axis: str, context: Context) -> Array:
        found = []
        for part in self.activity(graph, axis, context):
            size = np.abs(part).mean((1, 2))
            mean = size.mean()
            found.append(size / mean if mean > 0 else size)
        return np.mean(found, axis=0)
