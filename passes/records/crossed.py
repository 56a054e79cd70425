"""What a batch said across an axis in training: all that initializers look at who ask for the auxiliary gradient.

The values that the first layer of the axis read, the gradient of the loss by the outputs of those that read the units,
and what stands beside the way, of all passes since the last step; if asked for, the gradients of the weights at both
ends as well, as they stood before a loop clipped them. It is what a probe of the batch would give, but of the pass that
trained: before the step of the optimizer, with its dropout and batch statistics. Nothing is copied but those
gradients and what comes from the inputs alone, and all is let go after the step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from typing import TYPE_CHECKING, Any

from irgrow.axes import atoms
from irgrow.graph import Graph
from irgrow.passes.analyses.bridge import bridge, needed
from irgrow.passes.records.across import Across, AcrossWatch
from irgrow.passes.records.base import Record, Wanted, added, under
from irgrow.passes.records.crossings import Crossing

if TYPE_CHECKING:
    from torch import Tensor, nn

    from irgrow.probing import Probed


@dataclass(frozen=True)
class Crossings(AcrossWatch):
    """The values and signals at both ends of a bridge, of one training step.

    Args:
        weights: Whether the gradients of the weights at both ends are wanted too.

    >>> Crossings(axis="h").key
    'h [crossings]'
    """

    weights: bool = False

    @property
    def key(self) -> str:
        return f"{self.axis} [crossings{' weights' if self.weights else ''}]"

    def record(self, graph: Graph) -> Record:
        return Crossed(graph, self.axis, self.weights)

    def units(self, graph: Graph) -> frozenset[str]:
        read = graph[bridge(graph, self.axis).maker].inputs[0]  # one unit less and one more are not the same ones
        return super().units(graph) | {a.name for a in atoms(graph.types[read].units)}


class Crossed(Across):
    """The values, signals and gradients across an axis since the last step.

    Args:
        graph: The network.
        axis: A leaf axis with a bridge.
        with_weights: Whether the gradients of the weights at both ends are taken too.

    Raises:
        Impossible: There is no bridge.
    """

    def __init__(self, graph: Graph, axis: str, with_weights: bool = False) -> None:
        super().__init__(graph, axis)
        self.with_weights = with_weights
        self.received: dict[str, Tensor] = {}

    def attach(self, leaves: Mapping[str, nn.Module], wanted: Wanted) -> list[Any]:
        hooks = super().attach(leaves, wanted)
        for name in self.weights() if self.with_weights else ():
            weight = leaves[self.graph.params[name].owner].weight
            if weight.requires_grad:
                hooks.append(weight.register_post_accumulate_grad_hook(self._receive(name)))  # type: ignore[operator]
        return hooks

    def _receive(self, name: str) -> Callable[[Tensor], None]:
        def hook(weight: Tensor) -> None:
            if self.passes and weight.grad is not None:
                self.received[name] = weight.grad.detach().clone()  # a loop may clip or unscale it in place

        return hook

    def clear(self) -> None:
        super().clear()
        self.received = {}

    @property
    def ready(self) -> bool:
        """Whether a backward pass came through, and new units would still borrow the factors that were noted."""
        complete = not self.with_weights or self.received.keys() == self.weights().keys()
        return bool(self.heard) and complete and self._lent_by_the_same()

    def _lent_by_the_same(self) -> bool:
        """Return whether after the step of the optimizer the same units would lend their factors."""
        if self._ends is None:
            return True
        noted = {(layer, int(unit)) for p in self.heard for layer, unit in p.lenders.items()}
        return noted == {(layer, int(self._ends.lender(layer))) for layer, _ in noted}

    def said(self, graph: Graph) -> Probed | None:
        """Return what it says about a network, as a probe would; `None` if that is not enough, or not finite."""
        import torch

        from irgrow.probing import Probed

        source, *names = needed(self.graph, self.axis)
        if not self.ready or needed(graph, self.axis) != (source, *names):
            return None
        passes, read = self.heard, {source: [p.read for p in self.heard]}
        readers = {route.node: [p.signals[route.node] for p in passes] for route in self.found.routes}
        beside = {n: [p.beside[n] for p in passes] for n in names if n not in readers}
        sizes = {n: graph.shape(n) for n in (source, *readers)} | dict.fromkeys(beside)
        parts = [*read.items(), *beside.items(), *readers.items()]
        if not all(_fit(sizes[name], values) for name, values in parts):
            return None
        found = {name: torch.cat(values) for name, values in parts}
        if not all(bool(value.isfinite().all()) for value in (*found.values(), *self.received.values())):
            return None
        signals = {name: found.pop(name) for name in readers}
        return Probed(found, self.received if self.with_weights else None, signals, recorded=True)

    def told(self) -> dict[str, Tensor]:
        found = {f"weights/{name}": gradient for name, gradient in self.received.items()}
        for i, p in enumerate(self.heard):
            found[f"{i}/read"] = p.read
            found |= {f"{i}/beside/{name}": value for name, value in p.beside.items()}
            found |= {f"{i}/signals/{name}": value for name, value in p.signals.items()}
        return found

    def merged(self, told: Sequence[Mapping[str, Tensor]]) -> Crossed:
        found, size = Crossed(self.graph, self.axis, self.with_weights), len(told)
        for p in (p for part in told for p in _passes(part)):  # the loss of all is the mean of theirs
            found.passes.append(Crossing(p.read, p.beside, {n: s / size for n, s in p.signals.items()}))
        received = [under("weights", part) for part in told]
        for name in dict.fromkeys(name for part in received for name in part):
            parts = [part[name] for part in received if name in part]
            found.received[name] = added(g.double() / size for g in parts).to(parts[0].dtype)
        return found


def said(graph: Graph, axes: Iterable[str], recorded: Mapping[str, Any], weights: bool = False) -> Probed | None:
    """Return what was recorded across an axis, as a probe of the batch would say it; `None` if that is not enough.

    Args:
        graph: The network.
        axes: The axes; nothing is known of several at once.
        recorded: Records by key.
        weights: Whether the gradients of the weights at both ends are wanted too.
    """
    names = tuple(axes)
    record: Crossed | None = recorded.get(Crossings(axis=names[0], weights=weights).key) if len(names) == 1 else None
    return None if record is None else record.said(graph)


def crossings(graph: Graph, axes: Iterable[str], weights: bool = False) -> tuple[Crossings, ...]:
    """Return what to record so that `said` knows something; nothing where there is no bridge."""
    names = tuple(axes)
    if len(names) != 1 or not needed(graph, names[0]):
        return ()
    return (Crossings(axis=names[0], weights=weights),)


def _fit(shape: tuple[int, ...] | None, values: list[Tensor]) -> bool:
    """Return whether values can stand beside one another and, if a shape is known, have it."""
    return all(tuple(v.shape[1:]) == (tuple(values[0].shape[1:]) if shape is None else shape) for v in values)


def _passes(told: Mapping[str, Tensor]) -> Iterator[Crossing]:
    """Return the passes that a process told, in order."""
    for i in count():
        own = under(str(i), told)
        if not own:
            return
        yield Crossing(own["read"], under("beside", own), under("signals", own))
