"""Putting claims to the numbers: float64, non-trivial parameters and norm statistics, inputs with a mean.

Every check returns a `Result` that says what was measured; the laws of irgrow's own test suite, `irgrow verify` and
`check_pass` all rest on these.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from irgrow.axes import NEW
from irgrow.backends import Result as Evaluated
from irgrow.backends import interpret, random_params
from irgrow.backends.torch_fx import lower
from irgrow.fills import ZERO
from irgrow.graph import Graph
from irgrow.morphism import Chain, Cut, Gather, Keep, Morphism, New, Select, Transfer, source_of
from irgrow.ops import MASK, Coupling
from irgrow.passes import Context, Pass, Plan, needs, plan
from irgrow.probing import probe
from irgrow.transfer import Kind, carried_params, move
from irgrow.verdict import Exact

Arrays = dict[str, NDArray[Any]]
NETWORK_BOUND = 1e-10
LOWERING_BOUND = 1e-9
SMALLEST = 0.1
"""What is smaller is compared with this: it may be what rounding leaves of larger values that cancel."""


@dataclass(frozen=True)
class Result:
    """What a check found.

    Args:
        claim: What was claimed.
        holds: Whether the numbers agree.
        error: The relative error measured; `None` where there was nothing to measure.
        detail: What else there is to say.
    """

    claim: str
    holds: bool
    error: float | None = None
    detail: str = ""

    def __str__(self) -> str:
        found = "" if self.error is None else f", measured {self.error:.2g}"
        detail = f" ({self.detail})" if self.detail else ""
        return f"{'ok' if self.holds else 'FAILED'}: {self.claim}{found}{detail}"


def random_inputs(graph: Graph, seed: int, batch: int = 3) -> Arrays:
    """Draw inputs of a graph: floats with a mean away from zero, ids over the whole vocabulary."""
    rng = np.random.default_rng(seed)
    found: Arrays = {}
    for name in graph.inputs:
        shape, ids = (batch, *graph.shape(name)), graph.types[name].ids
        found[name] = rng.normal(0.3, 1.0, shape) if ids is None else rng.integers(0, ids, shape)
    return found


def as_tensors(graph: Graph, params: Mapping[str, Any], dtype: torch.dtype = torch.float64) -> dict[str, Tensor]:
    """Return arrays as the tensors a lowering takes."""
    found: dict[str, Tensor] = {}
    for name, param in graph.params.items():
        value = torch.as_tensor(np.array(params[name])).to(torch.int64 if param.spec.integer else dtype)
        found[name] = nn.Parameter(value) if param.spec.trainable else value
    return found


def run_lowered(graph: Graph, params: Mapping[str, Any], inputs: Mapping[str, Any], training: bool = False) -> Any:
    """Run the lowered module and return its outputs as arrays, and the module."""
    module = lower(graph, as_tensors(graph, params)).train(training)
    outputs = module(*(torch.as_tensor(inputs[name]) for name in graph.inputs))
    arrays = tuple(y.detach().numpy() for y in (outputs if isinstance(outputs, tuple) else (outputs,)))
    return arrays, module


def difference(found: tuple[NDArray[Any], ...], wanted: tuple[NDArray[Any], ...]) -> float:
    """Return max |found - wanted| / max |wanted| over all outputs; infinite where shapes differ.

    A batch norm of a constant, say, is zero but for rounding, and no two ways of rounding agree there; so outputs that
    are all below `SMALLEST` are measured by that.

    >>> one, other, nothing = np.array([2.5, 4.0]), np.array([2.0, 4.0]), np.array([3e-16, 0.0])
    >>> difference((one,), (other,)), difference((nothing,), (0 * nothing,)) < NETWORK_BOUND
    (0.125, True)
    """
    worst = 0.0
    for a, b in zip(found, wanted, strict=True):
        if a.shape != b.shape or not np.array_equal(np.isfinite(a), np.isfinite(b)):
            return float("inf")
        if b.size:
            scale = max(float(np.nanmax(np.abs(b))), SMALLEST)
            worst = max(worst, float(np.nanmax(np.abs(a - b))) / scale)
    return worst


def is_stochastic(graph: Graph) -> bool:
    """Return whether a graph draws random numbers in training."""
    return any(node.op.facts.stochastic for node in graph)


def check_lowering(graph: Graph, seed: int = 0, batch: int = 3) -> Result:
    """Compare the lowered module with the reference interpreter, outputs and buffers, in both modes."""
    params, inputs = random_params(graph, seed), random_inputs(graph, seed, batch)
    worst = 0.0
    modes = (False,) if is_stochastic(graph) or batch < 2 else (False, True)
    for training in modes:
        wanted: Evaluated = interpret(graph, params, inputs, training)
        found, module = run_lowered(graph, params, inputs, training)
        worst = max(worst, difference(found, wanted.outputs))
        state = module.state_dict()
        for name, value in wanted.updates.items():
            worst = max(worst, difference((state[_path(graph, name)].double().numpy(),), (value,)))
    claim = f"the lowered module of `{graph.name}` computes what the reference interpreter does"
    return Result(claim, worst <= LOWERING_BOUND, worst)


def _path(graph: Graph, name: str) -> str:
    from irgrow.backends.torch_fx import param_path

    return param_path(graph, name)


# rewrites ------------------------------------------------------------------------------------------------------------


def planned(pass_: Pass, graph: Graph, params: Mapping[str, Any], inputs: Mapping[str, Any], seed: int) -> Plan:
    """Work a rewrite out with random parameters; what it wants recorded comes from the reference interpreter."""
    nodes, wants_gradients = needs(pass_, graph)
    if not wants_gradients:
        values = interpret(graph, params, inputs).values if nodes else {}
        return plan(pass_, graph, Context(params, seed, {name: values[name] for name in nodes}))
    tensors = as_tensors(graph, params)
    batch = tuple(torch.as_tensor(inputs[name]) for name in graph.inputs)
    loss = weighted_loss(output_weights(graph, params, inputs, seed))
    found = probe(graph, lower(graph, tensors), tensors, batch, nodes, loss)
    return plan(pass_, graph, Context.seeing(params, seed, found))


def carried(morphism: Morphism, params: Mapping[str, Any]) -> Arrays:
    """Return the parameters of the new graph as arrays."""
    old = {name: torch.as_tensor(np.array(value)) for name, value in params.items()}
    return {name: value.numpy() for name, value in carried_params(morphism, old).items()}


def output_error(
    morphism: Morphism, params: Mapping[str, Any], inputs: Mapping[str, Any], training: bool = False
) -> float:
    """Return how far the outputs of the new network are from those of the old one, by the reference interpreter."""
    before = interpret(morphism.before, params, inputs, training).outputs
    after = interpret(morphism.after, carried(morphism, params), inputs, training).outputs
    return difference(after, before)


def check_verdict(pass_: Pass, graph: Graph, seed: int = 0, batch: int = 3) -> tuple[Result, Graph]:
    """Measure what a pass claims; returns the new graph too, the old one if it was refused."""
    params, inputs = random_params(graph, seed), random_inputs(graph, seed, batch)
    result = planned(pass_, graph, params, inputs, seed)
    claim = f"{pass_}: {result.verdict}"
    if result.morphism is None:
        return Result(claim, True), graph
    error = output_error(result.morphism, params, inputs)
    detail = ""
    if isinstance(result.verdict, Exact):
        if result.verdict.mode == "always" and not is_stochastic(graph) and batch > 1:
            error = max(error, output_error(result.morphism, params, inputs, training=True))
            detail = "in evaluation and training mode"
        return Result(claim, error <= NETWORK_BOUND, error, detail), result.morphism.after
    return Result(claim, True, error, "no sameness was claimed"), result.morphism.after


def gradients(graph: Graph, params: Mapping[str, Any], inputs: Mapping[str, Any], weights: Any) -> dict[str, Tensor]:
    """Return the gradient of `weighted_loss` by parameter, in evaluation mode."""
    tensors = as_tensors(graph, params)
    module = lower(graph, tensors).eval()
    outputs = module(*(torch.as_tensor(inputs[name]) for name in graph.inputs))
    weighted_loss(weights)(outputs).backward()
    return {
        n: torch.zeros_like(t) if t.grad is None else t.grad for n, t in tensors.items() if isinstance(t, nn.Parameter)
    }


def weighted_loss(weights: Any) -> Callable[[Any], Tensor]:
    """Return a loss: a fixed weighted sum of the outputs and a tenth of their squares."""

    def loss(outputs: Any) -> Tensor:
        total = torch.zeros((), dtype=torch.float64)
        for y, w in zip(outputs if isinstance(outputs, tuple) else (outputs,), weights, strict=True):
            total = total + (torch.as_tensor(w) * (y + 0.1 * y**2)).sum()
        return total

    return loss


def output_weights(graph: Graph, params: Mapping[str, Any], inputs: Mapping[str, Any], seed: int) -> Any:
    """Draw the weights of the sum that `gradients` differentiates."""
    rng = np.random.default_rng([seed, 0x6AD])
    return tuple(rng.normal(size=y.shape) for y in interpret(graph, params, inputs).outputs)


def carried_entries(transfer: Transfer, shape: tuple[int, ...]) -> NDArray[np.bool_]:
    """Return which entries of a new parameter come from the old one."""
    mask = np.ones(shape, dtype=bool)
    if isinstance(transfer, Select):
        for dim, m in enumerate(transfer.maps):
            if m is not None:
                mask &= (m != NEW).reshape(-1, *(1,) * (len(shape) - 1 - dim))
    elif isinstance(transfer, Cut):
        mask = transfer.kept
    elif isinstance(transfer, Gather):
        mask = (transfer.index != NEW).reshape(shape)
    elif not isinstance(transfer, Keep):
        mask[...] = False
    return mask


def _switched(morphism: Morphism, name: str, params: Mapping[str, Any]) -> NDArray[np.bool_]:
    """Return which entries of a parameter that was kept were switched on or off by a new mask beside it."""
    shape, param = morphism.after.param_shape(name), morphism.after.params[name]
    mask = f"{param.owner}.{MASK}"
    if param.spec.name != "weight" or not isinstance(morphism.transfers.get(mask), New):
        return np.zeros(shape, dtype=bool)
    old = np.asarray(params[mask]) if mask in morphism.before.params else np.ones(shape)
    found: NDArray[np.bool_] = carried(morphism, params)[mask] != old
    return found


def gradient_error(morphism: Morphism, params: Mapping[str, Any], inputs: Mapping[str, Any], seed: int = 0) -> float:
    """Return how far the gradients of carried entries are from the carried old gradients (law 4).

    A tied parameter that has gained a use, or an entry of a split unit, follows the transfer's gradient factors. Where
    a norm over units runs over copies that are read unequally, what it hands back is shared equally; then the sums over
    the copies of an entry are compared.
    """
    weights = output_weights(morphism.before, params, inputs, seed)
    old = gradients(morphism.before, params, inputs, weights)
    new = gradients(morphism.after, carried(morphism, params), inputs, weights)
    scale = max((float(g.abs().max()) for g in old.values() if g.numel()), default=0.0)
    worst, together = 0.0, _normed_together(morphism)
    for name, transfer in morphism.transfers.items():
        source = source_of(transfer)
        if name not in new or source is None:
            continue
        shape = tuple(new[name].shape)
        wanted = move(transfer, old, shape, name, morphism.seed, Kind.GRADIENT, ZERO)
        mask = torch.from_numpy(carried_entries(transfer, shape))
        if isinstance(transfer, Chain):
            ones = {source: torch.ones_like(old[source])}
            mask = move(transfer, ones, shape, name, morphism.seed, Kind.FREE, ZERO) != 0
        if isinstance(transfer, Keep):  # the gradient of what a mask switched starts or ends
            mask &= torch.from_numpy(~_switched(morphism, name, params))
        off = (new[name] - wanted).masked_fill(~mask, 0)
        if together:
            copied = torch.zeros_like(old[source], requires_grad=True)
            copies = move(transfer, {**old, source: copied}, shape, name, morphism.seed, Kind.FREE, ZERO)
            (off,) = torch.autograd.grad((copies * off).sum(), copied)
        error = float(off.abs().max()) / max(scale, SMALLEST) if off.numel() else 0.0
        worst = worst if error <= worst else error  # also one that is no number
    return worst


def _normed_together(morphism: Morphism) -> bool:
    """Return whether copies that are read unequally may be normalised together."""
    was, now = _company(morphism.before), _company(morphism.after)
    if all(was.get(name) == count for name, count in now.items()):
        return False
    chains = [t.steps for t in morphism.transfers.values() if isinstance(t, Chain)]
    parts = [*morphism.transfers.values(), *(step.transfer for steps in chains for step in steps)]
    return any(_unequal(t) for t in parts if isinstance(t, Select))


def _company(graph: Graph) -> dict[str, int]:
    """Return by norm how many units it normalises together."""
    found = {}
    for node in graph:
        if node.op.coupling is Coupling.STATISTICS:
            s = graph.signatures[node.name]
            dim, groups = node.op.normalises(s)
            found[node.name] = graph.size(s.output.dims[dim]) // graph.size(groups)
    return found


def _unequal(transfer: Select) -> bool:
    """Return whether the gradients of two copies of a unit have different factors."""
    for m, factor in zip(transfer.maps, transfer.grad, strict=False):
        if m is None or factor is None:
            continue
        if any(np.ptp(factor[m == unit]) > 0 for unit in np.unique(m[m != NEW])):
            return True
    return False


__all__ = [
    "LOWERING_BOUND",
    "NETWORK_BOUND",
    "Result",
    "as_tensors",
    "carried",
    "carried_entries",
    "check_lowering",
    "check_verdict",
    "difference",
    "gradient_error",
    "gradients",
    "is_stochastic",
    "output_error",
    "output_weights",
    "planned",
    "random_inputs",
    "run_lowered",
]
