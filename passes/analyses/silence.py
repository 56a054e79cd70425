"""Whether units that are to go could be silent: always zero, or never read, by the numbers of the network."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from irgrow.axes import NEW, IndexMap, positions
from irgrow.edits import Edits
from irgrow.graph import Graph, Param
from irgrow.ops import MASK, Role
from irgrow.shapes import as_array

Flags = NDArray[np.bool_]


def may_be_silent(graph: Graph, edits: Edits, params: Mapping[str, Any]) -> bool:
    """Whether nothing speaks against a proof by numbers: each unit that goes has something that is all zeros.

    That is the weights that make it in some layer, its gain in some norm, or all weights that read it. Only the
    entries of the units that go are looked at.
    """
    for leaf, m in edits.items():
        gone = np.ones(graph.widths[leaf], dtype=bool)
        gone[m] = False
        silent, read = np.zeros_like(gone), np.zeros_like(gone)
        for roles, alive in _weights_along(graph, params, leaf, gone):
            read |= alive & (Role.READS in roles)
            silent |= ~alive & (not roles.isdisjoint((Role.MAKES, Role.PER_UNIT)))
        if (gone & read & ~silent).any():
            return False
    return True


def _weights_along(
    graph: Graph, params: Mapping[str, Any], leaf: str, gone: Flags
) -> Iterator[tuple[frozenset[Role], Flags]]:
    """Yield, for every dimension of a weight along which units stand, its roles and for which entries are not zero."""
    for param in graph.params.values():
        if param.spec.name != "weight" or all(leaf not in graph.reach[node] for node, _ in param.uses):
            continue
        for dim, axis in enumerate(param.spec.dims):
            for units in positions(axis, graph.widths).get(leaf, ()):
                at = np.flatnonzero((units != NEW) & gone[units])
                alive = np.zeros_like(gone)
                alive[units[at[_not_zero(graph, params, param, dim, at)]]] = True
                yield param.roles(dim), alive


def _not_zero(graph: Graph, params: Mapping[str, Any], param: Param, dim: int, at: IndexMap) -> Flags:
    """Return which lines of a weight, at these places along a dimension, are not all zero or switched off."""
    place = (slice(None),) * dim + (at,)
    lines = as_array(params[param.name][place])
    mask = f"{param.owner}.{MASK}"
    if mask in graph.params:
        lines = lines * as_array(params[mask][place])
    found: Flags = (lines != 0).any(tuple(d for d in range(lines.ndim) if d != dim))
    return found
