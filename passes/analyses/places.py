"""Where the units of an axis are made, activated and read."""

from __future__ import annotations

from collections.abc import Iterator

from irgrow.axes import Atom, atoms
from irgrow.graph import Graph, Node, remembered
from irgrow.ops import Activate, Coupling, Role


@remembered
def _all_makers(graph: Graph) -> dict[str, list[str]]:
    """Return for every atom the nodes whose parameters make units of it, in program order."""
    found: dict[str, dict[str, None]] = {}
    for node in graph:
        for spec in graph.specs[node.name]:
            for axis, role in zip(spec.dims, spec.roles, strict=True):
                for atom in atoms(axis) if role is Role.MAKES else ():
                    found.setdefault(atom.name, {})[node.name] = None
    return {atom: list(nodes) for atom, nodes in found.items()}


def makers(graph: Graph, atom: str) -> list[str]:
    """Return the nodes with parameters that make units of an atom, in program order."""
    return list(_all_makers(graph).get(atom, ()))


def path(graph: Graph, maker: str) -> Iterator[Node]:
    """Yield the per-unit nodes behind a maker, as long as there is one way on and positions stay where they are."""
    name = maker
    while len(graph.users[name]) == 1:
        node = graph[graph.users[name][0]]
        moved = graph.types[node.name] != graph.types[name]
        if node.op.coupling is not Coupling.PER_UNIT or moved or len(node.inputs) != 1:
            return
        yield node
        name = node.name


def activation(graph: Graph, maker: str) -> str | None:
    """Return the first activation behind a maker, norms and dropout between them allowed; `None` if there is none.

    >>> from irgrow.grammar import parse
    >>> g = parse("net n(x: [2]) { return x |> h: dense(6) |> batchnorm |> r: relu |> dense(1) }")
    >>> activation(g, "h")
    'r'
    """
    for node in path(graph, maker):
        if isinstance(node.op, Activate) or node.op.kind == "leaky_relu":
            return node.name
    return None


def mixed_dim(graph: Graph, maker: str) -> int:
    """Return the dimension, the batch not counted, that a mixing layer reads along and its units stand in."""
    return graph[maker].op.mixes(graph.signatures[maker])


def measured(graph: Graph, maker: str) -> str:
    """Return the node where the activity of a maker's units is measured: its activation, else itself."""
    return activation(graph, maker) or maker


@remembered
def hidden_axes(graph: Graph) -> tuple[str, ...]:
    """Return the editable axes whose units are all made by layers with an activation right behind them.

    Of the layers of a gated unit (SwiGLU), which are multiplied with one another, one with an activation is enough.
    """
    return tuple(a for a in editable_axes(graph) if _activated(graph, a))


def _activated(graph: Graph, atom: str) -> bool:
    made = makers(graph, atom)
    if not made or any(graph[m].op.coupling is not Coupling.MIXING for m in made):
        return False
    bare = [m for m in made if activation(graph, m) is None]
    return len(bare) < len(made) and all(_multiplied(graph, m) for m in bare)


def _multiplied(graph: Graph, maker: str) -> bool:
    """Whether the units of a maker go into a product."""
    last = [maker, *(node.name for node in path(graph, maker))][-1]
    return [graph[user].op.coupling for user in graph.users[last]] == [Coupling.PRODUCT]


@remembered
def editable_axes(graph: Graph) -> tuple[str, ...]:
    """Return the leaf axes that are not locked, in program order."""
    return tuple(a for a in graph.leaves if graph.locked(Atom(a)) is None)
