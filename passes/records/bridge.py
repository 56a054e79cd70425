"""What training computes at both ends of a bridge: the auxiliary gradient of an axis, and its units' gradients.

Taken from the pass that trains, at no pass of its own: what the first layer that makes the axis reads (a forward hook),
the gradient by the outputs of the layers that read it (hooks on these values), and the norms of the gradients of both
weights, unit by unit, as soon as they stand in `.grad`. Loops may therefore clip, unscale or zero gradients before they
call the controller; under a `GradScaler` everything carries the same scale. Several passes before a step (gradient
accumulation) are summed, if gradients are not zeroed between them. What was recorded is let go after the step; until
then it holds on to as much as the forward pass did.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from math import isfinite, prod, sqrt
from typing import TYPE_CHECKING, Any

import numpy as np

from irgrow.axes import NEW, positions
from irgrow.edits import Impossible
from irgrow.fills import generator
from irgrow.graph import Graph
from irgrow.passes.analyses.bridge import auxiliary, bridge
from irgrow.passes.analyses.received import received, way
from irgrow.passes.records.base import Record, Wanted, Watch

if TYPE_CHECKING:
    from torch import Tensor, nn


@dataclass(frozen=True)
class Bridging(Watch):
    """The auxiliary gradient of an axis and the gradients of the weights of its units, of one training step.

    Args:
        axis: A leaf axis.

    >>> Bridging(axis="h").key
    'h [bridge]'
    """

    axis: str = ""

    @property
    def key(self) -> str:
        return f"{self.axis} [bridge]"

    def nodes(self, graph: Graph) -> tuple[str, ...]:
        found = bridge(graph, self.axis)
        return (found.maker, *(route.node for route in found.routes))

    def record(self, graph: Graph) -> Record:
        return Bridged(graph, self.axis)


@dataclass
class _Pass:
    """One forward pass and what its backward passes said.

    Args:
        read: What the maker read, batch first.
        signals: Gradient of the loss by the outputs of the readers, by node.
    """

    read: Tensor
    signals: dict[str, Tensor] = field(default_factory=dict)

    def hear(self, node: str) -> Callable[[Tensor], None]:
        """Return a hook that takes the gradient by the output of a node."""

        def hook(gradient: Tensor) -> None:
            known = self.signals.get(node)
            self.signals[node] = gradient.detach() if known is None else known + gradient.detach()

        return hook


class Bridged(Record):
    """What was recorded across an axis since the last step.

    Args:
        graph: The network.
        axis: A leaf axis with a bridge.

    Raises:
        Impossible: There is no bridge.
    """

    def __init__(self, graph: Graph, axis: str) -> None:
        self.graph, self.axis, self.found = graph, axis, bridge(graph, axis)
        self._latest = graph
        self.passes: list[_Pass] = []
        self.received: dict[str, Tensor] = {}
        self.frozen: tuple[str, ...] = ()
        self._whole: dict[str, Tensor] = {}
        self._total: dict[str, Tensor] = {}

    # hooks ----------------------------------------------------------------------------------------------------------

    def attach(self, leaves: Mapping[str, nn.Module], wanted: Wanted) -> list[Any]:
        import torch

        def begin(module: nn.Module, inputs: Any, output: Tensor) -> None:
            if torch.is_grad_enabled() and wanted(module):
                self.passes.append(_Pass(inputs[0].detach()))

        def end(node: str) -> Callable[..., None]:
            def follow(module: nn.Module, inputs: Any, output: Tensor) -> None:
                if torch.is_grad_enabled() and output.requires_grad and self.passes and wanted(module):
                    output.register_hook(self.passes[-1].hear(node))

            return follow

        off: Callable[[Any], Any] = torch.compiler.disable
        hooks: list[Any] = [leaves[self.found.maker].register_forward_hook(off(begin))]
        hooks += [leaves[r.node].register_forward_hook(off(end(r.node))) for r in self.found.routes]
        weights = {name: leaves[self.graph.params[name].owner].weight for name in self._weights()}
        self.frozen = tuple(name for name, w in weights.items() if not w.requires_grad)
        for name, weight in weights.items():
            if name not in self.frozen:
                hooks.append(weight.register_post_accumulate_grad_hook(self._receive(name)))  # type: ignore[operator]
        return hooks

    def _weights(self) -> dict[str, int]:
        """Return the weights of the units, by full name, and the dimension in which the units stand."""
        maker = self.graph.param_name(self.found.maker, "weight")
        return {maker: 0} | {route.weight: 1 for route in self.found.routes}

    def _receive(self, name: str) -> Callable[[Any], None]:
        """Return a hook that takes the norms of the gradient of a weight."""
        import torch

        @torch.no_grad()
        def hook(weight: Tensor) -> None:
            if self.passes and weight.grad is not None:
                if torch.distributed.is_available() and torch.distributed.is_initialized():
                    self._whole[name] = weight.grad.clone()  # norms of sums over processes are not sums of norms
                self.received[name] = self._norms(name, weight.grad)

        return hook

    def _norms(self, name: str, gradient: Tensor) -> Tensor:
        """Return the squared norms of a weight's gradient, one for every unit, in float64."""
        import torch

        dim = self._weights()[name]
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

    def fits(self, graph: Graph) -> bool:
        try:
            same = bridge(graph, self.axis) == self.found
        except Impossible:
            return False
        if not same or _around(graph, self.axis) != _around(self.graph, self.axis):
            return False
        self._latest = graph  # what was recorded before is of the network as it was then
        return True

    def settle(self) -> None:
        self.clear()

    def clear(self) -> None:
        self.graph = self._latest
        self.passes.clear()
        self.received.clear()
        self._whole.clear()
        self._total.clear()

    @property
    def heard(self) -> list[_Pass]:
        """The passes of which every reader has said something."""
        return [p for p in self.passes if len(p.signals) == len(self.found.routes)]

    @property
    def ready(self) -> bool:
        """Whether a backward pass came through; what overflowed in float16 is a step that a scaler skips."""
        if self._total:
            return True
        return bool(self.heard) and self.received.keys() == self._weights().keys() and not self._overflowed()

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

    def matrix(self, borders: str = "exact") -> Tensor:
        """Return the auxiliary gradient, summed over the passes; shape (fan-out entries, fan-in entries), float64.

        Raises:
            Impossible: A number is not finite, or there is no such bridge.
        """
        if borders not in self._total:
            source = self.graph[self.found.maker].inputs[0]
            parts = [auxiliary(self.graph, self.axis, {source: p.read}, p.signals, borders).matrix for p in self.heard]
            total = parts[0]
            for part in parts[1:]:
                total += part
            self._total[borders] = total
        return self._total[borders]

    def estimate(self, count: int, borders: str = "exact") -> float:
        """Return an estimate of the Frobenius norm of the auxiliary gradient, without forming it.

        It is the norm of its product with `count` random fan-outs, standard normal, over sqrt(count): the square is
        the squared norm on average, and for a matrix of rank one a multiple of it by chi-squared over its degrees of
        freedom, `count`; for others it varies less. The fan-outs are the same every time, so that runs repeat. If
        what the units go through on their way is not known to `received`, or for `borders = kernel`, combinations of
        outputs are taken instead of fan-outs, as many for every reader, which takes longer.

        Raises:
            Impossible: A number is not finite, or there is no such bridge.
        """
        if borders in self._total:
            return float(self._total[borders].norm())
        along = way(self.graph, self.axis) if borders == "exact" else None
        if along is None:
            found = [self._combined(p, count, borders) for p in self.heard]
        else:
            node, entries = along.reader.name, prod(self.found.routes[0].shape)
            found = []
            for p in self.heard:
                signal = _wide(p.signals[node])
                found.append(received(self.graph, along, p.read.to(signal), signal, _normal(entries, count).to(signal)))
        norm = float(sum(found[1:], found[0]).norm())
        if not isfinite(norm):
            raise Impossible(f"what was recorded across `{self.axis}` is not finite")
        return norm

    def _combined(self, heard: _Pass, count: int, borders: str) -> Tensor:
        """Return the auxiliary gradient of a pass with a few combinations of the outputs of every reader."""
        signals, routes = {}, []
        for route in self.found.routes:
            dim = 1 + self.graph[route.node].op.mixes(self.graph.signatures[route.node])
            told = _wide(heard.signals[route.node])
            if route.shape[0] > count:
                told = (told.movedim(dim, -1) @ _normal(route.shape[0], count).to(told)).movedim(-1, dim)
                route = replace(route, shape=(count, *route.shape[1:]))
            signals[route.node] = told
            routes.append(route)
        values = {self.graph[self.found.maker].inputs[0]: heard.read}
        across = replace(self.found, routes=tuple(routes))
        return auxiliary(self.graph, self.axis, values, signals, borders, across=across).matrix

    def reduced(self, group: Any = None) -> Bridged:
        import torch

        found = Bridged(self.graph, self.axis)
        if not self.ready:
            raise Impossible(f"nothing was recorded across `{self.axis}` on this process")
        for borders in self._total or ("exact",):
            found._total[borders] = self.matrix(borders).clone()
            torch.distributed.all_reduce(found._total[borders], group=group)
        for name in self._weights():
            whole = self._whole[name].clone()
            torch.distributed.all_reduce(whole, group=group)
            found.received[name] = found._norms(name, whole)
        return found


def _wide(value: Tensor) -> Tensor:
    """Return a value in float32 at least."""
    import torch

    return value.to(torch.promote_types(value.dtype, torch.float32))


@lru_cache(maxsize=64)
def _normal(of: int, count: int) -> Tensor:
    """Return normal coefficients, (of, count), such that squared norms are kept on average; the same every time."""
    import torch

    return torch.as_tensor(generator(0, "bridge", of, count).standard_normal((of, count)) / sqrt(count))


def _around(graph: Graph, axis: str) -> list[Any]:
    """Return the nodes that carry an axis and the shapes of their values; how wide the first reads may change."""
    return [(node, graph.shape(node.name)) for node in graph if axis in graph.reach[node.name]]
