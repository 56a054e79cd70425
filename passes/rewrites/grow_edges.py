"""Grow edges: switch synapses on that a mask holds off.

    before   y = (M * W) x,   M zero at some entries        after   M one at those that grow

A new synapse of weight zero leaves the function as it is and receives its gradient, x_j delta_i, at once. Which grow:

    random     any of those that are off
    gradient   the largest |dL/dw| of those that are off, taken as if they were on (RigL)
    nest       those that are off among the `fraction` of all synapses, on or off, with the largest |dL/dw|; the paper
               writes it as the mean of x_j delta_i over the batch, which is the same number (NeST)

and the weights they start from:

    zero       exact; moments start at zero, second moments as the optimizer's `carry` says
    kept       what an ephemeral pruning left there, moments included; exact only if that is zero
    descent    -rate dL/dw, one step of gradient descent (NeST)

The function stays exactly what it was with weights of zero; the verdict is derived from the numbers. A frozen weight
would never use a new synapse of zero: it is left out of `all`, and refused if it is named.

Source: Maile (2023), 3.1; Evci et al. (2020), RigL; Dai et al. (2019), NeST; Mocanu et al. (2018), SET.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from irgrow.edits import Impossible
from irgrow.errors import OptionError
from irgrow.fills import Fill, Given
from irgrow.graph import Graph
from irgrow.morphism import Morphism
from irgrow.ops import flag, integer, real, site, word
from irgrow.passes.analyses.density import Synapses, share
from irgrow.passes.base import Context, Pass
from irgrow.passes.edges import (
    ALL,
    ALLOCATIONS,
    SPARED,
    Chosen,
    Field,
    chosen_weights,
    field_of,
    given,
    gradient,
    is_frozen,
    lowest,
    on,
    quotas,
    spread,
    switched_on,
)
from irgrow.shapes import Array

AMOUNTS = ("fraction", "count", "density")


@dataclass(frozen=True)
class GrowEdges(Pass):
    """Switch synapses on; exactly one of `fraction`, `count` and `density` says how many.

    Args:
        where: A node with a masked weight, or `all` for every weight that can be masked.
        by: What is highest in those that grow.
        fraction: Share of the synapses that are off; for `nest`, of all.
        count: How many, of all weights together.
        density: Share of all synapses that is on afterwards; a weight above it gains nothing.
        value: What the new weights start from.
        rate: The length of the step for `value = descent`.
        kernels: Whole kernels of convolutions, one for each pair of units.
        allocation: How the number is shared out among several weights: the same share of each (`uniform`), denser
            where a weight is small (`erk`), or all in one ranking (`global`).
        spare: Which of all weights are left out: the `first`, the `last`, both `ends` or `none`.

    >>> str(GrowEdges("f1", "gradient", count=10))
    'grow_edges(f1, gradient, count = 10)'
    """

    whole: ClassVar[bool] = True

    where: str = site(ALL)
    by: str = word("random", "gradient", "nest", default="random")
    fraction: float | None = real(None, low=0.0, high=1.0, open_low=True)
    count: int | None = integer(None)
    density: float | None = real(None, low=0.0, high=1.0, open_low=True)
    value: str = word("zero", "kept", "descent", default="zero")
    rate: float = real(0.01, low=0.0, open_low=True)
    kernels: bool = flag(False)
    allocation: str = word(*ALLOCATIONS, default="uniform")
    spare: str = word(*SPARED, default="none")

    @property
    def site(self) -> str:
        return self.where

    def at(self, site: str, units: int) -> GrowEdges:
        return self if any(getattr(self, a) is not None for a in AMOUNTS) else replace(self, count=units)

    def match(self, graph: Graph, site: str) -> str | None:
        if (problem := self.contradiction) is not None:
            return problem
        try:
            amount = given(self, *AMOUNTS)
            weights = chosen_weights(graph, site, self.spare, self.kernels)
        except (Impossible, OptionError) as reason:
            return str(reason)
        if self.by == "nest" and amount != "fraction":
            return f"nest takes a fraction, the share of all synapses that is looked at; found {amount}"
        if self.by == "nest" and self.allocation == "erk":
            return "nest takes the same share of every weight, or of all together; use uniform or global"
        if all(s.mask is None for s in weights):
            return "nothing to grow: every synapse is on"
        return None

    def wants_gradients(self, graph: Graph, site: str) -> bool:
        return self.by != "random" or self.value == "descent"

    def rewrite(self, graph: Graph, site: str, context: Context) -> Morphism:
        weights = self._learning(chosen_weights(graph, site, self.spare, self.kernels), context)
        is_on = {s: on(context, s) for s in weights}
        if all(o.all() for o in is_on.values()):
            raise Impossible("nothing to grow: every synapse is on")
        come = {f.synapses: spread(f, c) & ~is_on[f.synapses] for f, c in self._chosen(is_on, context)}
        total = sum(int(c.sum()) for c in come.values())
        if not total:
            amount = given(self, *AMOUNTS)
            raise Impossible(f"nothing to grow with {amount} = {getattr(self, amount)}")
        fills = None if self.value == "kept" else self._fills(come, context)
        return switched_on(graph, come, context, fills, f"grow {total} synapses of {site}")

    def _learning(self, weights: tuple[Synapses, ...], context: Context) -> tuple[Synapses, ...]:
        """Return the weights a new synapse can be of use in."""
        if self.value == "kept":
            return weights
        found = tuple(s for s in weights if not is_frozen(context, s))
        if not found:
            raise Impossible(f"`{weights[0].weight}` is frozen: what grows would never learn")
        return found

    def _chosen(self, is_on: Mapping[Synapses, Chosen], context: Context) -> list[tuple[Field, Chosen]]:
        """Return what grows, by weight."""
        looked_at = {s: np.zeros_like(o) if self.by == "nest" else o for s, o in is_on.items()}
        fields = [
            field_of(s, -scores(self.by, s, context), o, False, self.kernels, norm=False) for s, o in looked_at.items()
        ]
        if self.by == "nest" and self.fraction is not None:
            together = self.allocation == "global"
            sizes = [sum(f.size for f in fields)] if together else [f.size for f in fields]
            counts = [share(size, self.fraction) for size in sizes]
        else:
            amount = given(self, *AMOUNTS)
            counts = quotas(fields, amount, getattr(self, amount), self.allocation, growing=True)
        return list(zip(fields, lowest(fields, counts), strict=True))

    def _fills(self, come: Mapping[Synapses, Chosen], context: Context) -> dict[Synapses, Fill]:
        if self.value != "descent":
            return {}
        why = "the value `descent`"
        return {s: Given(-self.rate * gradient(context, s.weight, why)[c]) for s, c in come.items()}


def scores(by: str, synapses: Synapses, context: Context) -> Array:
    """Return a number for every entry of a weight; the highest grow first.

    Raises:
        Impossible: The gradient is missing, or not finite.
    """
    if by == "random":
        return context.generator("grow", synapses.weight).random(synapses.shape)
    return np.abs(gradient(context, synapses.weight, f"growing by {by}"))
