"""What records of the units of an axis have in common: where the units stand, and what makes a record void."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, TypeVar

from irgrow.graph import Graph
from irgrow.passes.analyses.activity import all_places, carriers, same_places
from irgrow.passes.records.base import Record, Watch

Made = TypeVar("Made", bound=Record)


@dataclass(frozen=True)
class AxisWatch(Watch):
    """Something to record of the units of an axis, at every node that carries them.

    Args:
        axis: A leaf axis.

    Class attributes:
        what: What is recorded of them, in its key.
    """

    what: ClassVar[str]

    axis: str = ""

    @property
    def key(self) -> str:
        return f"{self.axis} [{self.what}]"

    def nodes(self, graph: Graph) -> tuple[str, ...]:
        return carriers(graph, self.axis)

    def units(self, graph: Graph) -> frozenset[str]:
        return super().units(graph) | {self.axis}


class Placed(Record):
    """Base of records of one training step that look at units wherever they stand.

    Args:
        graph: The network.
        axis: A leaf axis.
    """

    def __init__(self, graph: Graph, axis: str) -> None:
        self.axis, self.width = axis, graph.widths[axis]
        self.places = all_places(graph, axis)

    def fits(self, graph: Graph) -> bool:
        return same_places(self.places, all_places(graph, self.axis))

    def settle(self) -> None:
        self.clear()


def emptied(record: Made, **empty: object) -> Made:
    """Return a record of the same units with other contents; what is not named is shared."""
    found = object.__new__(type(record))
    found.__dict__.update(record.__dict__ | empty)
    return found
