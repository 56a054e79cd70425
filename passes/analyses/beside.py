"""What else meets new units on an axis: weights that work on each by itself, what is added to them, and attention."""

from __future__ import annotations

from irgrow.axes import atoms
from irgrow.edits import Edits
from irgrow.graph import Graph
from irgrow.ops import Coupling, Role


def passed_on(graph: Graph, edits: Edits) -> list[str]:
    """Return the weights that work group by group on the units an edit adds: what reaches them is zero already.

    Were they zero too, neither would ever receive a gradient.
    """
    found = []
    for node in graph:
        reached = {a.name for i in node.inputs for a in atoms(graph.types[i].units)} & edits.keys()
        for spec in graph.specs[node.name] if reached else ():
            roles = {r for d, r in zip(spec.dims, spec.roles, strict=True) for a in atoms(d) if a.name in reached}
            if roles == {Role.MAKES} and len(spec.dims) > 1:
                found.append(graph.param_name(node.name, spec.name))
    return found


def added_along(graph: Graph, edits: Edits) -> list[str]:
    """Return what is added to units, or put beside them, along an axis: it must start as they do."""
    return [
        graph.param_name(node.name, spec.name)
        for node in graph
        if node.op.facts.additive and not graph.reach[node.name].isdisjoint(edits)
        for spec in graph.specs[node.name]
    ]


def contracted(graph: Graph, edits: Edits) -> bool:
    """Return whether attention takes products over an edited axis, which no weights read."""
    heads = (graph.signatures[n.name].axes["head_dim"] for n in graph if n.op.coupling is Coupling.ATTENTION)
    return any(a.name in edits for axis in heads for a in atoms(axis))
