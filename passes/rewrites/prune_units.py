"""Prune units: take given units away, from every tensor their axis runs through.

Removing a unit that is read with zero weights, or that was grown and has not been trained, leaves the function as it
was, and the verdict says so when it can see the weights; otherwise something alive goes and the verdict is `changes`.
Growing units and pruning the same ones is the identity, bitwise, on weights, buffers and every optimizer slot.

Source: Maile (2023), 3.1.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from irgrow.edits import Impossible, removal
from irgrow.errors import OptionError
from irgrow.fills import ZERO
from irgrow.graph import Graph
from irgrow.morphism import Morphism
from irgrow.ops import integers, site
from irgrow.passes.base import Context, Pass
from irgrow.passes.primitives import by_role, resize


@dataclass(frozen=True)
class PruneUnits(Pass):
    """Remove units from an axis.

    Args:
        axis: An axis, or a node that carries it.
        units: Positions along that axis, from 0.

    >>> str(PruneUnits("f1", (0, 3)))
    'prune_units(f1, [0, 3])'
    """

    axis: str = site("")
    units: tuple[int, ...] = integers((), low=0)

    @property
    def site(self) -> str:
        return self.axis

    def at(self, site: str, units: int) -> PruneUnits:
        return replace(self, axis=site)

    def match(self, graph: Graph, site: str) -> str | None:
        try:
            removal(graph, graph.axis(site), self.units)
        except (Impossible, OptionError) as reason:
            return str(reason)
        return None

    def rewrite(self, graph: Graph, site: str, context: Context) -> Morphism:
        edits = removal(graph, graph.axis(site), self.units)
        summary = f"prune {len(set(self.units))} units of {self.axis}"
        return resize(graph, edits, by_role(ZERO, ZERO), context.seed, summary)
