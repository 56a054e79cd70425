"""Fold a learned scale into the layer before it, or into the layers behind it.

    before   y = s (W x + b)            or   y = W (s x) + b
    after    y = (s W) x + s b               y = (W s) x + b

Into the rows and the bias of a dense layer or a convolution that only the scale reads; where that is impossible, into
the columns of everything that reads the scale, if those are all dense layers or convolutions over all channels. Exact
in training and evaluation up to rounding.

The state an optimizer holds for the new parameters starts afresh; they take the places of those they continue.

Source: growth.md section 9, row 46, without the statistics; LayerScale is from Touvron et al. (2021).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from irgrow.axes import ONE
from irgrow.graph import Graph
from irgrow.morphism import Compute, Morphism
from irgrow.ops import Conv, Dense, Depthwise, Scale, site
from irgrow.passes.base import Context, Pass
from irgrow.passes.reparametrizing import makes, not_a_node, read_elsewhere, reparametrize, tied


@dataclass(frozen=True)
class FoldScale(Pass):
    """Fold a learned scale into the layer before it, or else into those behind it.

    Args:
        node: The scale.

    >>> str(FoldScale("scale_1"))
    'fold_scale(scale_1)'
    """

    stays: ClassVar[bool] = True

    node: str = site("")

    @property
    def site(self) -> str:
        return self.node

    def at(self, site: str, units: int) -> FoldScale:
        return replace(self, node=self.node or site)

    def match(self, graph: Graph, site: str) -> str | None:
        if reason := not_a_node(graph, site):
            return reason
        if not isinstance(graph[site].op, Scale):
            return f"`{site}` is not a learned scale"
        if reason := tied(graph, site):
            return reason
        before = _not_before(graph, site)
        behind = before and _not_behind(graph, site)
        return behind and f"{before}, and {behind}"

    def rewrite(self, graph: Graph, site: str, context: Context) -> Morphism:
        (read,) = graph[site].inputs
        scale = f"{site}.weight"
        if _not_before(graph, site) is None:
            own = [f"{read}.{s.name}" for s in graph.specs[read] if s.name in ("weight", "bias")]
            computed = {name: Compute("scale_rows", (name, scale)) for name in own}
            summary = f"fold {site} into {read}"
        else:
            own = [f"{reader}.weight" for reader in graph.users[site]]
            computed = {name: Compute("scale_columns", (name, scale)) for name in own}
            summary = f"fold {site} into {', '.join(graph.users[site])}"
        return reparametrize(graph, {}, {site: read}, computed, context.seed, summary)


def _not_before(graph: Graph, scale: str) -> str | None:
    """Return why a scale cannot go into the layer it reads, or `None`."""
    (name,) = graph[scale].inputs
    if not isinstance(graph[name].op, Dense | Conv | Depthwise):
        return f"`{name}` before it is neither a dense layer nor a convolution"
    if makes(graph, name)[0] != graph.types[scale].unit_dim:
        return f"`{name}` before it works along the positions"
    return read_elsewhere(graph, name, scale) or tied(graph, name)


def _not_behind(graph: Graph, scale: str) -> str | None:
    """Return why a scale cannot go into the layers that read it, or `None`."""
    if scale in graph.outputs:
        return f"`{scale}` is an output of the network"
    for name in graph.users[scale]:
        op = graph[name].op
        if not isinstance(op, Dense | Conv):
            return f"`{name}` behind it is neither a dense layer nor a convolution over all channels"
        if isinstance(op, Conv) and op.groups != ONE:
            return f"`{name}` behind it works in groups"
        if makes(graph, name)[0] != graph.types[scale].unit_dim:
            return f"`{name}` behind it works along the positions"
        if reason := tied(graph, name):
            return reason
    return None if graph.users[scale] else f"nothing reads `{scale}`"
