"""Which entries of the parameters belong to a unit, and sums over them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from irgrow.axes import NEW, Atom, IndexMap, atoms, positions
from irgrow.graph import Graph
from irgrow.ops import MASK, Role
from irgrow.shapes import Array, as_array

Places = Mapping[int, Sequence[IndexMap]]
"""Per dimension, and per time an axis occurs in it, the unit that each index belongs to (-1 for none)."""


def belonging(graph: Graph, axis: str, roles: frozenset[Role]) -> dict[str, Places]:
    """Return where the units of a leaf axis stand in the trainable parameters, in dimensions with one of these roles.

    >>> from irgrow.grammar import parse
    >>> g = parse("net n(x: [2]) { return x |> h: dense(2) |> relu |> dense(1) }")
    >>> {name: sorted(places) for name, places in belonging(g, "h", frozenset({Role.MAKES})).items()}
    {'h.weight': [0], 'h.bias': [0]}
    """
    found: dict[str, Places] = {}
    for name, param in graph.params.items():
        if not param.spec.trainable:
            continue
        places = {
            d: positions(dim, graph.widths)[axis]
            for d, dim in enumerate(param.spec.dims)
            if Atom(axis) in atoms(dim) and not roles.isdisjoint(param.roles(d))
        }
        if places:
            found[name] = places
    return found


def effective(params: Mapping[str, Any], name: str) -> Array:
    """Return a parameter in float64, what its mask switches off as zero."""
    owner, _, local = name.rpartition(".")
    mask = params.get(f"{owner}.{MASK}") if local == "weight" else None
    value = as_array(params[name])
    return value if mask is None else value * as_array(mask)


def unit_sums(values: Array, places: Places, units: int) -> Array:
    """Return for every unit the sum of the entries that belong to it, each counted once, shape (units,).

    >>> unit_sums(np.array([[1.0, 2.0], [3.0, 4.0]]), {0: [np.array([0, 1])], 1: [np.array([0, 1])]}, 2)
    array([6., 9.])
    """
    total = np.zeros(units)
    for dim, occurrences in places.items():
        line = values.sum(tuple(d for d in range(values.ndim) if d != dim))
        for k, units_at in enumerate(occurrences):
            counted = [units_at != earlier for earlier in occurrences[:k]]
            fresh = np.logical_and.reduce([units_at != NEW, *counted])
            total += np.bincount(units_at[fresh], line[fresh], minlength=units)
    if len(places) == 2:
        (first, rows), (second, columns) = places.items()
        both = values.sum(tuple(d for d in range(values.ndim) if d not in (first, second)))
        for unit in range(units):
            total[unit] -= both[np.ix_(_of(unit, rows), _of(unit, columns))].sum()
    return total


def _of(unit: int, occurrences: Sequence[IndexMap]) -> NDArray[np.int64]:
    """Return the indices that belong to a unit."""
    return np.flatnonzero(np.logical_or.reduce([units_at == unit for units_at in occurrences]))
