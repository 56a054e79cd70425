"""Optimizer state across a rewrite: parameters are replaced at their places in the groups, slots follow the same maps.

Every slot is known by the optimizer's class and its name, with what it holds. An optimizer that is not in the table, or
state of another shape (factored second moments, orthogonalised updates), is refused; nothing is carried by guessing.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.optim import Optimizer

from irgrow.axes import NEW
from irgrow.errors import RefusedError
from irgrow.fills import ZERO
from irgrow.morphism import Chain, Gather, Morphism, Select, Step, Transfer, source_of
from irgrow.transfer import Kind, move


class Carry(Enum):
    """How the new entries of a carried slot start."""

    # Second moments at the mean of the units beside them, first moments at zero: an entry whose gradients are c times
    # as large as its siblings' starts up to c times as fast, instead of with up to 6.5 learning rates a step.
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
    """Return the state of every touched parameter by name; it does not change the optimizer.

    Raises:
        RefusedError: A slot is not known, or does not have the parameter's shape.
    """
    slots = known_slots(optimizer)
    found: dict[str, dict[str, Any]] = {}
    for name in morphism.touched:
        source = source_of(morphism.transfers[name])
        state = optimizer.state.get(old[source]) if source is not None and source in old else None
        if not state or carry is Carry.FRESH or source is None:
            continue
        found[name] = {key: _slot(key, value, old[source], slots, optimizer) for key, value in state.items()}
        for key, value in found[name].items():
            if not isinstance(value, Tensor) or value.shape != old[source].shape or key not in slots:
                continue
            warm = (carry is Carry.SIBLINGS and slots[key] in _WARM) or key in _NEEDS_POSITIVE
            step = Step(morphism.transfers[name], morphism.seed, name, tuple(new[name].shape))
            found[name][key] = _carried(step, source, value, slots[key], warm)
    return found


def _carried(step: Step, source: str, value: Tensor, kind: Kind, warm: bool) -> Tensor:
    """Move a slot by a transfer; new entries are warmed after every rewrite of a chain, as if it were alone."""
    transfer = step.transfer
    if isinstance(transfer, Chain):
        for part in transfer.steps:
            value = _carried(part, source_of(part.transfer) or source, value, kind, warm)
        return value
    moved = move(transfer, {source: value}, step.shape, step.name, step.seed, kind, ZERO)
    return _warmed(moved, transfer, value) if warm else moved


def _slot(key: str, value: Any, param: Tensor, slots: Mapping[str, Kind], optimizer: Optimizer) -> Any:
    """Return a slot ready to be moved, or copied if it is a number; what is not known is refused."""
    name = type(optimizer).__name__
    if key not in slots and key not in _SCALARS:
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
    added = {d: np.flatnonzero(m == NEW) for d, m in enumerate(transfer.maps) if m is not None and (m == NEW).any()}
    if not added or not old.numel():
        return moved
    indices = {d: torch.from_numpy(new).to(moved.device) for d, new in added.items()}
    full = bool(old.min() > 0)
    for dim, new in indices.items():
        beside: Any = moved.shape[dim] - len(new) if full else (moved != 0).sum(dim, keepdim=True).clamp(min=1)
        mean = moved.sum(dim, keepdim=True) / beside
        moved.index_copy_(dim, new, mean.expand(*(len(new) if d == dim else -1 for d in range(moved.dim()))))
    if not full:
        alive = moved[moved != 0]
        for dim, new in indices.items() if alive.numel() else ():
            slab = moved.index_select(dim, new)
            moved.index_copy_(dim, new, torch.where(slab == 0, alive.mean(), slab))
    return moved


def place_new(optimizer: Optimizer, tensor: Tensor) -> dict[str, Any]:
    """Return the group a parameter without predecessor joins: the one most parameters of its rank are in."""
    votes = [sum(p.dim() == tensor.dim() for p in group["params"]) for group in optimizer.param_groups]
    return optimizer.param_groups[max(range(len(votes)), key=lambda i: votes[i])]
