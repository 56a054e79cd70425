"""Split units: every one becomes two that share what is read of it, and are parted so that they can differ.

Fan-in, bias and norm entries are copied; of the weights that read a unit one copy gets `share`, the other the rest, so
the function is what it was. Two copies that share alike would receive the same gradients for ever; that is refused.
They are parted by unequal shares, by noise in the fan-out that cancels (exact), or by noise of both signs in the
fan-in (w + n and w - n; the function changes, to second order where the activation is smooth and the shares equal).

Source: Maile (2023), 3.1; Chen et al. (2016), Net2WiderNet; Wu et al. (2019), splitting steepest descent.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from irgrow.edits import Impossible, duplication
from irgrow.errors import OptionError
from irgrow.fills import ZERO
from irgrow.graph import Graph
from irgrow.morphism import Morphism
from irgrow.ops import Role, integers, real, site, word
from irgrow.passes.base import Context, Pass
from irgrow.passes.primitives import by_role, resize
from irgrow.passes.sharing import shared


@dataclass(frozen=True)
class SplitUnits(Pass):
    """Split units of an axis in two.

    Args:
        axis: An axis, or a node that carries it.
        units: Positions along that axis, from 0; all of them if none are named.
        share: What the first of two copies keeps of the fan-out.
        noise: Size of the noise that parts them, relative to the root mean square of the weights.
        between: Whether the noise is put in their `fan_out` or their `fan_in`.

    >>> str(SplitUnits("f1", (0, 3), 0.25))
    'split_units(f1, [0, 3], share = 0.25)'
    """

    axis: str = site("")
    units: tuple[int, ...] | None = integers(None)
    share: float = real(0.5, low=0.0, high=1.0, open_low=True, open_high=True)
    noise: float = real(0.01, low=0.0)
    between: str = word("fan_out", "fan_in", default="fan_out")

    @property
    def site(self) -> str:
        return self.axis

    def at(self, site: str, units: int) -> SplitUnits:
        return replace(self, axis=site)

    def match(self, graph: Graph, site: str) -> str | None:
        try:
            duplication(graph, graph.axis(site), self._units(graph, site))
        except (Impossible, OptionError) as reason:
            return str(reason)
        return None

    def rewrite(self, graph: Graph, site: str, context: Context) -> Morphism:
        edits = duplication(graph, graph.axis(site), self._units(graph, site))
        summary = f"split {sum(len(m) - graph.widths[name] for name, m in edits.items())} units of {self.axis}"
        shares = {}
        for name, m in edits.items():
            old = graph.widths[name]
            copied = np.isin(np.arange(old), m[old:])
            shares[name] = np.append(np.where(copied, self.share, 1.0), np.full(len(m) - old, 1.0 - self.share))
        morphism = resize(graph, edits, by_role(ZERO, ZERO), context.seed, summary)
        return shared(morphism, shares, self.noise, Role.READS if self.between == "fan_out" else Role.MAKES)

    def _units(self, graph: Graph, site: str) -> tuple[int, ...]:
        return tuple(range(graph.size(graph.axis(site)))) if self.units is None else self.units
