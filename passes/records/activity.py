"""The activity of units: the Gram matrix of the values of a node, and the cosines that follow from it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from irgrow.axes import Atom, atoms
from irgrow.graph import Graph
from irgrow.passes.analyses.activity import all_places
from irgrow.passes.records.base import WINDOW, Record, Watch

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Activity(Watch):
    """The Gram matrix of the values of a node, over the latest columns.

    Args:
        samples: How many columns; at least twice as many as units are kept.
        node: The node.
        axis: The axis whose units are meant, where they are not those of the value (a dense layer over positions).

    >>> Activity(node="relu_1").key
    'relu_1'
    """

    node: str = ""
    axis: str = ""

    @property
    def key(self) -> str:
        return f"{self.node} [{self.axis}]" if self.axis else self.node

    def nodes(self, graph: Graph) -> tuple[str, ...]:
        return (self.node,)

    def record(self, graph: Graph) -> Record:
        from irgrow.passes.analyses.spectrum import Gram

        value = graph.types[self.node]
        dims = [d for d, dim in enumerate(value.dims) if self.axis and Atom(self.axis) in atoms(dim)]
        unit_dim = dims[0] if dims else value.unit_dim
        return Gram(unit_dim, self.samples, self.node)

    def units(self, graph: Graph) -> frozenset[str]:
        return super().units(graph) | ({self.axis} if self.axis else set())


def activities(graph: Graph, axis: str, samples: int = WINDOW) -> dict[str, Activity]:
    """Return what to record of the activity of an axis, by node, at every node where its units are measured.

    Raises:
        Impossible: The axis is more than one of the dimensions of one of them.
    """
    usual = {node: Atom(axis) in atoms(graph.types[node].units) for node in all_places(graph, axis)}
    return {node: Activity(samples, node, "" if units else axis) for node, units in usual.items()}


def similarities(graph: Graph, axis: str, recorded: Mapping[str, Any]) -> Tensor | None:
    """Return the cosines between the activities of the units of an axis, (units, units); zeros for units never active.

    The Gram matrices of all places a unit stands at are added, as if what it does there stood side by side.

    Returns:
        float64; `None` where too little was recorded, or it is not finite.
    """
    import torch

    total: Any = 0.0
    places = all_places(graph, axis)
    for node, watch in activities(graph, axis).items():
        gram = recorded.get(watch.key)
        if gram is None or not gram.ready or not gram.finite:
            return None
        for place in places[node][1].T:
            at = torch.as_tensor(place, device=gram.total.device)
            total = total + gram.total[at[:, None], at]
    if not isinstance(total, torch.Tensor):
        return None
    sizes = total.diagonal().sqrt()
    products = sizes[:, None] * sizes
    return total / products.where(products > 0, 1.0)
