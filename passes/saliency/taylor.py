"""Taylor: how much the loss would change without a unit, to first order.

Molchanov et al. (2019) score parameters that go together, as one gate on a unit would make them, by the square of the
sum of gradient x weight; here it is the absolute value, with the same order. With `of = fan_out`, the default, these
are the weights that read the unit. Setting them to zero is what pruning does, whatever stands between a unit and its
readers, so the score is the size of the first derivative of the loss along the way to the pruned network; it is exact
where the loss is linear in these weights. (Where units are normalised together, or multiplied with each other as in
attention, pruning does more than that.) With `fan_in` they are the unit's own weights and biases. With `samples` it is
the criterion of 2017: |sum over positions of activity x gradient| for each sample, summed over the samples; the paper
takes the mean over positions, which within one layer is the same order.

Gradients are those of the loss on the batch. Weights that a mask switches off count as zero.

Source: Molchanov et al. (2017), Pruning convolutional neural networks for resource efficient inference, 2.2;
Molchanov et al. (2019), Importance estimation for neural network pruning, section 3.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from irgrow.edits import Impossible
from irgrow.graph import Graph
from irgrow.ops import word
from irgrow.passes.analyses.entries import effective, unit_sums
from irgrow.passes.base import Context
from irgrow.passes.records.base import Watch
from irgrow.passes.records.gates import Gating, gate_sums
from irgrow.passes.records.slopes import Slopes, Sloping
from irgrow.passes.saliency.base import ActivitySaliency
from irgrow.shapes import Array, as_array


@dataclass(frozen=True)
class Taylor(ActivitySaliency):
    """Keep units without which the loss would change.

    Args:
        of: The weights that read a unit, `fan_out`; those that make it, `fan_in`; or its activity, by `samples`.

    >>> str(Taylor()), str(Taylor("samples"))
    ('taylor', 'taylor(samples)')
    """

    wants_gradients: ClassVar[bool] = True

    of: str = word("fan_out", "fan_in", "samples", default="fan_out")

    def needs(self, graph: Graph, axis: str) -> tuple[str, ...]:
        return super().needs(graph, axis) if self.of == "samples" else ()

    def scores(self, graph: Graph, axis: str, context: Context) -> Array:
        if self.of == "samples":
            pairs = zip(self.activity(graph, axis, context), self.signals(graph, axis, context), strict=True)
            by_sample = np.sum([(a * s).sum(2) for a, s in pairs], axis=0)
            return np.abs(by_sample).sum(1)
        total = np.zeros(graph.widths[axis])
        for name, places in self.places(graph, axis, self.of).items():
            slope = self.given(context.gradients, name, "the gradient", "pass a `batch` and a `loss`")
            self.given(context.params, name, "the values", "the network has no parameters yet")
            assert context.params is not None
            change = as_array(slope) * effective(context.params, name)
            if not np.isfinite(change).all():
                raise Impossible(f"`{name}` or its gradient is not finite")
            total += unit_sums(change, places, len(total))
        return np.abs(total)

    def watches(self, graph: Graph, axis: str) -> tuple[Watch, ...]:
        if self.of == "samples":
            return (Gating(axis=axis),) if self.measured(graph, axis) else ()
        watch = self._slopes(axis)
        return (watch,) if watch.nodes(graph) else ()

    def recorded(self, graph: Graph, axis: str, recorded: Mapping[str, Any]) -> Array | None:
        if self.of == "samples":
            sums = gate_sums(recorded, axis)
            return None if sums is None else sums.sizes
        slopes: Slopes | None = recorded.get(self._slopes(axis).key)
        return None if slopes is None or not slopes.ready else np.abs(as_array(slopes.total))

    def _slopes(self, axis: str) -> Sloping:
        return Sloping(axis=axis, role={"fan_in": "makes", "fan_out": "reads"}[self.of])
