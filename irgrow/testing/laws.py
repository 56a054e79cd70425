"""The laws a rewrite must obey, each a function that raises `Broken` with program, pass, seed and numbers.

They take any pass; `check_pass` runs them all on random programs, and irgrow's own tests run them on its passes and on
deliberately broken ones.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from math import isfinite
from typing import Any

import numpy as np
import torch

from irgrow.axes import NEW, atoms, positions
from irgrow.backends import interpret
from irgrow.fills import ZERO, Masked
from irgrow.graph import Graph
from irgrow.morphism import Morphism, Select
from irgrow.network import Network
from irgrow.ops import Activate, Coupling, LeakyReLU, MaxPool, Role
from irgrow.passes.analyses.places import editable_axes
from irgrow.passes.primitives import by_role, resize
from irgrow.slots import Carry
from irgrow.testing.cases import Broken, Case
from irgrow.testing.forms import (
    morphism_survives_json,
    result_is_a_program,
    same_seed_same_numbers,
    text_of_options,
)
from irgrow.testing.numbers import (
    NETWORK_BOUND,
    carried,
    difference,
    gradient_error,
    gradients,
    is_stochastic,
    output_error,
    output_weights,
)
from irgrow.verdict import Approximate, Exact

GRADIENT_BOUND = 1e-9
SMOOTH = ("gelu", "silu", "tanh", "sigmoid", "softplus", "mish", "softsign")


def verdict_is_sound(case: Case) -> None:
    """An exact verdict holds in the numbers, in every mode it is claimed for; an approximate one is finite (law 3)."""
    result = case.plan()
    if not isinstance(result.verdict, Exact | Approximate) or result.morphism is None:
        return
    error = output_error(result.morphism, case.params, case.inputs)
    if isinstance(result.verdict, Approximate):
        if not isfinite(error):
            raise case.broken("verdict", f"said to be {result.verdict}, the outputs differ by {error:.3g}")
        return
    if not error <= NETWORK_BOUND:
        raise case.broken("verdict", f"proved {result.verdict}, the outputs differ by {error:.3g}")
    if result.verdict.mode == "always" and not is_stochastic(case.graph) and case.batch > 1:
        error = output_error(result.morphism, case.params, case.inputs, training=True)
        if not error <= NETWORK_BOUND:
            raise case.broken("verdict", f"proved {result.verdict}, in training the outputs differ by {error:.3g}")


def gradients_follow(case: Case) -> None:
    """After an exact rewrite the gradients of carried entries are the carried old gradients (law 4).

    Where noise parts copies, or new units average old ones, no multiple of the old gradient is the new one.
    """
    result = case.plan()
    if isinstance(result.verdict, Exact) and result.morphism is not None and not result.morphism.blends:
        error = gradient_error(result.morphism, case.params, case.inputs, case.seed)
        if not error <= GRADIENT_BOUND:
            raise case.broken("gradient law", f"carried gradients differ by {error:.3g}")


def newborns_learn(case: Case) -> None:
    """Every new unit has a gradient entry that is not zero after one backward pass (law 7).

    Only programs whose activations have no flat parts can promise this for every unit, so it is asked of the program
    with smooth ones instead and a few samples more; old units that get no gradient excuse new ones.
    """
    graph = smooth(case.graph)
    if graph is None:
        return
    case = replace(case, graph=graph, batch=max(case.batch, 6))
    morphism = case.plan().morphism
    if morphism is None or not any((m == NEW).any() for m in morphism.edits.values()):
        return
    params = carried(morphism, case.params)
    weights = output_weights(morphism.after, params, case.inputs, case.seed)
    grads = gradients(morphism.after, params, case.inputs, weights)
    for atom, m in morphism.edits.items():
        reached = _reached(morphism, atom, grads, len(m))
        if reached[m != NEW].all() and not reached[m == NEW].all():
            unit = int(np.flatnonzero((m == NEW) & ~reached)[0])
            raise case.broken("newborns", f"new unit {unit} of `{atom}` receives no gradient")


def smooth(graph: Graph) -> Graph | None:
    """Return a graph with every kinked function exchanged for one without flat parts; `None` where that cannot be."""
    nodes = []
    for i, node in enumerate(graph):
        op = node.op
        if isinstance(op, Activate) and op.function not in SMOOTH:
            op = Activate(SMOOTH[i % len(SMOOTH)])
        if isinstance(op, LeakyReLU):
            op = LeakyReLU(0.3)
        if isinstance(op, MaxPool):
            return None
        nodes.append(replace(node, op=op))
    return Graph(graph.name, tuple(nodes), graph.outputs, graph.sizes, graph.named, graph.fixed)


def _reached(morphism: Morphism, atom: str, grads: Mapping[str, Any], size: int) -> Any:
    """Return which units of an atom have a gradient entry that is not zero, in the new graph."""
    after = morphism.after
    reached = np.zeros(size, dtype=bool)
    for name, grad in grads.items():
        for dim, axis in enumerate(after.params[name].spec.dims):
            if not any(a.name == atom for a in atoms(axis)):
                continue
            over = tuple(d for d in range(grad.dim()) if d != dim)
            live = (grad.abs().sum(over) if over else grad.abs()).numpy() > 0
            for units in positions(axis, after.widths).get(atom, []):
                np.logical_or.at(reached, units[units >= 0], live[units >= 0])
    return reached


def permuting_changes_nothing(case: Case) -> None:
    """Putting the units of an axis of the result in another order leaves the function as it is (law 6).

    It does not if the result says wrongly what its axes run through.
    """
    morphism = case.plan().morphism
    editable = () if morphism is None else editable_axes(morphism.after)
    if morphism is None or not editable:
        return
    rng = np.random.default_rng(case.seed)
    atom = editable[int(rng.integers(len(editable)))]
    order = rng.permutation(morphism.after.widths[atom])
    turned = resize(morphism.after, {atom: order}, by_role(ZERO, ZERO), case.seed)
    params = carried(morphism, case.params)
    for training in (False,) if is_stochastic(morphism.after) or case.batch < 2 else (False, True):
        error = output_error(turned, params, case.inputs, training)
        if not error <= NETWORK_BOUND:
            raise case.broken("permutation", f"with `{atom}` in the order {order.tolist()} it differs by {error:.3g}")


def snapshot(net: Network) -> dict[str, Any]:
    """Return everything a refused rewrite must leave as it is."""
    slots = {
        (i, name, key): value.clone() if isinstance(value, torch.Tensor) else value
        for i, tracked in enumerate(net.tracked)
        for name, p in net.params.items()
        for key, value in tracked.optimizer.state.get(p, {}).items()
    }
    return {
        "graph": net.graph.digest,
        "objects": {name: id(p) for name, p in net.params.items()},
        "values": {name: p.detach().clone() for name, p in net.params.items()},
        "slots": slots,
        "groups": [[id(p) for p in g["params"]] for t in net.tracked for g in t.optimizer.param_groups],
        "rng": torch.get_rng_state(),
        "journal": len(net.journal),
        "module": id(net.module),
    }


def same_snapshot(a: Mapping[str, Any], b: Mapping[str, Any]) -> str | None:
    """Return what differs between two snapshots, or `None`."""
    for key in ("graph", "objects", "groups", "journal", "module"):
        if key in a and a[key] != b[key]:
            return key
    for key in ("values", "slots"):
        if a[key].keys() != b[key].keys():
            return key
        for name, value in a[key].items():
            same = torch.equal(value, b[key][name]) if isinstance(value, torch.Tensor) else value == b[key][name]
            if not same:
                return f"{key} of {name}"
    return None if torch.equal(a["rng"], b["rng"]) else "the generator"


def trained(case: Case, optimizer: str = "Adam", steps: int = 2) -> Network:
    """Return a live network after a few steps, its optimizer tracked, so that every slot is filled."""
    net = case.network().eval()
    parameters = [p for p in net.parameters() if p.numel()]
    options: dict[str, Any] = {"momentum": 0.9} if optimizer == "SGD" else {}
    if parameters:
        net.track(getattr(torch.optim, optimizer)(parameters, lr=1e-3, **options))
    for _ in range(steps if parameters else 0):
        train_step(net, case)
    return net


def train_step(net: Network, case: Case) -> float:
    """Do one training step on the case's inputs; return the loss."""
    outputs = net(*(torch.as_tensor(case.inputs[name]) for name in net.graph.inputs))
    total = sum(((y - 0.5) ** 2).mean() for y in (outputs if isinstance(outputs, tuple) else (outputs,)))
    net.tracked[0].optimizer.zero_grad()
    if isinstance(total, torch.Tensor) and total.requires_grad:
        total.backward()
    net.tracked[0].optimizer.step()
    return float(torch.as_tensor(total).detach())


def refused_changes_nothing(case: Case) -> None:
    """A refused rewrite leaves every hash as it was (law 8)."""
    net = trained(case)
    before = snapshot(net)
    batch = tuple(torch.as_tensor(case.inputs[name]) for name in case.graph.inputs)
    receipt = net.rewrite(case.rewrite, statistics=batch)
    if not receipt.applied and (changed := same_snapshot(before, snapshot(net))):
        raise case.broken("refused", f"{receipt.verdict}, and yet {changed} changed")


def undo_restores(case: Case) -> None:
    """Where a rewrite can be undone, undoing it restores weights, buffers and slots bitwise (law 6)."""
    net = trained(case)
    before = snapshot(net)
    batch = tuple(torch.as_tensor(case.inputs[name]) for name in case.graph.inputs)
    receipt = net.rewrite(case.rewrite, statistics=batch)
    if not receipt.applied or receipt.morphism is None or receipt.morphism.inverse() is None:
        return
    net.undo()
    after = snapshot(net)
    for key in ("objects", "module", "groups"):
        before.pop(key)
    if changed := same_snapshot(before, {**after, "objects": None, "module": None, "groups": None}):
        raise case.broken("undo", f"{changed} is not what it was")


def prune_is_mask(case: Case) -> None:
    """Removing units gives the network in which whatever reads them reads zeros instead (law 10)."""
    morphism = case.plan().morphism
    if morphism is None or not morphism.edits or any((m == NEW).any() for m in morphism.edits.values()):
        return
    if _normalises(morphism) or any(len(np.unique(m)) < len(m) for m in morphism.edits.values()):
        return
    if any(isinstance(t, Select) and t.plus is not None for t in morphism.transfers.values()):
        return  # what reads them takes over what they did
    masked = dict(case.params)
    for name, transfer in morphism.transfers.items():
        if not isinstance(transfer, Select):
            continue
        value = np.array(masked[transfer.name])
        for dim, m in enumerate(transfer.maps):
            roles = case.graph.params[name].roles(dim)
            if m is not None and Role.READS in roles:
                gone = np.setdiff1d(np.arange(value.shape[dim]), m)
                value[(slice(None),) * dim + (gone,)] = 0.0
        masked[transfer.name] = value
    old = interpret(case.graph, masked, case.inputs).outputs
    new = interpret(morphism.after, carried(morphism, case.params), case.inputs).outputs
    if (error := difference(new, old)) > NETWORK_BOUND:
        raise case.broken("prune = mask", f"the pruned and the masked network differ by {error:.3g}")


def _normalises(morphism: Morphism) -> bool:
    """Whether units are told apart from others other than by weights that read them, so that no mask stands for it."""
    graph = morphism.before
    tied = any(len(p.uses) > 1 for p in graph.params.values())
    coupled = (Coupling.STATISTICS, Coupling.ATTENTION)
    touched = (n for n in graph if not graph.reach[n.name].isdisjoint(morphism.edits))
    return tied or any(n.op.coupling in coupled for n in touched)


def inert_training(case: Case, optimizer: str, steps: int = 5) -> None:
    """Training on after an inert rewrite equals training on without it (law 5).

    The rewrite is carried out with `carry="zero"`; new units are then made inert by zeroing all their entries, so
    that whatever differs is the fault of the carried state.
    """
    expected = case.plan()
    if not isinstance(expected.verdict, Exact) or expected.morphism is None or not _only_adds(expected.morphism):
        return
    plain, grown = trained(case, optimizer), trained(case, optimizer)
    if not plain.tracked:
        return
    grown.tracked[0].carry = Carry.ZERO
    batch = tuple(torch.as_tensor(case.inputs[name]) for name in case.graph.inputs)
    receipt = grown.rewrite(case.rewrite, statistics=batch)
    morphism = receipt.morphism
    if morphism is None or not receipt.verdict.preserves or not _only_adds(morphism):
        return
    mask = _silence(grown, morphism)
    for step in range(steps):
        a, b = train_step(plain, case), train_step(grown, case)
        mask()
        if not abs(a - b) <= 1e-12 * max(abs(a), 1.0):
            raise case.broken("optimizer law", f"{optimizer}: after {step} steps the loss is {b!r}, not {a!r}")


def _only_adds(morphism: Morphism) -> bool:
    """Whether units are added to axes and nothing else is done: no unit goes, is copied or scaled."""
    kept = all(np.array_equal(m[m != NEW], np.arange(morphism.before.widths[a])) for a, m in morphism.edits.items())
    return bool(morphism.edits) and kept and not morphism.scales and not morphism.blends


def _silence(net: Network, morphism: Morphism) -> Any:
    """Zero what makes new units inert, now and whenever called.

    That is the new entries of the weights that read them, or of the queries where attention reads them.
    """

    def mask() -> None:
        with torch.no_grad():
            for name, transfer in morphism.transfers.items():
                if not isinstance(transfer, Select):
                    continue
                value = net.params[name]
                for dim, m in enumerate(transfer.maps):
                    if m is None or not (m == NEW).any():
                        continue
                    reads = Role.READS in net.graph.params[name].roles(dim)
                    if reads or (transfer.fills and isinstance(transfer.fills[dim], Masked)):
                        value.index_fill_(dim, torch.from_numpy(np.flatnonzero(m == NEW)), 0.0)

    mask()
    return mask


OPTIMIZERS = ("SGD", "Adam", "AdamW", "RMSprop")


def training_goes_on(case: Case) -> None:
    """Law 5 for momentum, Adam, AdamW and RMSprop: one of them by the seed, so that all of them come up."""
    inert_training(case, OPTIMIZERS[case.seed % len(OPTIMIZERS)])


LAWS = (
    text_of_options,
    result_is_a_program,
    morphism_survives_json,
    verdict_is_sound,
    gradients_follow,
    newborns_learn,
    permuting_changes_nothing,
    prune_is_mask,
    same_seed_same_numbers,
    refused_changes_nothing,
    undo_restores,
    training_goes_on,
)
"""The laws `check_pass` runs on every random case."""

__all__ = [
    "Broken",
    "Case",
    "LAWS",
    "OPTIMIZERS",
    "SMOOTH",
    "gradients_follow",
    "inert_training",
    "morphism_survives_json",
    "newborns_learn",
    "permuting_changes_nothing",
    "prune_is_mask",
    "refused_changes_nothing",
    "result_is_a_program",
    "same_seed_same_numbers",
    "same_snapshot",
    "smooth",
    "snapshot",
    "text_of_options",
    "train_step",
    "trained",
    "training_goes_on",
    "undo_restores",
    "verdict_is_sound",
]
