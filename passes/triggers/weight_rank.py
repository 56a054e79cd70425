"""Growth by the rank of the weights: a layer whose units read different things gets more of them.

phi(l) = rank_epsilon(W_l) / M_l counts the singular values of W_l / sqrt(N) above epsilon, W_l flattened to one row per
unit, N its number of columns, the bias left out. The trigger is T = max(0, rank - floor(gamma phi_0 M)) (Maile 2023,
eq. 30, 31, where n is the number of columns, as in the authors' code). The rank is at most N, so a layer with as many
units as fan-in entries does not grow against a full baseline. Synapses that are switched off count as zero; of several
layers that make the units the first is looked at.

The weights change with every step, so every look costs a product of the smaller side's square in float64.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import floor
from typing import Any

import numpy as np

from irgrow.attributes import textual_name
from irgrow.axes import NEW, Atom, atoms, positions
from irgrow.errors import OptionError
from irgrow.graph import Graph
from irgrow.ops import MASK, ParamSpec, Role, real, word
from irgrow.passes.analyses.places import makers
from irgrow.passes.records.base import Watch
from irgrow.passes.triggers.base import BASELINES, Relative, View


@dataclass(frozen=True)
class WeightRank(Relative):
    """Add as many units as the rank of the weights that make them exceeds its share of the width.

    Args:
        gamma: Share of the baseline that must be exceeded.
        epsilon: Singular values up to it count as zero.
        baseline: `initial`, the running `maximum`, or the value after the `last` change.
        rounding: `count`, rank - floor(gamma phi_0 M); or `floor`, floor(rank - gamma phi_0 M) as printed.

    >>> str(WeightRank(epsilon=0.1))
    'weight_rank(epsilon = 0.1)'
    """

    gamma: float = real(0.99, low=0.0, open_low=True)
    epsilon: float = real(0.01, low=0.0, open_low=True)
    baseline: str = word(*BASELINES, default="initial")
    rounding: str = word("count", "floor", default="count")

    def watches(self, graph: Graph, site: str) -> tuple[Watch, ...]:
        self._weight(graph, site)
        return ()

    def measure(self, view: View, site: str) -> tuple[float, int, int] | None:
        from irgrow.passes.analyses.spectrum import rank_of

        matrix = self._by_unit(view, site)
        if not bool(matrix.isfinite().all()):
            raise OptionError(f"the weights of `{site}` are not finite")
        width = view.graph.widths[site]
        rank = rank_of(matrix, self.epsilon)
        return rank / width, rank, width

    def excess(self, count: int, target: float) -> int:
        return max(0, floor(count - target + 1e-9)) if self.rounding == "floor" else super().excess(count, target)

    def _weight(self, graph: Graph, site: str) -> tuple[str, ParamSpec, int]:
        """Return the first layer that makes units from others, its weight, and the dimension of the units."""
        for maker in makers(graph, site):
            for spec in graph.specs[maker]:
                if Role.READS not in spec.roles or not spec.trainable:
                    continue
                for dim, (axis, role) in enumerate(zip(spec.dims, spec.roles, strict=True)):
                    if role is Role.MAKES and Atom(site) in atoms(axis):
                        return maker, spec, dim
        raise OptionError(f"{textual_name(type(self))} needs layers that make units from others, `{site}` has none")

    def _by_unit(self, view: View, site: str) -> Any:
        """Return the weights in float64, one row per unit, masked ones as zeros."""
        graph = view.graph
        maker, spec, dim = self._weight(graph, site)
        weight = view.params[graph.param_name(maker, spec.name)].detach().double()
        if any(s.name == MASK for s in graph.specs[maker]):
            weight = weight * view.params[graph.param_name(maker, MASK)]
        units = positions(spec.dims[dim], graph.widths)[site][0]
        rows = np.flatnonzero(units != NEW)
        rows = rows[np.argsort(units[rows], kind="stable")]
        weight = weight.movedim(dim, 0)
        if len(rows) != len(units) or (np.diff(rows) != 1).any():
            weight = weight[rows.tolist()]
        return weight.reshape(graph.widths[site], -1)
