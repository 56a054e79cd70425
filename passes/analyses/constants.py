"""Units that give one number whatever the input, by interval arithmetic with the numbers of a network.

Every value gets, per unit, an interval that holds all its entries: at all positions, for all inputs and all batches. A
unit is constant where the interval is a single number. So a row of zeros gives its bias; a row that reads constant
units only gives their weighted sum and its bias; a ReLU whose input is never above zero gives zero, and a tanh that is
saturated for every input gives 1. Zeros beside the border count: a padded convolution makes nothing constant of a
constant that is not zero. Inputs of the network may be any finite numbers.

Batch norms differ between training and evaluation. A unit behind one is constant in both if its gain is zero, or if it
is always zero and so is its running mean. With `evaluation` the statistics are the running ones and dropout is off.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import inf
from typing import Any

import numpy as np
from numpy.typing import NDArray

from irgrow.axes import Axis, size_of
from irgrow.graph import Graph, Node, reachable
from irgrow.ops import (
    Activate,
    AvgPool,
    BatchNorm,
    ClassToken,
    Conv,
    Coupling,
    Dense,
    Depthwise,
    Embedding,
    InstanceNorm,
    LeakyReLU,
    MaxPool,
    Positions,
    RMSNorm,
    Scale,
    Signature,
    Sizes,
)
from irgrow.passes.analyses.linear import Params, numbers, pads, weights
from irgrow.passes.preservation.ranges import value_range
from irgrow.shapes import Array


@dataclass(frozen=True)
class Bounds:
    """Per unit of a value the smallest and the largest entry it can have, shape (units,) each."""

    low: Array
    high: Array

    @property
    def known(self) -> NDArray[np.bool_]:
        """Which units are a single number."""
        return (self.low == self.high) & np.isfinite(self.low)

    def where(self, flags: NDArray[np.bool_], values: Array) -> Bounds:
        """Return these bounds with marked units known to be certain numbers; others are anything."""
        fine = flags & np.isfinite(values)
        return Bounds(np.where(fine, values, self.low), np.where(fine, values, self.high))


class Constants:
    """What the units of values are known to be, worked out for a node and those before it when it is asked for.

    It holds for the numbers it was given; after a training step it must be made anew.

    Args:
        graph: The network.
        params: Its parameters and buffers by full name.
        evaluation: Whether only evaluation mode counts.

    >>> from irgrow.grammar import parse
    >>> g = parse("net n(x: [2]) { return x |> h: dense(2) |> r: relu |> dense(1) }")
    >>> found = Constants(g, {"h.weight": np.array([[0.0, 0.0], [1.0, 2.0]]), "h.bias": np.array([0.5, 0.0])})
    >>> found.of("r")
    array([0.5, nan])
    """

    def __init__(self, graph: Graph, params: Params, evaluation: bool = False) -> None:
        self.graph, self.params, self.evaluation = graph, params, evaluation
        self._found: dict[str, Bounds] = {}

    def of(self, name: str) -> Array:
        """Return per unit of a value the number it always is, NaN where that is not known; shape (units,)."""
        found = self.bounds(name)
        return np.where(found.known, found.low, np.nan)

    def bounds(self, name: str) -> Bounds:
        """Return per unit of a value an interval that holds its entries."""
        if name not in self._found:
            before = reachable(self.graph.nodes, [name])
            with np.errstate(all="ignore"):
                for node in self.graph:
                    if node.name in before and node.name not in self._found:
                        self._found[node.name] = self._of(node, [self._found[i] for i in node.inputs])
        return self._found[name]

    def _of(self, node: Node, inputs: list[Bounds]) -> Bounds:
        rule = _RULES.get(type(node.op)) or _BY_COUPLING.get(node.op.coupling)
        found = None if rule is None else rule(self, node, inputs)
        return self._anything(node) if found is None else found

    def _anything(self, node: Node) -> Bounds:
        units = self.graph.size(self.graph.types[node.name].units)
        low, high = value_range(self.graph, node.name)
        return Bounds(np.full(units, low), np.full(units, high))

    def param(self, node: Node, local: str, default: float = 0.0) -> Array:
        """Return a per-unit parameter of a node, or a default if it has none of that name."""
        found = numbers(self.graph, self.params, node.name, local)
        return np.full(self.graph.size(self.graph.types[node.name].units), default) if found is None else found


@dataclass
class _Stub:
    """What an op without parameters needs to be evaluated."""

    signature: Signature
    sizes: Sizes
    training: bool = False

    def size(self, axis: Axis) -> int:
        return size_of(axis, self.sizes)

    def param(self, name: str) -> Any:
        raise KeyError(name)

    def update(self, name: str, value: Any) -> None:
        raise KeyError(name)


def moved(graph: Graph, node: Node, arrays: list[Array]) -> Array:
    """Put arrays of the shapes of its inputs through an op that has no parameters; shape (units, rest).

    Units come first, whatever dimension they stand in.
    """
    s = graph.signatures[node.name]
    result = node.op.evaluate(_Stub(s, graph.widths), *(a[None] for a in arrays))[0]
    lines = np.moveaxis(result, s.output.unit_dim, 0)
    return lines.reshape(len(lines), -1)


def spread(graph: Graph, name: str, values: Array) -> Array:
    """Return numbers per unit as an array of the shape of a value."""
    t = graph.types[name]
    line = values.reshape(-1, *(1,) * (t.rank - 1 - t.unit_dim))
    return np.broadcast_to(line, graph.shape(name))


# weighted sums -------------------------------------------------------------------------------------------------------


def _sums(c: Constants, node: Node, inputs: list[Bounds]) -> Bounds | None:
    """Rows over groups of units; products with zero are zero whatever the unit is."""
    s = c.graph.signatures[node.name]
    if node.op.coupling is Coupling.MIXING and node.op.mixes(s) != s.inputs[0].unit_dim:
        return None
    (x,) = inputs
    w, bias = weights(c.graph, c.params, node.name)
    low, high = (np.minimum(x.low, 0), np.maximum(x.high, 0)) if pads(c.graph, node.name) else (x.low, x.high)
    low, high = low.reshape(len(w), -1), high.reshape(len(w), -1)
    known = (low == high) & np.isfinite(low)
    settled = ~((w != 0).any(3) & ~known[:, None]).any(2).reshape(-1)
    value = np.einsum("goi,gi->go", w.sum(3), np.where(known, low, 0.0)).reshape(-1) + bias
    up, down = np.maximum(w, 0).sum(3), np.minimum(w, 0).sum(3)
    least, most = _weighed(up, low, down, high) + bias, -_weighed(up, -high, down, -low) + bias
    least, most = np.where(np.isnan(least), -inf, least), np.where(np.isnan(most), inf, most)
    return Bounds(least, most).where(settled, value)


def _weighed(up: Array, low: Array, down: Array, high: Array) -> Array:
    """Return the smallest sum of positive weights times units and negative weights times units."""
    total = np.zeros(up.shape[:2])
    for weight, end in ((up, low), (down, high)):
        finite = np.isfinite(end)
        total += np.einsum("goi,gi->go", weight, np.where(finite, end, 0.0))
        total[((weight != 0) & ~finite[:, None]).any(2)] = -inf
    return total.reshape(-1)


# ops on units --------------------------------------------------------------------------------------------------------


def _product(x: Bounds, y: Bounds) -> Bounds:
    corners = [np.where((a == 0) | (b == 0), 0.0, a * b) for a in (x.low, x.high) for b in (y.low, y.high)]
    return Bounds(np.minimum.reduce(corners), np.maximum.reduce(corners))


def _per_unit(c: Constants, node: Node, inputs: list[Bounds]) -> Bounds | None:
    """What leaves units as they are; dropout puts zeros among them and multiplies the rest."""
    facts, (x,) = node.op.facts, inputs
    if facts.fixed_on != (-inf, inf) or c.graph.specs[node.name]:
        return None
    if not facts.stochastic or c.evaluation:
        return x
    return Bounds(np.where(x.low >= 0, 0.0, -inf), np.where(x.high <= 0, 0.0, inf))


def _activation(c: Constants, node: Node, inputs: list[Bounds]) -> Bounds:
    (x,), facts = inputs, node.op.facts
    stub = _Stub(c.graph.signatures[node.name], c.graph.widths)
    first, last = facts.image
    if facts.monotone:
        low, high = (node.op.evaluate(stub, end) for end in (x.low, x.high))
        return Bounds(np.where(np.isnan(low), first, low), np.where(np.isnan(high), last, high))
    image = Bounds(np.full_like(x.low, first), np.full_like(x.high, last))
    return image.where(x.known, node.op.evaluate(stub, np.where(x.known, x.low, 0.0)))


def _pool(c: Constants, node: Node, inputs: list[Bounds]) -> Bounds:
    """A largest entry or a mean lies between the entries; zeros beside the border count in the mean."""
    (x,) = inputs
    if isinstance(node.op, AvgPool) and pads(c.graph, node.name):
        return Bounds(np.minimum(x.low, 0), np.maximum(x.high, 0))
    return x


def _scale(c: Constants, node: Node, inputs: list[Bounds]) -> Bounds:
    factor = c.param(node, "weight", 1.0)
    return _product(inputs[0], Bounds(factor, factor))


def _added(c: Constants, node: Node, inputs: list[Bounds]) -> Bounds:
    """A table over positions that is added to units, or put in front of them."""
    (x,), table = inputs, c.param(node, "weight")
    low, high = table.min(0), table.max(0)
    if isinstance(node.op, ClassToken):
        return Bounds(np.minimum(x.low, low), np.maximum(x.high, high))
    return Bounds(x.low + low, x.high + high)


def _batch_norm(c: Constants, node: Node, inputs: list[Bounds]) -> Bounds | None:
    assert isinstance(node.op, BatchNorm)
    (x,), gain, shift = inputs, c.param(node, "weight", 1.0), c.param(node, "bias")
    mean = c.param(node, "running_mean")
    if c.evaluation:
        factor = gain / np.sqrt(c.param(node, "running_var") + node.op.eps)
        found = _product(Bounds(x.low - mean, x.high - mean), Bounds(factor, factor))
        return Bounds(found.low + shift, found.high + shift)
    silent = x.known & (x.low == 0) & (mean == 0)
    return c._anything(node).where((gain == 0) | silent, shift)


def _norm(c: Constants, node: Node, inputs: list[Bounds]) -> Bounds | None:
    """A gain of zero leaves the shift; so does a unit that is always zero where no mean of others is taken off it."""
    s = c.graph.signatures[node.name]
    alone = isinstance(node.op, InstanceNorm)
    if not alone and node.op.normalises(s)[0] != s.output.unit_dim:
        return None
    (x,), shift = inputs, c.param(node, "bias")
    zero = x.known & (x.low == 0)
    silent = zero if alone or isinstance(node.op, RMSNorm) else np.zeros_like(zero)
    return c._anything(node).where((c.param(node, "weight", 1.0) == 0) | silent, shift)


def _table(c: Constants, node: Node, inputs: list[Bounds]) -> Bounds:
    table = c.param(node, "weight")
    return Bounds(table.min(0), table.max(0))


# joins and movement --------------------------------------------------------------------------------------------------


def _sum(c: Constants, node: Node, inputs: list[Bounds]) -> Bounds:
    return Bounds(np.add.reduce([x.low for x in inputs]), np.add.reduce([x.high for x in inputs]))


def _times(c: Constants, node: Node, inputs: list[Bounds]) -> Bounds:
    found = inputs[0]
    for x in inputs[1:]:
        found = _product(found, x)
    return found


def _movement(c: Constants, node: Node, inputs: list[Bounds]) -> Bounds:
    ends = []
    for end in ([x.low for x in inputs], [x.high for x in inputs]):
        ends.append(moved(c.graph, node, [spread(c.graph, i, v) for i, v in zip(node.inputs, end, strict=True)]))
    return Bounds(ends[0].min(1), ends[1].max(1))


Rule = Callable[[Constants, Node, list[Bounds]], Bounds | None]
_RULES: dict[type, Rule] = {
    Dense: _sums,
    Conv: _sums,
    Depthwise: _sums,
    Embedding: _table,
    Positions: _added,
    ClassToken: _added,
    Scale: _scale,
    BatchNorm: _batch_norm,
    InstanceNorm: _norm,
    Activate: _activation,
    LeakyReLU: _activation,
    MaxPool: _pool,
    AvgPool: _pool,
}
_BY_COUPLING: dict[Coupling, Rule] = {
    Coupling.PER_UNIT: _per_unit,
    Coupling.STATISTICS: _norm,
    Coupling.SUM: _sum,
    Coupling.PRODUCT: _times,
    Coupling.MOVEMENT: _movement,
}
