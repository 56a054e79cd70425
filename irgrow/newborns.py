"""Statistics of new units: batch norms start them at the mean and variance of a batch, not at 0 and 1.

A new unit's running statistics matter as soon as its fan-out has grown: with wrong ones it would be off in evaluation
for many steps. They are measured in program order, so that a norm behind another one sees what the first now gives.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, fx

from irgrow.axes import NEW, index_map
from irgrow.errors import DataError
from irgrow.morphism import Morphism
from irgrow.network import Network
from irgrow.probing import evaluating


def settle(net: Network, morphism: Morphism, batch: tuple[Tensor, ...]) -> bool:
    """Set the running statistics of new units in batch norms from a batch; return whether there were any.

    Args:
        net: The network after the rewrite.
        morphism: The rewrite.
        batch: Its inputs, in evaluation mode.

    Raises:
        DataError: What a new unit gives on the batch is not finite.
    """
    new = _new_units(morphism)
    if not new:
        return False
    nodes = {net.module.meta["values"][name]: name for name in new}
    params = net.params

    def settled(name: str, value: Tensor) -> None:
        mean, var = (params[net.graph.param_name(name, s)] for s in ("running_mean", "running_var"))
        _measure(value, new[name], name, mean, var)

    with evaluating(net):
        _Settling(net.module, nodes, settled).run(*batch)
    return True


class _Settling(fx.Interpreter):
    """A run that does something with what some nodes read, before they do."""

    def __init__(self, module: fx.GraphModule, nodes: Mapping[str, str], do: Callable[[str, Tensor], None]) -> None:
        super().__init__(module)
        self.nodes, self.do = nodes, do

    def run_node(self, n: fx.Node) -> object:
        if n.name in self.nodes:
            (value, *_), _ = self.fetch_args_kwargs_from_env(n)
            self.do(self.nodes[n.name], value)
        return super().run_node(n)


def unsettled(morphism: Morphism) -> Morphism:
    """Return a rewrite for which there is no batch, with notes of the norms that would need one."""
    notes = tuple(
        f"the running mean and variance of the new units of `{name}` are 0 and 1, there was no batch to measure them "
        "on; give `batch` or `statistics`"
        for name in _new_units(morphism)
    )
    return replace(morphism, notes=(*morphism.notes, *notes)) if notes else morphism


def _new_units(morphism: Morphism) -> dict[str, Tensor]:
    """Return for every batch norm that gains units their positions."""
    found = {}
    for node in morphism.before:
        if not node.op.facts.batch_statistics or morphism.before.reach[node.name].isdisjoint(morphism.edits):
            continue
        if node.name not in morphism.after:
            continue
        m = index_map(morphism.before.types[node.name].units, morphism.edits, morphism.before.widths)
        if m is not None and (m == NEW).any():
            found[node.name] = torch.from_numpy(np.flatnonzero(m == NEW))
    return found


def _measure(value: Tensor, units: Tensor, name: str, mean: Tensor, var: Tensor) -> None:
    """Write mean and unbiased variance of some units, channels in dimension 1, into the running statistics."""
    units = units.to(value.device)
    columns = value.detach().index_select(1, units).double().transpose(0, 1).flatten(1)
    if columns.shape[1] < 2:
        return
    if not bool(torch.isfinite(columns).all()):
        raise DataError(f"new units of `{name}` are not finite on the batch, so they have no statistics")
    mean.index_copy_(0, units, columns.mean(1).to(mean))
    var.index_copy_(0, units, columns.var(1).to(var))
