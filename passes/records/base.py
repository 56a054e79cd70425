"""What is recorded while a network trains: watches say what, records hold it.

A watch is data, asked for by a trigger; the controller makes its record, hooks it to the leaf modules, and drops it
when the units it speaks of change. Records add no pass of their own: they take what the training passes compute.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
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
    """Base of what was recorded of one watch."""

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

    def reduced(self, group: Any = None) -> Record:
        """Return what all processes of a group recorded, summed; every one of them must call it for the same watch.

        Args:
            group: A process group of `torch.distributed`; all of them if there is none.
        """
        raise NotImplementedError

    def state(self) -> dict[str, Tensor]:
        """Return what it holds as tensors."""
        return {}

    def load(self, state: dict[str, Tensor]) -> None:
        """Take back what `state` returned."""


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
