"""Which units of an axis go, given scores: the lowest, as many as asked for, in the groups they can go in.

An axis is an expression over leaf axes, and what goes is units of those. A unit of a leaf axis may stand at several
positions (a channel behind a flatten, a group of channels), which then go together.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from irgrow.axes import NEW, Axis, Cat, IndexMap, Prod, atoms, positions
from irgrow.edits import Edits, Impossible
from irgrow.graph import Graph


@dataclass(frozen=True, eq=False)
class Group:
    """A unit of a leaf axis, as seen from an axis.

    Args:
        leaf: The leaf axis.
        unit: The unit of it.
        score: Its score.
        places: The positions along the axis that go with it.
    """

    leaf: str
    unit: int
    score: float
    places: IndexMap


def removable(graph: Graph, axis: Axis) -> tuple[str, ...]:
    """Return the leaf axes whose units go when an axis is pruned: all parts of a sum, of a product the outermost.

    Raises:
        Impossible: All of them are locked, or the axis is a constant.
    """
    found = tuple(dict.fromkeys(_open(graph, axis)))
    if not found:
        why = graph.locked(axis)
        raise Impossible(f"`{axis}` is a constant size" if why is None else f"axis `{axis}` is locked: {why}")
    return found


def _open(graph: Graph, axis: Axis) -> list[str]:
    match axis:
        case Cat(parts):
            return [name for part in parts for name in _open(graph, part)]
        case Prod(factors):
            return next((found for factor in factors if (found := _open(graph, factor))), [])
    return [a.name for a in atoms(axis) if graph.locked(a) is None]


def ranked(graph: Graph, axis: Axis, scores: Mapping[str, NDArray[np.float64]]) -> list[Group]:
    """Return the groups of an axis, those to go first in front: by score, then by position."""
    found: list[Group] = []
    where = positions(axis, graph.widths)
    for leaf, score in scores.items():
        places: list[list[int]] = [[] for _ in score]
        for units_at in where[leaf]:
            for place in np.flatnonzero(units_at != NEW).tolist():
                places[units_at[place]].append(place)
        found += [Group(leaf, u, float(score[u]), np.unique(at)) for u, at in enumerate(places)]
    return sorted(found, key=lambda g: (g.score, g.places[0], g.leaf))


def at_most(wanted: int, width: int, least: int | None, multiple: int) -> int:
    """Return how many positions may go, of those wanted, if at least so many stay, and a multiple of so many.

    >>> at_most(6, 30, None, 8), at_most(25, 30, 10, 1)
    (6, 20)
    """
    stay = width - wanted if least is None else max(width - wanted, least)
    return width - -(-stay // multiple) * multiple


def bounds(least: int | None, multiple: int) -> str:
    """Say what `at_most` keeps.

    >>> bounds(4, 8)
    'at least 4 and a multiple of 8'
    """
    parts = [] if least is None else [f"at least {least}"]
    return " and ".join(parts + [f"a multiple of {multiple}"] * (multiple > 1))


def lowest(graph: Graph, axis: Axis, groups: Sequence[Group], most: int, multiple: int, exactly: bool) -> list[Group]:
    """Return the first groups that fit, so that the width that stays is a multiple and every leaf axis keeps a unit.

    Args:
        graph: The network.
        axis: The axis.
        groups: In the order to go.
        most: How many positions may go; with so many gone the width is a multiple.
        multiple: What the resulting width is a multiple of.
        exactly: Whether it must be that many.

    Raises:
        Impossible: There are none.
    """
    width = graph.size(axis)
    if most >= width:
        raise Impossible(f"axis `{axis}` would have no units left")
    for places in range(most, most - 1 if exactly else 0, -multiple):
        if (found := _filled(graph, groups, width, places)) is not None:
            return found
    sizes = " or ".join(str(n) for n in sorted({len(g.places) for g in groups}))
    raise Impossible(f"units of `{axis}` go {sizes} at a time and none of its leaf axes goes whole; {most} cannot go")


def _filled(graph: Graph, groups: Iterable[Group], width: int, places: int) -> list[Group] | None:
    """Return the first groups that make up exactly so many positions, or `None`."""
    gone, total = np.zeros(width, dtype=bool), 0
    left: dict[str, int] = {}
    found: list[Group] = []
    for group in groups:
        if total == places:
            break
        here = left.setdefault(group.leaf, graph.widths[group.leaf])
        more = int((~gone[group.places]).sum())
        if here > 1 and 0 < more <= places - total:
            gone[group.places] = True
            left[group.leaf], total = here - 1, total + more
            found.append(group)
    return found if total == places else None


def without(graph: Graph, units: Iterable[tuple[str, int]]) -> Edits:
    """Return the edit that takes units of leaf axes away.

    >>> from irgrow.grammar import parse
    >>> g = parse("net n(x: [2]) { return x |> h: dense(4) |> relu |> dense(1) }")
    >>> {leaf: m.tolist() for leaf, m in without(g, [("h", 2), ("h", 0)]).items()}
    {'h': [1, 3]}
    """
    gone: dict[str, list[int]] = {}
    for leaf, unit in units:
        gone.setdefault(leaf, []).append(unit)
    return {leaf: np.setdiff1d(np.arange(graph.widths[leaf]), dead) for leaf, dead in gone.items()}
