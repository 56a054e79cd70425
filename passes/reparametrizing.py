"""What folding, fusing and simplifying share: nodes go, others get ops and parameters that make up for them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from irgrow.axes import Axis
from irgrow.errors import OptionError
from irgrow.graph import Graph, Node, declared, rebuilt
from irgrow.morphism import Keep, Morphism, Transfer
from irgrow.ops import Op


def reparametrize(
    graph: Graph,
    ops: Mapping[str, Op],
    gone: Mapping[str, str],
    computed: Mapping[str, Transfer],
    seed: int = 0,
    summary: str = "",
) -> Morphism:
    """Take nodes out and give others new ops and parameters; what is not computed is kept.

    An axis named after a node that goes, if another node has its width, becomes one the program names.

    Args:
        graph: The network.
        ops: New ops, by node.
        gone: Nodes that go, and the node that is read in the place of each.
        computed: Where parameters that are not kept come from, by their names in the new graph.
        seed: The seed of the rewrite.
        summary: One line for people.

    Raises:
        ProgramError: The result is not well-formed.
    """

    def source(name: str) -> str:
        while name in gone:
            name = gone[name]
        return name

    nodes = [_changed(n, ops.get(n.name, n.op), tuple(map(source, n.inputs))) for n in graph if n.name not in gone]
    new = rebuilt(graph, nodes, None, tuple(map(source, graph.outputs)))
    homeless = tuple(name for name in gone if name in declared(nodes) and name not in new.named)
    if homeless:
        new = replace(new, named=(*new.named, *homeless))
    transfers = {name: computed.get(name, Keep(name)) for name in new.params}
    return Morphism(graph, new, transfers, {}, seed, summary)


def _changed(node: Node, op: Op, inputs: tuple[str, ...]) -> Node:
    if op == node.op and inputs == node.inputs:
        return node
    return Node(node.name, op, inputs, node.tied, node.span)


# reasons why not -----------------------------------------------------------------------------------------------------


def not_a_node(graph: Graph, site: str) -> str | None:
    """Return why a site is no node, or `None`."""
    if site in graph:
        return None
    try:
        graph.axis(site)
    except OptionError as error:
        return str(error)
    return f"`{site}` is an axis; this is done to a node"


def tied(graph: Graph, name: str) -> str | None:
    """Return what shares parameters with a node, or `None`."""
    users = (user for full in graph.own_params[name] for user, _ in graph.params[full].uses)
    other = next((user for user in users if user != name), graph[name].tied)
    return None if other is None else f"`{name}` and `{other}` share parameters"


def read_elsewhere(graph: Graph, name: str, reader: str) -> str | None:
    """Return what reads a node beside this reader, or `None`."""
    if name in graph.outputs:
        return f"`{name}` is an output of the network"
    other = next((user for user in graph.users[name] if user != reader), None)
    return None if other is None else f"`{other}` reads `{name}` as well"


def makes(graph: Graph, name: str) -> tuple[int, Axis]:
    """Return the dimension along which the rows of a layer's weight stand in its output, and its axis."""
    signature = graph.signatures[name]
    dim = graph[name].op.mixes(signature)
    return dim, signature.output.dims[dim]
