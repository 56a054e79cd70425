"""NeST: a new unit stands for the missing synapses that the loss asks for most.

Dense layers: of the auxiliary gradient A, from what the layer reads to the outputs of those that read it, the `beta`
largest entries are kept. For each, with a random sign r, w_out[o] += r sqrt|A_oi|, w_in[i] -= r sgn(A_oi) sqrt|A_oi|:
the product of the two goes down the gradient (where the slope at zero is positive), and the signs make units differ.
Both sides are then scaled to the mean norms of those there are (Dai et al. 2019; Maile 2023, 6.2.3).

Convolutions: random candidates, both sides at the mean norms, each tried by itself on the batch; those with the lowest
loss are kept. This takes one forward pass a candidate.

The function changes on purpose. Printed readings that differ are options: squares of the entries instead of roots, the
1 - beta largest (the authors' code keeps 60 % for 0.4), and fan-outs that are always positive with random fan-in.

Source: Dai et al. (2019), NeST, algorithm 1; Maile (2023), 6.2.3.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from irgrow.axes import NEW, IndexMap
from irgrow.edits import Impossible
from irgrow.fills import ZERO, Fill, Given, XavierUniform
from irgrow.graph import Graph
from irgrow.ops import Conv, integer, real, word
from irgrow.passes.analyses.auxiliary import auxiliary
from irgrow.passes.analyses.bridge import bridge, needed
from irgrow.passes.analyses.companions import companions
from irgrow.passes.analyses.contributions import contributions, untried
from irgrow.passes.analyses.entries import effective
from irgrow.passes.analyses.fan_outs import fan_out_norm, new_columns
from irgrow.passes.analyses.novelty import matched
from irgrow.passes.initializers.base import Initializer, Newborns
from irgrow.passes.records.base import Record, Watch
from irgrow.passes.records.crossed import crossings, said
from irgrow.shapes import Array

if TYPE_CHECKING:
    from irgrow.probing import Probed

Sides = tuple[Array, dict[str, Array]]
"""Fan-in (units, fan_in, *taps), and by weight that reads them the fan-outs (units, *shape)."""


@dataclass(frozen=True)
class Nest(Initializer):
    """Start new units where the gradient asks for synapses; both sides are alive.

    Args:
        beta: Share of the entries of the auxiliary gradient a unit stands for.
        kept: Whether the `beta` largest are kept (`top`), or all but the `beta` smallest (`rest`).
        entries: What an entry adds: its `root`, or its `square`.
        signs: `product`: that of fan-in times fan-out goes down the gradient; `random`: fan-outs are positive, the
            signs of the fan-in random.
        candidates: For convolutions, how many are tried beyond those needed.

    >>> str(Nest(0.2))
    'nest(beta = 0.2)'
    """

    zero: ClassVar[str | None] = "neither"
    wants_gradients: ClassVar[bool] = True

    beta: float = real(0.4, low=0.0, high=1.0, open_low=True)
    kept: str = word("top", "rest", default="top")
    entries: str = word("root", "square", default="root")
    signs: str = word("product", "random", default="product")
    candidates: int = integer(100, low=0)

    def default(self) -> Fill:
        return ZERO

    def suits(self, graph: Graph, edits: Mapping[str, IndexMap], atom: str) -> None:
        if bridge(graph, atom).lanes > 1:
            raise Impossible(f"units of `{atom}` run in several lanes, such as one for every head; nest knows one")
        if _tries(graph, [atom]) and (why := untried(graph, atom)) is not None:
            raise Impossible(why)

    def needs(self, graph: Graph, edits: Mapping[str, IndexMap]) -> tuple[str, ...]:
        return tuple(name for atom in edits for name in needed(graph, atom))

    def watches(self, graph: Graph, edits: Mapping[str, IndexMap]) -> tuple[Watch, ...]:
        return () if _tries(graph, edits) else crossings(graph, edits)

    def recorded(self, graph: Graph, edits: Mapping[str, IndexMap], recorded: Mapping[str, Record]) -> Probed | None:
        return None if _tries(graph, edits) else said(graph, edits, recorded)

    def given(self, newborns: Newborns) -> dict[str, Fill]:
        graph, params, found = newborns.graph, newborns.context.params, dict[str, Fill]()
        for axis, m in newborns.edits.items():
            maker, count = bridge(graph, axis).maker, int((m == NEW).sum())
            if params is None:
                raise Impossible("nest needs the parameters of the network")
            weight = effective(params, graph.param_name(maker, "weight"))
            fan_in, fan_outs = (self._tried if _tries(graph, [axis]) else self._paired)(newborns, axis, weight, count)
            found[graph.param_name(maker, "weight")] = Given(fan_in)
            found |= {name: Given(new_columns(graph, axis, name, part)) for name, part in fan_outs.items()}
            found |= companions(graph, axis, count, params)
        return found

    def _paired(self, newborns: Newborns, axis: str, weight: Array, count: int) -> Sides:
        """Return both sides of units made of pairs of a fan-out and a fan-in entry."""
        graph, context = newborns.graph, newborns.context
        a = auxiliary(graph, axis, context.statistics, context.signals, params=context.params)
        matrix = a.matrix.cpu().numpy()
        size = np.abs(matrix)
        share = self.beta if self.kept == "top" else 1.0 - self.beta
        chosen = (size >= np.quantile(size, 1.0 - share)) & (size > 0)
        if not chosen.any():
            raise Impossible("the auxiliary gradient is zero on this batch, so there is nothing to stand for")
        strength = np.where(chosen, np.sqrt(size) if self.entries == "root" else size**2, 0.0)
        signs = context.generator("nest", axis).choice([-1.0, 1.0], (count, *matrix.shape))
        if self.signs == "product":
            out, into = signs * strength, -signs * np.sign(matrix) * strength
        else:
            out, into = np.broadcast_to(strength, signs.shape), signs * strength
        assert context.params is not None
        fan_out = out.sum(2)
        lengths = np.sqrt((fan_out**2).sum(1, keepdims=True))
        fan_out = fan_out * fan_out_norm(graph, axis, tuple(a.parts), context.params) / np.maximum(lengths, 1e-300)
        return matched(into.sum(1).reshape(count, *weight.shape[1:]), weight), _parted(fan_out, a.parts)

    def _tried(self, newborns: Newborns, axis: str, weight: Array, count: int) -> Sides:
        """Return both sides of the random candidates with the lowest loss."""
        graph, context = newborns.graph, newborns.context
        found = bridge(graph, axis)
        source = graph[found.maker].inputs[0]
        if context.trial is None or source not in context.statistics:
            raise Impossible("nest tries candidates on a batch; give `loss` and `batch` or `statistics`")
        assert context.params is not None
        rng, pool = context.generator("nest", axis), self.candidates + count
        fan_in = matched(XavierUniform().draw((pool, *weight.shape[1:]), rng), weight)
        shapes = {route.weight: route.shape for route in found.routes}
        drawn = rng.uniform(-1.0, 1.0, (pool, sum(int(np.prod(s)) for s in shapes.values())))
        drawn *= fan_out_norm(graph, axis, shapes, context.params) / np.sqrt((drawn**2).sum(1, keepdims=True))
        fan_outs = _parted(drawn, shapes)
        losses = np.empty(pool)
        for unit in range(pool):
            one = {name: part[unit : unit + 1] for name, part in fan_outs.items()}
            added = contributions(graph, axis, context.statistics[source], fan_in[unit : unit + 1], one)
            losses[unit] = context.trial(added)
        if not np.isfinite(losses).any():
            raise Impossible("the loss is not finite with any of the candidates")
        best = np.argsort(np.where(np.isfinite(losses), losses, np.inf), kind="stable")[:count]
        return fan_in[best], {name: part[best] for name, part in fan_outs.items()}


def _tries(graph: Graph, axes: Iterable[str]) -> bool:
    """Return whether candidates are tried on the batch, as for the units of convolutions."""
    return any(isinstance(graph[bridge(graph, axis).maker].op, Conv) for axis in axes)


def _parted(rows: Array, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Array]:
    """Part rows of fan-out entries by weight."""
    cuts = np.cumsum([int(np.prod(s)) for s in shapes.values()])[:-1]
    parts = np.split(rows, cuts, axis=1)
    return {name: part.reshape(len(rows), *shape) for (name, shape), part in zip(shapes.items(), parts, strict=True)}
