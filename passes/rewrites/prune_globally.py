"""Prune globally: take the units away that rank lowest of all axes together, in one rewrite.

The scores of each axis are divided by their size first, so that layers whose numbers are small all over are not the
only ones to lose units: by the mean of the absolute scores, by the largest, or by their Euclidean norm (Molchanov et
al. 2017, 2.2); or not at all, for saliencies in units of the loss. Then the lowest go, equal ones in program order. No
axis loses its last unit. An axis that a saliency can say nothing about refuses the whole rewrite.

Preserves the function where only units that are read with zero weights go; otherwise something alive goes.

Source: Molchanov et al. (2017), Pruning convolutional neural networks for resource efficient inference, 2.2.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import floor
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from irgrow.edits import Impossible
from irgrow.fills import ZERO
from irgrow.graph import Graph
from irgrow.morphism import Morphism
from irgrow.ops import integer, plan, real, word
from irgrow.passes.analyses.places import editable_axes, hidden_axes
from irgrow.passes.analyses.ranking import at_most, bounds, without
from irgrow.passes.base import Context, Pass
from irgrow.passes.primitives import by_role, resize
from irgrow.passes.records.base import Watch
from irgrow.passes.saliency.base import Known, Saliency, known, scored
from irgrow.passes.saliency.magnitude import Magnitude
from irgrow.passes.triggers.base import View

Ranked = list[tuple[float, str, int]]


@dataclass(frozen=True)
class PruneGlobally(Pass):
    """Remove the units that rank lowest over many axes: `count` of them, or a `fraction` of all.

    Args:
        where: The axes: `hidden`, whose layers have an activation right behind them, or all that are `editable`.
        by: What ranks the units.
        count: How many go, of all axes together.
        fraction: The share that goes of all units together, rounded down.
        least: The smallest width left to an axis; fewer units go rather than more.
        multiple: The width left to an axis that loses units is a multiple of this; fewer units go rather than more.
        normalise: What the scores of an axis are divided by: their `mean`, `max` or `norm`, or `none`.

    >>> str(PruneGlobally(fraction=0.5))
    'prune_globally(fraction = 0.5)'
    """

    removes: ClassVar[bool] = True
    whole: ClassVar[bool] = True

    where: str = word("hidden", "editable", default="hidden")
    by: Saliency = plan("saliency", Magnitude())
    count: int | None = integer(None)
    fraction: float | None = real(None, low=0.0, high=1.0, open_low=True, open_high=True)
    least: int | None = integer(None)
    multiple: int = integer(1)
    normalise: str = word("none", "mean", "max", "norm", default="mean")

    @property
    def site(self) -> str:
        return f"{self.where} axes"

    def at(self, site: str, units: int) -> PruneGlobally:
        return replace(self, count=units) if self.fraction is None else self

    @property
    def contradiction(self) -> str | None:
        if (problem := super().contradiction) is not None:
            return problem
        both = (self.count is None) == (self.fraction is None)
        return "say how many units go: either `count` or `fraction`" if both else None

    def match(self, graph: Graph, site: str) -> str | None:
        if (problem := self.contradiction) is not None:
            return problem
        return None if self._axes(graph) else f"`{graph.name}` has no {site}"

    def needs(self, graph: Graph, site: str) -> tuple[str, ...]:
        return tuple(node for axis in self._axes(graph) for node in self.by.needs(graph, axis))

    def wants_gradients(self, graph: Graph, site: str) -> bool:
        return self.by.wants_gradients

    def watches(self, graph: Graph, site: str) -> tuple[Watch, ...]:
        return tuple(watch for axis in self._axes(graph) for watch in self.by.watches(graph, axis))

    def informed(self, view: View) -> PruneGlobally:
        return replace(self, by=known(self.by, view.graph, self._axes(view.graph), view.recorded))

    @property
    def decided_by_numbers(self) -> bool:
        return True

    @property
    def used(self) -> str:
        return "records" if isinstance(self.by, Known) else ""

    def rewrite(self, graph: Graph, site: str, context: Context) -> Morphism:
        order: Ranked = []
        for axis in self._axes(graph):
            scores = _divided(scored(self.by, graph, axis, context), self.normalise)
            order += [(score, axis, unit) for unit, score in enumerate(scores.tolist())]
        order.sort(key=lambda entry: entry[0])
        wanted = floor((self.fraction or 0.0) * len(order) + 1e-9) if self.count is None else self.count
        if wanted == 0:
            raise Impossible(f"nothing to prune: {self.fraction} of {len(order)} units is less than one")
        gone = self._lowest(graph, order, wanted)
        summary = f"prune {len(gone)} units of {site} by {self.by}"
        return resize(graph, without(graph, gone), by_role(ZERO, ZERO), context.seed, summary)

    def _axes(self, graph: Graph) -> tuple[str, ...]:
        return hidden_axes(graph) if self.where == "hidden" else editable_axes(graph)

    def _lowest(self, graph: Graph, order: Ranked, wanted: int) -> list[tuple[str, int]]:
        """Return the units that go, by axis and number."""
        gone: dict[str, list[int]] = {axis: [] for axis in self._axes(graph)}
        least = self.least or 1
        total = 0
        for _, axis, unit in order:
            if total < wanted and graph.widths[axis] - len(gone[axis]) > least:
                gone[axis].append(unit)
                total += 1
        if total < wanted and self.least is None:
            raise Impossible(f"{wanted} of {len(order)} units cannot go: an axis would have no units left")
        kept = {axis: at_most(len(units), graph.widths[axis], None, self.multiple) for axis, units in gone.items()}
        found = [(axis, unit) for axis, units in gone.items() for unit in units[: max(kept[axis], 0)]]
        if not found:
            raise Impossible(f"nothing to prune: of every axis {bounds(self.least, self.multiple)} units stay")
        return found


def _divided(scores: NDArray[np.float64], normalise: str) -> NDArray[np.float64]:
    """Divide the scores of an axis by their size; all zero, they stay so."""
    size = np.abs(scores)
    by = {"none": 1.0, "mean": size.mean(), "max": size.max(), "norm": np.sqrt((size**2).sum())}[normalise]
    return scores / by if by > 0 else scores
