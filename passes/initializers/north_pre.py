"""NORTH-Pre: new units whose pre-activations are orthogonal to those of the units there are.

Let H be what a dense layer reads on a batch, a row of ones below it for the bias, and Z its pre-activations. For a
random g, the part of g orthogonal to the rows of Z is taken, and w = (H^T)^+ of it: the pre-activations w^T H are then
orthogonal to every row of Z, exactly, as the pseudo-inverse projects on the rows of H, which hold those of Z (Maile
2023, eq. 33; V a with V a basis of the kernel and a normal is the same distribution). Candidates are scaled to the mean
norm of the units there are, then scored by their activity and kept as north_select does.

The solved bias is the last entry of w (`bias = solved`); the text sets it to zero (`bias = zero`), after which only the
rest is orthogonal. Where Z spans all that H does, as it does in a layer of M units that reads fewer than M values, or
where there are no more samples than units, nothing is orthogonal: then it does as north_select, the receipt says so.

Source: Maile (2023), 6.2.2.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from irgrow.axes import NEW, IndexMap
from irgrow.edits import Impossible
from irgrow.fills import Fill, Given, XavierUniform
from irgrow.graph import Graph
from irgrow.ops import Dense, flag, integer, real, word
from irgrow.passes.analyses.bench import Bench, bench, enough, first_layer, layer_of, recorded_at
from irgrow.passes.analyses.candidates import flat_units, sampled
from irgrow.passes.analyses.novelty import matching, numerical_row_space
from irgrow.passes.analyses.places import mixed_dim
from irgrow.passes.initializers.base import Initializer, Newborns
from irgrow.passes.initializers.north_select import NorthSelect
from irgrow.shapes import Array


@dataclass(frozen=True)
class NorthPre(Initializer):
    """Choose new units among candidates with pre-activations orthogonal to the existing ones; dense layers only.

    Args:
        bias: Whether new biases are `solved` for with the fan-in, or `zero`.
        candidates: How many are drawn beyond those needed; 0 means 1000.
        score: `distance` from the row space of the activity, or its `rank`.
        greedy: Count the units already chosen among the existing ones.
        epsilon: Singular values of the activity below it count as zero.
        samples: The most samples (times positions) looked at.

    >>> str(NorthPre("zero"))
    'north_pre(zero)'
    """

    bias: str = word("solved", "zero", default="solved")
    candidates: int = integer(0, low=0)
    score: str = word("distance", "rank", default="distance")
    greedy: bool = flag(False)
    epsilon: float = real(0.01, low=0.0, open_low=True)
    samples: int = integer(4096)

    def default(self) -> Fill:
        return XavierUniform(match=True)

    def suits(self, graph: Graph, edits: Mapping[str, IndexMap], atom: str) -> None:
        maker = layer_of(graph, edits, atom, "north_pre")
        if not isinstance(graph[maker].op, Dense):
            raise Impossible(f"north_pre is for dense layers, `{maker}` is a {graph[maker].op.kind}; use north_select")

    def needs(self, graph: Graph, edits: Mapping[str, IndexMap]) -> tuple[str, ...]:
        return (*recorded_at(graph, edits), *(m for a in edits if (m := first_layer(graph, a)) is not None))

    def batch_size(self, graph: Graph, edits: Mapping[str, IndexMap]) -> int:
        return enough(graph, edits, self.samples)

    def chosen(self, newborns: Newborns) -> dict[str, Fill]:
        graph, fills = newborns.graph, dict[str, Fill]()
        for atom, m in newborns.edits.items():
            maker = layer_of(graph, newborns.edits, atom, "north_pre")
            count = int((m == NEW).sum())
            found = self._solved(newborns, maker, count)
            if found is None:
                newborns.notes.append(
                    f"north_pre: what `{maker}` gives spans all that it reads, so nothing is orthogonal to it; "
                    "new units are those of north_select"
                )
                select = NorthSelect(self.candidates, self.score, self.greedy, self.epsilon, self.samples)
                fills[graph.param_name(maker, "weight")] = Given(select.select(newborns, maker, count))
                continue
            weights, biases = found
            fills[graph.param_name(maker, "weight")] = Given(weights)
            if biases is not None and self.bias == "solved":
                fills[graph.param_name(maker, "bias")] = Given(biases)
        return fills

    def _solved(self, newborns: Newborns, maker: str, count: int) -> tuple[Array, Array | None] | None:
        """Return fan-in and biases of the chosen units; `None` where nothing is orthogonal to those there are."""
        graph, context = newborns.graph, newborns.context
        tried = bench(graph, maker, context.params, context.statistics, self.samples, "north_pre")
        if maker not in context.statistics:
            raise Impossible(f"north_pre needs the values of `{maker}` on a batch, none were recorded")
        z = sampled(flat_units(context.statistics[maker], mixed_dim(graph, maker)), self.samples)
        if not np.isfinite(z).all():
            raise Impossible(f"the values of `{maker}` are not finite on the batch")
        with_bias = any(s.name == "bias" for s in graph.specs[maker])
        h = np.concatenate([tried.fields, np.ones((1, z.shape[1]))]) if with_bias else tried.fields
        rounding = float(np.finfo(_precision(context.statistics[maker])).eps)
        rows, wide = numerical_row_space(z, rounding), numerical_row_space(h, rounding)
        if len(rows) >= len(wide):
            return None
        rng = context.generator("north_pre", maker)
        pool = (self.candidates or 1000) + count
        g = rng.normal(size=(pool, z.shape[1]))
        apart = g - (g @ rows.T) @ rows
        solved = np.linalg.lstsq(h.T, apart.T, rcond=rounding * max(h.shape))[0].T
        return self._kept(tried, solved, with_bias, count)

    def _kept(self, tried: Bench, solved: Array, with_bias: bool, count: int) -> tuple[Array, Array | None]:
        """Scale candidates to the norm of the units there are and keep the best, with their biases."""
        weights = solved[:, : tried.weight.shape[1]]
        factor = matching(weights, tried.weight)
        weights = weights * factor[:, None]
        biases = solved[:, -1] * factor if with_bias else None
        shift = 0.0 if biases is None or self.bias == "zero" else biases
        best = tried.best(tried.activity(weights, shift), count, self.score == "rank", self.greedy, self.epsilon)
        return weights[best], None if biases is None else biases[best]


def _precision(value: object) -> np.dtype[np.floating]:
    """Return the precision numbers were recorded in."""
    dtype = str(getattr(value, "dtype", np.asarray(value).dtype)).rpartition(".")[2]
    return np.dtype(dtype if dtype in ("float64", "float32", "float16") else "float32")
