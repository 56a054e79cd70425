"""Remove a connection: a sum loses one of its inputs, and what served that input only goes with it.

The connection is named by its ends, `source` and `target`: the sum itself, or what the source is added to. The source
may be an input of the sum, or the beginning of a branch to it that nothing else reads, such as `add_connection` makes.
With the source alone it is the one sum that reads it.

Exact where the input is provably zero (a projection or scale of zeros); otherwise the verdict names what it adds. A sum
of one value becomes that value.

Source: Maile (2023), 3.1, synaptic pruning between layers.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from irgrow.edits import Impossible
from irgrow.graph import Graph
from irgrow.morphism import Morphism
from irgrow.ops import Add, site
from irgrow.passes.base import Context, Pass
from irgrow.passes.primitives import disconnect
from irgrow.passes.reparametrizing import not_a_node


@dataclass(frozen=True)
class RemoveConnection(Pass):
    """Take a value out of a sum.

    Args:
        source: The node that is added, or where the branch to it begins.
        target: The sum, or another of its inputs; the one sum that reads `source` unless given.

    >>> str(RemoveConnection("relu_1", "dense_3"))
    'remove_connection(relu_1, dense_3)'
    """

    stays: ClassVar[bool] = True

    source: str = site("")
    target: str | None = site(None)

    @property
    def site(self) -> str:
        return self.source

    def at(self, site: str, units: int) -> RemoveConnection:
        return replace(self, source=self.source or site)

    def match(self, graph: Graph, site: str) -> str | None:
        for name in (site, site if self.target is None else self.target):
            if (reason := not_a_node(graph, name)) is not None:
                return reason
        try:
            _place(graph, site, self.target)
        except Impossible as impossible:
            return impossible.reason
        return None

    def rewrite(self, graph: Graph, site: str, context: Context) -> Morphism:
        total, position = _place(graph, site, self.target)
        return disconnect(graph, total, position, context.seed, f"take {site} out of {total}")


def _place(graph: Graph, source: str, target: str | None) -> tuple[str, int]:
    """Return a sum and the input of it that a connection is.

    Raises:
        Impossible: There is none, or there are several.
    """
    if target is None:
        found = [(n, graph[n].inputs.index(source)) for n in graph.users[source] if isinstance(graph[n].op, Add)]
        what = f"`{source}` is not added to anything"
    else:
        sums = [n for n in (target, *graph.users[target]) if isinstance(graph[n].op, Add)]
        found = [(n, i) for n in sums for i, name in enumerate(graph[n].inputs) if _leads(graph, source, name, target)]
        if found and found[0][0] == target:  # the target is the sum
            found = [place for place in found if place[0] == target]
        what = f"no sum adds a branch that begins at `{source}` to `{target}`"
    if not found:
        raise Impossible(what)
    found = [(total, i) for total, i in found if graph[total].inputs[i] == source] or found  # itself before a branch
    if len({(total, graph[total].inputs[position]) for total, position in found}) > 1:
        several = " and ".join(f"`{graph[total].inputs[position]}` in `{total}`" for total, position in found)
        raise Impossible(f"`{source}` is added several times, as {several}; name the one that goes")
    return found[0]


def _leads(graph: Graph, source: str, end: str, target: str) -> bool:
    """Whether a value is the source, or the end of a branch from it that serves nothing else."""
    while end != source:
        node = graph[end]
        alone = len(graph.users[end]) == 1 and end not in graph.outputs
        if end == target or len(node.inputs) != 1 or not alone:
            return False
        (end,) = node.inputs
    return end != target
