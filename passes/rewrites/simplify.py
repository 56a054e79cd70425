"""Take out a node that hands its input on: an identity, dropout, an activation that changes nothing where it stands.

An activation changes nothing if it is the identity on all values its input can have, such as ReLU behind ReLU. Exact in
training and evaluation, bit for bit; dropout with p > 0 hands its input on in evaluation only.

Source: Srivastava et al. (2014) for dropout; growth.md section 9, row 33, for the activations.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from irgrow.graph import Graph
from irgrow.morphism import Morphism
from irgrow.ops import site
from irgrow.passes.base import Context, Pass
from irgrow.passes.preservation.computed import hands_on
from irgrow.passes.reparametrizing import not_a_node, reparametrize


@dataclass(frozen=True)
class Simplify(Pass):
    """Take out a node that hands its input on.

    Args:
        node: The node.

    >>> str(Simplify("dropout_1"))
    'simplify(dropout_1)'
    """

    stays: ClassVar[bool] = True

    node: str = site("")

    @property
    def site(self) -> str:
        return self.node

    def at(self, site: str, units: int) -> Simplify:
        return replace(self, node=self.node or site)

    def match(self, graph: Graph, site: str) -> str | None:
        if reason := not_a_node(graph, site):
            return reason
        return None if hands_on(graph, site) else f"`{site}` does not hand its input on as it is"

    def rewrite(self, graph: Graph, site: str, context: Context) -> Morphism:
        gone = {site: graph[site].inputs[0]}
        return reparametrize(graph, {}, gone, {}, context.seed, f"take {site} out")
