"""APoZ: the average percentage of zeros in a unit's activity; the score is one minus that share.

It speaks of activations that give exact zeros. Where no unit is ever zero it tells nothing apart and is refused.

Source: Hu et al. (2016), Network trimming, 3.1.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from irgrow.edits import Impossible
from irgrow.graph import Graph
from irgrow.passes.base import Context
from irgrow.passes.saliency.base import ActivitySaliency, Array


@dataclass(frozen=True)
class Apoz(ActivitySaliency):
    """Keep units that are seldom zero.

    >>> str(Apoz())
    'apoz'
    """

    def scores(self, graph: Graph, axis: str, context: Context) -> Array:
        parts = self.activity(graph, axis, context)
        alive: Array = np.concatenate([(part != 0).reshape(len(part), -1) for part in parts], axis=1).mean(1)
        if (alive == 1.0).all():
            raise Impossible(f"apoz counts zeros, and the activity of `{axis}` has none")
        return alive
