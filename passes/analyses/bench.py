"""The bench candidates are tried on: the layer they would join, what they would read and the activity there is."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import ceil, prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from irgrow.axes import Atom, IndexMap, atoms
from irgrow.edits import Impossible
from irgrow.graph import Graph
from irgrow.ops import Coupling
from irgrow.passes.analyses import novelty
from irgrow.passes.analyses.candidates import (
    candidate_activity,
    flat_units,
    receptive_fields,
    sampled,
    untried,
)
from irgrow.passes.analyses.entries import effective
from irgrow.passes.analyses.places import makers, measured, mixed_dim
from irgrow.shapes import Float64, Int64


@dataclass(frozen=True)
class Bench:
    """A layer that candidates are tried in: what they would read, and the activity they would join.

    Args:
        graph: The network.
        maker: The layer.
        weight: Its weight in float64, what a mask switches off as zero.
        fields: What a unit reads, shape (fan_in, columns).
        existing: Activity of the units there are, shape (units, columns).
    """

    graph: Graph
    maker: str
    weight: Float64[np.ndarray, "units *fan_in"]
    fields: Float64[np.ndarray, "fan_in columns"]
    existing: Float64[np.ndarray, "units columns"]

    def exhausted(self, asked: str) -> str | None:
        """Return what to tell people if nothing can be new to the units there are; `None` if something can.

        Their activity spans all columns: there are too few.
        """
        units, columns = self.existing.shape
        if columns > units or int(np.linalg.matrix_rank(self.existing)) < columns:
            return None
        return (
            f"{asked}: {columns} columns of activity (samples times positions) are too few for the {units} units of "
            f"`{self.maker}`, nothing is new to them; new units are random"
        )

    def activity(
        self, drawn: Float64[np.ndarray, "pool *fan_in"], bias: Float64[np.ndarray, " pool"] | float = 0.0
    ) -> Float64[np.ndarray, "pool columns"]:
        """Return the activity of candidates, given their fan-in and biases.

        Raises:
            Impossible: It is not finite.
        """
        import torch

        before = drawn.reshape(len(drawn), -1) @ self.fields + np.reshape(bias, (-1, 1))
        found: NDArray[np.float64] = candidate_activity(self.graph, self.maker, torch.from_numpy(before)).numpy()
        if not np.isfinite(found).all():
            raise Impossible(f"the activity of `{self.maker}` is not finite")
        return found

    def best(
        self, activity: Float64[np.ndarray, "pool columns"], count: int, by_rank: bool, greedy: bool, epsilon: float
    ) -> Int64[np.ndarray, " count"]:
        """Return the indices of the candidates whose activity adds most to the existing one."""
        scale = 1.0 / np.sqrt(self.existing.shape[1])
        return novelty.most_novel(self.existing * scale, activity * scale, count, by_rank, greedy, epsilon)

    def newness(
        self, fan_in: Float64[np.ndarray, "pool entries"], basis: Float64[np.ndarray, "rank columns"]
    ) -> tuple[Float64[np.ndarray, " pool"], Float64[np.ndarray, "pool entries"]]:
        """Return the mean squared distance of candidates' activity from a row space, and its gradient.

        Raises:
            Impossible: It is not finite.
        """
        import torch

        w = torch.from_numpy(fan_in).requires_grad_()
        with torch.enable_grad():
            active = candidate_activity(self.graph, self.maker, w @ torch.from_numpy(self.fields))
            space = torch.from_numpy(basis)
            score = (active - (active @ space.T) @ space).pow(2).mean(1)
            (slope,) = torch.autograd.grad(score.sum(), w)
        if not bool(torch.isfinite(score).all()):
            raise Impossible(f"the activity of `{self.maker}` is not finite")
        return score.detach().numpy(), slope.numpy()


def first_layer(graph: Graph, atom: str) -> str | None:
    """Return the first dense layer or convolution that makes an axis; of a residual group, the first to write to it."""
    return next((m for m in makers(graph, atom) if graph[m].op.coupling is Coupling.MIXING), None)


def layer_of(graph: Graph, edits: Iterable[str], atom: str, asked: str, by_activity: bool = True) -> str:
    """Return the layer whose fan-in is to be chosen.

    Args:
        graph: The network.
        edits: The atoms that are edited.
        atom: The one whose units are new.
        asked: Who asks, for the reason.
        by_activity: Whether candidates are compared by what they would do behind the activation.

    Raises:
        Impossible: No layer makes all of the axis, it reads new units itself, or what candidates do is not known.
    """
    maker = first_layer(graph, atom)
    if maker is None:
        raise Impossible(f"{asked} needs a dense layer or convolution that makes `{atom}`")
    if by_activity and (node := untried(graph, maker)) is not None:
        raise Impossible(f"{asked} does not know what `{node}` makes of units that are not there yet")
    if graph.signatures[maker].axes["units"] != Atom(atom):
        raise Impossible(f"{asked} needs `{atom}` to be all the units of `{maker}`")
    if any(a.name in edits for a in atoms(graph.specs[maker][0].dims[1])):
        raise Impossible(f"`{maker}` makes units of `{atom}` and reads them; {asked} knows no new fan-in")
    return maker


def recorded_at(graph: Graph, edits: Iterable[str]) -> tuple[str, ...]:
    """Return the nodes whose values a bench takes."""
    found = []
    for maker in (first_layer(graph, atom) for atom in edits):
        if maker is not None:
            found += [graph[maker].inputs[0], measured(graph, maker)]
    return tuple(found)


def enough(graph: Graph, edits: Mapping[str, IndexMap], most: int) -> int:
    """Return how many samples say what is new to the units of layers: twice as many columns as there will be units.

    Args:
        graph: The network.
        edits: The atoms that are edited, with their units.
        most: The most columns (samples times positions) looked at.
    """
    found = 0
    for atom, units in edits.items():
        if (maker := first_layer(graph, atom)) is not None:
            shape = graph.shape(measured(graph, maker))
            positions = prod(shape) // shape[mixed_dim(graph, maker)]
            found = max(found, ceil(min(2 * len(units), most) / positions))
    return found


def bench(
    graph: Graph, maker: str, params: Mapping[str, Any] | None, recorded: Mapping[str, Any], samples: int, asked: str
) -> Bench:
    """Return what candidates of a layer are tried with.

    Args:
        graph: The network.
        maker: The layer.
        params: Its parameters.
        recorded: Values of the input of the layer and where its activity is measured, batch first.
        samples: The most columns (samples times positions) looked at.
        asked: Who asks, for the reason.

    Raises:
        Impossible: Something is missing or not finite.
    """
    for name in (graph[maker].inputs[0], measured(graph, maker)):
        if name not in recorded:
            raise Impossible(
                f"{asked} needs the values of `{name}` on a batch, none were recorded; give `batch` or `statistics`"
            )
    if params is None:
        raise Impossible(f"{asked} needs the parameters of the network")
    weight = effective(params, graph.param_name(maker, "weight"))
    fields = receptive_fields(graph, maker, recorded[graph[maker].inputs[0]])
    existing = flat_units(recorded[measured(graph, maker)], mixed_dim(graph, maker))
    if fields.shape[1] != existing.shape[1]:
        raise Impossible(f"the activity of `{maker}` and of its units stand at different positions")
    if fields.shape[1] == 0:
        raise Impossible("the batch has no samples")
    found = Bench(graph, maker, weight, sampled(fields, samples), sampled(existing, samples))
    if not (np.isfinite(found.fields).all() and np.isfinite(found.existing).all()):
        raise Impossible(f"the activity of `{maker}` is not finite")
    return found
