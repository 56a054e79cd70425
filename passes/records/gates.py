"""How the loss depends on units: its gradient by a gate on each unit, from the pass that trains.

A gate that every entry of a unit is multiplied with has the gradient sum of value x gradient, over positions and over
the places a unit stands at (the entries of a head, the layers that write to a stream). It is taken sample by sample: a
forward hook keeps what a node gives, and the gradient that comes back is multiplied with it at once. What is kept of a
step are the sums over its samples of the squares and of the sizes, products in float32 at least and sums in float64.

Several passes before a step (gradient accumulation) are so many more samples, if each loss is divided as it must be;
of several processes, whose losses are averaged, it is the same. Under a `GradScaler` all gates carry its scale: their
order is what counts. A pass that overflowed says nothing.

Source: Molchanov et al. (2017), Pruning convolutional neural networks for resource efficient inference, 2.2; Theis et
al. (2018), Faster gaze prediction with dense networks and Fisher pruning.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from irgrow.graph import Graph
from irgrow.passes.records.base import Record, Wanted, added
from irgrow.passes.records.placed import AxisWatch, Placed, emptied
from irgrow.shapes import Array, as_array

if TYPE_CHECKING:
    from torch import Tensor, nn


@dataclass(frozen=True)
class Gating(AxisWatch):
    """The gradient of the loss by a gate on every unit of an axis, of one training step.

    Args:
        axis: A leaf axis.

    >>> Gating(axis="h").key
    'h [gates]'
    """

    what: ClassVar[str] = "gates"

    def record(self, graph: Graph) -> Record:
        return Gates(graph, self.axis)


@dataclass
class _Pass:
    """What the backward passes of one forward pass said.

    Args:
        ran: The nodes that computed something.
        heard: The nodes whose gradients came.
        slopes: Gradient by the gates, (samples, units), float64.
    """

    ran: set[str] = field(default_factory=set)
    heard: set[str] = field(default_factory=set)
    slopes: Tensor | None = None


@dataclass(frozen=True)
class Sums:
    """What gates on units say of the loss.

    Args:
        squares: Sum over the samples of the squared gradients, (units,).
        sizes: Sum of their absolute values, (units,).
        count: How many samples there are.
    """

    squares: Array
    sizes: Array
    count: float


def gate_sums(recorded: Mapping[str, Any], axis: str) -> Sums | None:
    """Return what was recorded of the gates of an axis; `None` if no whole pass was, or a number is not finite."""
    gates: Gates | None = recorded.get(Gating(axis=axis).key)
    if gates is None or not gates.ready:
        return None
    total = as_array(gates.total)
    return Sums(total[0, :-1], total[1, :-1], float(total[0, -1]))


class Gates(Placed):
    """The gradients of the loss by gates on the units of an axis, since the last step.

    Args:
        graph: The network.
        axis: A leaf axis.
    """

    def __init__(self, graph: Graph, axis: str) -> None:
        super().__init__(graph, axis)
        self.passes: list[_Pass] = []
        self._whole: Tensor | None = None

    def attach(self, leaves: Mapping[str, nn.Module], wanted: Wanted) -> list[Any]:
        import torch

        def follow(node: str) -> Callable[..., None]:
            def hook(module: nn.Module, inputs: Any, output: Tensor) -> None:
                if not (torch.is_grad_enabled() and wanted(module) and len(output)):
                    return
                if not self.passes or node in self.passes[-1].ran:
                    self.passes.append(_Pass())
                self.passes[-1].ran.add(node)
                if output.requires_grad:
                    output.register_hook(self._hear(self.passes[-1], node, output.detach()))

            return torch.compiler.disable(hook)

        return [leaves[node].register_forward_hook(follow(node)) for node in self.places]

    def _hear(self, made: _Pass, node: str, value: Tensor) -> Callable[[Tensor], None]:
        """Return a hook that takes the gradient by what a node gave."""
        import torch

        dim, order = self.places[node]

        @torch.no_grad()
        def hook(gradient: Tensor) -> None:
            wide = torch.promote_types(value.dtype, torch.float32)
            product = (value.to(wide) * gradient.to(wide)).movedim(1 + dim, 1)
            lines = product.reshape(*product.shape[:2], -1).sum(2, dtype=torch.float64)
            at = torch.as_tensor(order, device=lines.device)
            slopes = lines[:, at.flatten()].reshape(len(lines), *at.shape).sum(2)
            made.slopes = slopes if made.slopes is None else made.slopes + slopes
            made.heard.add(node)

        return hook

    def clear(self) -> None:
        self.passes.clear()

    @property
    def ready(self) -> bool:
        """Whether a backward pass came through, and every number is finite."""
        total = self.total
        return total is not None and bool(total.isfinite().all())

    @property
    def total(self) -> Tensor | None:
        """Sums over the samples, (2, units + 1): of squares and of sizes, and in the last column how many there are."""
        if self._whole is not None:
            return self._whole
        import torch

        heard = [p.slopes for p in self.passes if p.slopes is not None and len(p.heard) == len(self.places)]
        if not heard:
            return None
        slopes = torch.cat(heard)
        sums = torch.stack([slopes.square().sum(0), slopes.abs().sum(0)])
        return torch.cat([sums, sums.new_full((2, 1), len(slopes))], 1)

    def told(self) -> dict[str, Tensor]:
        total = self.total
        return {} if total is None else {"total": total}

    def merged(self, told: Sequence[Mapping[str, Tensor]]) -> Gates:
        heard, processes = [part["total"] for part in told if part], len(told)
        if not heard:
            return emptied(self, passes=[], _whole=None)
        total = added(heard)
        total[0, :-1] /= processes**2  # the loss of all is the mean of theirs
        total[1, :-1] /= processes
        return emptied(self, passes=[], _whole=total)
