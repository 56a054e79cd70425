"""Grow by Firefly: of units split off old ones and new ones that are barely read, keep those with large gradients.

Half of the candidates split a unit j each, drawn without repetition: w_j becomes w_j + n and w_j - n, and the two share
what is read of it in halves. The others are new, with random fan-in at the mean norm of the units there are, and their
fan-out is `epsilon` times a normal times the mean norm of the fan-outs. All of them stand in the network at once, one
backward pass gives the gradients of their fan-in, and the `count` with the largest norms stay; the rest is undone.

None of that is carried out. Up to a relative error of the order of `epsilon` the gradients are those of the network as
it is: half of that of unit j for a split, and for a new unit what the signals at the layers that read it hand back. So
one probe of the batch with a loss is enough, and only the units that stay are put in.

On a residual stream the fan-in is that of the first layer; new units have no other.

The fan-in gradient of a new unit is proportional to `epsilon`, that of a split is not, so that with the thesis's 1e-4
nearly all that stay are splits. With `by = both` the gradient of the fan-out counts as well, which is not small for
either. Splits change the function by second order in the noise (first order at kinks), new units by first order in
`epsilon`. Uniform noise is `epsilon` times as long as the fan-in it parts; normal noise has one size for all units,
nearly that of uniform noise on average.

Source: Wu et al. (2020), Firefly neural architecture descent; Maile (2023), 6.2.3 (without training of candidates).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from math import sqrt
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from irgrow.axes import NEW
from irgrow.edits import Edits, Impossible, growth
from irgrow.errors import OptionError
from irgrow.fills import ZERO, Fill, Given, XavierUniform
from irgrow.graph import Graph
from irgrow.morphism import Morphism
from irgrow.ops import Conv, Role, integer, real, site, word
from irgrow.passes.analyses.bridge import bridge, needed
from irgrow.passes.analyses.companions import companions
from irgrow.passes.analyses.contributions import Candidates, contributions, untried
from irgrow.passes.analyses.entries import belonging, effective, unit_sums
from irgrow.passes.analyses.fan_outs import fan_out_norm, new_columns
from irgrow.passes.analyses.novelty import matched
from irgrow.passes.base import Context, Pass
from irgrow.passes.primitives import by_role, resize
from irgrow.passes.records.base import Watch
from irgrow.passes.records.crossed import crossings, said
from irgrow.passes.sharing import shared
from irgrow.passes.triggers.base import View
from irgrow.shapes import Array

if TYPE_CHECKING:
    from irgrow.probing import Probed


@dataclass(frozen=True)
class GrowFirefly(Pass):
    """Add the `count` units with the largest gradients among splits and new ones.

    Args:
        axis: An axis, or a node that carries it.
        count: How many units more.
        candidates: How many are drawn beyond those needed; 0 means 1000 for dense layers and 100 for convolutions.
        epsilon: How far apart splits are, and how much new units are read, relative to the weights; at least 1e-6,
            below which float32 would not tell splits apart.
        by: Whether candidates are compared by the gradient of their `fan_in`, or of `both` sides.
        noise: What parts splits: `uniform`, as long as `epsilon` times the fan-in of each as printed, or `normal`.

    >>> str(GrowFirefly("f1", 8))
    'grow_firefly(f1, 8)'
    """

    counted: ClassVar[bool] = True

    axis: str = site("")
    count: int = integer(1, high=1 << 24)
    candidates: int = integer(0, low=0)
    epsilon: float = real(1e-4, low=1e-6)
    by: str = word("fan_in", "both", default="fan_in")
    noise: str = word("uniform", "normal", default="uniform")

    @property
    def site(self) -> str:
        return self.axis

    def at(self, site: str, units: int) -> GrowFirefly:
        return replace(self, axis=site, count=units)

    def match(self, graph: Graph, site: str) -> str | None:
        try:
            return untried(graph, next(iter(growth(graph, graph.axis(site), self.count))))
        except (Impossible, OptionError) as reason:
            return str(reason)

    def needs(self, graph: Graph, site: str) -> tuple[str, ...]:
        return needed(graph, next(iter(growth(graph, graph.axis(site), self.count))))

    def wants_gradients(self, graph: Graph, site: str) -> bool:
        return True

    def watches(self, graph: Graph, site: str) -> tuple[Watch, ...]:
        return () if self.match(graph, site) is not None else crossings(graph, self._axes(graph), weights=True)

    def recorded(self, view: View) -> Probed | None:
        graph = view.graph
        return None if self.match(graph, self.site) is not None else said(graph, self._axes(graph), view.recorded, True)

    def _axes(self, graph: Graph) -> Edits:
        return growth(graph, graph.axis(self.site), self.count)

    def rewrite(self, graph: Graph, site: str, context: Context) -> Morphism:
        ((atom, m),) = growth(graph, graph.axis(site), self.count).items()
        count = int((m == NEW).sum())
        drawn = self.drawn(graph, atom, count, context)
        scores = self.scores(graph, atom, drawn, context)
        best = np.argsort(-scores, kind="stable")[:count]
        return self._inserted(graph, atom, drawn.chosen(np.sort(best)), context)

    def drawn(self, graph: Graph, axis: str, count: int, context: Context) -> Candidates:
        """Return the candidates.

        Raises:
            Impossible: There are no parameters.
        """
        if context.params is None:
            raise Impossible("grow_firefly needs the parameters of the network")
        found, old = bridge(graph, axis), graph.widths[axis]
        weight = effective(context.params, graph.param_name(found.maker, "weight"))
        rng = context.generator("grow_firefly", axis)
        pool = (self.candidates or (100 if isinstance(graph[found.maker].op, Conv) else 1000)) + count
        splits = rng.permutation(old)[: pool // 2]
        new = pool - len(splits)
        fan_in = matched(XavierUniform().draw((new, *weight.shape[1:]), rng), weight)
        shapes = {route.weight: route.shape for route in found.routes}
        size = self.epsilon * fan_out_norm(graph, axis, shapes, context.params)
        return Candidates(splits, fan_in, {w: rng.normal(0.0, size, (new, *shape)) for w, shape in shapes.items()})

    def scores(self, graph: Graph, axis: str, drawn: Candidates, context: Context) -> Array:
        """Return the gradient norm of every candidate, splits first, shape (candidates,).

        Raises:
            Impossible: Something was not recorded or is not finite.
        """
        found = bridge(graph, axis)
        source = graph[found.maker].inputs[0]
        signals, gradients = context.signals, context.gradients
        if signals is None or gradients is None or source not in context.statistics:
            raise Impossible("grow_firefly needs gradients on a batch; give `loss` and `batch` or `statistics`")
        split = self._sums(graph, axis, (graph.param_name(found.maker, "weight"),), context) / 4  # a half, squared
        if self.by == "both":
            split = split + self._sums(graph, axis, (route.weight for route in found.routes), context)
        squares = np.concatenate([split[drawn.splits], self._of_new(graph, axis, drawn, context)])
        if not np.isfinite(squares).all():
            raise Impossible("the gradients on the batch are not finite")
        return np.sqrt(squares)

    def _sums(self, graph: Graph, axis: str, names: Iterable[str], context: Context) -> Array:
        """Return for every old unit the sum of its squared gradients in these weights."""
        assert context.params is not None
        assert context.gradients is not None
        total, places = np.zeros(graph.widths[axis]), belonging(graph, axis, frozenset({Role.MAKES, Role.READS}))
        for name in dict.fromkeys(names):
            gradient = effective({**context.params, name: context.gradients[name]}, name)
            total += unit_sums(gradient**2, places[name], len(total))
        return total

    def _of_new(self, graph: Graph, axis: str, drawn: Candidates, context: Context) -> Array:
        """Return the squared gradients of the new candidates: what their contributions hand back of the signals."""
        import torch

        assert context.signals is not None
        source = graph[bridge(graph, axis).maker].inputs[0]
        fan_in = torch.from_numpy(drawn.fan_in).requires_grad_()
        fan_outs = {w: torch.from_numpy(v).requires_grad_() for w, v in drawn.fan_outs.items()}
        with torch.enable_grad():
            added = contributions(graph, axis, context.statistics[source], fan_in, fan_outs)
            parts = [(torch.as_tensor(context.signals[node]) * more).sum() for node, more in added.items()]
            grads = torch.autograd.grad(torch.stack(parts).sum(), [fan_in, *fan_outs.values()])
        counted = grads if self.by == "both" else grads[:1]
        return np.sum([g.flatten(1).pow(2).sum(1).numpy() for g in counted], axis=0)

    def _inserted(self, graph: Graph, axis: str, chosen: Candidates, context: Context) -> Morphism:
        """Return the rewrite that adds these units: copies, then new ones."""
        old, copies, new = graph.widths[axis], len(chosen.splits), len(chosen.fan_in)
        edits: Edits = {axis: np.concatenate([np.arange(old), chosen.splits, np.full(new, NEW)])}
        given: dict[str, Fill] = {}
        if new:
            given = {w: Given(new_columns(graph, axis, w, v)) for w, v in chosen.fan_outs.items()}
            given[graph.param_name(bridge(graph, axis).maker, "weight")] = Given(chosen.fan_in)
            given |= companions(graph, axis, new, context.params or {})
        shares = np.ones(old + copies + new)
        shares[chosen.splits] = shares[old : old + copies] = 0.5
        summary = f"grow {self.axis} by {copies} units split and {new} new"
        morphism = resize(graph, edits, by_role(ZERO, ZERO, given=given), context.seed, summary)
        if copies:
            size = self.epsilon * (sqrt(2.0) if self.noise == "normal" else 1.0)  # normal noise loses its mean
            morphism = shared(morphism, {axis: shares}, size, Role.MAKES, self.noise)
        return replace(morphism, notes=(f"grow_firefly: {copies} units split, {new} new",))
