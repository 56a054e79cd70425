"""Pruning by effective dimension: a layer whose activity has lost dimensions since its last change loses units.

TRIG_PRUNE = max(0, floor(M ((1 - delta) phi* - phi))), phi the share of the M units that the rank of their activity
makes up, phi* that share measured right after the layer's last change, on the latest batches run again through the new
network (Maile 2023, eq. 38, printed with min; every layer has its own phi*). It never asks for all units of a layer;
the authors' code lets dense layers keep as many as there are classes (`least_dense`), and a remark in it a share of the
width a layer had at first (`share`), neither of which is in the text.

It says how many units should go: the pass of the rule must remove units, such as
`prune_units(by = redundancy, count = 1)`, whose count is filled in.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, floor
from typing import ClassVar

from irgrow.graph import Graph
from irgrow.ops import Dense, integer, real, word
from irgrow.passes.analyses.places import makers
from irgrow.passes.records.activity import Activity
from irgrow.passes.records.base import WINDOW
from irgrow.passes.triggers.base import Memory, Trigger, View, entries
from irgrow.passes.triggers.effective_dimension import activity_at, rank_of_activity


@dataclass(frozen=True)
class Dyno(Trigger):
    """Base of the triggers of DYNO: they compare the dimension of activity with that after the last change.

    Each keeps phi* in a memory of its own; those of a program agree, because all of them are told of every change and
    measure it on the same record.
    """

    delta: float = real(0.03, low=0.0, high=1.0, open_low=True, open_high=True)
    epsilon: float = real(0.01, low=0.0, open_low=True)
    baseline: float | None = real(None, low=0.0, high=1.0)
    samples: int = integer(WINDOW)
    scale: str = word("columns", "neurons", default="columns")

    @property
    def fresh(self) -> bool:
        return True

    def watches(self, graph: Graph, site: str) -> tuple[Activity, ...]:
        return (activity_at(graph, site, self, self.samples),)

    def settle(self, view: View, site: str, memory: Memory) -> None:
        if (found := rank_of_activity(view, site, self, self.epsilon, self.scale)) is None:
            memory.pop("phi", None)
            memory["width"] = 0  # measured at the next look
        else:
            memory["phi"], memory["width"] = found[0] / found[1], found[1]

    def look(self, view: View, site: str, memory: Memory) -> tuple[int, int, float] | None:
        """Return rank, width and phi* M, phi* being `baseline` or what is found now if it is not known."""
        found = rank_of_activity(view, site, self, self.epsilon, self.scale)
        if found is None:
            return None
        rank, width = found
        if "width" not in memory and self.baseline is not None:
            memory["phi"] = float(self.baseline)
        elif memory.get("width") != width:  # the first look, or the first one after somebody changed it
            memory["phi"] = rank / width
        memory["width"] = width
        return rank, width, memory["phi"] * width


@dataclass(frozen=True)
class DynoPrune(Dyno):
    """Say how many units should go because the activity has lost dimensions.

    Args:
        delta: By what share the dimension may fall below that after the last change.
        epsilon: Singular values up to it count as zero.
        baseline: The dimension, as a share of the width, that a layer is taken to have had before it is first
            changed, such as 1.0; what is measured at the first look if it is not given.
        samples: Columns of activity kept; at least twice the units are.
        scale: What the activity is divided by the root of: the number of `columns`, or of `neurons` as in NeurOps.
        least_dense: The smallest width of a dense layer; in the authors' code the number of classes. 0 for as many as
            the network has outputs.
        share: Share of the width at the first look that every layer keeps.

    >>> str(DynoPrune(0.05))
    'dyno_prune(delta = 0.05)'
    """

    removes: ClassVar[bool] = True

    least_dense: int = integer(1, low=0)
    share: float = real(0.0, low=0.0, high=1.0)

    def wanted(self, view: View, site: str, memory: Memory) -> int:
        found = self.look(view, site, memory)
        if found is None:
            return 0
        rank, width, before = found
        each = entries(view, site, width)
        width //= each
        first = memory.setdefault("first", width) if self.share else width
        least = max(self._least(view.graph, site), ceil(self.share * first - 1e-9))
        return max(0, min(width - least, floor((1.0 - self.delta) * before - rank + 1e-9) // each))

    def _least(self, graph: Graph, site: str) -> int:
        """Return the smallest width of a layer of this kind."""
        if not isinstance(graph[makers(graph, site)[0]].op, Dense):
            return 1
        return self.least_dense or graph.size(graph.types[graph.outputs[0]].units)
