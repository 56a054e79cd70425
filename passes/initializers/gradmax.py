"""GradMax: new units are zero and are read so that the gradient of their fan-in is as large as it can be.

A unit with zero fan-in and fan-out v changes nothing and receives the gradient f'(0) v^T A, where A is the auxiliary
gradient (fan-out entries, fan-in entries). Of k orthonormal fan-outs the first k left singular vectors of A give the
largest, of squared norm f'(0)^2 (s1^2 + ... + sk^2); they are scaled to the mean norm of the fan-outs there are (Evci
et al. 2022; Maile 2023, 6.2.3). If only the sum of squares of all fan-outs is bounded, the best are k copies of the
first vector (`constraint = frobenius`): twice the gradient, but copies stay copies until something parts them. Where
units run in several lanes, such as one for every head, fan-outs are orthonormal in each: every lane gets the best.

Between the two layers units get what the bridge is for: unit filters in depthwise convolutions, in attention queries
of zero and random keys, in a gated layer (SwiGLU) a copy of an old unit's gate (`irgrow.passes.analyses.bridge`).

The layer must not be frozen, and the slope at zero not be zero; ReLU's is, `right_relu` has its values and slope 1.
There are no more useful directions than the rank of A, which is at most the number of fan-out entries and of samples
times positions: asked for more it refuses. It needs a batch and a loss; a rule takes both from the pass that trains.
Exact in both modes where f(0) = 0.

Source: Evci et al. (2022), GradMax; Maile (2023), 6.2.3. Where the paper adds the singular values, the squared norm
adds their squares.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from irgrow.axes import NEW, IndexMap
from irgrow.edits import Impossible
from irgrow.fills import Fill, Given, XavierUniform
from irgrow.graph import Graph
from irgrow.ops import flag, word
from irgrow.passes.analyses.auxiliary import auxiliary
from irgrow.passes.analyses.bridge import bridge, needed
from irgrow.passes.analyses.companions import companions
from irgrow.passes.analyses.fan_outs import fan_out_norm, new_columns
from irgrow.passes.analyses.places import makers, path
from irgrow.passes.analyses.routes import flat_at_zero
from irgrow.passes.initializers.base import Initializer, Newborns
from irgrow.passes.records.base import Record, Watch
from irgrow.passes.records.crossed import crossings, said
from irgrow.shapes import Array

if TYPE_CHECKING:
    from torch import Tensor

    from irgrow.probing import Probed


@dataclass(frozen=True)
class GradMax(Initializer):
    """Start new units at zero, read so that their fan-in receives the largest gradient.

    Args:
        borders: Whether the gradient of a convolution is that of the new unit (`exact`) or that of the printed bridge
            kernel (`kernel`), which also sees what lies beyond the border and knows no strides in between.
        constraint: Whether fan-outs are `orthonormal`, or of bounded norm together (`frobenius`).
        bias: Whether the gradient of the new biases counts as well, as if layers read a one beside the rest.

    >>> str(GradMax("kernel"))
    'gradmax(kernel)'
    """

    textual: ClassVar[str] = "gradmax"
    zero: ClassVar[str | None] = "fan_in"
    wants_gradients: ClassVar[bool] = True

    borders: str = word("exact", "kernel", default="exact")
    constraint: str = word("orthonormal", "frobenius", default="orthonormal")
    bias: bool = flag(False)

    def default(self) -> Fill:
        return XavierUniform()

    def suits(self, graph: Graph, edits: Mapping[str, IndexMap], atom: str) -> None:
        found = bridge(graph, atom, True)
        if (flat := flat_at_zero(graph, atom)) is not None and all(r.slope == 0.0 for r in found.routes):
            raise Impossible(
                f"the slope of `{flat}` at zero is zero, so units with zero fan-in would never receive a gradient; "
                "`right_relu` computes the same as `relu` and has slope 1 there"
            )
        lent = {layer for _, layer in found.borrowed}
        for behind in (next(path(graph, m), None) for m in makers(graph, atom) if m not in lent):
            if behind is not None and behind.op.facts.normalising:
                raise Impossible(f"zero fan-in behind `{behind.name}`: its variance would be zero; use zero fan-out")
        if self.constraint == "frobenius" and found.lanes > 1:
            raise Impossible(
                f"units run in {found.lanes} lanes, and by `constraint = frobenius` only one of them would live"
            )

    def needs(self, graph: Graph, edits: Mapping[str, IndexMap]) -> tuple[str, ...]:
        return tuple(name for atom in edits for name in needed(graph, atom))

    def watches(self, graph: Graph, edits: Mapping[str, IndexMap]) -> tuple[Watch, ...]:
        return crossings(graph, edits)

    def recorded(self, graph: Graph, edits: Mapping[str, IndexMap], recorded: Mapping[str, Record]) -> Probed | None:
        return said(graph, edits, recorded)

    def given(self, newborns: Newborns) -> dict[str, Fill]:
        found: dict[str, Fill] = {}
        for atom, m in newborns.edits.items():
            found |= self._read(newborns, atom, int((m == NEW).sum()))
        return found

    def _read(self, newborns: Newborns, axis: str, count: int) -> dict[str, Fill]:
        """Return the new columns of every weight that reads an axis, and what else the bridge asks for."""
        graph, context = newborns.graph, newborns.context
        if context.params is None:
            raise Impossible("gradmax needs the parameters of the network")
        maker = bridge(graph, axis).maker
        weight = graph.param_name(maker, "weight")
        if not getattr(context.params[weight], "requires_grad", True):
            raise Impossible(f"`{weight}` is frozen, so units with zero fan-in would never receive a gradient")
        biased = self.bias and any(spec.name == "bias" for spec in graph.specs[maker])
        a = auxiliary(
            graph, axis, context.statistics, context.signals, self.borders, True, None, biased, context.params
        )
        vectors = self._directions(a.blocks, count, newborns.notes)
        vectors *= fan_out_norm(graph, axis, tuple(a.parts), context.params) / np.sqrt(len(a.blocks))
        found: dict[str, Fill] = {
            w: Given(new_columns(graph, axis, w, part)) for w, part in a.fan_outs(vectors).items()
        }
        return found | companions(graph, axis, count, context.params)

    def _directions(self, blocks: Tensor, count: int, notes: list[str]) -> Array:
        """Return the fan-outs, of norm one in every lane, shape (count, lanes, fan-out entries of a lane)."""
        import torch

        left, values = (t.cpu().numpy() for t in torch.linalg.svd(blocks, full_matrices=False)[:2])
        floor = values.max(initial=0.0) * max(blocks.shape[1:]) * np.finfo(np.float32).eps
        rank = int((values > floor).sum(1).min())
        if rank == 0:
            raise Impossible("the auxiliary gradient is zero on this batch: no fan-out gives new units a gradient")
        if self.constraint == "frobenius":
            if count > 1:
                notes.append(f"gradmax: {count} copies of one fan-out; they receive the same gradient until parted")
            return np.tile(_signed(left[:, :, :1]).transpose(2, 0, 1), (count, 1, 1))
        if count > rank:
            raise Impossible(
                f"the auxiliary gradient has rank {rank} on this batch, so gradmax gives at most {rank} units a "
                f"gradient, asked for {count}"
            )
        return _signed(left[:, :, :count]).transpose(2, 0, 1)


def _signed(vectors: Array) -> Array:
    """Return columns whose largest entry is positive, so that one matrix gives one result everywhere."""
    largest = np.abs(vectors).argmax(1)[:, None]
    return vectors * np.sign(np.take_along_axis(vectors, largest, 1))
