"""Intervals that contain every entry of a value, as far as the facts of the ops tell."""

from __future__ import annotations

from math import inf

from irgrow.graph import Graph
from irgrow.ops import Coupling

Interval = tuple[float, float]
REAL: Interval = (-inf, inf)


def _hull(*intervals: Interval) -> Interval:
    return min(i[0] for i in intervals), max(i[1] for i in intervals)


def _product(a: Interval, b: Interval) -> Interval:
    ends = [0.0 if 0.0 in (x, y) else x * y for x in a for y in b]
    return min(ends), max(ends)


def value_range(graph: Graph, name: str) -> Interval:
    """Return an interval that contains every entry a node can give, for any parameters and inputs.

    >>> from irgrow.grammar import parse
    >>> value_range(parse("net n(x: [2, 4, 4]) { return x |> relu |> pool: maxpool(2) }"), "pool")
    (0.0, inf)
    """
    known: dict[str, Interval] = {}
    pending = [name]
    while pending:
        node = graph[pending[-1]]
        needed = [i for i in node.inputs if i not in known] if _depends(graph, node.name) else []
        if needed:
            pending.extend(needed)
            continue
        pending.pop()
        known[node.name] = _range(graph, node.name, known)
    return known[name]


def _depends(graph: Graph, name: str) -> bool:
    op = graph[name].op
    return op.facts.keeps_range or op.coupling in (Coupling.SUM, Coupling.PRODUCT)


def _range(graph: Graph, name: str, known: dict[str, Interval]) -> Interval:
    node = graph[name]
    facts = node.op.facts
    if node.op.coupling is Coupling.SUM:
        return sum(known[i][0] for i in node.inputs), sum(known[i][1] for i in node.inputs)
    if node.op.coupling is Coupling.PRODUCT:
        result = known[node.inputs[0]]
        for i in node.inputs[1:]:
            result = _product(result, known[i])
        return result
    if facts.keeps_range:
        low, high = _hull((0.0, 0.0), *(known[i] for i in node.inputs))
        if facts.stochastic:
            # Dropout scales what it keeps, so only the sign survives in training mode.
            return (0.0 if low == 0.0 else -inf), (0.0 if high == 0.0 else inf)
        return low, high
    return facts.image if node.op.coupling is Coupling.PER_UNIT else REAL


__all__ = ["REAL", "Interval", "value_range"]
