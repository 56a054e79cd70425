"""What records of one training step across an axis have in common: both ends of its bridge, and when they are void."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from irgrow.edits import Impossible
from irgrow.graph import Graph
from irgrow.passes.analyses.bridge import bridge
from irgrow.passes.records.base import Record, Wanted, Watch
from irgrow.passes.records.crossings import Crossing, Ends

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class AcrossWatch(Watch):
    """Something to record across an axis, at both ends of its bridge.

    Args:
        axis: A leaf axis.
    """

    axis: str = ""

    def nodes(self, graph: Graph) -> tuple[str, ...]:
        found = bridge(graph, self.axis)
        beside = (*found.attended, *(name for name, _ in found.borrowed))
        return (found.maker, *beside, *(route.node for route in found.routes))


class Across(Record):
    """Base of what was recorded across an axis since the last step.

    Args:
        graph: The network.
        axis: A leaf axis with a bridge.

    Raises:
        Impossible: There is no bridge.
    """

    def __init__(self, graph: Graph, axis: str) -> None:
        self.graph, self.axis, self.found = graph, axis, bridge(graph, axis)
        self._latest = graph
        self.passes: list[Crossing] = []
        self._ends: Ends | None = None

    def attach(self, leaves: Mapping[str, nn.Module], wanted: Wanted) -> list[Any]:
        self._ends = Ends(self.graph, self.found, leaves, wanted, self.passes)
        return self._ends.hooks()

    def weights(self) -> dict[str, int]:
        """Return the weights of the units, by full name, and the dimension in which the units stand."""
        maker = self.graph.param_name(self.found.maker, "weight")
        return {maker: 0} | {route.weight: 1 for route in self.found.routes}

    def fits(self, graph: Graph) -> bool:
        try:
            same = bridge(graph, self.axis) == self.found
        except Impossible:
            return False
        if not same or _around(graph, self.axis) != _around(self.graph, self.axis):
            return False
        self._latest = graph  # what was recorded before is of the network as it was then
        return True

    def settle(self) -> None:
        self.clear()

    def clear(self) -> None:
        self.graph = self._latest
        self.passes.clear()

    @property
    def heard(self) -> list[Crossing]:
        """The passes of which every reader has said something."""
        return [p for p in self.passes if len(p.signals) == len(self.found.routes)]


def _around(graph: Graph, axis: str) -> list[Any]:
    """Return the nodes that carry an axis and the shapes of their values; how wide the first reads may change."""
    return [(node, graph.shape(node.name)) for node in graph if axis in graph.reach[node.name]]
