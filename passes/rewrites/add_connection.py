"""Add a connection from one layer to another: the target's value becomes a sum, and starts as what it was.

    projected     target + W source, with W = 0: a dense layer, or a 1x1 convolution; where the source has a whole
                  multiple of the target's positions they are averaged first
    zero          target + a source, with a = 0: one number per unit, where both have the same shape

What read the target, and the network's output if it is one, reads the sum instead. The function is unchanged in
training and evaluation, and W or a receives a gradient at once. With `zero` the units of both sides are tied from then
on.

Source: Maile (2023), 3.1, synaptogenesis between layers; He et al. (2016) for projected shortcuts.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from irgrow.axes import Atom
from irgrow.edits import Impossible
from irgrow.fills import ZERO, Fill
from irgrow.graph import Graph, Node, reachable
from irgrow.morphism import Morphism
from irgrow.ops import Add, AvgPool, Conv, Dense, Op, Scale, site, word
from irgrow.passes.base import Context, Pass
from irgrow.passes.layer_forms import is_image
from irgrow.passes.primitives import splice, unused_prefix
from irgrow.passes.reparametrizing import not_a_node


@dataclass(frozen=True)
class AddConnection(Pass):
    """Add a value, or a projection of it, to another value.

    Args:
        source: The node whose value is added.
        target: The node it is added to.
        form: `projected` or `zero`; see the module.

    >>> str(AddConnection("relu_1", "dense_3", "zero"))
    'add_connection(relu_1, dense_3, zero)'
    """

    stays: ClassVar[bool] = True

    source: str = site("")
    target: str = site("")
    form: str = word("projected", "zero", default="projected")

    @property
    def site(self) -> str:
        return self.target

    def at(self, site: str, units: int) -> AddConnection:
        return replace(self, target=self.target or site)

    def match(self, graph: Graph, site: str) -> str | None:
        for name in (self.source, site):
            if (reason := not_a_node(graph, name)) is not None:
                return reason
            if graph.types[name].ids is not None:
                return f"`{name}` holds integer ids"
        if self.source == site:
            return f"`{site}` cannot be connected with itself"
        if site in reachable(graph, (self.source,)):
            return f"`{self.source}` depends on `{site}`: the connection would close a cycle"
        try:
            factors = _factors(graph, self.source, site)
        except Impossible as impossible:
            return impossible.reason
        shapes = list(graph.shape(self.source)), list(graph.shape(site))
        if self.form == "zero" and (shapes[0] != shapes[1] or any(f > 1 for f in factors)):
            return f"`{self.source}` has shape {shapes[0]} and `{site}` {shapes[1]}; use the form `projected`"
        return None

    def rewrite(self, graph: Graph, site: str, context: Context) -> Morphism:
        prefix = unused_prefix(graph, f"{site}_from_{self.source}")
        span, sizes, fills = graph[site].span, dict[str, int](), dict[str, Fill]()
        nodes: list[Node] = []

        def add(word: str, op: Op, *inputs: str) -> str:
            nodes.append(Node(f"{prefix}.{word}", op, inputs, None, span))
            return nodes[-1].name

        value = self.source
        factors = _factors(graph, self.source, site)
        if self.form == "zero":
            value = add("scale", Scale(0.0), value)
        else:
            if any(f > 1 for f in factors):
                value = add("pool", AvgPool(factors[0] if len(set(factors)) == 1 else factors), value)
            units = Atom(f"{prefix}.project")
            image = is_image(graph, site)
            sizes[units.name] = graph.shape(site)[0 if image else -1]
            fills[f"{units.name}.weight"] = ZERO
            value = add("project", Conv(units, 1, bias=False) if image else Dense(units, bias=False), value)
        add("add", Add(), site, value)
        return splice(graph, site, nodes, sizes, fills, context.seed, f"connect {self.source} with {site}")


def _factors(graph: Graph, source: str, target: str) -> tuple[int, ...]:
    """Return how many positions of the source there are for one of the target, by dimension.

    Raises:
        Impossible: The values do not fit.
    """
    kinds = graph.types[source], graph.types[target]
    shapes = graph.shape(source), graph.shape(target)
    if kinds[0].rank != kinds[1].rank:
        raise Impossible(f"`{source}` has {kinds[0].rank} dimensions and `{target}` {kinds[1].rank}")
    if kinds[0].unit_dim != kinds[1].unit_dim:
        raise Impossible(f"`{source}` and `{target}` have their units in different dimensions")
    mixed = 0 if is_image(graph, target) else kinds[1].rank - 1
    positions = [(a, b) for i, (a, b) in enumerate(zip(*shapes, strict=True)) if i != mixed]
    pooled = is_image(graph, target)
    if any(a % b for a, b in positions) or (not pooled and any(a != b for a, b in positions)):
        a, b = ([n[i] for n in positions] for i in (0, 1))
        raise Impossible(f"`{source}` has positions {a} and `{target}` {b}" + (", no whole multiple" if pooled else ""))
    return tuple(a // b for a, b in positions)
