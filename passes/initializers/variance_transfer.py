"""Variance transfer: new fan-in and fan-out are drawn at the scale of the old ones, which training has changed.

Entries of new rows and columns are normal with the standard deviation of the entries of the weight they join. What
reads the axis then sums M' units instead of M, so that its variance is multiplied by M' / M; with `keep = true` its old
columns are multiplied by sqrt(M / M') and the new ones drawn at that scale, and the variance stays (Yuan et al. 2023).
The function changes. Moments of the optimizer are those of the unscaled weights, whose gradients the scaled ones have
where the rest of the network is the same.

Source: Yuan et al. (2023), Accelerated training via incrementally growing neural networks using variance transfer and
learning rate adaptation, 3.1.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import sqrt
from typing import ClassVar

import numpy as np

from irgrow.axes import NEW, Atom, atoms, size_of
from irgrow.edits import Impossible
from irgrow.fills import ZERO, Fill, Normal
from irgrow.graph import Param
from irgrow.morphism import Morphism, Select
from irgrow.ops import MASK, Role, flag
from irgrow.passes.analyses.entries import effective
from irgrow.passes.initializers.base import Initializer, Newborns


@dataclass(frozen=True)
class VarianceTransfer(Initializer):
    """Draw new units at the scale of the old ones, on both sides.

    Args:
        keep: Whether old fan-outs are scaled down, so that the variance of what is read stays.

    >>> str(VarianceTransfer(True))
    'variance_transfer(keep = true)'
    """

    zero: ClassVar[str | None] = "neither"

    keep: bool = flag(False)

    def default(self) -> Fill:
        return ZERO

    def given(self, newborns: Newborns) -> dict[str, Fill]:
        graph, params = newborns.graph, newborns.context.params
        if params is None:
            raise Impossible("variance_transfer needs the parameters of the network")
        found: dict[str, Fill] = {}
        for name, param in graph.params.items():
            roles = _roles(newborns, param)
            if not roles or param.spec.name == MASK or not param.spec.trainable or len(param.spec.dims) < 2:
                continue
            if roles == {Role.PER_UNIT}:
                continue  # filters of a unit of their own start as their op says
            values = effective(params, name)
            spread = float(np.sqrt((values[values != 0] ** 2).mean())) if values.any() else 0.0
            if not (np.isfinite(spread) and spread > 0):
                raise Impossible(
                    f"`{name}` is {'zero' if spread == 0 else 'not finite'}, so it has no scale to transfer"
                )
            found[name] = Normal(spread * (self._factor(newborns, param) if roles == {Role.READS} else 1.0))
        return found

    def finished(self, newborns: Newborns, morphism: Morphism) -> Morphism:
        if not self.keep:
            return morphism
        transfers = dict(morphism.transfers)
        for name, transfer in transfers.items():
            param = newborns.graph.params[name]
            if not isinstance(transfer, Select) or param.spec.name == MASK or len(param.spec.dims) < 2:
                continue
            factor = self._factor(newborns, param)
            scale = [
                np.where(m == NEW, 1.0, factor) if m is not None and param.roles(d) == {Role.READS} else None
                for d, m in enumerate(transfer.maps)
            ]
            if any(s is not None for s in scale):
                transfers[name] = replace(transfer, scale=tuple(scale))
        return replace(morphism, transfers=transfers)

    def _factor(self, newborns: Newborns, param: Param) -> float:
        """Return sqrt(M / M') of what a parameter reads; 1 if nothing is to be kept."""
        graph = newborns.graph
        if not self.keep:
            return 1.0
        sizes = dict(graph.widths) | {name: len(m) for name, m in newborns.edits.items()}
        ratios = [
            graph.size(axis) / size_of(axis, sizes)
            for d, axis in enumerate(param.spec.dims)
            if param.roles(d) == {Role.READS}
        ]
        return sqrt(float(np.prod(ratios)))


def _roles(newborns: Newborns, param: Param) -> frozenset[Role]:
    """Return what the dimensions that grow do, in any use."""
    grown = (d for d, axis in enumerate(param.spec.dims) if any(Atom(a) in atoms(axis) for a in newborns.edits))
    return frozenset(role for d in grown for role in param.roles(d))
