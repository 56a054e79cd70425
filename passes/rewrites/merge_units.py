"""Merge units: those that do what another one does go, and the other does it for them.

    before   y = W_r h_r + W_j h_j,   h_j = a h_r        after   y = (W_r + a W_j) h_r

Copies have equal rows, biases, norm entries and running statistics all the way to where they are read. Multiples with
a > 0 count as well as long as only functions with f(a x) = a f(x), such as ReLU, stand in between; behind a tanh only
copies do, and negative multiples never. Up to rounding the function is what it was, in training mode too unless dropout
treats the copies differently; then in evaluation. With a `tolerance` units go that are almost multiples of another one,
and the function changes by about as much. Splitting units and merging them again gives the weights there were.

What a tied or masked layer cannot take over stays, and so do units that are read in groups.

Source: Srinivas and Babu (2015), Data-free parameter pruning for deep neural networks.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from irgrow.axes import NEW, IndexMap, index_map
from irgrow.edits import Edits, Impossible
from irgrow.errors import OptionError
from irgrow.fills import ZERO, Given
from irgrow.graph import Graph
from irgrow.morphism import Compute, Morphism
from irgrow.ops import MASK, real, site
from irgrow.passes.absorbing import agreed, not_exact, read_by, rows_of, taken_over
from irgrow.passes.analyses.copies import Alike, Copies
from irgrow.passes.analyses.linear import Params, Reader, numbers, readers, units_at
from irgrow.passes.analyses.ranking import removable
from irgrow.passes.base import Context, Pass
from irgrow.passes.primitives import by_role, resize


@dataclass(frozen=True)
class MergeUnits(Pass):
    """Merge the units of an axis that are copies or positive multiples of each other.

    Args:
        axis: An axis, or a node that carries it.
        tolerance: How far a row may be from a multiple of another, relative to its largest entry; zero allows rounding.

    >>> str(MergeUnits("f1"))
    'merge_units(f1)'
    """

    removes: ClassVar[bool] = True

    axis: str = site("")
    tolerance: float = real(0.0, low=0.0)

    @property
    def site(self) -> str:
        return self.axis

    def at(self, site: str, units: int) -> MergeUnits:
        return replace(self, axis=site)

    def match(self, graph: Graph, site: str) -> str | None:
        if not site:
            return "no axis was named"
        try:
            removable(graph, graph.axis(site))
        except (Impossible, OptionError) as reason:
            return str(reason)
        return None

    def rewrite(self, graph: Graph, site: str, context: Context) -> Morphism:
        if context.params is None:
            raise Impossible("the parameters of the network are needed to see which units are copies")
        known = _Known(graph, context.params, self.tolerance)
        merged = {leaf: known.leaders(leaf) for leaf in removable(graph, graph.axis(site))}
        edits: Edits = {}
        for leaf, (leader, _) in merged.items():
            kept = np.flatnonzero(leader == np.arange(len(leader)))
            if len(kept) < len(leader):
                edits[leaf] = kept
        reasons = "; ".join(dict.fromkeys(why for _, why in merged.values() if why))
        if not edits:
            raise Impossible(
                f"no unit of `{site}` is a copy of another one" + (f" that can take over; {reasons}" if reasons else "")
            )
        count = sum(graph.widths[leaf] - len(m) for leaf, m in edits.items())
        summary = f"merge {count} units of {site} into others" + (f"; staying: {reasons}" if reasons else "")
        morphism = resize(graph, edits, by_role(ZERO, ZERO), context.seed, summary)
        morphism = taken_over(morphism, known.gained(morphism, {leaf: merged[leaf][0] for leaf in edits}))
        if not self.tolerance and (why := not_exact(morphism, context.params)) is not None:
            raise Impossible(f"with its copies merged `{site}` is not what it was: {why}")
        return morphism


class _Known:
    """Which units that layers read are multiples of others."""

    def __init__(self, graph: Graph, params: Params, tolerance: float) -> None:
        self.graph, self.params = graph, params
        self._copies = Copies(graph, params, True, tolerance)

    def of(self, reader: Reader) -> Alike:
        """Return which positions along the axis a node sums over are multiples of others."""
        s = self.graph.signatures[reader.node]
        if self.graph[reader.node].op.mixes(s) == s.inputs[0].unit_dim:
            return self._copies.of(reader.value)
        size = self.graph.size(reader.axis)
        return Alike(np.arange(size), np.ones(size))

    def readers(self, leaf: str) -> list[Reader]:
        """Return the nodes that read the units of a leaf axis and go on without them."""
        return [r for r in readers(self.graph, leaf) if not r.owns]

    def places(self, reader: Reader, leaf: str) -> IndexMap:
        """Return where the units of a leaf axis stand in what a node reads; (units, places), in the same order each."""
        found = []
        for at in units_at(self.graph, reader, leaf):
            inside = np.flatnonzero(at != NEW)
            order = inside[np.argsort(at[inside], kind="stable")]
            found.append(order.reshape(self.graph.widths[leaf], -1))
        return np.concatenate(found, axis=1)

    def leaders(self, leaf: str) -> tuple[IndexMap, str | None]:
        """Return the unit that each unit of a leaf axis is merged into (itself if into none), and why others are not.

        Two units can be merged if everywhere they are read they are multiples of each other.
        """
        size = self.graph.widths[leaf]
        everywhere = self.readers(leaf)
        if not everywhere:
            return np.arange(size), f"nothing reads `{leaf}` with weights"
        what = np.concatenate([self.of(r).first[self.places(r, leaf)] for r in everywhere], axis=1)
        group = np.unique(what, axis=0, return_inverse=True)[1].reshape(-1)
        leader: IndexMap = np.unique(group, return_index=True)[1][group]
        why = None
        for unit in np.flatnonzero(leader != np.arange(size)).tolist():
            for reader in everywhere:
                if (problem := self._problem(reader, leaf, unit, int(leader[unit]))) is not None:
                    leader[unit], why = unit, problem
                    break
        return leader, why

    def _problem(self, reader: Reader, leaf: str, unit: int, leader: int) -> str | None:
        """Return why a reader cannot take over a unit's columns into those of another one, or `None`."""
        if reader.groups:
            return f"`{reader.node}` reads them in groups"
        mask = numbers(self.graph, self.params, reader.node, MASK)
        weight = numbers(self.graph, self.params, reader.node, "weight")
        assert weight is not None
        if mask is None:
            return None
        places = self.places(reader, leaf)
        needed: NDArray[np.bool_] = (weight * mask)[:, places[unit]] != 0
        off = mask[:, places[leader]] == 0
        return f"synapses of `{reader.node}` that would take over are off" if bool((needed & off).any()) else None

    def gained(self, morphism: Morphism, leaders: dict[str, IndexMap]) -> dict[str, Compute | Given]:
        """Return what the weights of readers gain for the columns that go."""
        graph, plus = self.graph, dict[str, Compute | Given]()
        for reader in dict.fromkeys(r for leaf in leaders for r in self.readers(leaf)):
            m = index_map(reader.axis, morphism.edits, graph.widths)
            assert m is not None, "it reads an axis that is edited"
            into = np.full(graph.size(reader.axis), NEW)
            for leaf, leader in leaders.items():
                if any(r == reader for r in self.readers(leaf)):
                    places = self.places(reader, leaf)
                    gone = np.flatnonzero(leader != np.arange(len(leader)))
                    into[places[gone]] = places[leader[gone]]
            lost = np.flatnonzero(into != NEW)
            times = self.of(reader).times
            home = np.full(len(into), NEW)
            home[m] = np.arange(len(m))
            options = (
                ("units", tuple(lost.tolist())),
                ("into", tuple(home[into[lost]].tolist())),
                ("times", tuple((times[lost] / times[into[lost]]).tolist())),
                ("columns", len(m)),
            )
            weight = graph.param_name(reader.node, "weight")
            more = Compute("merge_columns", read_by(graph, reader.node), options + rows_of(morphism, weight))
            agreed(plus, weight, more)
        return plus
