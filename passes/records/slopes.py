"""How the loss depends on the weights of units: its gradient times the weight, summed over what belongs to a unit.

Taken from the pass that trains as soon as the gradients stand in `.grad`, with the weights as they are then, so loops
may clip, unscale or zero gradients before they call the controller. Gradients of several passes before a step are
summed if they are not zeroed in between; those of several processes are averaged. Weights that a mask switches off
count as zero. Under a `GradScaler` everything carries its scale: the order of units is what counts.

Source: Molchanov et al. (2019), Importance estimation for neural network pruning, section 3.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from irgrow.graph import Graph
from irgrow.ops import Role
from irgrow.passes.analyses.entries import Places, belonging, unit_sums
from irgrow.passes.records.base import Record, Wanted, added
from irgrow.passes.records.placed import AxisWatch, emptied
from irgrow.shapes import as_array

if TYPE_CHECKING:
    from torch import Tensor, nn


@dataclass(frozen=True)
class Sloping(AxisWatch):
    """Gradient times weight of the units of an axis, of one training step.

    Args:
        axis: A leaf axis.
        role: The role of the weights: `makes` the units, or `reads` them.

    >>> Sloping(axis="h").key
    'h [reads slopes]'
    """

    role: str = "reads"

    @property
    def key(self) -> str:
        return f"{self.axis} [{self.role} slopes]"

    def nodes(self, graph: Graph) -> tuple[str, ...]:
        names = belonging(graph, self.axis, frozenset({Role(self.role)}))
        return tuple(dict.fromkeys(graph.params[name].owner for name in names))

    def record(self, graph: Graph) -> Record:
        return Slopes(graph, self.axis, Role(self.role))


class Slopes(Record):
    """Gradient times weight of the units of an axis, since the last step.

    Args:
        graph: The network.
        axis: A leaf axis.
        role: The role of the weights.
    """

    def __init__(self, graph: Graph, axis: str, role: Role) -> None:
        self.axis, self.role, self.width = axis, role, graph.widths[axis]
        self.places = belonging(graph, axis, frozenset({role}))
        self.homes = {name: (graph.params[name].owner, graph.params[name].spec.name) for name in self.places}
        self.trained: set[str] = set()
        self.changes: dict[str, Tensor] = {}
        self._whole: Tensor | None = None

    def attach(self, leaves: Mapping[str, nn.Module], wanted: Wanted) -> list[Any]:
        import torch

        def follow(name: str) -> Callable[..., None]:
            def hook(module: nn.Module, inputs: Any, output: Tensor) -> None:
                if torch.is_grad_enabled() and output.requires_grad and wanted(module):
                    output.register_hook(lambda gradient: self.trained.add(name))

            return torch.compiler.disable(hook)

        hooks: list[Any] = []
        for name, (owner, local) in self.homes.items():
            weight = leaves[owner]._parameters.get(local)
            if weight is not None and weight.requires_grad:
                hooks.append(weight.register_post_accumulate_grad_hook(self._receive(name)))
                hooks.append(leaves[owner].register_forward_hook(follow(name)))
        return hooks

    def _receive(self, name: str) -> Callable[[Any], None]:
        """Return a hook that multiplies a weight with its gradient."""
        import torch

        @torch.no_grad()
        def hook(weight: Tensor) -> None:
            if name in self.trained and weight.grad is not None:
                self.trained.discard(name)
                wide = torch.promote_types(weight.dtype, torch.float32)
                self.changes[name] = weight.detach().to(wide) * weight.grad.to(wide)

        return hook

    def fits(self, graph: Graph) -> bool:
        found = belonging(graph, self.axis, frozenset({self.role}))
        return {name: _listed(places) for name, places in found.items()} == {
            name: _listed(places) for name, places in self.places.items()
        }

    def settle(self) -> None:
        self.clear()

    def clear(self) -> None:
        self.trained.clear()
        self.changes.clear()

    @property
    def ready(self) -> bool:
        """Whether all of the weights received something, and every number is finite."""
        total = self.total
        return total is not None and bool(total.isfinite().all())

    @property
    def total(self) -> Tensor | None:
        """The sum for every unit, shape (units,), float64."""
        import torch

        if self._whole is not None or self.changes.keys() != self.places.keys():
            return self._whole
        parts = [unit_sums(as_array(self.changes[name]), at, self.width) for name, at in self.places.items()]
        return torch.as_tensor(np.sum(parts, axis=0))

    def told(self) -> dict[str, Tensor]:
        total = self.total
        return {} if total is None else {"total": total}

    def merged(self, told: Sequence[Mapping[str, Tensor]]) -> Slopes:
        heard = [part["total"] for part in told if part]
        whole = added(heard) / len(told) if heard else None  # the loss of all is the mean of theirs
        return emptied(self, trained=set(), changes={}, _whole=whole)


def _listed(places: Places) -> list[Any]:
    return [(dim, [units.tolist() for units in occurrences]) for dim, occurrences in places.items()]
