"""From "eight more units here" or "without units 3 and 5" to an edit of leaf atoms.

A site is an axis expression. Growing or pruning it means editing the atoms it is made of, so that every other
expression with the same atoms follows.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from irgrow.axes import NEW, Atom, Axis, Cat, IndexMap, atoms, index_map, positions
from irgrow.graph import Graph

Edits = dict[str, IndexMap]


class Impossible(Exception):
    """An edit that cannot be expressed.

    Args:
        reason: Why; its text.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def step_of(graph: Graph, axis: Axis, atom: str) -> int:
    """Return how many units an expression gains with one more unit of an atom."""
    sizes = dict(graph.widths)
    before = graph.size(axis)
    grown = index_map(axis, {atom: np.append(np.arange(sizes[atom]), NEW)}, sizes)
    assert grown is not None
    return len(grown) - before


def growth(graph: Graph, axis: Axis, count: int) -> Edits:
    """Return the edit that gives an axis `count` more units, appended to one of its atoms.

    Of several atoms the last one of a concatenation that fits is taken, of a product the outermost.

    Raises:
        Impossible: Everything is locked, or the axis grows only in larger steps.

    >>> from irgrow.grammar import parse
    >>> g = parse("net n(x: [2]) { return x |> h: dense(6) |> relu |> dense(1) }")
    >>> {name: m.tolist() for name, m in growth(g, g.axis("h"), 2).items()}
    {'h': [0, 1, 2, 3, 4, 5, -1, -1]}
    """
    names = list(dict.fromkeys(a.name for a in atoms(axis)))
    if not names:
        raise Impossible(f"`{axis}` is a constant size")
    if isinstance(axis, Cat):
        names.reverse()
    open_names = [n for n in names if graph.locked(Atom(n)) is None]
    if not open_names:
        why = graph.locked(axis)
        raise Impossible(f"axis `{axis}` is locked: {why}")
    steps = {n: step_of(graph, axis, n) for n in open_names}
    for name, step in steps.items():
        if count % step == 0:
            old = np.arange(graph.widths[name])
            return {name: np.append(old, np.full(count // step, NEW))}
    allowed = " or ".join(f"{step} (`{name}`)" for name, step in steps.items())
    raise Impossible(f"axis `{axis}` grows in steps of {allowed}, asked for {count}")


def duplication(graph: Graph, axis: Axis, units: Sequence[int], copies: int = 1) -> Edits:
    """Return the edit that appends copies of units (positions along the axis) to the atoms they belong to.

    Raises:
        Impossible: A unit is out of range, locked, or cannot be copied without others, which are named.
    """
    chosen = _in_range(graph, axis, units)
    wanted = np.zeros(graph.size(axis), dtype=bool)
    wanted[chosen] = True
    edits: Edits = {}
    covered = np.zeros(graph.size(axis), dtype=bool)
    for name, occurrences in positions(axis, graph.widths).items():
        held = np.zeros(graph.widths[name], dtype=bool)
        for units_at in occurrences:
            held[units_at[(units_at != NEW) & wanted]] = True
        whole = held.copy()
        for units_at in occurrences:
            whole[units_at[(units_at != NEW) & ~wanted]] = False
        new = np.zeros_like(covered)
        for units_at in occurrences:
            inside = units_at != NEW
            new[inside] |= whole[units_at[inside]]
        if not (new & ~covered).any():
            continue  # another factor of a product would copy the same positions once more
        if (why := graph.locked(Atom(name))) is not None:
            raise Impossible(f"axis `{name}` is locked: {why}")
        covered |= new
        again = np.flatnonzero(whole)
        edits[name] = np.concatenate([np.arange(graph.widths[name]), np.tile(again, copies)]).astype(np.int64)
    if not np.array_equal(covered, wanted):
        stuck = np.flatnonzero(wanted & ~covered)[:8].tolist()
        raise Impossible(f"units {stuck} of `{axis}` cannot be copied alone: other positions are tied to them")
    return edits


def _in_range(graph: Graph, axis: Axis, units: Sequence[int]) -> list[int]:
    """Return units in order, each once."""
    size = graph.size(axis)
    chosen = sorted(set(units))
    if not chosen:
        raise Impossible("no units were named")
    if chosen[0] < 0 or chosen[-1] >= size:
        bad = chosen[0] if chosen[0] < 0 else chosen[-1]
        raise Impossible(f"axis `{axis}` has units 0 to {size - 1}, found {bad}")
    return chosen


def removal(graph: Graph, axis: Axis, units: Sequence[int]) -> Edits:
    """Return the edit that takes units (positions along the axis) away.

    Raises:
        Impossible: A unit is out of range, locked, or cannot go without others, which are named.
    """
    size = graph.size(axis)
    chosen = _in_range(graph, axis, units)
    doomed = np.zeros(size, dtype=bool)
    doomed[chosen] = True
    gone: dict[str, np.ndarray] = {}
    for name, occurrences in positions(axis, graph.widths).items():
        alive = np.zeros(graph.widths[name], dtype=bool)
        for units_at in occurrences:
            alive[units_at[(units_at != NEW) & ~doomed]] = True
        if not alive.all():
            gone[name] = ~alive
    edits = {name: np.flatnonzero(~dead).astype(np.int64) for name, dead in gone.items()}
    edited = index_map(axis, edits, graph.widths)
    left = np.flatnonzero(~doomed) if edited is None else edited
    if edited is None or not np.array_equal(left, np.flatnonzero(~doomed)):
        stuck = sorted(set(chosen) & set(np.arange(size) if edited is None else left.tolist()))
        raise Impossible(f"units {stuck[:8]} of `{axis}` cannot go alone: other positions are tied to them")
    for name in edits:
        if (why := graph.locked(Atom(name))) is not None:
            raise Impossible(f"axis `{name}` is locked: {why}")
    return edits
