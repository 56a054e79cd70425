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

import numpy as np
from numpy.typing import NDArray

from irgrow.axes import NEW, Atom, IndexMap, atoms
from irgrow.backends.reference import as_array
from irgrow.edits import Impossible
from irgrow.fills import Fill, Given, XavierUniform
from irgrow.graph import Graph
from irgrow.ops import Coupling, flag, integer, real, word
from irgrow.passes.analyses import novelty
from irgrow.passes.analyses.candidates import candidate_activity, flat_units, receptive_fields
from irgrow.passes.analyses.places import makers, measured
from irgrow.passes.initializers.base import Initializer, Newborns

Array = NDArray[np.float64]


@dataclass(frozen=True)
class NorthSelect(Initializer):
    """Choose new units among random candidates by how new their activity is.

    Args:
        candidates: How many are drawn beyond those needed; 0 means 1000 for dense layers and 100 for convolutions.
        score: `distance` from the row space, or `rank` as printed.
        greedy: Count the units already chosen among the existing ones.
        epsilon: Singular values below it count as zero.
        samples: The most columns (samples times positions) looked at.
    """

    candidates: int = integer(0, low=0)
    score: str = word("distance", "rank", default="distance")
    greedy: bool = flag(False)
    epsilon: float = real(0.01, low=0.0, open_low=True)
    samples: int = integer(4096)

    def default(self) -> Fill:
        return XavierUniform(match=True)

    def needs(self, graph: Graph, edits: Mapping[str, IndexMap]) -> tuple[str, ...]:
        found = []
        for atom in edits:
            maker = _first_layer(graph, atom)
            if maker is not None:
                found += [graph[maker].inputs[0], measured(graph, maker)]
        return tuple(found)

    def chosen(self, newborns: Newborns) -> dict[str, Fill]:
        fills: dict[str, Fill] = {}
        for atom, m in newborns.edits.items():
            count = int((m == NEW).sum())
            maker = _first_layer(newborns.graph, atom)
            if maker is None:
                raise Impossible(f"north_select needs a dense layer or convolution that makes `{atom}`")
            if newborns.graph.signatures[maker].axes["units"] != Atom(atom):
                raise Impossible(f"north_select needs `{atom}` to be all the units of `{maker}`")
            if any(a.name in newborns.edits for a in atoms(newborns.graph.specs[maker][0].dims[1])):
                raise Impossible(f"`{maker}` makes units of `{atom}` and reads them; north_select knows no new fan-in")
            fills[newborns.graph.param_name(maker, "weight")] = Given(self._select(newborns, maker, count))
        return fills

    def _select(self, newborns: Newborns, maker: str, count: int) -> Array:
        """Return the fan-in of the chosen units, shape (count, fan_in, ...)."""
        graph, context = newborns.graph, newborns.context
        recorded = context.statistics
        for name in self.needs(graph, newborns.edits):
            if name not in recorded:
                raise Impossible(f"north_select needs the values of `{name}` on a batch, none were recorded")
        if context.params is None:
            raise Impossible("north_select needs the parameters of the network")
        weight = as_array(context.params[graph.param_name(maker, "weight")])
        convolution = weight.ndim > 2
        pool = (self.candidates or (100 if convolution else 1000)) + count
        rng = context.generator("north_select", maker)
        drawn = novelty.matched(XavierUniform().draw((pool, *weight.shape[1:]), rng), weight)
        fields = receptive_fields(graph, maker, recorded[graph[maker].inputs[0]])
        existing = flat_units(graph, measured(graph, maker), recorded[measured(graph, maker)])
        if fields.shape[1] != existing.shape[1]:
            raise Impossible(f"the activity of `{maker}` and of its units stand at different positions")
        kept = np.linspace(0, fields.shape[1] - 1, min(self.samples, fields.shape[1])).astype(np.int64)
        activity = candidate_activity(graph, maker, drawn.reshape(pool, -1) @ fields[:, kept])
        existing = existing[:, kept]
        if not (np.isfinite(activity).all() and np.isfinite(existing).all()):
            raise Impossible(f"the activity of `{maker}` is not finite")
        scale = 1.0 / np.sqrt(len(kept))
        chosen = novelty.most_novel(
            existing * scale, activity * scale, count, self.score == "rank", self.greedy, self.epsilon
        )
        return drawn[chosen]


def _first_layer(graph: Graph, atom: str) -> str | None:
    """Return the first dense layer or convolution that makes an axis; of a residual group, the first to write to it."""
    return next((m for m in makers(graph, atom) if graph[m].op.coupling is Coupling.MIXING), None)
