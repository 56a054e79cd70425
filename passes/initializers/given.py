"""Given numbers: new units start with the numbers somebody has worked out; rows, biases and what reads them.

For Python only, since numbers have no place in a program. What is not named starts at zero (norm entries as they do
nothing), so that rows alone make units with zero fan-out. The verdict is derived from the numbers: with columns of
zeros it is exact, with others it says what changes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from irgrow.axes import NEW, index_map
from irgrow.edits import Impossible
from irgrow.fills import ZERO, Fill, Given
from irgrow.ops import MASK
from irgrow.passes.initializers.base import Initializer, Newborns
from irgrow.shapes import as_array


@dataclass(frozen=True, eq=False)
class GivenUnits(Initializer):
    """Start new units with given numbers.

    Args:
        values: By full name of a parameter, the entries it gains: its new shape, along the dimension that grows only
            as many as are new (two new rows of a `(5, 4)` weight are `(2, 4)`).

    >>> init = GivenUnits({"h.weight": np.zeros((2, 4)), "h.bias": np.ones(2)})
    >>> str(init)
    'given(h.weight, h.bias)'
    """

    textual: ClassVar[str] = "given"
    zero: ClassVar[str | None] = "neither"
    by_numbers: ClassVar[bool] = True

    values: Mapping[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"given({', '.join(self.values)})"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, GivenUnits) or self.values.keys() != other.values.keys():
            return False
        return all(np.array_equal(as_array(self.values[n]), as_array(other.values[n])) for n in self.values)

    def __hash__(self) -> int:
        return hash(tuple(sorted(self.values)))

    def default(self) -> Fill:
        return ZERO

    def given(self, newborns: Newborns) -> dict[str, Fill]:
        return {name: Given(_entries(newborns, name, value)) for name, value in self.values.items()}


def _entries(newborns: Newborns, name: str, value: Any) -> NDArray[np.float64]:
    """Return given entries of a parameter after looking at them.

    Raises:
        Impossible: The parameter gains none, or others than these; says what was expected and found.
    """
    graph = newborns.graph
    gains = {n: found for n in graph.params if (found := _gained(newborns, n))}
    if name not in gains:
        raise Impossible(f"`{name}` gains no entries; those that do are {', '.join(gains)}")
    if len(gains[name]) > 1:
        raise Impossible(f"`{name}` grows along dimensions {' and '.join(map(str, gains[name]))}; numbers go with one")
    ((dim, count),) = gains[name].items()
    shape = [len(_map(newborns, name, d)) for d in range(len(graph.params[name].spec.dims))]
    shape[dim] = count
    try:
        array = as_array(value)
    except (TypeError, ValueError):
        raise Impossible(f"`{name}` was given something that is not an array of numbers") from None
    if list(array.shape) != shape:
        raise Impossible(f"new entries of `{name}`: expected shape {shape}, found {list(array.shape)}")
    if (strange := int((~np.isfinite(array)).sum())) > 0:
        raise Impossible(f"new entries of `{name}`: expected finite numbers, found {strange} others")
    if graph.params[name].spec.name == MASK and not np.isin(array, (0.0, 1.0)).all():
        raise Impossible(f"new entries of `{name}`: expected zeros and ones")
    return array.copy()


def _map(newborns: Newborns, name: str, dim: int) -> NDArray[np.int64]:
    """Return the edit of a dimension of a parameter in full."""
    graph = newborns.graph
    axis = graph.params[name].spec.dims[dim]
    m = index_map(axis, newborns.edits, graph.widths)
    return np.arange(graph.size(axis)) if m is None else m


def _gained(newborns: Newborns, name: str) -> dict[int, int]:
    """Return along which dimensions a parameter gains entries, and how many."""
    dims = range(len(newborns.graph.params[name].spec.dims))
    return {d: n for d in dims if (n := int((_map(newborns, name, d) == NEW).sum()))}
