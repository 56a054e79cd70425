"""NORTH-Select: of many random candidates keep those whose activity is least explained by the units there are.

A candidate's post-activations h are compared with those of the existing units, the rows of H (both over the samples of
one batch, scaled by 1 / sqrt(n)). Its score is the squared distance of h from the row space of H: by interlacing the
rank of [H; h] rises by one exactly if that distance is not zero (Maile 2023, 6.2.2). With `score = rank` the printed
criterion itself is evaluated, the number of singular values above `epsilon` and the nuclear norm to break ties; it
costs an eigenvalue problem per candidate. Candidates are scored independently, as in the text, unless `greedy`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from irgrow.axes import NEW, IndexMap
from irgrow.fills import Fill, Given, XavierUniform
from irgrow.graph import Graph
from irgrow.ops import flag, integer, real, word
from irgrow.passes.analyses import novelty
from irgrow.passes.analyses.bench import bench, enough, layer_of, recorded_at
from irgrow.passes.initializers.base import Initializer, Newborns
from irgrow.shapes import Array


@dataclass(frozen=True)
class NorthSelect(Initializer):
    """Choose new units among random candidates by how new their activity is.

    Args:
        candidates: How many are drawn beyond those needed; 0 means 1000 for dense layers and 100 for convolutions.
        score: `distance` from the row space, or `rank` as printed.
        greedy: Count the units already chosen among the existing ones.
        epsilon: Singular values below it count as zero.
        samples: The most columns (samples times positions) looked at.
        per_unit: How many candidates are drawn for each unit needed, instead of `candidates`; 100 in DYNO.
    """

    candidates: int = integer(0, low=0)
    score: str = word("distance", "rank", default="distance")
    greedy: bool = flag(False)
    epsilon: float = real(0.01, low=0.0, open_low=True)
    samples: int = integer(4096)
    per_unit: int = integer(0, low=0)

    def default(self) -> Fill:
        return XavierUniform(match=True)

    def suits(self, graph: Graph, edits: Mapping[str, IndexMap], atom: str) -> None:
        layer_of(graph, edits, atom, "north_select")

    def needs(self, graph: Graph, edits: Mapping[str, IndexMap]) -> tuple[str, ...]:
        return recorded_at(graph, edits)

    def batch_size(self, graph: Graph, edits: Mapping[str, IndexMap]) -> int:
        return enough(graph, edits, self.samples)

    def chosen(self, newborns: Newborns) -> dict[str, Fill]:
        fills: dict[str, Fill] = {}
        graph = newborns.graph
        for atom, m in newborns.edits.items():
            maker = layer_of(graph, newborns.edits, atom, "north_select")
            fills[graph.param_name(maker, "weight")] = Given(self.select(newborns, maker, int((m == NEW).sum())))
        return fills

    def select(self, newborns: Newborns, maker: str, count: int) -> Array:
        """Return the fan-in of the chosen units, shape (count, fan_in, ...).

        Raises:
            Impossible: Something is missing or not finite.
        """
        graph, context = newborns.graph, newborns.context
        tried = bench(graph, maker, context.params, context.statistics, self.samples, "north_select")
        beyond = self.per_unit * count or self.candidates or (100 if tried.weight.ndim > 2 else 1000)
        pool = beyond + count
        rng = context.generator("north_select", maker)
        drawn = novelty.matched(XavierUniform().draw((pool, *tried.weight.shape[1:]), rng), tried.weight)
        if (why := tried.exhausted("north_select")) is not None:
            newborns.notes.append(why)
            return drawn[:count]
        best = tried.best(tried.activity(drawn), count, self.score == "rank", self.greedy, self.epsilon)
        return drawn[best]
