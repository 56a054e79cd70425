"""Optimizer state across a rewrite: parameters are replaced at their places in the groups, slots follow the same maps.

Every slot is known by the optimizer's class and its name, with what it holds. An optimizer that is not in the table, or
state of another shape (factored second moments, orthogonalised updates), is refused; nothing is carried by guessing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from enum import Enum
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from irgrow.axes import NEW
from irgrow.errors import RefusedError
from irgrow.fills import ZERO
from irgrow.morphism import Chain, Gather, Keep, Morphism, Select, Step, Transfer, predecessor, source_of
from irgrow.ops import MASK
from irgrow.transfer import Kind, move, put
from irgrow.young import STEPS, YOUNG, adds, is_held, mark


class Carry(Enum):
    """How the new entries of a carried slot start."""

    # Second moments at the mean of the units beside them, first moments at zero; for a hundred steps second moments are
    # raised where a step would be longer than a learning rate (`irgrow.young`), instead of up to 6.5 of them.
    SIBLINGS = "siblings"
    ZERO = "zero"  # exact padding: an inert rewrite leaves the trajectory as it was
    FRESH = "fresh"  # the state of touched parameters is dropped


SLOTS: dict[str, dict[str, Kind]] = {
    "SGD": {"momentum_buffer": Kind.GRADIENT},
    "Adam": {"exp_avg": Kind.GRADIENT, "exp_avg_sq": Kind.SQUARE, "max_exp_avg_sq": Kind.SQUARE},
    "AdamW": {"exp_avg": Kind.GRADIENT, "exp_avg_sq": Kind.SQUARE, "max_exp_avg_sq": Kind.SQUARE},
    "NAdam": {"exp_avg": Kind.GRADIENT, "exp_avg_sq": Kind.SQUARE},
    "RAdam": {"exp_avg": Kind.GRADIENT, "exp_avg_sq": Kind.SQUARE},
    "Adamax": {"exp_avg": Kind.GRADIENT, "exp_inf": Kind.MAGNITUDE},
    "RMSprop": {"square_avg": Kind.SQUARE, "grad_avg": Kind.GRADIENT, "momentum_buffer": Kind.FREE},
    "Adagrad": {"sum": Kind.SQUARE},
    "Adadelta": {"square_avg": Kind.SQUARE, "acc_delta": Kind.FREE},
    "Rprop": {"prev": Kind.GRADIENT, "step_size": Kind.FREE},
}
"""Per optimizer class, what each slot of the parameter's shape holds."""

_SCALARS = frozenset({"step", "mu_product"})  # the same for every entry of a parameter; copied
_WARM = frozenset({Kind.SQUARE, Kind.MAGNITUDE})
_NEEDS_POSITIVE = frozenset({"step_size"})


def known_slots(optimizer: Optimizer) -> dict[str, Kind]:
    """Return the slots of an optimizer.

    Raises:
        RefusedError: It is not one whose state can be carried.
    """
    for cls in type(optimizer).__mro__:
        if cls.__module__.startswith("torch.optim") and cls.__name__ in SLOTS:
            return SLOTS[cls.__name__]
    known = ", ".join(SLOTS)
    raise RefusedError(f"the state of {type(optimizer).__name__} cannot be carried across a rewrite; known are {known}")


def carried_state(
    optimizer: Optimizer, morphism: Morphism, old: Mapping[str, Tensor], new: Mapping[str, Tensor], carry: Carry
) -> dict[str, dict[str, Any]]:
    """Return the state of every parameter whose state is another afterwards, by name; the optimizer is not changed.

    Raises:
        RefusedError: A slot is not known, or does not have the parameter's shape.
    """
    slots = known_slots(optimizer)
    held = carry is Carry.SIBLINGS and is_held(optimizer)
    found: dict[str, dict[str, Any]] = {}
    newborn: set[str] = set()  # with young entries and none before, so that there is nothing to move
    for name in morphism.touched if carry is not Carry.FRESH else ():
        transfer = morphism.transfers[name]
        source = source_of(transfer)
        if source is None and held and isinstance(new[name], nn.Parameter):
            before = old.get(predecessor(transfer) or "")
            found[name] = _first_state(optimizer, new[name], before, old.values(), slots)
        state = optimizer.state.get(old[source]) if source is not None and source in old else None
        if not state or source is None:
            continue
        found[name] = {key: _slot(key, value, old[source], slots, optimizer) for key, value in state.items()}
        step = Step(transfer, morphism.seed, name, tuple(new[name].shape))
        if held and YOUNG not in found[name] and adds(transfer):
            if isinstance(transfer, Chain):
                found[name][YOUNG] = torch.zeros_like(old[source], dtype=torch.int8)
            else:
                newborn.add(name)
        for key, value in found[name].items():
            if not isinstance(value, Tensor) or value.shape != old[source].shape or key in _SCALARS:
                continue
            warm = (carry is Carry.SIBLINGS and slots.get(key) in _WARM) or key in _NEEDS_POSITIVE
            start = _marked if key == YOUNG and held else _warmed if warm else _unchanged
            found[name][key] = _carried(step, source, value, slots.get(key, Kind.FREE), start)
        if name in newborn:
            found[name][YOUNG] = mark(torch.zeros_like(new[name], dtype=torch.int8), transfer)
    if held:
        _wake(optimizer, morphism, old, new, found)
    for name, state in found.items():
        if YOUNG in state and name not in newborn and not state[YOUNG].any():
            del state[YOUNG]
    return {name: state for name, state in found.items() if state}


def _first_state(
    optimizer: Optimizer, param: Tensor, old: Tensor | None, beside: Iterable[Tensor], slots: Mapping[str, Kind]
) -> dict[str, Any]:
    """Return the state of a parameter that starts afresh in the middle of training, all of it young.

    That is for optimizers without bias corrections only, which would start it with ten learning rates (RMSprop).
    """
    if any("betas" in group for group in optimizer.param_groups):
        return {}
    groups = [g for g in optimizer.param_groups if any(p is old for p in g["params"])]
    group = groups[0] if groups else place_new(optimizer, param, beside)
    model: Mapping[str, Any] = next((s for p in group["params"] if (s := optimizer.state.get(p))), {})
    return {
        key: torch.zeros_like(param) if key in slots else torch.zeros_like(value)
        for key, value in model.items()
        if key in slots or (key in _SCALARS and isinstance(value, Tensor))
    } | ({YOUNG: torch.full_like(param, STEPS, dtype=torch.int8)} if model else {})


def _wake(
    optimizer: Optimizer,
    morphism: Morphism,
    old: Mapping[str, Tensor],
    new: Mapping[str, Tensor],
    found: dict[str, dict[str, Any]],
) -> None:
    """Make entries young that a mask switches on as they were: their second moments have faded while they were off."""
    for name in morphism.touched:
        owner, _, local = name.rpartition(".")
        if local != MASK or name not in old or old[name].shape != new[name].shape:
            continue
        weight = morphism.after.param_name(owner, "weight")
        if not isinstance(morphism.transfers[weight], Keep):
            continue
        came = (old[name] == 0) & (new[name] != 0)
        state = found.get(weight) or dict(optimizer.state.get(new[weight], {}))
        if state and came.any():
            counts = state.get(YOUNG, torch.zeros_like(new[weight], dtype=torch.int8))
            found[weight] = {**state, YOUNG: counts.masked_fill(came, STEPS)}


Start = Callable[[Tensor, Transfer, Tensor], Tensor]
"""Sets the new entries of a slot, given as it was moved, how, and from what."""


def _carried(step: Step, source: str, value: Tensor, kind: Kind, start: Start) -> Tensor:
    """Move a slot by a transfer; new entries are started after every rewrite of a chain, as if it were alone."""
    transfer = step.transfer
    if isinstance(transfer, Chain):
        for part in transfer.steps:
            value = _carried(part, source_of(part.transfer) or source, value, kind, start)
        return value
    return start(move(transfer, {source: value}, step.shape, step.name, step.seed, kind, ZERO), transfer, value)


def _unchanged(moved: Tensor, transfer: Transfer, old: Tensor) -> Tensor:
    return moved


def _marked(moved: Tensor, transfer: Transfer, old: Tensor) -> Tensor:
    return mark(moved, transfer)


def _slot(key: str, value: Any, param: Tensor, slots: Mapping[str, Kind], optimizer: Optimizer) -> Any:
    """Return a slot ready to be moved, or copied if it is a number; what is not known is refused."""
    name = type(optimizer).__name__
    if key not in slots and key not in _SCALARS and key != YOUNG:
        known = ", ".join((*slots, *sorted(_SCALARS)))
        raise RefusedError(f"state `{key}` of {name} cannot be carried across a rewrite; known are {known}")
    if not isinstance(value, Tensor) or value.dim() == 0:
        return value.clone() if isinstance(value, Tensor) else value
    if value.shape != param.shape:
        raise RefusedError(f"state `{key}` of {name} has shape {list(value.shape)}, its parameter {list(param.shape)}")
    return value


def _warmed(moved: Tensor, transfer: Transfer, old: Tensor) -> Tensor:
    """Set new entries to the mean of the old ones beside them, along each dimension in turn.

    An entry that is zero has never had a gradient, because it is masked or its unit is dead, and says nothing about the
    size of one; so it is left out, and a new entry with nothing else beside it gets the mean of all that is not zero.
    """
    if isinstance(transfer, Gather):
        new = torch.from_numpy(transfer.index == NEW).to(moved.device).reshape(moved.shape)
        alive = ~new & (moved != 0)
        if new.any() and alive.any():
            moved[new] = moved[alive].mean()
        return moved
    if not isinstance(transfer, Select):
        return moved
    if not transfer.added or not old.numel():
        return moved
    full = bool(old.amin(tuple(range(old.ndim))) > 0)  # twice as fast as `min`
    for dim, place in transfer.added.items():
        beside: Any = place.size - len(place.added) if full else (moved != 0).sum(dim, keepdim=True).clamp(min=1)
        put(moved, dim, place, moved.sum(dim, keepdim=True) / beside)
    if not full and (nonzero := int(moved.count_nonzero())):
        mean = moved.sum() / nonzero
        for dim, place in transfer.added.items():
            slab = moved.index_select(dim, torch.from_numpy(place.added).to(moved.device))
            put(moved, dim, place, torch.where(slab == 0, mean, slab))
    return moved


def place_new(optimizer: Optimizer, tensor: Tensor, beside: Iterable[Tensor]) -> dict[str, Any]:
    """Return the group a parameter without predecessor joins: where most of those beside it of its rank are."""
    alike = {id(p) for p in beside if p.dim() == tensor.dim()}
    votes = [sum(id(p) in alike for p in group["params"]) for group in optimizer.param_groups]
    return optimizer.param_groups[max(range(len(votes)), key=lambda i: votes[i])]
