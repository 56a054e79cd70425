"""What is recorded while a network trains: watches say what, records hold it.

A watch is data, asked for by a trigger; the controller makes its record, hooks it to the leaf modules, and drops it
when the units it speaks of change. Records add no pass of their own: they take what the training passes compute.

Where several processes train together, each has records of its own. A record says what the others need to know of it
as named tensors (`told`), and what all of them told makes one record (`merged`); how tensors travel is not its concern.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from irgrow.axes import atoms
from irgrow.graph import Graph

if TYPE_CHECKING:
    from torch import Tensor, nn

WINDOW = 1024
"""Columns of activity (samples times positions) kept for a rank, at least twice as many as there are units."""

Wanted = Callable[["nn.Module"], bool]
"""Whether what a module computes now is to be recorded."""


class Record:
    """Base of what was recorded of one watch.

    Attributes:
        shared: Whether it is to be merged with those of other processes; said before anything is recorded, since a
            record may have to keep more for that.
    """

    shared: bool = False

    @property
    def ready(self) -> bool:
        """Whether enough was recorded to say something."""
        return True

    def attach(self, leaves: Mapping[str, nn.Module], wanted: Wanted) -> list[Any]:
        """Hook the leaf modules, by node, and return the handles; nothing is taken unless `wanted(module)`."""
        raise NotImplementedError

    def fits(self, graph: Graph) -> bool:
        """Return whether what it holds, if anything, has the sizes of the network."""
        return True

    @property
    def lead(self) -> int:
        """How many steps of recording it needs before it is asked."""
        return 1

    def settle(self) -> None:
        """Close a training step: what belongs to it only is let go."""

    def clear(self) -> None:
        """Forget everything."""

    def told(self) -> dict[str, Tensor]:
        """Return what other processes need to know of it; nothing if it is empty. They are not to be written to."""
        raise NotImplementedError

    def merged(self, told: Sequence[Mapping[str, Tensor]]) -> Record:
        """Return a record of all that was told of one watch; this one stays as it is.

        Args:
            told: What `told` returned in every process, in order of rank, its own part included; all on one device.
                Of no process at all, the record is empty.
        """
        raise NotImplementedError

    def state(self) -> dict[str, Tensor]:
        """Return what it holds as tensors."""
        return {}

    def load(self, state: dict[str, Tensor]) -> None:
        """Take back what `state` returned."""


def added(values: Iterable[Tensor]) -> Tensor:
    """Return a sum in float64, term by term in this order; a tensor of its own."""
    first, *others = values
    total = first.double().clone()
    for value in others:
        total += value
    return total


def under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors whose names begin with a prefix and a slash, by the rest of their names.

    >>> under("a", {"a/x/y": 1, "ab/x": 2})
    {'x/y': 1}
    """
    start = f"{prefix}/"
    return {name[len(start) :]: value for name, value in tensors.items() if name.startswith(start)}


@dataclass(frozen=True)
class Watch:
    """Something to record while a network trains.

    Watches with the same `key` share one record; the one with the most `samples` is made.
    """

    samples: int = WINDOW

    @property
    def key(self) -> str:
        """What the record is called."""
        raise NotImplementedError

    def nodes(self, graph: Graph) -> tuple[str, ...]:
        """Return the nodes that are hooked."""
        raise NotImplementedError

    def record(self, graph: Graph) -> Record:
        """Return an empty record."""
        raise NotImplementedError

    def units(self, graph: Graph) -> frozenset[str]:
        """Return the leaf axes whose edits make what was recorded void."""
        return frozenset(a.name for n in self.nodes(graph) for a in atoms(graph.types[n].units))
