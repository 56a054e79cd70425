"""Duplicate units: copies that share the fan-out evenly, whatever their number.

Every reader divides by the multiplicity of a unit. Over a whole axis read by layer, root-mean-square or group norms it
is exact too, since integer replication leaves their statistics as they are. Copies are parted by noise in the fan-out
that sums to zero over the copies of a unit, so the function stays; without noise they would receive the same gradients
for ever, which is refused.

Source: Chen et al. (2016), Net2WiderNet; Maile (2023), 3.1.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from irgrow.edits import Impossible, duplication
from irgrow.errors import OptionError
from irgrow.fills import ZERO
from irgrow.graph import Graph
from irgrow.morphism import Morphism
from irgrow.ops import integer, integers, real, site
from irgrow.passes.base import Context, Pass
from irgrow.passes.primitives import by_role, resize
from irgrow.passes.sharing import shared


@dataclass(frozen=True)
class DuplicateUnits(Pass):
    """Add copies of units to an axis.

    Args:
        axis: An axis, or a node that carries it.
        units: Positions along that axis, from 0; all of them if none are named.
        copies: How many copies of each are added.
        noise: Size of the noise between copies in the fan-out, relative to the root mean square of the weights.

    >>> str(DuplicateUnits("f1", (0, 3), copies=2))
    'duplicate_units(f1, [0, 3], 2)'
    """

    axis: str = site("")
    units: tuple[int, ...] | None = integers(None)
    copies: int = integer(1, high=1 << 16)
    noise: float = real(0.01, low=0.0)

    @property
    def site(self) -> str:
        return self.axis

    def at(self, site: str, units: int) -> DuplicateUnits:
        return replace(self, axis=site)

    def match(self, graph: Graph, site: str) -> str | None:
        try:
            duplication(graph, graph.axis(site), self._units(graph, site), self.copies)
        except (Impossible, OptionError) as reason:
            return str(reason)
        return None

    def rewrite(self, graph: Graph, site: str, context: Context) -> Morphism:
        edits = duplication(graph, graph.axis(site), self._units(graph, site), self.copies)
        shares = {name: 1.0 / np.bincount(m)[m] for name, m in edits.items()}
        added = sum(len(m) - graph.widths[name] for name, m in edits.items())
        summary = f"duplicate units of {self.axis}, {added} more"
        morphism = resize(graph, edits, by_role(ZERO, ZERO), context.seed, summary)
        return shared(morphism, shares, self.noise)

    def _units(self, graph: Graph, site: str) -> tuple[int, ...]:
        return tuple(range(graph.size(graph.axis(site)))) if self.units is None else self.units
