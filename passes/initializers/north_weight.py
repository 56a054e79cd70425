"""NORTH-Weight: new units whose fan-in is orthogonal to that of the units there are.

A random fan-in w0 (Xavier) without its part in the row space of the weight W of the layer, w = w0 - W^+ W w0, scaled to
the mean norm of the old rows; a convolution is taken as a matrix of fan-out times everything a unit reads (Maile 2023,
eq. 34). No batch is needed. Where the rows of W span everything, as soon as there are as many independent units as a
unit has weights, nothing is orthogonal to them: then it does as `random`, and the receipt says so.

Source: Maile (2023), 6.2.2.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from irgrow.axes import NEW, IndexMap
from irgrow.edits import Impossible
from irgrow.fills import Fill, Given, XavierUniform
from irgrow.graph import Graph
from irgrow.ops import flag
from irgrow.passes.analyses.bench import layer_of
from irgrow.passes.analyses.entries import effective
from irgrow.passes.analyses.novelty import matched, numerical_row_space
from irgrow.passes.initializers.base import Initializer, Newborns
from irgrow.shapes import Array

_ROUNDING = float(np.finfo(np.float32).eps)


@dataclass(frozen=True)
class NorthWeight(Initializer):
    """Draw new units orthogonal to the weights of those there are.

    Args:
        apart: Whether new units are orthogonal to one another as well, as long as there is room; the text draws them
            independently.
    """

    apart: bool = flag(False)

    def default(self) -> Fill:
        return XavierUniform(match=True)

    def suits(self, graph: Graph, edits: Mapping[str, IndexMap], atom: str) -> None:
        layer_of(graph, edits, atom, "north_weight", by_activity=False)

    def chosen(self, newborns: Newborns) -> dict[str, Fill]:
        graph, context, fills = newborns.graph, newborns.context, dict[str, Fill]()
        for atom, m in newborns.edits.items():
            maker = layer_of(graph, newborns.edits, atom, "north_weight", by_activity=False)
            if context.params is None:
                raise Impossible("north_weight needs the parameters of the network")
            name = graph.param_name(maker, "weight")
            weight = effective(context.params, name)
            if not np.isfinite(weight).all():
                raise Impossible(f"`{name}` is not finite")
            basis = numerical_row_space(weight.reshape(len(weight), -1), _ROUNDING)
            if len(basis) == basis.shape[1]:
                newborns.notes.append(
                    f"north_weight: the units of `{maker}` span all {basis.shape[1]} directions, so nothing is "
                    "orthogonal to them; new units are random"
                )
                continue
            shape = (int((m == NEW).sum()), *weight.shape[1:])
            drawn = XavierUniform().draw(shape, context.generator("north_weight", maker)).reshape(shape[0], -1)
            fills[name] = Given(matched(_apart(drawn, basis, self.apart).reshape(shape), weight))
        return fills


def _apart(drawn: Array, basis: Array, mutually: bool) -> Array:
    """Return rows without their part in a row space, twice over against rounding."""
    found = np.empty_like(drawn)
    for i, row in enumerate(drawn):
        for _ in range(2):
            row = row - (row @ basis.T) @ basis
        found[i] = row
        if mutually and len(basis) + 1 < basis.shape[1]:
            basis = np.concatenate([basis, row[None] / np.linalg.norm(row)])
    return found
