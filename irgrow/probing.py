"""Values and gradients on a batch: what saliencies and the growing of edges look at.

The gradient of a masked weight is that of the *effective* weight, so it also says what a synapse that is off would
receive. Nothing of the network is changed: its own gradients, buffers, mode and generators stay what they are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, fx, nn

from irgrow import registry
from irgrow.ops import MASK

if TYPE_CHECKING:
    from irgrow.graph import Graph

Loss = Callable[..., Tensor]


@dataclass(frozen=True)
class Probed:
    """What one forward and backward pass in evaluation mode gave, or what the pass that trained did in its place.

    Args:
        values: Values of nodes, batch first.
        gradients: Gradient of the loss by parameter.
        signals: Gradient of the loss by the values of the same nodes, batch first.
        trial: The loss on the same batch if something were added to the values of nodes, by name.
        recorded: Whether it is of the pass that trained.
    """

    values: Mapping[str, Tensor] = field(default_factory=dict)
    gradients: Mapping[str, Tensor] | None = None
    signals: Mapping[str, Tensor] | None = None
    trial: Callable[[Mapping[str, Any]], float] | None = None
    recorded: bool = False

    @property
    def used(self) -> str:
        """What it is, for the journal; nothing if it is empty."""
        if self.recorded:
            return "records"
        return "gradients" if self.gradients is not None else "statistics" if self.values else ""


@dataclass(frozen=True)
class Evidence:
    """What a rewrite may look at beside the network; every tuple holds the inputs of a batch, in order.

    Args:
        batch: To measure the error on.
        loss: Called with the outputs.
        statistics: To record on what passes and new units need.
        probed: What a probe of `statistics` would say, where it is known already.
    """

    batch: tuple[Tensor, ...] | None = None
    loss: Loss | None = None
    statistics: tuple[Tensor, ...] | None = None
    probed: Probed | None = None

    @classmethod
    def of(cls, batch: Any, loss: Loss | None, statistics: Any) -> Evidence:
        """Take what callers give: batches are a tensor or several, and what is measured on is recorded on as well."""
        inputs = None if batch is None else as_inputs(batch)
        return cls(inputs, loss, inputs if statistics is None else as_inputs(statistics))


def as_inputs(batch: Tensor | Sequence[Tensor]) -> tuple[Tensor, ...]:
    """Return a batch as the tuple of a network's inputs."""
    return (batch,) if isinstance(batch, Tensor) else tuple(batch)


@contextmanager
def evaluating(net: nn.Module) -> Iterator[None]:
    """Run a network in evaluation mode without gradients; the mode of every submodule is put back."""
    modes = [(m, m.training) for m in net.modules()]
    net.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, training in modes:
            module.training = training


def probe(
    graph: Graph,
    module: fx.GraphModule,
    params: Mapping[str, Tensor],
    batch: tuple[Tensor, ...],
    nodes: tuple[str, ...] = (),
    loss: Loss | None = None,
) -> Probed:
    """Run a batch through a lowered module and record the values of nodes; with a loss the gradients as well.

    Args:
        graph: The network.
        module: Its lowered module.
        params: Its parameters and buffers.
        batch: Inputs.
        nodes: The nodes to record at.
        loss: Called with the outputs; returns a scalar.
    """
    with evaluating(module):
        if loss is None:
            values = _Recorder(module, nodes)
            values(*batch)
            return Probed({name: v.detach() for name, v in values.found.items()})
        with torch.enable_grad():
            return _with_gradients(graph, module, params, batch, nodes, loss)


def _with_gradients(
    graph: Graph,
    module: fx.GraphModule,
    params: Mapping[str, Tensor],
    batch: tuple[Tensor, ...],
    nodes: tuple[str, ...],
    loss: Loss,
) -> Probed:
    leaves, path = effective(params), registry.lookup("param_path")
    recorder = _Recorder(module, nodes)
    outputs = torch.func.functional_call(
        recorder, {f"module.{path(graph, name)}": value for name, value in leaves.items()}, batch
    )
    wanted = {name: value for name, value in leaves.items() if value.requires_grad}
    seen = {name: value for name, value in recorder.found.items() if value.requires_grad}
    total = loss(outputs)
    sources = [*wanted.values(), *seen.values()]
    grads = torch.autograd.grad(total, sources, allow_unused=True) if total.requires_grad and sources else ()
    pairs = zip(sources, grads or [None] * len(sources), strict=True)
    found = [torch.zeros_like(s) if g is None else g for s, g in pairs]
    signals = {name: torch.zeros_like(v) for name, v in recorder.found.items()}
    signals |= dict(zip(seen, found[len(wanted) :], strict=True))
    values = {name: v.detach() for name, v in recorder.found.items()}

    def trial(added: Mapping[str, Any]) -> float:
        with evaluating(module):
            return float(loss(_Recorder(module, (), added)(*batch)))

    return Probed(values, dict(zip(wanted, found, strict=False)), signals, trial)


def effective(params: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return parameters of their own, masks multiplied into the weights and ones themselves."""
    found: dict[str, Tensor] = {}
    for name, value in params.items():
        owner, _, local = name.rpartition(".")
        mask = params.get(f"{owner}.{MASK}") if local == "weight" else None
        own = value.detach().clone() if mask is None else value.detach() * mask
        taken_in = local == MASK and f"{owner}.weight" in params  # the weight of a tied node stands elsewhere
        found[name] = torch.ones_like(own) if taken_in else own.requires_grad_(isinstance(value, nn.Parameter))
    return found


class _Recorder(nn.Module):
    """Runs a lowered module node by node, keeps the values of some and adds to those of others."""

    def __init__(self, module: fx.GraphModule, nodes: tuple[str, ...], added: Mapping[str, Any] | None = None) -> None:
        super().__init__()
        self.module = module
        self.added = {module.meta["values"][name]: torch.as_tensor(value) for name, value in (added or {}).items()}
        self.wanted = {module.meta["values"][name]: name for name in nodes}
        self.found: dict[str, Tensor] = {}

    def forward(self, *batch: Tensor) -> Any:
        return _Recording(self).run(*batch)


class _Recording(fx.Interpreter):
    """One run of a recorder."""

    def __init__(self, recorder: _Recorder) -> None:
        super().__init__(recorder.module)
        self.recorder = recorder

    def run_node(self, n: fx.Node) -> Any:
        value, recorder = super().run_node(n), self.recorder
        if n.name in recorder.added:
            value = value + recorder.added[n.name].to(value)
        if n.name in recorder.wanted:
            recorder.found[recorder.wanted[n.name]] = value
        return value
