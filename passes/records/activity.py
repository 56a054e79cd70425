"""The activity of units: the Gram matrix of the values of a node."""

from __future__ import annotations

from dataclasses import dataclass

from irgrow.axes import Atom, atoms
from irgrow.graph import Graph
from irgrow.passes.records.base import Record, Watch


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
        features = dims[0] if dims else value.features
        return Gram(features, self.samples, self.node, graph.size(value.dims[features]))

    def units(self, graph: Graph) -> frozenset[str]:
        return super().units(graph) | ({self.axis} if self.axis else set())
