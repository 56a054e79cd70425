"""What an initializer is: how the fan-in of new units starts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

from irgrow.attributes import Options
from irgrow.axes import IndexMap
from irgrow.edits import Edits, Impossible
from irgrow.fills import Fill
from irgrow.graph import Graph
from irgrow.morphism import Morphism
from irgrow.passes.base import Context

if TYPE_CHECKING:
    from irgrow.passes.records.base import Record, Watch
    from irgrow.probing import Probed


@dataclass(frozen=True)
class Newborns:
    """The units an initializer is asked about.

    Args:
        graph: The network before they are there.
        edits: The edit that adds them.
        context: Parameters, seed and what was recorded.
        notes: What to tell people in the receipt; initializers append to it.
    """

    graph: Graph
    edits: Edits
    context: Context
    notes: list[str] = field(default_factory=list, compare=False)


@dataclass(frozen=True)
class Initializer(Options):
    """Base of initializers.

    Class attributes:
        zero: The side of new units that starts at zero, if it has to be one: `fan_out`, `fan_in`, or `neither`; what
            the side that does not is filled with, `given` says. `None` if the pass may choose.
        by_numbers: Whether the proof is to look at the numbers it gives, which takes as long as reading the network.
        wants_gradients: Whether it looks at `context.gradients`, `context.signals` or `context.trial`.
    """

    zero: ClassVar[str | None] = None
    by_numbers: ClassVar[bool] = False
    wants_gradients: ClassVar[bool] = False

    def match(self, graph: Graph, edits: Mapping[str, IndexMap]) -> str | None:
        """Return why it has nothing for the new units of such a network, whatever its numbers; `None` if it may."""
        try:
            for atom in edits:
                self.suits(graph, edits, atom)
        except Impossible as impossible:
            return impossible.reason
        return None

    def suits(self, graph: Graph, edits: Mapping[str, IndexMap], atom: str) -> None:
        """Look at one of the atoms that gain units.

        Raises:
            Impossible: It has nothing for them.
        """

    def needs(self, graph: Graph, edits: Mapping[str, IndexMap]) -> tuple[str, ...]:
        """Return the nodes whose values must have been recorded in `context.statistics`."""
        return ()

    def watches(self, graph: Graph, edits: Mapping[str, IndexMap]) -> tuple[Watch, ...]:
        """Return what to record in training, so that no batch need be run when a rule applies it."""
        return ()

    def recorded(self, graph: Graph, edits: Mapping[str, IndexMap], recorded: Mapping[str, Record]) -> Probed | None:
        """Return what was recorded in training in the place of what a batch would say; `None` if that is not enough."""
        return None

    def batch_size(self, graph: Graph, edits: Mapping[str, IndexMap]) -> int:
        """Return how many samples those values should be of, at least; 0 if any batch will do."""
        return 0

    def default(self) -> Fill:
        """Return what new rows of weights start from where `chosen` says nothing."""
        raise NotImplementedError

    def columns(self) -> Fill:
        """Return what new columns start from where units start at zero, or as the mean of others."""
        return self.default()

    def chosen(self, newborns: Newborns) -> dict[str, Fill]:
        """Return fills of particular parameters by full name.

        Raises:
            Impossible: What it needs is missing or degenerate.
        """
        return {}

    def given(self, newborns: Newborns) -> dict[str, Fill]:
        """Return the new entries of parameters by full name, whatever their dimensions do; they win over all else.

        Raises:
            Impossible: They do not fit the parameters.
        """
        return {}

    def finished(self, newborns: Newborns, morphism: Morphism) -> Morphism:
        """Return the rewrite with what else happens to old entries; the last word of an initializer."""
        return morphism
