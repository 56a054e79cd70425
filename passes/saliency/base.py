"""What a saliency is: a score for every unit of an axis, higher = keep.

The axis is a leaf axis. Its units may stand at many places: in all layers that write to a residual stream, at every
position behind a flatten, in all entries of a head. Whatever belongs to one unit counts towards its one score.

Scores come from a batch that is run for them in evaluation mode, or, where a rule of a growth program prunes, from what
was recorded in the passes that train (`watches`, `recorded`); on the same values both are the same.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from irgrow.attributes import Options, textual_name
from irgrow.edits import Impossible
from irgrow.graph import Graph
from irgrow.ops import Role
from irgrow.passes.analyses.activity import all_places, by_unit, carriers
from irgrow.passes.analyses.entries import Places, belonging
from irgrow.passes.base import Context
from irgrow.passes.records.base import Watch
from irgrow.shapes import Array

ROLES = {
    "fan_in": frozenset({Role.MAKES}),
    "fan_out": frozenset({Role.READS}),
    "both": frozenset({Role.MAKES, Role.READS}),
}
"""The roles of the weights on either side of a unit."""


@dataclass(frozen=True)
class Saliency(Options):
    """Base of saliencies.

    Class attributes:
        wants_gradients: Whether it looks at `context.gradients` or `context.signals`.
    """

    wants_gradients: ClassVar[bool] = False

    @property
    def name(self) -> str:
        """What messages call it."""
        return textual_name(type(self))

    def needs(self, graph: Graph, axis: str) -> tuple[str, ...]:
        """Return the nodes whose values must have been recorded in `context.statistics`."""
        return ()

    def scores(self, graph: Graph, axis: str, context: Context) -> Array:
        """Return a score for every unit of a leaf axis, shape (units,).

        Raises:
            Impossible: What it needs is missing, not finite or tells nothing.
        """
        raise NotImplementedError

    def watches(self, graph: Graph, axis: str) -> tuple[Watch, ...]:
        """Return what to record in training so that no batch need be run for the scores; nothing if that cannot be."""
        return ()

    def recorded(self, graph: Graph, axis: str, recorded: Mapping[str, Any]) -> Array | None:
        """Return the scores from what was recorded in training, by the keys of `watches`; `None` if it does not say.

        Raises:
            Impossible: It tells nothing.
        """
        return None

    def places(self, graph: Graph, axis: str, side: str) -> dict[str, Places]:
        """Return where units stand in the parameters that make them (`fan_in`), read them (`fan_out`), or both.

        Raises:
            Impossible: There are none.
        """
        found = belonging(graph, axis, ROLES[side])
        if not found:
            does = {"fan_in": "make", "fan_out": "read", "both": "make or read"}[side]
            raise Impossible(f"{self.name} looks at the weights that {does} `{axis}`, and there are none")
        return found

    def given(self, values: Mapping[str, Any] | None, name: str, what: str, missing: str) -> Any:
        """Return what the context says about a parameter or node.

        Raises:
            Impossible: It says nothing; names what to pass.
        """
        if values is None or name not in values:
            raise Impossible(f"{self.name} needs {what} of `{name}`: {missing}")
        return values[name]


@dataclass(frozen=True)
class ActivitySaliency(Saliency):
    """Base of saliencies that look at what units do on a batch."""

    def needs(self, graph: Graph, axis: str) -> tuple[str, ...]:
        return carriers(graph, axis)

    def measured(self, graph: Graph, axis: str) -> bool:
        """Return whether there are nodes to measure the units at, each with one dimension of them."""
        try:
            return bool(all_places(graph, axis))
        except Impossible:
            return False

    def activity(self, graph: Graph, axis: str, context: Context) -> list[Array]:
        """Return what units did, one array (units, samples, positions) per place they stand at.

        Raises:
            Impossible: No layer makes them, nothing was recorded, or it is not finite.
        """
        missing = "pass a `batch` and a `loss`" if self.wants_gradients else "pass a `batch`"
        return self._by_unit(graph, axis, context.statistics, "the values", missing)

    def signals(self, graph: Graph, axis: str, context: Context) -> list[Array]:
        """Return the gradients of the loss by what `activity` returns.

        Raises:
            Impossible: No layer makes them, no loss was given, or a gradient is not finite.
        """
        return self._by_unit(graph, axis, context.signals, "the gradient of the loss by the values", "pass a `loss`")

    def _by_unit(
        self, graph: Graph, axis: str, values: Mapping[str, Any] | None, what: str, missing: str
    ) -> list[Array]:
        nodes = carriers(graph, axis)
        if not nodes:
            raise Impossible(f"{self.name} looks at layers that make `{axis}`, and there are none")
        return [part for node in nodes for part in by_unit(graph, axis, node, self.given(values, node, what, missing))]


@dataclass(frozen=True, eq=False)
class Known(Saliency):
    """A saliency whose scores were found already, from what was recorded in training; it is written as itself.

    Args:
        by: The saliency.
        found: Its scores by leaf axis.
    """

    by: Saliency
    found: Mapping[str, Array]

    def __str__(self) -> str:
        return str(self.by)

    @property
    def name(self) -> str:
        return self.by.name

    def scores(self, graph: Graph, axis: str, context: Context) -> Array:
        return self.found[axis]


def known(saliency: Saliency, graph: Graph, axes: Iterable[str], recorded: Mapping[str, Any]) -> Saliency:
    """Return a saliency with its scores, as far as what was recorded in training says them of all axes, or itself."""
    found: dict[str, Array] = {}
    for axis in axes:
        try:
            scores = saliency.recorded(graph, axis, recorded)
        except Impossible:
            scores = None
        if scores is None:
            return saliency
        found[axis] = scores
    return Known(saliency, found)


def scored(saliency: Saliency, graph: Graph, axis: str, context: Context) -> Array:
    """Return the scores of a leaf axis, checked.

    Raises:
        Impossible: There is no finite score for each unit.
    """
    scores = np.asarray(saliency.scores(graph, axis, context), dtype=np.float64)
    if scores.shape != (graph.widths[axis],):
        raise Impossible(f"{saliency} gave scores of shape {list(scores.shape)} for {graph.widths[axis]} units")
    if not (finite := np.isfinite(scores)).all():
        raise Impossible(f"the score of unit {int(np.flatnonzero(~finite)[0])} of `{axis}` by {saliency} is not finite")
    return scores
