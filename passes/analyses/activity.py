"""The activity of the units of an axis: at which nodes it is measured, and the values there sorted by unit."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from irgrow.axes import NEW, Atom, atoms, positions
from irgrow.edits import Impossible
from irgrow.graph import Graph, remembered
from irgrow.ops import Coupling
from irgrow.passes.analyses.places import activation, makers, path
from irgrow.shapes import Array, as_array


@remembered
def carriers(graph: Graph, axis: str) -> tuple[str, ...]:
    """Return the nodes where the units of a leaf axis are what the layers that make them meant them to be.

    For every such layer that is its activation; without one, the last of the norms behind it; for the queries, keys and
    values of heads it is the attention. Of a residual stream there is one node per layer that writes to it.

    >>> from irgrow.grammar import parse
    >>> g = parse("net n(x: [2]) { return x |> h: dense(6) |> b: batchnorm |> r: relu |> out: dense(1) }")
    >>> carriers(g, "h"), carriers(g, "out")
    (('r',), ('out',))
    """
    made = makers(graph, axis)
    found: dict[str, None] = {}
    for maker in made:
        name = _carrier(graph, maker, axis)
        passed_on = [u for u in graph.users[name] if u in made and graph[u].op.coupling is Coupling.PER_UNIT]
        if not passed_on or len(graph.users[name]) > 1:
            found[name] = None
    return tuple(found)


def _carrier(graph: Graph, maker: str, axis: str) -> str:
    if (active := activation(graph, maker)) is not None:
        return active
    last = [maker, *(node.name for node in path(graph, maker))][-1]
    users = graph.users[last]
    if len(users) == 1 and graph[users[0]].op.coupling is Coupling.ATTENTION:
        return users[0] if Atom(axis) in atoms(graph.types[users[0]].units) else last
    return last


def by_unit(graph: Graph, axis: str, name: str, value: Any) -> list[Array]:
    """Return a recorded value by units of a leaf axis: one array (units, samples, positions) per place they stand at.

    A channel stands at one place of a convolution's output; a head stands at as many as its dimension.

    Raises:
        Impossible: There are no samples, a number is not finite, or the axis is more than one of the dimensions.
    """
    dim, places = standing(graph, axis, name)
    array = np.moveaxis(as_array(value), 1 + dim, 0)
    if array.shape[1] == 0:
        raise Impossible("the batch has no samples")
    if not np.isfinite(array).all():
        raise Impossible(f"what was recorded at `{name}` is not finite")
    lines = array.reshape(*array.shape[:2], -1)
    return [lines[place] for place in places.T]


Standing = tuple[int, NDArray[np.int64]]
"""The dimension of a value that units stand along, and the indices of every unit there, shape (units, places)."""


def standing(graph: Graph, axis: str, name: str) -> Standing:
    """Return where the units of a leaf axis stand in the value of a node, the batch not counted.

    Raises:
        Impossible: The axis is more than one of the dimensions, or none.

    >>> from irgrow.grammar import parse
    >>> g = parse("net n(x: [2]) { h = dense(x, 2)  return concat(h, h) |> dense(1) }")
    >>> standing(g, "h", "concat_1")
    (0, array([[0, 2],
           [1, 3]]))
    """
    dims = [d for d, dim in enumerate(graph.types[name].dims) if Atom(axis) in atoms(dim)]
    if len(dims) != 1:
        raise Impossible(f"`{axis}` is {len(dims)} of the dimensions of `{name}`, expected one")
    found = []
    for units_at in positions(graph.types[name].dims[dims[0]], graph.widths)[axis]:
        at = np.flatnonzero(units_at != NEW)
        order = at[np.argsort(units_at[at], kind="stable")]
        found.append(order.reshape(graph.widths[axis], -1))
    return dims[0], np.concatenate(found, axis=1)


def all_places(graph: Graph, axis: str) -> dict[str, Standing]:
    """Return where the units of a leaf axis stand in the values of all its carriers.

    Raises:
        Impossible: The axis is more than one of the dimensions of one of them.
    """
    return {node: standing(graph, axis, node) for node in carriers(graph, axis)}


def same_places(one: Mapping[str, Standing], two: Mapping[str, Standing]) -> bool:
    """Return whether units stand at the same places of the same nodes."""
    return one.keys() == two.keys() and all(
        dim == two[node][0] and np.array_equal(order, two[node][1]) for node, (dim, order) in one.items()
    )
