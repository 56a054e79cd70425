"""Remove a layer: nodes that give back what they read go, and what read them reads what they read.

Without `last` one node goes. With it goes all from `first` to `last`, and what serves nothing else: a layer with its
activation, a residual block with its sum, a gate with what it lets through, a transformer block. All of it must start
from the one value that `first` reads, and end in one of the same shape.

By default it is only done where it provably leaves the function as it is: where inserting the nodes again, with the
very numbers they have now, is exact. `exact = false` removes a layer that does something as well.

Source: Maile (2023), 3.1; Wei et al. (2016), Network Morphism, for the way back.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from irgrow.edits import Impossible
from irgrow.graph import Graph, reachable
from irgrow.morphism import Morphism
from irgrow.ops import flag, site
from irgrow.passes.base import Context, Pass
from irgrow.passes.preservation import prove
from irgrow.passes.primitives import bypass
from irgrow.passes.reparametrizing import not_a_node
from irgrow.verdict import Changes


@dataclass(frozen=True)
class RemoveLayer(Pass):
    """Remove the nodes from one to another.

    Args:
        first: The first node; it reads one value.
        last: The last node; `first` unless given.
        exact: Whether to refuse unless the function provably stays what it is.

    >>> str(RemoveLayer("relu_1_deep1.layer", "relu_1_deep1.act"))
    'remove_layer(relu_1_deep1.layer, relu_1_deep1.act)'
    """

    stays: ClassVar[bool] = True

    first: str = site("")
    last: str | None = site(None)
    exact: bool = flag(True)

    @property
    def site(self) -> str:
        return self.first

    def at(self, site: str, units: int) -> RemoveLayer:
        return replace(self, first=self.first or site)

    def match(self, graph: Graph, site: str) -> str | None:
        last = self.last or site
        for name in (site, last):
            if (reason := not_a_node(graph, name)) is not None:
                return reason
        try:
            source = _source(graph, site)
            _region(graph, site, last, source)
        except Impossible as impossible:
            return impossible.reason
        return _misfit(graph, source, last)

    def rewrite(self, graph: Graph, site: str, context: Context) -> Morphism:
        last = self.last or site
        names = site if last == site else f"{site} to {last}"
        morphism = bypass(graph, last, _source(graph, site), context.seed, f"remove {names}")
        if self.exact:
            verdict = prove(morphism, context.params)
            if not verdict.preserves:
                why = verdict.reason if isinstance(verdict, Changes) else str(verdict)
                raise Impossible(f"{why}; `exact = false` removes it all the same")
        return morphism


def _source(graph: Graph, first: str) -> str:
    """Return the value a layer starts from."""
    sources = list(dict.fromkeys(graph[first].inputs))
    if not sources:
        raise Impossible(f"`{first}` is an input of the network")
    if len(sources) > 1:
        several = ", ".join(f"`{s}`" for s in sources)
        raise Impossible(f"`{first}` reads several values, {several}; see `remove_connection`")
    return sources[0]


def _region(graph: Graph, first: str, last: str, source: str) -> set[str]:
    """Return the nodes that go, all of which serve the last one only."""
    region = {first, last} if first == last else _between(graph, first, last)
    while True:
        beside = {i for name in region for i in graph[name].inputs} - region - {source}
        serving = {b for b in beside if _serves(graph, b, region)}
        if not serving:
            break
        region |= serving
    if beside:
        stranger = next(n.name for n in graph if n.name in beside)
        reader = next(u for u in graph.users[stranger] if u in region)
        raise Impossible(f"`{reader}` also reads `{stranger}`, which does not start from `{source}` alone")
    for name in region - {last}:
        if not _serves(graph, name, region):
            reader = next((f"`{u}`" for u in graph.users[name] if u not in region), "the network's output")
            raise Impossible(f"`{name}` is read by {reader} as well")
    return region


def _between(graph: Graph, first: str, last: str) -> set[str]:
    """Return the nodes on the ways from one to another."""
    behind = {first}
    for node in graph:
        if not behind.isdisjoint(node.inputs):
            behind.add(node.name)
    if last not in behind:
        raise Impossible(f"`{last}` does not depend on `{first}`")
    return behind & reachable(graph, (last,))


def _serves(graph: Graph, name: str, region: set[str]) -> bool:
    """Whether a node is read in a region only."""
    node = graph[name]
    return name not in graph.outputs and node.op.kind != "input" and region.issuperset(graph.users[name])


def _misfit(graph: Graph, source: str, last: str) -> str | None:
    """Return why one value cannot stand for another, or `None`."""
    old, new = graph.types[last], graph.types[source]
    shapes = list(graph.shape(last)), list(graph.shape(source))
    if shapes[0] != shapes[1] or (old.unit_dim, old.ids) != (new.unit_dim, new.ids):
        return f"`{last}` has shape {shapes[0]} and what would be read instead, `{source}`, has {shapes[1]}"
    return None
