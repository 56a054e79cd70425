"""The prover: an abstract interpreter over the new graph that compares every value with its old self.

It walks the nodes once. For each it asks one question per unit: is this the old unit, is it always zero, or is nothing
known? What an op does to these answers follows from its coupling and the facts it declares (`rules`), and from how its
parameters were carried. Whatever is not certain is `ANY`, so a conclusion of sameness is sound.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from math import inf
from typing import Any

import numpy as np
from numpy.typing import NDArray

from irgrow.axes import NEW, Axis, IndexMap, in_full, index_map, size_of
from irgrow.fills import Fill
from irgrow.graph import Graph, Node
from irgrow.morphism import Keep, Morphism, New, Select
from irgrow.ops import MASK, Coupling, Facts, ParamSpec, attributes
from irgrow.passes.preservation.computed import computed, seen_as
from irgrow.passes.preservation.known import ANY, SAME, Known, uniform
from irgrow.passes.preservation.ranges import Interval, value_range
from irgrow.passes.preservation.removed import put_back
from irgrow.passes.preservation.sums import Numbers
from irgrow.passes.preservation.synapses import same_synapses
from irgrow.verdict import Approximate, Changes, Exact, Verdict

_AVERAGING = frozenset({Coupling.SUM, Coupling.STATISTICS, Coupling.MOVEMENT})


def _adds(facts: Facts) -> bool:
    """Whether a per-unit op may hand the mean of units on."""
    return facts.additive or facts.fixed_on == (-inf, inf)


@dataclass(frozen=True)
class Carried:
    """How a parameter came over, dimension by dimension.

    Args:
        maps: The index maps applied.
        expected: The index maps that the edit of the axes asks for.
        scale: Factors of the values.
        fills: What new entries are filled with.
        noise: Noise between the copies of an entry, which sums to zero over them.
    """

    maps: tuple[IndexMap | None, ...]
    expected: tuple[IndexMap | None, ...]
    scale: tuple[NDArray[np.float64] | None, ...]
    fills: tuple[Fill | None, ...]
    noise: tuple[float, ...] = ()

    def parted(self, dim: int) -> bool:
        """Return whether there is noise between copies along a dimension."""
        return bool(self.noise) and self.noise[dim] != 0.0

    def intact(self, dim: int, size: int) -> NDArray[np.bool_]:
        """Return which of the new entries along a dimension are the old ones the edit asks for, unscaled."""
        actual, wanted = self.maps[dim], self.expected[dim]
        ok = np.full(size, True) if actual is wanted else in_full(actual, size) == in_full(wanted, size)
        if self.parted(dim):
            return np.zeros(size, dtype=bool)
        factor = self.scale[dim]
        return ok if factor is None else ok & (factor == 1.0)

    def elsewhere(self, dim: int) -> bool:
        """Return whether all other dimensions came over as the edit asks, unscaled."""
        return all(
            self.scale[d] is None and not self.parted(d) and equal(self.maps[d], self.expected[d])
            for d in range(len(self.maps))
            if d != dim
        )


def equal(a: IndexMap | None, b: IndexMap | None) -> bool:
    """Whether two index maps do the same; `None` is the identity."""
    if a is b:
        return True
    if a is None or b is None:
        present = b if a is None else a
        return present is None or np.array_equal(present, np.arange(len(present)))
    return np.array_equal(a, b)


class _Values(dict[str, Known]):
    """What is known of values; one that is not told apart is the old one."""

    def __missing__(self, name: str) -> Known:
        return uniform(name, SAME)


class Prover:
    """Compares the two graphs of a morphism.

    Attributes:
        known: What is known of the values of the new graph; those it does not list are the old ones.
        wishes: New rows of makers that would have to be zero for the function to stay: node -> rows.
        eval_only: Whether random numbers differ, so that sameness holds in evaluation mode only.
        perturbed: Nodes whose copied units were moved apart, so that sameness holds in the limit of no noise.
    """

    def __init__(self, morphism: Morphism, params: Mapping[str, Any] | None = None) -> None:
        self.morphism = morphism
        self.before: Graph = morphism.before
        self.after: Graph = morphism.after
        self.params = params
        self.known: dict[str, Known] = _Values()
        self.wishes: dict[str, set[int]] = {}
        self.eval_only = False
        self.perturbed: dict[str, None] = {}
        self._maps: dict[Axis, IndexMap | None] = {}
        self._carried: dict[tuple[str, str], Carried | None] = {}
        self._sizes = dict(self.before.widths) | {name: len(m) for name, m in morphism.edits.items()}

    # what rules ask -------------------------------------------------------------------------------------------------

    @cached_property
    def numbers(self) -> Numbers | None:
        """What is known of the numbers; nothing without the old parameters, or if the rewrite does not ask for it."""
        if self.params is None or not self.morphism.by_numbers:
            return None
        return Numbers(self.morphism, self.params)

    def map_of(self, axis: Axis) -> IndexMap | None:
        """Return the edit of an axis of the old graph."""
        if not self.morphism.edits:
            return None
        if axis not in self._maps:
            self._maps[axis] = index_map(axis, self.morphism.edits, self.before.widths)
        return self._maps[axis]

    def size(self, axis: Axis) -> int:
        """Return the new size of an axis of the old graph."""
        return size_of(axis, self._sizes)

    def old(self, node: Node) -> Node | None:
        """Return the node of the old graph that this one continues."""
        found = self.before.by_name.get(node.name)
        return found if found is not None and type(found.op) is type(node.op) else None

    def spec(self, node: str, name: str) -> ParamSpec | None:
        """Return a parameter of a node in the old graph."""
        return next((s for s in self.before.specs[node] if s.name == name), None)

    def carried(self, node: str, spec: ParamSpec) -> Carried | None:
        """Return how a parameter of a continued node came over; `None` if it is not the old one at all."""
        key = node, spec.name
        if key not in self._carried:
            self._carried[key] = self._compare(node, spec)
        return self._carried[key]

    def _compare(self, node: str, spec: ParamSpec) -> Carried | None:
        expected = tuple(self.map_of(d) for d in spec.dims)
        nothing: tuple[None, ...] = (None,) * len(spec.dims)
        if spec.name in ("weight", MASK) and self._remasked(node):
            same = all(m is None for m in expected) and same_synapses(self.morphism, node, self.params)
            return Carried(nothing, expected, nothing, nothing) if same else None
        transfer = self.morphism.transfers[self.after.param_name(node, spec.name)]
        old = self.before.param_name(node, spec.name)
        if isinstance(transfer, Keep) and transfer.name == old:
            return Carried(nothing, expected, nothing, nothing)
        if isinstance(transfer, Select) and transfer.name == old:
            if transfer.plus is not None:
                return None
            return Carried(transfer.maps, expected, transfer.scale or nothing, transfer.fills, transfer.noise)
        return None

    def _remasked(self, node: str) -> bool:
        """Return whether synapses of a node were switched on or off."""
        before, after = (any(s.name == MASK for s in g.specs[node]) for g in (self.before, self.after))
        names = [self.after.param_name(node, name) for name in (("weight", MASK) if after else ("weight",))]
        moved = [self.morphism.transfers.get(name) for name in names]
        return (before or after) and (before != after or not all(isinstance(t, Keep | Select) for t in moved))

    def fresh(self, node: str, name: str) -> New | None:
        """Return the transfer of a parameter of a new node, if it is a fresh tensor."""
        transfer = self.morphism.transfers.get(self.after.param_name(node, name))
        return transfer if isinstance(transfer, New) else None

    def column_is_zero(self, node: str, spec: ParamSpec, columns: NDArray[np.int64]) -> bool:
        """Return whether old weights reading these units are known to be zero."""
        if self.params is None or not columns.size:
            return not columns.size
        weight = self.params[self.before.param_name(node, spec.name)]
        return not bool((weight[:, columns] != 0).any())

    def range_of(self, name: str) -> Interval:
        """Return an interval for an old value."""
        return value_range(self.before, name)

    def op_changed(self, node: Node, old: Node, pinned: tuple[str, ...] = ()) -> bool:
        """Return whether an attribute other than a width, or one that a rule looks at itself, differs."""
        return node.op is not old.op and any(
            getattr(node.op, a.name) != getattr(old.op, a.name)
            for a in attributes(type(node.op))
            if a.kind != "width" and a.name not in (*pinned, "masked")
        )

    # the walk -------------------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Work out what is known of every value."""
        from irgrow.passes.preservation.fresh import fresh
        from irgrow.passes.preservation.rules import RULES

        concerned = self.before.reached(self.morphism.edits)
        concerned |= {user for name in self.morphism.touched for user, _ in self.after.params[name].uses}
        for node in self.after:
            old = self.old(node)
            same = old is not None and node.name not in concerned and (node is old or node.op == old.op)
            if old is not None and same and self._as_before(node, old):
                continue
            inputs = self._read(node, old)
            if old is None:
                self.known[node.name] = fresh(self, node, inputs)
                continue
            found = computed(self, node, old, inputs)
            if found is not None:
                self.known[node.name] = found
                continue
            aligned = len(inputs) == len(old.inputs) and all(
                k.base == name and not k.forms for k, name in zip(inputs, old.inputs, strict=True)
            )
            if not aligned:
                why = next((k.why for k in inputs if k.why), None) or self._rewired(node, old)
                self.known[node.name] = uniform(node.name, ANY, why)
                continue
            if not (node.op.coupling in _AVERAGING or _adds(node.op.facts)):
                inputs = [k.without_means() for k in inputs]
            self.known[node.name] = RULES[node.op.coupling](self, node, old, inputs)

    def _as_before(self, node: Node, old: Node) -> bool:
        """Return whether a node reads the values it read, and they are what they were."""
        if node.inputs == old.inputs and self.known.keys().isdisjoint(node.inputs):
            return True
        known = self._read(node, old)
        return len(known) == len(old.inputs) and all(
            k.same and k.base == name for k, name in zip(known, old.inputs, strict=True)
        )

    def _read(self, node: Node, old: Node | None) -> list[Known]:
        """Return what is known of a node's inputs; what the node before got handed on counts as what it read."""
        known = [self.known[i] for i in node.inputs]
        if old is not None and self._adds_more(node, old):
            known = [k for k in known if not k.zero]
        if old is None or len(known) != len(old.inputs):
            return known
        return [seen_as(self, k, name) for k, name in zip(known, old.inputs, strict=True)]

    def _adds_more(self, node: Node, old: Node) -> bool:
        """Return whether a sum of the same shape has more inputs than before."""
        more = node.op.coupling is Coupling.SUM and len(node.inputs) > len(old.inputs)
        return more and self.after.types[node.name].rank == self.before.types[node.name].rank

    def _rewired(self, node: Node, old: Node) -> str:
        """Return what a node reads that it did not read before."""
        if self._adds_more(node, old):
            added = [f"`{i}`" for i in node.inputs if i not in old.inputs and not self.known[i].zero]
            if added:
                return f"`{node.name}` adds {' and '.join(added)}, not known to be zero"
        return f"`{node.name}` reads other values than before"

    def verdict(self) -> Verdict:
        """Return the conclusion about the outputs."""
        found = self._compared()
        back = put_back(self.morphism, self.params) if isinstance(found, Changes) else None
        if back is None:
            return found
        inverse = Prover(back, self.params)
        inverse.run()
        return inverse._compared()

    def _compared(self) -> Verdict:
        """Return the conclusion from what is known of the outputs."""
        for name, old in zip(self.after.outputs, self.before.outputs, strict=False):
            known = seen_as(self, self.known[name], old)
            same = known.base == old and not known.forms and known.old_intact
            if not same or known.lost(self.before.size(self._axis(known))).size:
                return Changes(known.why or f"the output `{name}` is not the one it was")
            if self.after.shape(name) != self.before.shape(old):
                return Changes(f"the output `{name}` has another shape")
        if len(self.after.outputs) != len(self.before.outputs):
            return Changes("the network has other outputs")
        if self.perturbed:
            makers = " and ".join(f"`{name}`" for name in self.perturbed)
            return Approximate(f"goes to zero with the noise between copies in {makers}")
        return Exact("eval" if self.eval_only else "always")

    def _axis(self, known: Known) -> Axis:
        value = self.before.types[known.base]
        return value.dims[value.unit_dim if known.dim is None else known.dim]


def mapped(
    k: Known,
    status: NDArray[np.int8],
    base: str,
    dim: int,
    m: IndexMap | None,
    factor: NDArray[np.float64] | None = None,
    why: str | None = None,
    maker: str | None = None,
    rows: IndexMap | None = None,
) -> Known:
    """Return knowledge of a value told apart by unit; uniform where nothing was edited and all units are alike.

    The reason stays only while an old unit is no longer what it was.
    """
    old = np.ones(len(status), dtype=bool) if m is None else m != NEW
    reason = (k.why or why) if bool((status[old] == ANY).any()) else None
    if m is None and factor is None and bool((status == status[0]).all()):
        return uniform(base, int(status[0]), reason)
    return Known(base, dim, status, m, factor, maker if rows is not None else None, rows, why=reason)


def prove(morphism: Morphism, params: Mapping[str, Any] | None = None) -> Verdict:
    """Derive the verdict of a morphism.

    Args:
        morphism: The rewrite.
        params: The old parameters; with them, removing units that are read with zero weights is recognised as exact.
    """
    prover = Prover(morphism, params)
    prover.run()
    return prover.verdict()
