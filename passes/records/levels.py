"""How active units are: sums over a training step of their sizes, their squares and their zeros.

For every unit and every place it stands at, over samples and positions: how many values, how many that are not zero,
the sum of their sizes, their mean, and the sum of squared deviations from it (Chan, Golub and LeVeque 1983, so that a
large mean does not drown a small variance). Everything is summed in float64; several passes before a step and several
processes are put together as if they had been one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import TYPE_CHECKING, Any, ClassVar

from irgrow.graph import Graph
from irgrow.passes.records.base import Record, Wanted
from irgrow.passes.records.placed import AxisWatch, Placed, emptied

if TYPE_CHECKING:
    from torch import Tensor, nn


@dataclass(frozen=True)
class Leveling(AxisWatch):
    """How active the units of an axis are, of one training step.

    Args:
        axis: A leaf axis.

    >>> Leveling(axis="h").key
    'h [levels]'
    """

    what: ClassVar[str] = "levels"

    def record(self, graph: Graph) -> Record:
        return Levels(graph, self.axis)


@dataclass(frozen=True)
class Level:
    """How active units are at one node; all but the count have shape (places, units), in float64.

    Args:
        count: Values of every unit at every place.
        alive: How many are not zero.
        size: Sum of the absolute values.
        mean: Their mean.
        spread: Sum of the squared deviations from the mean.
    """

    count: float
    alive: Tensor
    size: Tensor
    mean: Tensor
    spread: Tensor

    @classmethod
    def of(cls, stacked: Tensor) -> Level:
        """Read back what `stacked` returned."""
        count, *values = stacked.clone()
        return cls(float(count.max()), *values)

    def stacked(self) -> Tensor:
        """Return all of it as one tensor, (5, places, units); the count stands everywhere in the first part."""
        import torch

        parts = (torch.full_like(self.mean, self.count), self.alive, self.size, self.mean, self.spread)
        return torch.stack(parts)

    def with_(self, other: Level) -> Level:
        """Return both together."""
        count = self.count + other.count
        apart, share = other.mean - self.mean, other.count / count
        spread = self.spread + other.spread + apart.square() * (self.count * share)
        return Level(count, self.alive + other.alive, self.size + other.size, self.mean + apart * share, spread)


def levels_of(recorded: Mapping[str, Any], axis: str) -> list[Level] | None:
    """Return what was recorded of how active the units of an axis are, by node; `None` if it is not all there."""
    levels: Levels | None = recorded.get(Leveling(axis=axis).key)
    return list(levels.found.values()) if levels is not None and levels.ready else None


class Levels(Placed):
    """How active the units of an axis were since the last step.

    Args:
        graph: The network.
        axis: A leaf axis.
    """

    def __init__(self, graph: Graph, axis: str) -> None:
        super().__init__(graph, axis)
        self.found: dict[str, Level] = {}

    def attach(self, leaves: Mapping[str, nn.Module], wanted: Wanted) -> list[Any]:
        import torch

        def follow(node: str) -> Callable[..., None]:
            def hook(module: nn.Module, inputs: Any, output: Tensor) -> None:
                if wanted(module) and len(output):
                    level = self._level(node, output)
                    self.found[node] = self.found[node].with_(level) if node in self.found else level

            return torch.compiler.disable(hook)

        return [leaves[node].register_forward_hook(follow(node)) for node in self.places]

    def _level(self, node: str, output: Tensor) -> Level:
        """Return the level of what a node gave."""
        import torch

        dim, order = self.places[node]
        with torch.no_grad():
            lines = output.detach().movedim(1 + dim, 0).flatten(1).double()
            mean = lines.mean(1)
            spread = (lines - mean[:, None]).square().sum(1)
            at = torch.as_tensor(order.T, device=lines.device)
            alive, size = (lines != 0).sum(1).double(), lines.abs().sum(1)
            return Level(lines.shape[1], alive[at], size[at], mean[at], spread[at])

    def clear(self) -> None:
        self.found = {}

    @property
    def ready(self) -> bool:
        """Whether every node gave something, and every number is finite."""
        return self.found.keys() == self.places.keys() and all(
            bool(level.size.isfinite().all()) for level in self.found.values()
        )

    def told(self) -> dict[str, Tensor]:
        return {node: level.stacked() for node, level in self.found.items()}

    def merged(self, told: Sequence[Mapping[str, Tensor]]) -> Levels:
        heard = {node: [Level.of(part[node]) for part in told if node in part] for node in self.places}
        found = {node: reduce(Level.with_, levels) for node, levels in heard.items() if levels}
        return emptied(self, found=found)
