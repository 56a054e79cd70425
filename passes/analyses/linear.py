"""Weighted sums as plain arrays, and which nodes read the units of an axis with weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from irgrow.axes import NEW, Atom, Axis, IndexMap, atoms, positions
from irgrow.graph import Graph, remembered
from irgrow.ops import MASK, Coupling, Depthwise
from irgrow.ops.conv import per_dim
from irgrow.shapes import Array, as_array

Params = Mapping[str, Any]


def numbers(graph: Graph, params: Params, node: str, local: str) -> Array | None:
    """Return a parameter of a node in float64, whoever owns it; `None` if the node has none of that name."""
    known = any(spec.name == local for spec in graph.specs[node])
    return as_array(params[graph.param_name(node, local)]) if known else None


def weights(graph: Graph, params: Params, node: str) -> tuple[Array, Array]:
    """Return the weight times its mask and the bias of a dense layer or convolution.

    Shapes: (groups, rows of a group, units read by a group, kernel positions) and (rows,); zeros without a bias.
    """
    weight, mask = (numbers(graph, params, node, local) for local in ("weight", MASK))
    assert weight is not None, "a mixing node has a weight"
    weight = weight if mask is None else weight * mask
    s = graph.signatures[node]
    depthwise = isinstance(graph[node].op, Depthwise)
    groups = graph.size(s.inputs[0].units) if depthwise else graph.size(s.axes["groups"]) if "groups" in s.axes else 1
    bias = numbers(graph, params, node, "bias")
    rows = weight.shape[0]
    shaped = weight.reshape(groups, rows // groups, weight.shape[1], -1)
    return shaped, np.zeros(rows) if bias is None else bias


def pads(graph: Graph, node: str) -> bool:
    """Return whether a layer reads zeros beside the border of its input."""
    padding = getattr(graph[node].op, "padding", 0)
    return any(per_dim(padding, 1))


@dataclass(frozen=True)
class Reader:
    """A node that reads the units of a leaf axis with weights.

    Args:
        node: The node.
        value: What it reads.
        axis: The axis it sums over.
        groups: Whether it reads them in groups.
        owns: Whether its own groups are units of the leaf axis, so that rows go with what they read.
    """

    node: str
    value: str
    axis: Axis
    groups: bool
    owns: bool


@remembered
def readers(graph: Graph, leaf: str) -> tuple[Reader, ...]:
    """Return the nodes that read the units of a leaf axis with weights, in program order.

    >>> from irgrow.grammar import parse
    >>> g = parse("net n(x: [2]) { return x |> h: dense(3) |> r: relu |> o: dense(1) }")
    >>> [(r.node, r.value) for r in readers(g, "h")]
    [('o', 'r')]
    """
    found = []
    for node in graph:
        if node.op.coupling is not Coupling.MIXING:
            continue
        s = graph.signatures[node.name]
        axis = s.inputs[0].dims[node.op.mixes(s)]
        if Atom(leaf) in atoms(axis):
            groups = s.axes.get("groups")
            in_groups = groups is not None and graph.size(groups) > 1
            owns = groups is not None and Atom(leaf) in atoms(groups)
            found.append(Reader(node.name, node.inputs[0], axis, in_groups, owns))
    return tuple(found)


def units_at(graph: Graph, reader: Reader, leaf: str) -> list[IndexMap]:
    """Return, per time the leaf axis occurs in what is read, its unit at each position (-1 for none)."""
    return positions(reader.axis, graph.widths)[leaf]


def marked(places: list[IndexMap], flags: NDArray[np.bool_], units: int) -> NDArray[np.bool_]:
    """Return which units stand at a position that is marked.

    >>> marked([np.array([0, 0, 1, 1])], np.array([False, True, False, False]), 2).tolist()
    [True, False]
    """
    found = np.zeros(units, dtype=bool)
    for at in places:
        found[at[(at != NEW) & flags]] = True
    return found
