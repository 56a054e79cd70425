"""NORTH-Opt: candidates climb towards what is new before the best are kept. Expensive.

Random candidates, drawn as in north_select, take `steps` steps of gradient ascent on the squared distance of their
activity from the row space of the existing activity, each projected back on the sphere of the mean norm of the units
there are; a step that does not help is halved. Then the best is kept and, as all would climb the same hill, counted
among the existing units before the next one is sought. Every step costs a forward and a backward pass of all candidates
through the layer and its activation: about `steps` times `count` times what north_select costs.

Source: Maile (2023), 6.2.2, where it is mentioned as too slow; steps, rate and projection are ours.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from irgrow.axes import NEW, IndexMap
from irgrow.fills import Fill, Given, XavierUniform
from irgrow.graph import Graph
from irgrow.ops import integer, real
from irgrow.passes.analyses.bench import Bench, bench, enough, layer_of, recorded_at
from irgrow.passes.analyses.novelty import matched as scaled
from irgrow.passes.analyses.novelty import most_novel, row_space
from irgrow.passes.initializers.base import Initializer, Newborns
from irgrow.shapes import Array


@dataclass(frozen=True)
class NorthOpt(Initializer):
    """Climb from random candidates to units whose activity is new; expensive.

    Args:
        candidates: How many are drawn beyond those needed; 0 means 100 for dense layers and 10 for convolutions.
        steps: Steps of gradient ascent for each new unit.
        rate: Length of a step, relative to the norm of the fan-in.
        epsilon: Singular values of the activity below it count as zero.
        samples: The most columns (samples times positions) looked at.

    >>> str(NorthOpt(steps=5))
    'north_opt(steps = 5)'
    """

    candidates: int = integer(0, low=0)
    steps: int = integer(20, low=0)
    rate: float = real(0.3, low=0.0, open_low=True)
    epsilon: float = real(0.01, low=0.0, open_low=True)
    samples: int = integer(4096)

    def default(self) -> Fill:
        return XavierUniform(match=True)

    def suits(self, graph: Graph, edits: Mapping[str, IndexMap], atom: str) -> None:
        layer_of(graph, edits, atom, "north_opt")

    def needs(self, graph: Graph, edits: Mapping[str, IndexMap]) -> tuple[str, ...]:
        return recorded_at(graph, edits)

    def batch_size(self, graph: Graph, edits: Mapping[str, IndexMap]) -> int:
        return enough(graph, edits, self.samples)

    def chosen(self, newborns: Newborns) -> dict[str, Fill]:
        graph, context, fills = newborns.graph, newborns.context, dict[str, Fill]()
        for atom, m in newborns.edits.items():
            maker = layer_of(graph, newborns.edits, atom, "north_opt")
            tried = bench(graph, maker, context.params, context.statistics, self.samples, "north_opt")
            count = int((m == NEW).sum())
            pool = (self.candidates or (10 if tried.weight.ndim > 2 else 100)) + count
            rng = context.generator("north_opt", maker)
            drawn = scaled(XavierUniform().draw((pool, *tried.weight.shape[1:]), rng), tried.weight)
            if (why := tried.exhausted("north_opt")) is not None:
                newborns.notes.append(why)
            found = drawn[:count] if why is not None else self._climbed(tried, drawn, count)
            fills[graph.param_name(maker, "weight")] = Given(found)
        return fills

    def _climbed(self, tried: Bench, drawn: Array, count: int) -> Array:
        """Return the fan-in of the units found one after the other, shape (count, fan_in, ...)."""
        scale = 1.0 / np.sqrt(tried.existing.shape[1])
        existing = tried.existing * scale
        found: list[Array] = []
        for _ in range(count):
            climbed = self._ascended(tried, drawn, row_space(existing, self.epsilon))
            activity = tried.activity(climbed) * scale
            (best,) = most_novel(existing, activity, 1, False, False, self.epsilon)
            found.append(climbed[best])
            existing = np.concatenate([existing, activity[best : best + 1]])
            drawn = np.delete(drawn, best, axis=0)
        return np.stack(found)

    def _ascended(self, tried: Bench, drawn: Array, basis: Array) -> Array:
        """Return candidates after the ascent; none of them is less new than it was."""
        shape, rate = drawn.shape, np.full(len(drawn), self.rate)
        w = drawn.reshape(len(drawn), -1)
        norms = np.sqrt((w**2).sum(1, keepdims=True))
        score, slope = tried.newness(w, basis)
        for _ in range(self.steps):
            slope = slope - (slope * w).sum(1, keepdims=True) * w / np.maximum(norms**2, 1e-300)
            length = np.sqrt((slope**2).sum(1, keepdims=True))
            step = w + rate[:, None] * norms * slope / np.maximum(length, 1e-300)
            step *= norms / np.sqrt((step**2).sum(1, keepdims=True))
            better, its_slope = tried.newness(step, basis)
            helps = better > score
            w, slope = np.where(helps[:, None], step, w), np.where(helps[:, None], its_slope, slope)
            score, rate = np.where(helps, better, score), np.where(helps, rate, rate / 2)
        return w.reshape(shape)
