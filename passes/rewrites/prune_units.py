"""Prune units: take given units, or those a saliency ranks lowest, from every tensor their axis runs through.

Removing a unit that is read with zero weights, or that was grown and has not been trained, leaves the function as it
was, and the verdict says so when it can see the weights. So does removing one that is always zero because the weights
and the bias that make it are, or its gain and shift behind a norm; the proof then reads the numbers of the network.
Otherwise something alive goes, which the entries of the units that go show, and the verdict is `changes`. Growing
units and pruning the same ones is the identity, bitwise, on weights, buffers and every optimizer slot.

With `by` the units are those with the lowest scores, equal ones by position: `count` of them, a `fraction` (rounded
down), or all that score below a `threshold`. Where units cannot go alone (channels behind a flatten, groups of a
grouped convolution) whole groups are ranked, and `count` still counts positions of the axis. Of an axis that is a sum
of others every part keeps a unit. A saliency that looks at activity needs a batch, one that looks at gradients a loss;
as a rule of a growth program it takes both from the passes that train.

Source: Maile (2023), 3.1; Blalock et al. (2020), What is the state of neural network pruning?
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import floor
from typing import ClassVar

import numpy as np

from irgrow.edits import Edits, Impossible, removal
from irgrow.errors import OptionError
from irgrow.fills import ZERO
from irgrow.graph import Graph
from irgrow.morphism import Morphism
from irgrow.ops import attributes, integer, integers, plan, real, site
from irgrow.passes.analyses.ranking import Group, at_most, bounds, lowest, ranked, removable, without
from irgrow.passes.analyses.silence import may_be_silent
from irgrow.passes.base import Context, Pass
from irgrow.passes.primitives import by_role, resize
from irgrow.passes.records.base import Watch
from irgrow.passes.saliency.base import Known, Saliency, known, scored
from irgrow.passes.triggers.base import View


@dataclass(frozen=True)
class PruneUnits(Pass):
    """Remove units from an axis: either `units`, or the lowest `by` a saliency.

    Args:
        axis: An axis, or a node that carries it.
        units: Positions along that axis, from 0.
        by: What ranks the units; exactly one of the next three says how many go.
        count: So many.
        fraction: This share of the units, rounded down.
        threshold: All that score below it.
        least: The smallest width left; fewer units go rather than more.
        multiple: The width left is a multiple of this; fewer units go rather than more.

    >>> str(PruneUnits("f1", (0, 3)))
    'prune_units(f1, [0, 3])'
    """

    removes: ClassVar[bool] = True

    axis: str = site("")
    units: tuple[int, ...] = integers((), low=0)
    by: Saliency | None = plan("saliency", None)
    count: int | None = integer(None)
    fraction: float | None = real(None, low=0.0, high=1.0, open_low=True, open_high=True)
    threshold: float | None = real(None)
    least: int | None = integer(None)
    multiple: int = integer(1)

    @property
    def site(self) -> str:
        return self.axis

    def at(self, site: str, units: int) -> PruneUnits:
        counted = self.by is not None and self.fraction is None and self.threshold is None
        return replace(self, axis=site, count=units) if counted else replace(self, axis=site)

    def match(self, graph: Graph, site: str) -> str | None:
        if (problem := self.contradiction) is not None:
            return problem
        try:
            axis = graph.axis(site)
            if self.by is None:
                removal(graph, axis, self.units)
            else:
                removable(graph, axis)
        except (Impossible, OptionError) as reason:
            return str(reason)
        return None

    def needs(self, graph: Graph, site: str) -> tuple[str, ...]:
        if self.by is None:
            return ()
        return tuple(node for leaf in removable(graph, graph.axis(site)) for node in self.by.needs(graph, leaf))

    def wants_gradients(self, graph: Graph, site: str) -> bool:
        return self.by is not None and self.by.wants_gradients

    def watches(self, graph: Graph, site: str) -> tuple[Watch, ...]:
        if self.by is None or self.match(graph, site) is not None:
            return ()
        return tuple(watch for leaf in removable(graph, graph.axis(site)) for watch in self.by.watches(graph, leaf))

    def informed(self, view: View) -> PruneUnits:
        if self.by is None or self.match(view.graph, self.site) is not None:
            return self
        if self.threshold is not None and self.by.wants_gradients:
            return self  # it is in units of the loss, and what was recorded may be scaled
        leaves = removable(view.graph, view.graph.axis(self.site))
        return replace(self, by=known(self.by, view.graph, leaves, view.recorded))

    @property
    def decided_by_numbers(self) -> bool:
        return self.by is not None

    @property
    def used(self) -> str:
        return "records" if isinstance(self.by, Known) else ""

    def rewrite(self, graph: Graph, site: str, context: Context) -> Morphism:
        if self.by is None:
            edits = removal(graph, graph.axis(site), self.units)
            summary = f"prune {len(set(self.units))} units of {self.axis}"
        else:
            edits = self._lowest(self.by, graph, site, context)
            units = sum(graph.widths[leaf] - len(m) for leaf, m in edits.items())
            summary = f"prune {units} units of {self.axis} by {self.by}"
        morphism = resize(graph, edits, by_role(ZERO, ZERO), context.seed, summary)
        silent = context.params is not None and may_be_silent(graph, edits, context.params)
        return replace(morphism, by_numbers=True) if silent else morphism

    def _lowest(self, by: Saliency, graph: Graph, site: str, context: Context) -> Edits:
        """Return the edit without the units that rank lowest."""
        axis = graph.axis(site)
        width = graph.size(axis)
        groups = ranked(graph, axis, {leaf: scored(by, graph, leaf, context) for leaf in removable(graph, axis)})
        if self.threshold is not None:
            groups = [g for g in groups if g.score < self.threshold]
        wanted = self._wanted(groups, width)
        most = at_most(wanted, width, self.least, self.multiple)
        if most <= 0:
            raise Impossible(f"nothing to prune: {self._why_none(wanted, width, site)}")
        exactly = self.count == most and self.multiple == 1
        return without(graph, [(g.leaf, g.unit) for g in lowest(graph, axis, groups, most, self.multiple, exactly)])

    def _wanted(self, groups: list[Group], width: int) -> int:
        """Return how many positions are to go."""
        if self.count is not None:
            return self.count
        if self.fraction is not None:
            return floor(self.fraction * width + 1e-9)
        return len(np.unique(np.concatenate([g.places for g in groups]))) if groups else 0

    def _why_none(self, wanted: int, width: int, site: str) -> str:
        if wanted > 0:
            return f"of {width} units of `{site}` {bounds(self.least, self.multiple)} stay, {wanted} were to go"
        if self.fraction is not None:
            return f"{self.fraction} of {width} units of `{site}` is less than one"
        return f"no unit of `{site}` scores below {self.threshold}"

    @property
    def contradiction(self) -> str | None:
        for a in attributes(type(self)):
            if a.name != "units" and (problem := a.problem(getattr(self, a.name))) is not None:
                return problem
        amounts = [name for name in ("count", "fraction", "threshold") if getattr(self, name) is not None]
        if self.by is None:
            extra = [*amounts, *(["least"] if self.least else []), *(["multiple"] if self.multiple > 1 else [])]
            if extra:
                return f"`{extra[0]}` needs `by`, which ranks the units"
            return None if self.units else "no units were named: give `units`, or `by` and how many"
        if self.units:
            return "`units` and `by` both say which units go; give one of them"
        if not amounts:
            return "`by` ranks the units; say how many go: `count`, `fraction` or `threshold`"
        return None if len(amounts) == 1 else f"`{amounts[0]}` and `{amounts[1]}` both say how many units go; give one"
