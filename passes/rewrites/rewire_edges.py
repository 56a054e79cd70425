"""Rewire edges: prune some synapses of every masked weight and grow as many others, in one rewrite.

The density of every weight stays what it is, exactly. What is pruned may be chosen again at once, as in the code of
both papers: such a synapse is not touched at all, weight and moments included. With `regrow = false` it may not, and
everything that grows was off. New synapses start from zero. A weight without a mask, or with every synapse on, and one
that is frozen have nothing to rewire: they are left out of `all`.

    SET     prune = magnitude, grow = random; the paper takes the share of the positive and of the negative weights,
            here it is of both together
    RigL    prune = magnitude, grow = gradient; with `until` the share falls as a cosine,
            fraction / 2 (1 + cos(pi t / until)), t the training step, to nothing at `until`

The rewrite is that of `prune_edges` followed by that of `grow_edges`; it is exact only if what goes is zero.

Source: Mocanu et al. (2018), SET; Evci et al. (2020), RigL, algorithm 1.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import cos, pi
from typing import ClassVar

from irgrow.edits import Impossible
from irgrow.errors import OptionError
from irgrow.graph import Graph
from irgrow.morphism import Morphism
from irgrow.ops import flag, integer, real, site, word
from irgrow.passes.analyses.density import Synapses, share
from irgrow.passes.base import Context, Pass
from irgrow.passes.edges import (
    ALL,
    SPARED,
    Chosen,
    Field,
    chosen_weights,
    is_frozen,
    lowest,
    on,
    switched_off,
    switched_on,
)
from irgrow.passes.rewrites import grow_edges, prune_edges
from irgrow.shapes import Array, as_array


@dataclass(frozen=True)
class RewireEdges(Pass):
    """Exchange a share of the synapses of every weight for others.

    Args:
        where: A node with a masked weight, or `all` for every weight that has synapses to exchange.
        prune: What is lowest in those that go.
        grow: What is highest in those that come.
        fraction: Share of the synapses that are on, of each weight, rounded down.
        regrow: Whether what was pruned may come back at once.
        until: The training step at which the share has fallen to nothing; it stays what it is unless given.
        spare: Which of all weights are left out: the `first`, the `last`, both `ends` or `none`.

    >>> str(RewireEdges(prune="magnitude", grow="gradient", fraction=0.3))
    'rewire_edges(grow = gradient)'
    """

    whole: ClassVar[bool] = True

    where: str = site(ALL)
    prune: str = word("magnitude", "snip", "movement", "random", default="magnitude")
    grow: str = word("random", "gradient", default="random")
    fraction: float = real(0.3, low=0.0, high=1.0, open_low=True)
    regrow: bool = flag(True)
    until: int | None = integer(None)
    spare: str = word(*SPARED, default="none")

    @property
    def site(self) -> str:
        return self.where

    def at(self, site: str, units: int) -> RewireEdges:
        return self

    def during(self, step: int) -> RewireEdges:
        if self.until is None or step >= self.until:
            return self
        return replace(self, fraction=self.fraction / 2 * (1 + cos(pi * step / self.until)), until=None)

    def match(self, graph: Graph, site: str) -> str | None:
        if (problem := self.contradiction) is not None:
            return problem
        if self.until is not None:
            return f"the share falls to nothing at step {self.until}: only a growth program knows the step before that"
        try:
            weights = chosen_weights(graph, site, self.spare)
        except (Impossible, OptionError) as reason:
            return str(reason)
        if all(s.mask is None for s in weights):
            return "nothing to rewire: every synapse is on"
        return None

    def wants_gradients(self, graph: Graph, site: str) -> bool:
        return self.prune in ("snip", "movement") or self.grow == "gradient"

    def rewrite(self, graph: Graph, site: str, context: Context) -> Morphism:
        is_on = {s: on(context, s) for s in chosen_weights(graph, site, self.spare) if s.mask is not None}
        sparse = {s: o for s, o in is_on.items() if not o.all() and not is_frozen(context, s)}
        if not sparse:
            raise Impossible("nothing to rewire: every synapse is on, or its weight is frozen")
        if not any(share(int(o.sum()), self.fraction) for o in sparse.values()):
            raise Impossible(f"nothing to rewire: a share of {self.fraction:g} is less than one synapse of any weight")
        gone, come = {}, {}
        for synapses, entries in sparse.items():
            gone[synapses], come[synapses] = self._exchange(synapses, entries, context)
        moved = sum(int(g.sum()) for g in gone.values())
        first = switched_off(graph, gone, context, False, f"rewire {moved} synapses of {site}: prune them")
        second = switched_on(graph, come, _without(context, gone), {}, "grow as many")
        return first.then(second)

    def _exchange(self, synapses: Synapses, is_on: Chosen, context: Context) -> tuple[Chosen, Chosen]:
        """Return what goes and what comes of one weight, equally many."""
        count = share(int(is_on.sum()), self.fraction)
        (dropped,) = self._lowest(prune_edges.scores(self.prune, synapses, context), is_on, count, synapses)
        open_ = ~is_on | dropped if self.regrow else ~is_on
        if (available := int(open_.sum())) < count:
            raise Impossible(f"`{synapses.weight}` has {available} synapses that are off, {count} are to come")
        (grown,) = self._lowest(-grow_edges.scores(self.grow, synapses, context), open_, count, synapses)
        return dropped & ~grown, grown & ~dropped

    def _lowest(self, scores: Array, open_: Chosen, count: int, synapses: Synapses) -> list[Chosen]:
        field = Field(synapses, scores.reshape(-1), open_.reshape(-1), 0)
        return [found.reshape(synapses.shape) for found in lowest([field], [count])]


def _without(context: Context, gone: dict[Synapses, Chosen]) -> Context:
    """Return what the second rewrite sees: the masks after the first."""
    params = dict(context.params or {})
    for synapses, entries in gone.items():
        if synapses.mask is not None:
            params[synapses.mask] = as_array(params[synapses.mask]) * ~entries
    return replace(context, params=params)
