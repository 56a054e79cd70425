"""What training computes at both ends of a bridge: the auxiliary gradient of an axis, and its units' gradients.

Taken from the pass that trains, at no pass of its own: what the first layer that makes the axis reads (a forward hook),
the gradient by the outputs of the layers that read it (hooks on these values), and the norms of the gradients of both
weights, unit by unit, as soon as they stand in `.grad`. Loops may therefore clip, unscale or zero gradients before they
call the controller; under a `GradScaler` everything carries the same scale. Several passes before a step (gradient
accumulation) are summed, if gradients are not zeroed between them. What was recorded is let go after the step; until
then it holds on to as much as the forward pass did, and to a copy of what comes from the inputs alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from math import isfinite, prod, sqrt
from typing import TYPE_CHECKING, Any

import numpy as np

from irgrow.axes import NEW, positions
from irgrow.edits import Impossible
from irgrow.fills import generator
from irgrow.graph import Graph
from irgrow.passes.analyses.auxiliary import auxiliary
from irgrow.passes.analyses.bridge import Bridge
from irgrow.passes.analyses.received import received, way
from irgrow.passes.records.across import Across, AcrossWatch
from irgrow.passes.records.base import Record, Wanted, added
from irgrow.passes.records.crossings import Crossing

if TYPE_CHECKING:
    from torch import Tensor, nn


@dataclass(frozen=True)
class Bridging(AcrossWatch):
    """The auxiliary gradient of an axis and the gradients of the weights of its units, of one training step.

    Args:
        borders: Which auxiliary gradient it is; see `irgrow.passes.analyses.auxiliary`.

    >>> Bridging(axis="h").key
    'h [bridge exact]'
    """

    borders: str = "exact"

    @property
    def key(self) -> str:
        return f"{self.axis} [bridge {self.borders}]"

    def record(self, graph: Graph) -> Record:
        return Bridged(graph, self.axis, self.borders)


class Bridged(Across):
    """The auxiliary gradient across an axis and the gradients of its units, since the last step.

    Args:
        graph: The network.
        axis: A leaf axis with a bridge.
        borders: Which auxiliary gradient it is.

    Raises:
        Impossible: There is no bridge.
    """

    def __init__(self, graph: Graph, axis: str, borders: str = "exact") -> None:
        super().__init__(graph, axis)
        self.borders = borders
        self.received: dict[str, Tensor] = {}
        self.frozen: tuple[str, ...] = ()
        self._whole: dict[str, Tensor] = {}
        self._total: Tensor | None = None
        """One block for every lane of the maker, shape (lanes, fan-out entries, fan-in entries), summed."""

    # hooks ----------------------------------------------------------------------------------------------------------

    def attach(self, leaves: Mapping[str, nn.Module], wanted: Wanted) -> list[Any]:
        hooks = super().attach(leaves, wanted)
        weights = {name: leaves[self.graph.params[name].owner].weight for name in self.weights()}
        self.frozen = tuple(name for name, w in weights.items() if not w.requires_grad)
        for name, weight in weights.items():
            if name not in self.frozen:
                hooks.append(weight.register_post_accumulate_grad_hook(self._receive(name)))  # type: ignore[operator]
        return hooks

    def _receive(self, name: str) -> Callable[[Any], None]:
        """Return a hook that takes the norms of the gradient of a weight."""
        import torch

        @torch.no_grad()
        def hook(weight: Tensor) -> None:
            if self.passes and weight.grad is not None:
                if self.shared:
                    self._whole[name] = weight.grad.clone()  # norms of sums over processes are not sums of norms
                self.received[name] = self._norms(name, weight.grad)

        return hook

    def _norms(self, name: str, gradient: Tensor) -> Tensor:
        """Return the squared norms of a weight's gradient, one for every unit, in float64."""
        import torch

        dim = self.weights()[name]
        wide = gradient.detach().to(torch.promote_types(gradient.dtype, torch.float32))
        lines = torch.linalg.vector_norm(wide, dim=tuple(d for d in range(wide.dim()) if d != dim)).double().square()
        units = positions(self.graph.params[name].spec.dims[dim], self.graph.widths)[self.axis][0]
        kept = np.flatnonzero(units != NEW)
        if len(kept) == len(lines) == self.graph.widths[self.axis]:
            return lines
        at = torch.as_tensor(units[kept], device=lines.device)
        found = torch.zeros(self.graph.widths[self.axis], dtype=torch.float64, device=lines.device)
        return found.index_add(0, at, lines[torch.as_tensor(kept, device=lines.device)])

    # the record -----------------------------------------------------------------------------------------------------

    def clear(self) -> None:
        super().clear()
        self.received.clear()
        self._whole.clear()
        self._total = None

    @property
    def ready(self) -> bool:
        """Whether a backward pass came through; what overflowed in float16 is a step that a scaler skips."""
        if self._total is not None:
            return True
        return bool(self.heard) and self.received.keys() == self.weights().keys() and not self._overflowed()

    def _overflowed(self) -> bool:
        import torch

        return any(
            s.dtype == torch.float16 and not bool(s.isfinite().all()) for p in self.heard for s in p.signals.values()
        )

    @property
    def outputs(self) -> int:
        """Fan-out of the layers that read the axis, taken together."""
        return sum(route.shape[0] for route in self.found.routes)

    def gradients(self) -> float:
        """Return the sum over the units of the norms of what their fan-in and their fan-out received."""
        maker = self.graph.param_name(self.found.maker, "weight")
        fan_in = self.received[maker].sqrt().sum()
        fan_out = sum(value for name, value in self.received.items() if name != maker)
        assert not isinstance(fan_out, int)
        return float(fan_in + fan_out.sqrt().sum())

    def blocks(self) -> Tensor:
        """Return the auxiliary gradient, summed over the passes, one block for every lane of the maker.

        Shape (lanes, fan-out entries, fan-in entries), float64.

        Raises:
            Impossible: A number is not finite, or there is no such bridge.
        """
        if self._total is None:
            for p in self.heard:
                part = self._auxiliary(p, p.signals, self.found)
                self._total = part if self._total is None else self._total + part
        if self._total is None or not bool(self._total.isfinite().all()):
            raise Impossible(f"the auxiliary gradient of `{self.axis}` is not known or not finite")
        return self._total

    def _auxiliary(self, heard: Crossing, signals: Mapping[str, Tensor], across: Bridge) -> Tensor:
        values = {self.graph[self.found.maker].inputs[0]: heard.read} | heard.beside
        options = self.borders, False, across, False, heard.beside
        return auxiliary(self.graph, self.axis, values, signals, *options).blocks

    def matrix(self) -> Tensor:
        """Return the auxiliary gradient as one matrix, shape (fan-out entries, fan-in entries), lane by lane.

        Raises:
            Impossible: A number is not finite, or there is no such bridge.
        """
        import torch

        return torch.block_diag(*self.blocks())

    def directions_above(self, threshold: float, strict: bool = False) -> int:
        """Return how many singular values of the auxiliary gradient are at least a threshold, or with `strict` above.

        Where units run in several lanes the i-th value is the root of the mean of the squares of the i-th ones of all
        lanes: what the i-th new unit would receive if its fan-out had norm one, equally in every lane.

        Raises:
            Impossible: A number is not finite, or there is no such bridge.
        """
        import torch

        from irgrow.passes.analyses.spectrum import singular_values_above

        blocks = self.blocks()
        if len(blocks) == 1:
            return singular_values_above(blocks[0], threshold, strict)
        values = torch.linalg.svdvals(blocks).square().mean(0).sqrt()
        nothing = float(values.max()) * torch.finfo(values.dtype).eps * max(blocks.shape[1:])
        counted = (values > threshold) if strict else (values >= threshold)
        return int((counted & (values > nothing)).sum())

    def estimate(self, count: int) -> float:
        """Return an estimate of the Frobenius norm of the auxiliary gradient, without forming it.

        It is the norm of its product with `count` random fan-outs, standard normal, over sqrt(count): the square is
        the squared norm on average, and for a matrix of rank one a multiple of it by chi-squared over its degrees of
        freedom, `count`; for others it varies less. The fan-outs are the same every time, so that runs repeat. If
        what the units go through on their way is not known to `received`, or for `borders = kernel`, combinations of
        outputs are taken instead of fan-outs, as many for every reader (for every group of one), which takes longer.
        Where units run in several lanes it is that norm over the root of their number, which bounds what
        `directions_above` counts.

        Raises:
            Impossible: A number is not finite, or there is no such bridge.
        """
        if self._total is not None:
            return float(self.blocks().norm()) / sqrt(self.found.lanes)
        along = way(self.graph, self.axis) if self.borders == "exact" else None
        if along is None:
            found = [self._combined(p, count) for p in self.heard]
        else:
            node, entries = along.reader.name, prod(self.found.routes[0].shape)
            found = []
            for p in self.heard:
                signal = _wide(p.signals[node])
                found.append(received(self.graph, along, p.read.to(signal), signal, _normal(entries, count).to(signal)))
        norm = float(sum(found[1:], found[0]).norm()) / sqrt(self.found.lanes)
        if not isfinite(norm):
            raise Impossible(f"what was recorded across `{self.axis}` is not finite")
        return norm

    def _combined(self, heard: Crossing, count: int) -> Tensor:
        """Return the auxiliary gradient of a pass with a few combinations of the outputs of every reader."""
        signals, routes = {}, []
        for route in self.found.routes:
            dim = 1 + self.graph[route.node].op.mixes(self.graph.signatures[route.node])
            told, outputs = _wide(heard.signals[route.node]), route.shape[0] // route.groups
            if outputs > count:
                by_group = told.movedim(dim, -1).unflatten(-1, (route.groups, outputs))
                told = (by_group @ _normal(outputs, count).to(told)).flatten(-2).movedim(-1, dim)
                route = replace(route, shape=(route.groups * count, *route.shape[1:]))
            signals[route.node] = told
            routes.append(route)
        return self._auxiliary(heard, signals, replace(self.found, routes=tuple(routes)))

    def told(self) -> dict[str, Tensor]:
        return {"blocks": self._own()} | self._whole if self.ready else {}

    def merged(self, told: Sequence[Mapping[str, Tensor]]) -> Bridged:
        found, heard = Bridged(self.graph, self.axis, self.borders), [part for part in told if part]
        found.frozen = self.frozen
        if heard:
            found._total = added(part["blocks"] for part in heard)
            found._whole = {name: added(part[name] for part in heard) for name in self.weights()}
            found.received = {name: found._norms(name, whole) for name, whole in found._whole.items()}
        return found

    def _own(self) -> Tensor:
        """Return this process's blocks; not numbers if one of its numbers is none."""
        import torch

        try:
            return self.blocks()
        except Impossible:
            maker = self.graph.param_name(self.found.maker, "weight")
            rows = sum(map(prod, self.found.shapes().values())) // self.found.lanes
            shape = self.found.lanes, rows, prod(self.graph.param_shape(maker)[1:])
            some = next(iter(self.received.values()))
            return torch.full(shape, float("nan"), dtype=torch.float64, device=some.device)


def _wide(value: Tensor) -> Tensor:
    """Return a value in float32 at least."""
    import torch

    return value.to(torch.promote_types(value.dtype, torch.float32))


@lru_cache(maxsize=64)
def _normal(of: int, count: int) -> Tensor:
    """Return normal coefficients, (of, count), such that squared norms are kept on average; the same every time."""
    import torch

    return torch.as_tensor(generator(0, "bridge", of, count).standard_normal((of, count)) / sqrt(count))
