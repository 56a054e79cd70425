"""Statistics of new units: batch norms start them at the mean and variance of a batch, not at 0 and 1.

A new unit's running statistics matter as soon as its fan-out has grown: with wrong ones it would be off in evaluation
for many steps. They are measured in program order, so that a norm behind another one sees what the first now gives.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Mapping

import numpy as np
import torch
from torch import Tensor, fx

from irgrow.axes import NEW, index_map
from irgrow.errors import DataError
from irgrow.morphism import Morphism
from irgrow.network import Network
from irgrow.probing import evaluating


def settled(nets: Iterable[Network], morphism: Morphism, batch: tuple[Tensor, ...]) -> frozenset[str]:
    """Set the running statistics of new units in batch norms from a batch; return the norms that were measured.

    Args:
        nets: The network after the rewrite, and those that average it.
        morphism: The rewrite.
        batch: Its inputs, in evaluation mode.

    Raises:
        DataError: What a new unit gives on the batch is not finite.
    """
    new = _new_units(morphism)
    return frozenset(name for net in nets if new for name in _settle(net, new, batch))


def _settle(net: Network, new: Mapping[str, Tensor], batch: tuple[Tensor, ...]) -> set[str]:
    nodes = {net.module.meta["values"][name]: name for name in new}
    params, measured = net.params, set()

    def settle(name: str, value: Tensor) -> None:
        mean, var = (params[net.graph.param_name(name, s)] for s in ("running_mean", "running_var"))
        if _measured(value, new[name], name, mean, var):
            measured.add(name)

    with evaluating(net):
        _Settling(net.module, nodes, settle).run(*batch)
    return measured


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


def unsettled(morphism: Morphism, measured: Container[str], batch: bool) -> tuple[str, ...]:
    """Return notes of the norms that were not measured, and what they would need; `batch` is whether there was one."""
    missing = "the batch has too few samples to measure them on; give more"
    if not batch:
        missing = "there was no batch to measure them on; give `batch` or `statistics`"
    return tuple(
        f"the running mean and variance of the new units of `{name}` are 0 and 1, {missing}"
        for name in _new_units(morphism)
        if name not in measured
    )


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


def _measured(value: Tensor, units: Tensor, name: str, mean: Tensor, var: Tensor) -> bool:
    """Write mean and unbiased variance of some units, channels in dimension 1, into the running statistics.

    Returns:
        Whether there are values enough for a variance; if not, nothing is written.
    """
    units = units.to(value.device)
    columns = value.detach().index_select(1, units).double().transpose(0, 1).flatten(1)
    if columns.shape[1] < 2:
        return False
    if not bool(torch.isfinite(columns).all()):
        raise DataError(f"new units of `{name}` are not finite on the batch, so they have no statistics")
    mean.index_copy_(0, units, columns.mean(1).to(mean))
    var.index_copy_(0, units, columns.var(1).to(var))
    return True
