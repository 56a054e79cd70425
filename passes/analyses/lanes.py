"""How often a unit of an axis stands among units, and what is made for one use, where new ones may be anything."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from irgrow.axes import NEW, Atom, Axis, atoms, positions
from irgrow.edits import Impossible
from irgrow.graph import Graph
from irgrow.ops import MASK, Conv, Coupling, Dense

if TYPE_CHECKING:
    from torch import Tensor


def plain(graph: Graph, node: str) -> bool:
    """Return whether a layer is dense or a convolution that is not grouped."""
    op = graph[node].op
    return not isinstance(op, Conv) or "reads" not in graph.signatures[node].axes


def lanes(graph: Graph, units: Axis, axis: str) -> int:
    """Return how often each unit of a leaf axis stands among units; 0 if there are others or orders differ.

    >>> from irgrow.axes import prod
    >>> from irgrow.grammar import parse
    >>> g = parse("net n(x: [2]) { return x |> h: dense(6) |> dense(1) }")
    >>> lanes(g, Atom("h"), "h"), lanes(g, prod([Atom("h"), Atom("x")]), "h"), lanes(g, Atom("x"), "h")
    (1, 2, 0)
    """
    found = positions(units, graph.widths).get(axis, [])
    if len(found) != 1 or bool((found[0] == NEW).any()):
        return 0
    return len(found[0]) // graph.widths[axis]


def occurrences(graph: Graph, units: Axis, axis: str) -> int:
    """Return how often each unit of a leaf axis stands among units, beside others or not."""
    return sum(int((found == 0).sum()) for found in positions(units, graph.widths).get(axis, ()))


# made for one use ----------------------------------------------------------------------------------------------------


def made_for(graph: Graph, node: str, user: str) -> list[str] | None:
    """Return the nodes from a layer up to a node that nothing but `user` reads, the layer first; `None` if not so."""
    found: list[str] = []
    while graph.users[node] == (user,):
        found.insert(0, node)
        op = graph[node].op
        if isinstance(op, Dense | Conv):
            return found
        if op.coupling is not Coupling.PER_UNIT or len(graph[node].inputs) != 1:
            return None
        node, user = graph[node].inputs[0], node
    return None


def key_weight(graph: Graph, attention: str, axis: str) -> str | None:
    """Return the weight that makes the keys of an attention along an axis, if it makes nothing else."""
    queries, keys, _ = graph[attention].inputs
    nodes = made_for(graph, keys, attention)
    if nodes is None or queries == keys:
        return None
    weight = graph.params[graph.param_name(nodes[0], "weight")]
    makes = Atom(axis) in atoms(weight.spec.dims[0]) and Atom(axis) not in atoms(weight.spec.dims[1])
    return weight.name if makes and len(weight.uses) == 1 else None


def lendable(graph: Graph, nodes: list[str], axis: str) -> bool:
    """Return whether new units can start as copies of an old unit at these nodes, a layer and what follows it."""
    params = [graph.params[name] for node in nodes for name in graph.own_params[node]]
    one = all(
        param.spec.dims[0] == Atom(axis) and all(Atom(axis) not in atoms(d) for d in param.spec.dims[1:])
        for param in params
        if any(Atom(axis) in atoms(d) for d in param.spec.dims)
    )
    return one and graph.types[nodes[-1]].units == Atom(axis) and all(len(param.uses) == 1 for param in params)


def lender(graph: Graph, maker: str, params: Mapping[str, Any]) -> Tensor:
    """Return the unit of a layer with the largest fan-in, the first of equals, as an index of shape (1,).

    Raises:
        Impossible: The weight of the layer is not among the parameters.
    """
    import torch

    name = graph.param_name(maker, "weight")
    if name not in params:
        raise Impossible(
            f"it takes the parameters of the network to say which unit of `{maker}` new ones are copies of"
        )
    weight = torch.as_tensor(params[name]).detach()
    if (mask := params.get(f"{maker}.{MASK}")) is not None:
        weight = weight * torch.as_tensor(mask).to(weight)
    wide = weight.to(torch.promote_types(weight.dtype, torch.float32))
    return torch.linalg.vector_norm(wide.flatten(1), dim=1).argmax()[None]


def lent(graph: Graph, node: str, value: Tensor, unit: Tensor) -> Tensor:
    """Return one unit of a value, batch first; the dimension of the units stays, with one entry."""
    return value.index_select(1 + graph.types[node].unit_dim, unit.to(value.device))
