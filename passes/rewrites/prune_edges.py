"""Prune edges: switch synapses off, by a mask beside the weight.

    before   y = W x        after   y = (M * W) x,   M zero at what goes

A layer that has no mask gets one. What goes is zero in the weight and in every slot of the optimizer, so that momentum
and weight decay cannot bring it back; with `ephemeral` the mask alone changes, the weight and its slots stay, and
`grow_edges(value = kept)` takes them up again. The optimizer goes on with what it holds of them meanwhile: its momentum
runs out, and weight decay shrinks them. Which ones go, lowest score first:

    magnitude   |w|, of kernels the norm
    snip        |g w|, the change of the loss to first order, of kernels the sum
    movement    -g w, so that weights that move towards zero go first; one batch of the sum over training
    random      any

Exact, and proved so by the numbers, where everything that goes is exactly zero (and what it reads finite). A tied
weight is pruned in all its uses, if all of them can be masked; else it is refused. Pruning what leaves a weight without
a synapse is refused.

Source: Maile (2023), 3.1; Lee et al. (2019), SNIP; Sanh et al. (2020), movement pruning; Evci et al. (2020), RigL.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from irgrow.edits import Impossible
from irgrow.errors import OptionError
from irgrow.graph import Graph
from irgrow.morphism import Morphism
from irgrow.ops import flag, integer, real, site, word
from irgrow.passes.analyses.density import Synapses
from irgrow.passes.base import Context, Pass
from irgrow.passes.edges import (
    ALL,
    ALLOCATIONS,
    SPARED,
    Chosen,
    chosen_weights,
    field_of,
    given,
    gradient,
    lowest,
    numbers,
    on,
    quotas,
    spread,
    switched_off,
)
from irgrow.shapes import Array

AMOUNTS = ("fraction", "count", "density", "threshold")


@dataclass(frozen=True)
class PruneEdges(Pass):
    """Switch synapses off; exactly one of `fraction`, `count`, `density` and `threshold` says how many.

    Args:
        where: A node with a weight, or `all` for every weight that can be masked.
        by: What is lowest in those that go.
        fraction: Share of the synapses that are on.
        count: How many, of all weights together.
        density: Share of all synapses that is left on; a weight below it loses nothing.
        threshold: Those whose score is not above it.
        kernels: Whole kernels of convolutions, one for each pair of units.
        ephemeral: Leave the weights and their slots as they are.
        allocation: How the number is shared out among several weights: the same share of each (`uniform`), denser
            where a weight is small (`erk`), or all in one ranking (`global`).
        spare: Which of all weights are left out: the `first`, the `last`, both `ends` or `none`.

    >>> str(PruneEdges("f1", fraction=0.5))
    'prune_edges(f1, fraction = 0.5)'
    """

    whole: ClassVar[bool] = True

    where: str = site(ALL)
    by: str = word("magnitude", "snip", "movement", "random", default="magnitude")
    fraction: float | None = real(None, low=0.0, high=1.0, open_low=True)
    count: int | None = integer(None)
    density: float | None = real(None, low=0.0, high=1.0, open_low=True)
    threshold: float | None = real(None)
    kernels: bool = flag(False)
    ephemeral: bool = flag(False)
    allocation: str = word(*ALLOCATIONS, default="uniform")
    spare: str = word(*SPARED, default="none")

    @property
    def site(self) -> str:
        return self.where

    def at(self, site: str, units: int) -> PruneEdges:
        return self if any(getattr(self, a) is not None for a in AMOUNTS) else replace(self, count=units)

    def match(self, graph: Graph, site: str) -> str | None:
        if (problem := self.contradiction) is not None:
            return problem
        try:
            amount = given(self, *AMOUNTS)
            chosen_weights(graph, site, self.spare, self.kernels)
        except (Impossible, OptionError) as reason:
            return str(reason)
        if amount == "threshold" and self.by == "random":
            return "random numbers have no threshold; use fraction, count or density"
        if amount == "threshold" and self.allocation != "uniform":
            return "a threshold says for every weight what goes; leave `allocation` out"
        return None

    def wants_gradients(self, graph: Graph, site: str) -> bool:
        return self.by in ("snip", "movement")

    def rewrite(self, graph: Graph, site: str, context: Context) -> Morphism:
        weights = chosen_weights(graph, site, self.spare, self.kernels)
        is_on = {s: on(context, s) for s in weights}
        fields = [
            field_of(s, scores(self.by, s, context), is_on[s], True, self.kernels, self.by == "magnitude")
            for s in weights
        ]
        amount = given(self, *AMOUNTS)
        if self.threshold is not None:
            chosen = [f.open & (f.scores <= self.threshold) for f in fields]
        else:
            chosen = lowest(fields, quotas(fields, amount, getattr(self, amount), self.allocation, growing=False))
        gone = {f.synapses: spread(f, c) & is_on[f.synapses] for f, c in zip(fields, chosen, strict=True)}
        total = sum(int(g.sum()) for g in gone.values())
        if not total:
            raise Impossible(f"no synapse of {_named(site)} goes with {amount} = {getattr(self, amount)}")
        _leave_some(gone, is_on)
        return switched_off(graph, gone, context, self.ephemeral, f"prune {total} synapses of {site}")


def scores(by: str, synapses: Synapses, context: Context) -> Array:
    """Return a number for every entry of a weight; the lowest go first.

    Raises:
        Impossible: What it is made of is missing, or not finite.
    """
    if by == "random":
        return context.generator("prune", synapses.weight).random(synapses.shape)
    weight = numbers(context, synapses.weight, f"pruning by {by}")
    if by == "magnitude":
        return np.abs(weight)
    product: Array = gradient(context, synapses.weight, f"pruning by {by}") * weight
    return np.abs(product) if by == "snip" else -product


def _leave_some(gone: dict[Synapses, Chosen], is_on: dict[Synapses, Chosen]) -> None:
    for synapses, entries in gone.items():
        if entries.any() and not (is_on[synapses] & ~entries).any():
            raise Impossible(f"`{synapses.weight}` would have no synapses left")


def _named(site: str) -> str:
    return "any weight" if site == ALL else f"`{site}`"
