"""The laws a rewrite must obey, each a function that raises `Broken` with program, pass, seed and numbers.

They take any pass; `check_pass` runs them all on random programs, and irgrow's own tests run them on its passes and on
deliberately broken ones.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from irgrow import registry
from irgrow.attributes import textual_name
from irgrow.axes import NEW, atoms, positions
from irgrow.backends import interpret, random_params
from irgrow.fills import Masked
from irgrow.grammar import parse, parse_pass
from irgrow.graph import Graph
from irgrow.morphism import Morphism, Select
from irgrow.network import Network
from irgrow.ops import Coupling, Role
from irgrow.passes import Pass
from irgrow.slots import Carry
from irgrow.testing.numbers import (
    NETWORK_BOUND,
    as_tensors,
    carried,
    difference,
    gradient_error,
    gradients,
    is_stochastic,
    output_error,
    output_weights,
    planned,
    random_inputs,
)
from irgrow.verdict import Exact

GRADIENT_BOUND = 1e-9


class Broken(AssertionError):
    """A law that does not hold."""


@dataclass(frozen=True)
class Case:
    """One rewrite of one program with one set of random numbers."""

    graph: Graph
    rewrite: Pass
    seed: int = 0
    batch: int = 3

    def broken(self, law: str, found: str) -> Broken:
        """Return the error for a law that does not hold here."""
        return Broken(f"{law}: {found}\n  pass: {self.rewrite}\n  seed: {self.seed}\n  program:\n{self.graph}")

    @property
    def params(self) -> dict[str, Any]:
        """Random parameters, norm statistics included."""
        return random_params(self.graph, self.seed)

    @property
    def inputs(self) -> dict[str, Any]:
        """Random inputs."""
        return random_inputs(self.graph, self.seed, self.batch)

    def plan(self) -> Any:
        """Work the rewrite out."""
        return planned(self.rewrite, self.graph, self.params, self.inputs, self.seed)

    def network(self) -> Network:
        """Return a live network with the random parameters, in float64."""
        return Network(self.graph, as_tensors(self.graph, self.params), self.seed)


def text_of_options(case: Case) -> None:
    """A registered pass written as text is read back as the same pass."""
    name = textual_name(type(case.rewrite))
    if registry.group("pass").get(name) is type(case.rewrite) and parse_pass(str(case.rewrite)) != case.rewrite:
        raise case.broken("text form", f"{case.rewrite} is read back as {parse_pass(str(case.rewrite))}")


def result_is_a_program(case: Case) -> None:
    """The new graph prints and parses to itself (law 1)."""
    morphism: Morphism | None = case.plan().morphism
    if morphism is not None and parse(str(morphism.after)) != morphism.after:
        raise case.broken("print and parse", f"the result is read back differently:\n{morphism.after}")


def verdict_is_sound(case: Case) -> None:
    """An exact verdict holds in the numbers, in every mode it is claimed for (law 3)."""
    result = case.plan()
    if not isinstance(result.verdict, Exact):
        return
    error = output_error(result.morphism, case.params, case.inputs)
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
    if isinstance(result.verdict, Exact) and not result.morphism.blends:
        error = gradient_error(result.morphism, case.params, case.inputs, case.seed)
        if not error <= GRADIENT_BOUND:
            raise case.broken("gradient law", f"carried gradients differ by {error:.3g}")


def newborns_learn(case: Case) -> None:
    """Every new unit has a gradient entry that is not zero after one backward pass (law 7).

    Only programs whose activations have no flat parts can promise this for every unit; old units that get no gradient
    excuse new ones.
    """
    result = case.plan()
    morphism: Morphism | None = result.morphism
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


def same_seed_same_numbers(case: Case) -> None:
    """Doing it twice gives the same bits, and no global generator is touched (law 9)."""
    states = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()  # type: ignore[index]
    first, second = case.plan(), case.plan()
    if first.morphism is not None:
        a, b = (carried(p.morphism, case.params) for p in (first, second))
        if any(not np.array_equal(a[name], b[name], equal_nan=True) for name in a):
            raise case.broken("determinism", "the same seed gave other numbers")
    after = torch.get_rng_state(), np.random.get_state()[1], random.getstate()  # type: ignore[index]
    if not torch.equal(states[0], after[0]) or not np.array_equal(states[1], after[1]) or states[2] != after[2]:
        raise case.broken("determinism", "a global generator was touched")


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
    if parameters:
        net.track(getattr(torch.optim, optimizer)(parameters, lr=1e-3))
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
    result = case.plan()
    morphism: Morphism | None = result.morphism
    if morphism is None or not morphism.edits or any((m == NEW).any() for m in morphism.edits.values()):
        return
    if _normalises(morphism) or any(len(np.unique(m)) < len(m) for m in morphism.edits.values()):
        return
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
    plain, grown = trained(case, optimizer), trained(case, optimizer)
    if not plain.tracked:
        return
    grown.tracked[0].carry = Carry.ZERO
    batch = tuple(torch.as_tensor(case.inputs[name]) for name in case.graph.inputs)
    receipt = grown.rewrite(case.rewrite, statistics=batch)
    morphism = receipt.morphism
    if morphism is None or not receipt.verdict.preserves or not morphism.edits:
        return
    if morphism.scales or morphism.blends:
        return
    mask = _silence(grown, morphism)
    for step in range(steps):
        a, b = train_step(plain, case), train_step(grown, case)
        mask()
        if not abs(a - b) <= 1e-12 * max(abs(a), 1.0):
            raise case.broken("optimizer law", f"{optimizer}: after {step} steps the loss is {b!r}, not {a!r}")


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


LAWS = (
    text_of_options,
    result_is_a_program,
    verdict_is_sound,
    gradients_follow,
    same_seed_same_numbers,
    refused_changes_nothing,
    undo_restores,
    prune_is_mask,
)
"""The laws `check_pass` runs on every random case."""
