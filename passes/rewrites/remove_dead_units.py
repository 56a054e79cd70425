"""Remove dead units: those that give one number whatever the input; what is read of them goes to the biases.

    before   y = W h + W_j c + b        after   y = W h + (b + W_j c),   c what unit j always is

A unit is proved constant by interval arithmetic with the numbers of the network: its row is zero, or reads constants
only, or its input is never above zero in front of a ReLU. Units that are always zero go without a trace. Others leave
b + W_j c behind, up to rounding in both modes; where that is not exact they stay: a reader without a bias, one that
reads in groups, a convolution that reads zeros beside the border. With `evidence = data` units go that do not vary on a
batch; then the function changes elsewhere, and the verdict says so unless it is provable. One unit always stays.

Source: Serra, Kumar and Ramalingam (2020), Lossless compression of deep neural networks.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from irgrow.axes import index_map
from irgrow.edits import Edits, Impossible
from irgrow.errors import OptionError
from irgrow.fills import ZERO, Given
from irgrow.graph import Graph
from irgrow.morphism import Compute, Morphism
from irgrow.ops import real, site, word
from irgrow.passes.absorbing import agreed, not_exact, read_by, rows_of, taken_over, why_no_bias
from irgrow.passes.analyses.constants import Constants
from irgrow.passes.analyses.linear import Params, Reader, marked, readers, units_at, weights
from irgrow.passes.analyses.ranking import removable
from irgrow.passes.base import Context, Pass
from irgrow.passes.primitives import by_role, resize
from irgrow.shapes import Array, as_array


@dataclass(frozen=True)
class RemoveDeadUnits(Pass):
    """Remove the units of an axis that are constant, their readers' biases taking over what they were.

    Args:
        axis: An axis, or a node that carries it.
        evidence: Whether units must be constant for every input (`proof`) or on the batch (`data`).
        tolerance: The largest variance on the batch of a unit that counts as constant; for `data`.

    >>> str(RemoveDeadUnits("f1"))
    'remove_dead_units(f1)'
    """

    removes: ClassVar[bool] = True

    axis: str = site("")
    evidence: str = word("proof", "data", default="proof")
    tolerance: float = real(0.0, low=0.0)

    @property
    def site(self) -> str:
        return self.axis

    def at(self, site: str, units: int) -> RemoveDeadUnits:
        return replace(self, axis=site)

    def match(self, graph: Graph, site: str) -> str | None:
        if not site:
            return "no axis was named"
        if self.evidence == "proof" and self.tolerance:
            return "a proof has no `tolerance`; it goes with `evidence = data`"
        try:
            removable(graph, graph.axis(site))
        except (Impossible, OptionError) as reason:
            return str(reason)
        return None

    def needs(self, graph: Graph, site: str) -> tuple[str, ...]:
        if self.evidence == "proof":
            return ()
        return tuple(r.value for leaf in removable(graph, graph.axis(site)) for r in _readers(graph, leaf))

    def rewrite(self, graph: Graph, site: str, context: Context) -> Morphism:
        if context.params is None:
            raise Impossible("the parameters of the network are needed to see which units are constant")
        known = _Known(graph, context, None if self.evidence == "proof" else self.tolerance)
        edits: Edits = {}
        stay: dict[str, list[str]] = {}
        for leaf in removable(graph, graph.axis(site)):
            gone, kept = known.dead(leaf)
            if gone.any():
                edits[leaf] = np.flatnonzero(~gone)
            for unit, reason in kept.items():
                stay.setdefault(reason, []).append(str(unit) if leaf == site else f"{leaf}[{unit}]")
        reasons = "; ".join(f"{_units(names)}: {reason}" for reason, names in stay.items())
        if not edits:
            kind = "provably constant" if self.evidence == "proof" else "constant on the batch"
            raise Impossible(f"no unit of `{site}` is {kind}" + (f" and can go; {reasons}" if reasons else ""))
        count = sum(graph.widths[leaf] - len(m) for leaf, m in edits.items())
        summary = f"remove {count} dead units of {site}" + (f"; staying: {reasons}" if reasons else "")
        morphism = resize(graph, edits, by_role(ZERO, ZERO), context.seed, summary)
        morphism = taken_over(morphism, known.left_behind(morphism))
        if self.evidence == "proof" and (why := not_exact(morphism, context.params)) is not None:
            raise Impossible(f"without its dead units `{site}` is not what it was: {why}")
        return morphism


def _units(names: Iterable[str]) -> str:
    listed = list(names)
    return f"unit {listed[0]}" if len(listed) == 1 else f"units {', '.join(listed)}"


def _readers(graph: Graph, leaf: str) -> list[Reader]:
    """Return the nodes that read the units of a leaf axis and go on without them."""
    return [r for r in readers(graph, leaf) if not r.owns]


class _Known:
    """What the units that layers read are known to be: proved from the numbers, or seen on a batch.

    Args:
        graph: The network.
        context: Its parameters, and on a batch the values that are read.
        tolerance: The largest variance on the batch; `None` for proofs.
    """

    def __init__(self, graph: Graph, context: Context, tolerance: float | None) -> None:
        assert context.params is not None
        self.graph, self.context, self.tolerance = graph, context, tolerance
        self.params: Params = context.params
        self._proved = Constants(graph, self.params)

    def of(self, reader: Reader) -> Array:
        """Return per unit that a node reads the number it is, NaN if it is none."""
        s = self.graph.signatures[reader.node]
        if self.graph[reader.node].op.mixes(s) != s.inputs[0].unit_dim:
            return np.full(self.graph.size(reader.axis), np.nan)
        return self._proved.of(reader.value) if self.tolerance is None else self._seen(reader.value, self.tolerance)

    def _seen(self, name: str, tolerance: float) -> Array:
        if name not in self.context.statistics:
            raise Impossible(f"evidence = data needs the values of `{name}` on a batch, none were recorded")
        lines = np.moveaxis(as_array(self.context.statistics[name]), 1 + self.graph.types[name].unit_dim, 0)
        lines = lines.reshape(len(lines), -1)
        if not lines.shape[1]:
            raise Impossible("the batch has no samples")
        with np.errstate(all="ignore"):
            away = lines - lines[:, :1]
            return np.where(away.var(1) <= tolerance, lines[:, 0] + away.mean(1), np.nan)

    def read(self, reader: Reader) -> NDArray[np.bool_]:
        """Return which units a node reads with weights that are not all zero."""
        return (weights(self.graph, self.params, reader.node)[0] != 0).any((1, 3)).reshape(-1)

    def dead(self, leaf: str) -> tuple[NDArray[np.bool_], dict[int, str]]:
        """Return which units of a leaf axis are constant and can go, and why others that are constant cannot."""
        size = self.graph.widths[leaf]
        seen, alive = np.zeros(size, dtype=bool), np.zeros(size, dtype=bool)
        stuck: dict[int, str] = {}
        for reader in _readers(self.graph, leaf):
            at, value = units_at(self.graph, reader, leaf), self.of(reader)
            seen |= marked(at, np.ones(len(value), dtype=bool), size)
            alive |= marked(at, np.isnan(value), size)
            why = why_no_bias(self.graph, reader.node)
            if why is not None:
                heavy = marked(at, (np.nan_to_num(value) != 0) & self.read(reader), size)
                stuck |= dict.fromkeys(np.flatnonzero(heavy).tolist(), why)
        gone = seen & ~alive
        stuck = {unit: why for unit, why in stuck.items() if gone[unit]}
        gone[list(stuck)] = False
        if gone.all():
            gone[0], stuck[0] = False, "one unit of an axis must stay"
        return gone, stuck

    def left_behind(self, morphism: Morphism) -> dict[str, Compute | Given]:
        """Return what the biases of readers take over from units that went."""
        graph, plus = self.graph, dict[str, Compute | Given]()
        for reader in dict.fromkeys(r for leaf in morphism.edits for r in _readers(graph, leaf)):
            m = index_map(reader.axis, morphism.edits, graph.widths)
            assert m is not None, "it reads an axis that is edited"
            lost = np.setdiff1d(np.arange(graph.size(reader.axis)), m)
            value = self.of(reader)
            lost = lost[(value[lost] != 0) & self.read(reader)[lost]]
            if not lost.size:
                continue
            bias = graph.param_name(reader.node, "bias")
            options = ("units", tuple(lost.tolist())), ("values", tuple(value[lost].tolist()))
            more = Compute("read_constants", read_by(graph, reader.node), options + rows_of(morphism, bias))
            agreed(plus, bias, more)
        return plus
