"""Fisher: how much the loss would rise without a unit, to second order, where the network is trained.

At a minimum the first-order term is zero on average and the Fisher information stands for the Hessian: the loss rises
by 1/2 mean over samples of (sum over positions of activity x gradient)^2. Several layers that write to one stream share
its units: their sums are added before squaring, as one gate on the unit would.

The gradients are taken of the loss as it is given. The formula is in units of the loss if that is a *sum* over the
samples; for a mean over n samples the scores are smaller by n^2, their order is the same.

Source: Theis et al. (2018), Faster gaze prediction with dense networks and Fisher pruning.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from irgrow.graph import Graph
from irgrow.passes.base import Context
from irgrow.passes.records.base import Watch
from irgrow.passes.records.gates import Gating, gate_sums
from irgrow.passes.saliency.base import ActivitySaliency
from irgrow.shapes import Array


@dataclass(frozen=True)
class Fisher(ActivitySaliency):
    """Keep units whose removal would raise the loss of a trained network.

    >>> str(Fisher())
    'fisher'
    """

    wants_gradients: ClassVar[bool] = True

    def scores(self, graph: Graph, axis: str, context: Context) -> Array:
        pairs = zip(self.activity(graph, axis, context), self.signals(graph, axis, context), strict=True)
        by_sample: Array = np.sum([(a * s).sum(2) for a, s in pairs], axis=0)
        return 0.5 * (by_sample**2).mean(1)

    def watches(self, graph: Graph, axis: str) -> tuple[Watch, ...]:
        return (Gating(axis=axis),) if self.measured(graph, axis) else ()

    def recorded(self, graph: Graph, axis: str, recorded: Mapping[str, Any]) -> Array | None:
        sums = gate_sums(recorded, axis)
        return None if sums is None else 0.5 * sums.squares / sums.count
