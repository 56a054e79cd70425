"""The ways on which new units reach the layers that read them, and what is done to them on each.

Activations, norms, sums, pooling, concatenation, padding, transposition and a flatten of everything are followed. So is
what treats new units in a way that can be known before they are there: a depthwise convolution, in which they get unit
filters (`irgrow.passes.analyses.carrying`); attention, as values, whose weights stay what they are; a product with
units that are a constant while their weights are zero, as behind a sigmoid. Where two factors are new and zero there is
no gradient of first order: queries and keys, or a product with units that are zero. In such a product the other factor
can be borrowed: new units are given that of an old one. Slopes of activations are those where new units are while their
fan-in is zero (`irgrow.passes.analyses.resting`).

A unit of an axis can run in several lanes: one for every head that has the axis, every group of a convolution, every
filter of a depthwise one, every position of a flatten. Lanes stand in the order in which the units' axis lists them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import reduce
from typing import TYPE_CHECKING, Any

import numpy as np

from irgrow.axes import NEW, Atom, atoms, positions
from irgrow.edits import Impossible
from irgrow.graph import Graph, Node
from irgrow.ops import (
    AvgPool,
    Concat,
    Conv,
    Coupling,
    Dense,
    Depthwise,
    DotProductAttention,
    Flatten,
    MaxPool,
    Pad,
    Role,
    Transpose,
)
from irgrow.passes.analyses import carrying
from irgrow.passes.analyses.lanes import key_weight, lanes, lendable, made_for, occurrences, plain
from irgrow.passes.analyses.resting import at_rest, carries, passed_on, slope

if TYPE_CHECKING:
    from torch import Tensor


class SecondOrder(Impossible):
    """What new units give is a product of two things that are both zero at first."""


@dataclass(frozen=True)
class Route:
    """A layer that reads the new units.

    Args:
        node: The layer.
        weight: Full name of its weight.
        shape: Shape of the fan-out entries of one unit: outputs, then lanes if it reads several, then kernel taps.
        slope: Product of the slopes on the way, summed over the ways.
        direct: Whether nothing else is done to the units on the way.
        origins: For every lane that reaches it the lane of the maker it comes from.
        groups: In how many groups it reads lanes; each is read by its own outputs.
    """

    node: str
    weight: str
    shape: tuple[int, ...]
    slope: float
    direct: bool
    origins: tuple[int, ...] = (0,)
    groups: int = 1


@dataclass(frozen=True)
class Carried:
    """New units at a node.

    Args:
        origins: For every lane the lane of the maker it comes from.
        slope: Product of the slopes so far, summed over the ways.
        direct: Whether nothing else was done to them.
        rest: What they are while their fan-in is zero, norms counting as one; `None` if it is not known.
        value: One channel per fan-in entry, shape (lanes * samples, ...) and else laid out as the node.
    """

    origins: tuple[int, ...]
    slope: float = 1.0
    direct: bool = True
    rest: float | None = 0.0
    value: Tensor | None = None


class Walk:
    """Follows the units of a layer to those that read them: what is done to them on the way, and with what slopes.

    With numbers it takes along one channel per fan-in entry; without, it only finds the routes.

    Args:
        graph: The network.
        axis: The leaf axis of the units.
        maker: The layer that makes them.
        sloped: Whether to multiply by the slopes of the activations on the way.
        entries: The channels, shape (lanes * samples, ...) and else laid out as the output of the maker.
        active: Whether the channels are new units themselves, to which activations and norms are done.
        beside: Values of the queries and keys of `attended`, by node, and frequencies of rotary positions by name; and
            of `borrowed` the one unit that is.
        borrowing: Whether factors that would be zero are those of an old unit.

    Attributes:
        routes: The readers met.
        read: What each of them reads, by node, shape (lanes * samples, ...).
        attended: The attentions on the way whose weights are looked at.
        passed: The nodes on the way that have filters of the new units, or queries and keys.
        borrowed: The factors of products that are those of an old unit.
    """

    def __init__(
        self,
        graph: Graph,
        axis: str,
        maker: str,
        sloped: bool,
        entries: Tensor | None = None,
        active: bool = False,
        beside: Mapping[str, Any] | None = None,
        borrowing: bool = False,
    ) -> None:
        self.graph, self.axis, self.sloped, self.active, self.beside = graph, axis, sloped, active, beside or {}
        self.routes: list[Route] = []
        self.read: dict[str, Tensor] = {}
        self.attended: list[str] = []
        self.passed: list[str] = []
        self.borrowed: list[str] = []
        self.borrowing = borrowing
        count = lanes(graph, graph.signatures[maker].axes["units"], axis)
        self._at = {maker: Carried(tuple(range(count)), value=entries)}
        for node in graph:
            if node.name != maker and any(i in self._at for i in node.inputs):
                if isinstance(node.op, Dense | Conv):
                    self._reader(node, self._at[node.inputs[0]])
                else:
                    self._at[node.name] = replace(self._passed(node), rest=self._rest(node))

    def _rest(self, node: Node) -> float | None:
        """Return what new units are behind a node while their fan-in is zero."""
        read = [i for i in node.inputs if carries(self.graph, i, self.axis)]
        before = [self._at[i].rest if i in self._at else at_rest(self.graph, i, self.axis) for i in read]
        return before[0] if node.op.coupling is Coupling.STATISTICS else passed_on(self.graph, node, before)

    def _passed(self, node: Node) -> Carried:
        """Return the new units behind a node."""
        known = [self._at[i] for i in node.inputs if i in self._at]
        at, op, value = known[0], node.op, known[0].value
        if op.coupling in (Coupling.SUM, Coupling.PRODUCT) and any(
            self.graph.types[i].rank < self.graph.types[node.name].rank for i in node.inputs if i in self._at
        ):
            raise Impossible(f"units of `{self.axis}` are spread over positions in `{node.name}`; there is no bridge")
        match op:
            case _ if op.coupling is Coupling.SUM and len({k.origins for k in known}) == 1:
                summed: list[Any] = [k.value for k in known if k.value is not None]
                total = reduce(lambda x, y: x + y, [*summed, *self._added(node)]) if summed else None
                return replace(at, slope=sum(k.slope for k in known), direct=all(k.direct for k in known), value=total)
            case MaxPool() | AvgPool():
                unit_dim = self.graph.types[node.inputs[0]].unit_dim
                return replace(at, direct=False, value=value if value is None else carrying.pooled(op, value, unit_dim))
            case Pad() | Transpose():
                return replace(at, direct=False, value=value if value is None else carrying.moved(op, value))
            case Flatten():
                return self._flattened(node, at)
            case Concat() if len(known) == 1 and self._along_units(node):
                return at
            case Depthwise():
                return self._filtered(node, at)
            case DotProductAttention():
                return self._attending(node, at)
            case _ if op.coupling is Coupling.PRODUCT:
                return self._multiplied(node, at)
            case _ if op.coupling is Coupling.STATISTICS and not (self.active or op.kind == "softmax"):
                return at
            case _ if op.coupling is Coupling.PER_UNIT and self._by_itself(node):
                if self.active:
                    return at if value is None else replace(at, value=self._done(node, at, value))
                factor = self._slope(node, at)
                scaled = value if value is None or factor == 1.0 else value * factor
                return replace(at, slope=at.slope * factor, value=scaled)
        raise Impossible(f"units of `{self.axis}` pass through `{node.name}`; there is no bridge around it")

    def _by_itself(self, node: Node) -> bool:
        """Whether a per-unit op has no filters, only gains and shifts of the new units' own, which are one and zero."""
        specs = [s for s in self.graph.specs[node.name] if s.dims]
        filters = [s for s in specs if len(s.dims) > 1 and not node.op.facts.additive]
        own = all(any(Atom(self.axis) in atoms(d) for d in s.dims) for s in specs)
        return own and not filters and self.graph.types[node.name].dims == self.graph.types[node.inputs[0]].dims

    def _slope(self, node: Node, at: Carried) -> float:
        """Return the slope of a per-unit op at what new units are there, one if slopes are not counted."""
        if not self.sloped:
            return 1.0
        if (found := slope(node.op, at.rest)) is None:
            raise Impossible(
                f"what new units of `{self.axis}` are before `{node.name}` is not known, so neither is its slope there"
            )
        return found

    def _done(self, node: Node, at: Carried, value: Tensor) -> Tensor:
        """Do to new units what an activation does, or a norm with gain 1 and shift 0 over the batch."""
        done = carrying.done(node.op, value, len(at.origins))
        if done is None or passed_on(self.graph, node, [0.0]) is None:
            raise self._untried(node)
        return done

    def _added(self, node: Node) -> list[float]:
        """Return what candidates are added to in a sum if it is not zero: others on the axis, whose weights are."""
        found: list[float] = []
        for other in node.inputs if self.active else ():
            rest = 0.0 if other in self._at else at_rest(self.graph, other, self.axis)
            if rest is None:
                raise self._untried(node)
            found += [rest] if rest else []
        return found

    def _untried(self, node: Node) -> Impossible:
        return Impossible(f"units of `{self.axis}` pass through `{node.name}`; candidates are not tried there")

    def _along_units(self, node: Node) -> bool:
        along = node.op.dim if isinstance(node.op, Concat) else None
        return self._units_at(node.name) == [self.graph.types[node.name].unit_dim if along is None else along]

    def _units_at(self, node: str) -> list[int]:
        """Return the dimensions of a value in which units of the axis stand."""
        return [d for d, dim in enumerate(self.graph.types[node].dims) if Atom(self.axis) in atoms(dim)]

    # lanes ----------------------------------------------------------------------------------------------------------

    def _flattened(self, node: Node, at: Carried) -> Carried:
        """Follow a flatten of everything: every position becomes a lane."""
        assert isinstance(node.op, Flatten)
        if node.op.start != 0:
            raise Impossible(f"`{node.name}` flattens a part of the dimensions only; there is no bridge around it")
        dim, shape = self._units_at(node.inputs[0])[0], self.graph.shape(node.inputs[0])
        before, behind = int(np.prod(shape[:dim])), int(np.prod(shape[dim + 1 :]))
        order = np.broadcast_to(np.arange(len(at.origins))[:, None], (before, len(at.origins), behind)).ravel()
        value = None if at.value is None else carrying.flattened(at.value, len(at.origins), dim)
        return replace(at, origins=tuple(at.origins[i] for i in order), direct=False, value=value)

    def _filtered(self, node: Node, at: Carried) -> Carried:
        """Follow a depthwise convolution with unit filters; every one of several filters a unit makes a lane."""
        op, rank = node.op, self.graph.types[node.name].rank - 1
        assert isinstance(op, Depthwise)
        if len(carrying.filter_taps(op, rank)) < op.multiplier:
            raise Impossible(f"`{node.name}` has more filters a unit than taps; some of a new unit's would be the same")
        self.passed.append(node.name)
        value = None if at.value is None else carrying.filtered(op, at.value, len(at.origins))
        origins = tuple(origin for origin in at.origins for _ in range(op.multiplier))
        return replace(at, origins=origins, direct=False, value=value)

    def _attending(self, node: Node, at: Carried) -> Carried:
        """Follow values through attention: a lane of a head is mixed over the positions by the weights of that head."""
        op, graph, s = node.op, self.graph, self.graph.signatures[node.name]
        assert isinstance(op, DotProductAttention)
        if any(i in self._at for i in node.inputs[:2]):
            raise SecondOrder(
                f"units of `{self.axis}` are queries or keys of `{node.name}`: what they give is the product of two "
                "new things, so there is no gradient of first order"
            )
        if self.active:
            raise self._untried(node)
        if self._units_at(node.inputs[0]) and at_rest(graph, node.inputs[0], self.axis) != 0.0:
            raise Impossible(f"new queries of `{node.name}` are not known to be zero, so its weights are not known")
        if self._units_at(node.inputs[1]) and key_weight(graph, node.name, self.axis) is None:
            raise Impossible(
                f"new keys of `{node.name}` must not be zero, or they and the queries would stay so, and nothing makes "
                "them that is for them alone"
            )
        wide = graph.size(s.output.units) // graph.size(s.axes["heads"])
        repeats = graph.size(s.axes["heads"]) // (graph.size(s.inputs[2].units) // wide)
        made, given = (positions(t.units, graph.widths).get(self.axis, []) for t in (s.inputs[2], s.output))
        if len(made) != 1 or len(given) != 1 or occurrences(graph, s.inputs[2].units, self.axis) != len(at.origins):
            raise Impossible(f"units of `{self.axis}` stand beside others in `{node.name}`; there is no bridge")
        places = np.flatnonzero(given[0] == 0)
        heads = places // wide
        sources = np.searchsorted(np.flatnonzero(made[0] == 0), heads // repeats * wide + places % wide)
        new_heads = Atom(self.axis) in atoms(s.axes["heads"])
        self.passed.append(node.name)
        if not new_heads:
            self.attended.append(node.name)
        value = at.value
        if value is not None:
            if new_heads:
                mixing = carrying.uniform(graph, node, value)
            else:
                mixing = carrying.weights(graph, node, value, self.beside)[heads.tolist()]
            value = carrying.attended(value, len(at.origins), sources, mixing)
        return replace(at, origins=tuple(at.origins[i] for i in sources), direct=False, value=value)

    def _multiplied(self, node: Node, at: Carried) -> Carried:
        """Follow a product with units that are a constant as long as their weights are zero."""
        others = [i for i in node.inputs if i not in self._at]
        if len(others) != len(node.inputs) - 1:
            raise SecondOrder(f"units of `{self.axis}` are multiplied with one another in `{node.name}`")
        factor, value = 1.0, at.value
        for other in others:
            nodes, constant = made_for(self.graph, other, node.name), at_rest(self.graph, other, self.axis)
            if constant is None:
                raise Impossible(
                    f"units of `{self.axis}` pass through `{node.name}`; what they are multiplied with, `{other}`, is "
                    "not known for new ones"
                )
            if constant != 0.0:
                factor *= constant
                continue
            if not self.borrowing or len(at.origins) > 1 or nodes is None or not lendable(self.graph, nodes, self.axis):
                raise SecondOrder(
                    f"units of `{self.axis}` are multiplied in `{node.name}` with others that are zero at first as "
                    "well, so there is no gradient of first order"
                )
            if self.active:
                raise self._untried(node)
            if at.rest != 0.0:
                raise Impossible(
                    f"units of `{self.axis}` are not zero in `{node.name}` at first, so they borrow no factor"
                )
            self.borrowed.append(other)
            if value is not None:
                own = self.beside[other].to(value)
                value = value * own.reshape(*own.shape, *(1,) * (value.dim() - own.dim()))
        value = None if value is None else value * factor
        return replace(at, slope=at.slope * factor, direct=False, value=value)

    # readers --------------------------------------------------------------------------------------------------------

    def _reader(self, node: Node, at: Carried) -> None:
        """Note a layer that reads the units."""
        graph = self.graph
        weight = graph.params[graph.param_name(node.name, "weight")]
        groups = 1 if plain(graph, node.name) else graph.size(graph.signatures[node.name].axes["groups"])
        if weight.roles(1) != {Role.READS} or Atom(self.axis) in atoms(weight.spec.dims[0]):
            raise Impossible(f"`{weight.name}` makes and reads units of `{self.axis}`")
        found = positions(weight.spec.dims[1], graph.widths).get(self.axis, [])
        columns = sum(int((units != NEW).sum()) for units in found)
        count = len(at.origins)
        mixed = node.op.mixes(graph.signatures[node.name])
        once = columns * groups == graph.widths[self.axis] * count and self._units_at(node.inputs[0]) == [mixed]
        if not once or len(set(np.bincount(at.origins).tolist())) != 1:
            raise Impossible(f"`{node.name}` does not read every unit of `{self.axis}` once, with weights of its own")
        outputs, _, *taps = graph.param_shape(weight.name)
        shape = (outputs, *((count // groups,) if count > groups else ()), *taps)
        direct = at.direct and count == groups == 1
        self.routes.append(Route(node.name, weight.name, shape, at.slope, direct, at.origins, groups))
        if at.value is not None:
            self.read[node.name] = at.value


def flat_at_zero(graph: Graph, axis: str) -> str | None:
    """Return the first function with slope zero at zero that units of an axis pass through, or `None`."""
    passed = (n for n in graph if n.op.coupling is Coupling.PER_UNIT and Atom(axis) in atoms(graph.types[n.name].units))
    return next((n.name for n in passed if n.op.facts.slope_at_zero == 0.0), None)
