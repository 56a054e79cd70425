"""Units that are copies, or positive multiples, of another one: found from the numbers of a network.

Two rows of a layer that are equal, bias included, make the same unit; a row that is a > 0 times another makes a times
the unit. What follows keeps that or ends it: an activation f with f(a x) = a f(x), pooling and movement hand multiples
on, any other activation only copies, and so do norms, whose entries and running statistics must be equal as well. Rows
that read copies are compared with what they read of them added up. Constants are no multiples of anything here.

Positions count: two units are alike only if they are at every position, so of a flattened channel every position is
like that of the other channel. Dropout treats copies differently in training; with `evaluation` it is off.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from irgrow.axes import IndexMap
from irgrow.graph import Graph, Node, reachable
from irgrow.ops import (
    BatchNorm,
    ClassToken,
    Conv,
    Coupling,
    Dense,
    Depthwise,
    Embedding,
    InstanceNorm,
    Positions,
    Scale,
)
from irgrow.passes.analyses.constants import moved, spread
from irgrow.passes.analyses.linear import Params, numbers, weights
from irgrow.shapes import Array

_EPS = {"float64": 2.0**-52}
_SINGLE = 2.0**-23
_DIRECTIONS = 8
_APART = float(1 << 40)
"""Distance between the numbers of entries of different values."""


@dataclass(frozen=True)
class Alike:
    """For every unit of a value the first unit it is a multiple of (itself if of none), and the multiple; (units,)."""

    first: IndexMap
    times: Array


class Copies:
    """Which units of values are multiples of others, worked out for a node and those before it when asked for.

    It holds for the numbers it was given; after a training step it must be made anew.

    Args:
        graph: The network.
        params: Its parameters and buffers by full name.
        evaluation: Whether only evaluation mode counts.
        tolerance: How far a row may be from being a multiple, relative to its largest entry; zero allows rounding.

    >>> from irgrow.grammar import parse
    >>> g = parse("net n(x: [1]) { return x |> h: dense(3) |> r: relu |> dense(1) }")
    >>> rows = {"h.weight": np.array([[1.0], [-1.0], [2.0]]), "h.bias": np.array([0.5, 0.5, 1.0])}
    >>> found = Copies(g, rows).of("r")
    >>> found.first.tolist(), found.times.tolist()
    ([0, 1, 0], [1.0, 1.0, 2.0])
    """

    def __init__(self, graph: Graph, params: Params, evaluation: bool = False, tolerance: float = 0.0) -> None:
        self.graph, self.params, self.evaluation, self.tolerance = graph, params, evaluation, tolerance
        self._found: dict[str, Alike] = {}

    def of(self, name: str) -> Alike:
        """Return what is known of the units of a value."""
        if name not in self._found:
            before = reachable(self.graph.nodes, [name])
            with np.errstate(all="ignore"):
                for node in self.graph:
                    if node.name in before and node.name not in self._found:
                        self._found[node.name] = self._of(node, [self._found[i] for i in node.inputs])
        return self._found[name]

    def _of(self, node: Node, inputs: list[Alike]) -> Alike:
        rule = _RULES.get(type(node.op)) or _BY_COUPLING.get(node.op.coupling)
        found = None if rule is None else rule(self, node, inputs)
        units = self.graph.size(self.graph.types[node.name].units)
        return Alike(np.arange(units), np.ones(units)) if found is None else found

    def rounding(self, node: Node) -> float:
        """Return the relative error of stored numbers; half precision is held to single precision."""
        names = (self.graph.param_name(node.name, spec.name) for spec in self.graph.specs[node.name])
        dtypes = [str(getattr(self.params[name], "dtype", "float64")).rpartition(".")[2] for name in names]
        return 8 * max((_EPS.get(d, _SINGLE) for d in dtypes if "float" in d), default=_EPS["float64"])

    def param(self, node: Node, local: str, default: float = 0.0) -> Array:
        """Return a per-unit parameter of a node, or a default if it has none of that name."""
        found = numbers(self.graph, self.params, node.name, local)
        return np.full(self.graph.size(self.graph.types[node.name].units), default) if found is None else found

    def grouped(self, vectors: Array, classes: NDArray[np.int64], node: Node, scaled: bool = True) -> Alike:
        """Return which units are multiples of others, given a vector for each; shapes (units, n), (units, k).

        Args:
            vectors: What must be a multiple.
            classes: What must be equal.
            node: The node the vectors come from.
            scaled: Whether multiples other than one count.
        """
        return grouped(vectors, classes, self.rounding(node), self.tolerance, scaled)


def grouped(vectors: Array, classes: NDArray[np.int64], rounding: float, tolerance: float, scaled: bool) -> Alike:
    """Return for every row the first row of its class it is a positive multiple of.

    Only rows are compared that point equally far along a few random directions.

    >>> found = grouped(np.array([[1.0, 2.0], [2.0, 4.0], [1.0, 0.0]]), np.zeros((3, 1), np.int64), 1e-15, 0.0, True)
    >>> found.first.tolist(), found.times.tolist()
    ([0, 0, 2], [1.0, 2.0, 1.0])
    """
    units, size = vectors.shape
    first, times = np.arange(units), np.ones(units)
    fine = np.asarray(np.isfinite(vectors).all(1))
    directions = np.random.default_rng(0).normal(size=(size, _DIRECTIONS))
    length = np.sqrt((np.where(fine[:, None], vectors, 0.0) ** 2).sum(1))[:, None]
    along = np.where(fine[:, None], vectors @ (directions / np.linalg.norm(directions, axis=0)), 0.0)
    along = np.divide(along, length, out=np.zeros_like(along), where=length > 0)
    reach = 8 * (rounding + tolerance) * np.sqrt(size) if tolerance else 8 * rounding + size * _EPS["float64"]
    labels = np.asarray(np.unique(classes, axis=0, return_inverse=True)[1]).reshape(-1)
    order = np.lexsort((along[:, 0], labels))
    cuts = np.flatnonzero((np.diff(labels[order]) != 0) | (np.diff(along[order, 0]) > reach)) + 1
    for cluster in np.split(order, cuts):
        leaders, count = np.empty(len(cluster), dtype=np.int64), 0
        for unit in np.sort(cluster[fine[cluster]]).tolist():
            known = leaders[:count]
            near = known[(np.abs(along[known] - along[unit]) <= reach).all(1)]
            multiples = _multiples(vectors[unit], vectors[near], rounding, tolerance, scaled)
            found = np.flatnonzero(multiples > 0)
            if found.size:
                first[unit], times[unit] = near[found[0]], multiples[found[0]]
            else:
                leaders[count], count = unit, count + 1
    return Alike(first, times)


def _multiples(row: Array, of: Array, rounding: float, tolerance: float, scaled: bool) -> Array:
    """Return for each of some rows the a > 0 with row = a of, zero where there is none.

    It may be off by the rounding of each entry and a tolerance of the largest one.
    """
    largest = np.abs(of).argmax(1)
    top = of[np.arange(len(of)), largest]
    square = (of**2).sum(1)
    share = np.divide(row[largest], top, out=np.ones(len(of)), where=top != 0)
    if tolerance:
        share = np.divide(of @ row, square, out=np.ones(len(of)), where=square > 0)
    times = np.where((np.abs(share - 1.0) <= rounding + tolerance) | (not scaled) | ~row.any(), 1.0, share)
    allowed = rounding * np.abs(row) + tolerance * np.abs(row).max(initial=0.0)
    fine = (np.abs(row - times[:, None] * of) <= allowed).all(1) & (of.any(1) == row.any())
    return np.where(fine & (times > 0), times, 0.0)


def folded(weight: Array, alike: Alike) -> Array:
    """Return a weight (rows, units, ...) with the columns of multiples added to those of what they are multiples of."""
    later = np.flatnonzero(alike.first != np.arange(len(alike.first)))
    if not later.size:
        return weight
    made = weight.copy()
    made[:, later] = 0.0
    share = weight[:, later] * alike.times[later].reshape(1, -1, *(1,) * (weight.ndim - 2))
    np.add.at(made.swapaxes(0, 1), alike.first[later], share.swapaxes(0, 1))
    return made


# rules ---------------------------------------------------------------------------------------------------------------


def _exact(x: Alike, c: Copies, node: Node) -> NDArray[np.int64]:
    """Return one number per unit, equal where units are equal and not only multiples; shape (units, 1)."""
    return c.grouped(x.times[:, None], x.first[:, None], node, scaled=False).first[:, None]


def _mixing(c: Copies, node: Node, inputs: list[Alike]) -> Alike | None:
    s = c.graph.signatures[node.name]
    if node.op.mixes(s) != s.inputs[0].unit_dim:
        return None
    w, bias = weights(c.graph, c.params, node.name)
    groups, rows = w.shape[:2]
    if groups == 1:
        w = folded(w[0], inputs[0])[None]
    vectors = np.concatenate([w.reshape(groups * rows, -1), bias[:, None]], axis=1)
    return c.grouped(vectors, np.arange(groups).repeat(rows)[:, None], node)


def _depthwise(c: Copies, node: Node, inputs: list[Alike]) -> Alike:
    w, bias = weights(c.graph, c.params, node.name)
    units, filters = w.shape[:2]
    scaled = w.reshape(units * filters, -1) * inputs[0].times.repeat(filters)[:, None]
    return c.grouped(np.concatenate([scaled, bias[:, None]], axis=1), inputs[0].first.repeat(filters)[:, None], node)


def _scale(c: Copies, node: Node, inputs: list[Alike]) -> Alike:
    (x,) = inputs
    return c.grouped((x.times * c.param(node, "weight", 1.0))[:, None], x.first[:, None], node)


def _added(c: Copies, node: Node, inputs: list[Alike]) -> Alike:
    (x,) = inputs
    return c.grouped(np.concatenate([x.times[:, None], c.param(node, "weight").T], axis=1), x.first[:, None], node)


def _norm(c: Copies, node: Node, inputs: list[Alike]) -> Alike:
    """Equal units with equal statistics stay equal, up to their gain and shift."""
    classes = _exact(inputs[0], c, node)
    if isinstance(node.op, BatchNorm):
        statistics = np.stack([c.param(node, "running_mean"), c.param(node, "running_var")], axis=1)
        classes = c.grouped(statistics, classes, node, scaled=False).first[:, None]
    return c.grouped(np.stack([c.param(node, "weight", 1.0), c.param(node, "bias")], axis=1), classes, node)


def _per_unit(c: Copies, node: Node, inputs: list[Alike]) -> Alike | None:
    facts, (x,) = node.op.facts, inputs
    if c.graph.specs[node.name] or (facts.stochastic and not c.evaluation):
        return None
    if facts.homogeneous:
        return x
    return Alike(_exact(x, c, node)[:, 0], np.ones(len(x.times))) if facts.entrywise else None


def _sum(c: Copies, node: Node, inputs: list[Alike]) -> Alike:
    times, first = (np.stack(found, axis=1) for found in zip(*((x.times, x.first) for x in inputs), strict=True))
    return c.grouped(times, first, node)


def _product(c: Copies, node: Node, inputs: list[Alike]) -> Alike:
    times = np.prod([x.times for x in inputs], axis=0)
    return c.grouped(times[:, None], np.stack([x.first for x in inputs], axis=1), node)


def _movement(c: Copies, node: Node, inputs: list[Alike]) -> Alike:
    """Number every entry by the first unit it is a multiple of and its position, and see where the numbers go."""
    places, times = [], []
    names = list(dict.fromkeys(node.inputs))
    for name, x in zip(node.inputs, inputs, strict=True):
        shape, unit_dim = c.graph.shape(name), c.graph.types[name].unit_dim
        every = np.arange(int(np.prod(shape)), dtype=np.float64).reshape(shape) + 1 + names.index(name) * _APART
        places.append(np.take(every, x.first, axis=unit_dim))
        times.append(spread(c.graph, name, x.times))
    went, multiples = moved(c.graph, node, places), moved(c.graph, node, times)
    return c.grouped(multiples, went.astype(np.int64), node)


def _table(c: Copies, node: Node, inputs: list[Alike]) -> Alike:
    table = c.param(node, "weight").T
    return c.grouped(table, np.zeros((len(table), 1), dtype=np.int64), node)


Rule = Callable[[Copies, Node, list[Alike]], Alike | None]
_RULES: dict[type, Rule] = {
    Dense: _mixing,
    Conv: _mixing,
    Depthwise: _depthwise,
    Embedding: _table,
    Positions: _added,
    ClassToken: _added,
    Scale: _scale,
    BatchNorm: _norm,
    InstanceNorm: _norm,
}
_BY_COUPLING: dict[Coupling, Rule] = {
    Coupling.PER_UNIT: _per_unit,
    Coupling.SUM: _sum,
    Coupling.PRODUCT: _product,
    Coupling.MOVEMENT: _movement,
}
