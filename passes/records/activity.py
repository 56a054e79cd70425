"""The activity of units: the Gram matrix of the values of a node."""

from __future__ import annotations

from dataclasses import dataclass

from irgrow.graph import Graph
from irgrow.passes.records.base import Record, Watch


@dataclass(frozen=True)
class Activity(Watch):
    """The Gram matrix of the values of a node, over the latest columns.

    Args:
        samples: How many columns; at least twice as many as units are kept.
        node: The node.

    >>> Activity(node="relu_1").key
    'relu_1'
    """

    node: str = ""

    @property
    def key(self) -> str:
        return self.node

    def nodes(self, graph: Graph) -> tuple[str, ...]:
        return (self.node,)

    def record(self, graph: Graph) -> Record:
        from irgrow.passes.analyses.spectrum import Gram

        value = graph.types[self.node]
        return Gram(value.features, self.samples, self.node, graph.size(value.units))
