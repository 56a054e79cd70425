"""Variance: how much a unit's activity varies; one that never varies does no more than a bias.

The variance is taken over samples and positions, and summed over the places a unit stands at (the entries of a head,
the layers that write to a stream).

Source: Molchanov et al. (2017), Pruning convolutional neural networks for resource efficient inference, 2.2
(activation).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from irgrow.edits import Impossible
from irgrow.graph import Graph
from irgrow.passes.base import Context
from irgrow.passes.saliency.base import ActivitySaliency, Array


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
