"""Bake the mask of a layer into its weight: the entries that are off become zeros, and the mask goes.

    before   y = (W * mask) x + b
    after    y = W' x + b,  W' = W * mask

Exact in training and evaluation, bit for bit; but from then on the zeros receive gradients like any other entry, so it
is for networks that are done growing. Layers that share weight and mask are baked together.

The state an optimizer holds for the new weight starts afresh; it takes the place of the old one.

Source: growth.md section 9, rows 40 and 41.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from irgrow.graph import Graph
from irgrow.morphism import Compute, Morphism
from irgrow.ops import MASK, Op, site
from irgrow.passes.base import Context, Pass
from irgrow.passes.reparametrizing import not_a_node, reparametrize


@dataclass(frozen=True)
class BakeMask(Pass):
    """Make a masked layer a plain one.

    Args:
        node: The layer.

    >>> str(BakeMask("h1"))
    'bake_mask(h1)'
    """

    stays: ClassVar[bool] = True

    node: str = site("")

    @property
    def site(self) -> str:
        return self.node

    def at(self, site: str, units: int) -> BakeMask:
        return replace(self, node=self.node or site)

    def match(self, graph: Graph, site: str) -> str | None:
        if reason := not_a_node(graph, site):
            return reason
        if not any(s.name == MASK for s in graph.specs[site]):
            return f"`{site}` is not masked"
        masked = _users(graph, site, MASK)
        other = next((user for user in _users(graph, site, "weight") if user not in masked), None)
        return None if other is None else f"`{other}` uses the weight of `{site}` without its mask"

    def rewrite(self, graph: Graph, site: str, context: Context) -> Morphism:
        weight, mask = (graph.param_name(site, name) for name in ("weight", MASK))
        ops: dict[str, Op] = {}
        for name in _users(graph, site, MASK):
            op = graph[name].op
            ops[name] = replace(op, **{"masked": False})
        computed = {weight: Compute("bake_mask", (weight, mask))}
        return reparametrize(graph, ops, {}, computed, context.seed, f"bake the mask of {site} in")


def _users(graph: Graph, node: str, local: str) -> tuple[str, ...]:
    """Return the nodes that use a parameter of a node."""
    return tuple(user for user, _ in graph.params[graph.param_name(node, local)].uses)
