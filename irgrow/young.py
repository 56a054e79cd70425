"""New entries in their first hundred steps: none moves by more than a learning rate, whatever its gradients.

What stands beside a new entry does not say how large its gradients will be. Old entries have been trained, and their
gradients are what is left; those of new ones are whole and come through weights that were just drawn. Rows that start
at zero were measured to have three to five times the gradients of old rows. As second moments are remembered longer
than first ones, such entries leap for some twenty steps: by up to c learning rates for gradients c times as large.

So before every step the second moment of a young entry is raised to what the step needs to be no longer than a learning
rate; with m' the first moment after the step, for Adam that is

    |m' / (1 - b1^t)| <= sqrt(v' / (1 - b2^t)),    v' = b2 v + (1 - b2) g^2

An entry that would not have moved as far is left as it is, and so is every old one. With momentum after normalised
gradients (RMSprop) a step is held to lr / (1 - momentum). Weight decay that is no part of the gradient is added to it.

How many steps an entry still is young is a slot of the optimizer's state, so that it follows rewrites and checkpoints;
the slot goes when no entry is.

Source: Shazeer and Stern (2018), Adafactor, 6: update clipping by larger second moments, here entry by entry.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any
from weakref import WeakSet

import torch
from torch import Tensor
from torch.optim import Optimizer

from irgrow.axes import NEW
from irgrow.morphism import Chain, Gather, Select, Transfer
from irgrow.transfer import put

YOUNG = "young"
"""The name of the slot: how many steps an entry still is young, zero for old ones."""

STEPS = 100

_FOLLOWED: WeakSet[Optimizer] = WeakSet()
"""Optimizers that run the hook; two networks may share one, and one network may be handed the same one again."""


def is_held(optimizer: Optimizer) -> bool:
    """Return whether young entries have to be held back; steps of the other optimizers are bounded by themselves."""
    return _least(optimizer) is not None


def follow(optimizer: Optimizer) -> None:
    """Hold back what will be young in an optimizer; asking for it again changes nothing."""
    if optimizer not in _FOLLOWED:
        _FOLLOWED.add(optimizer)
        optimizer.register_step_pre_hook(hold)


def adds(transfer: Transfer) -> bool:
    """Return whether a transfer has new entries beside old ones."""
    if isinstance(transfer, Chain):
        return any(adds(step.transfer) for step in transfer.steps)
    if isinstance(transfer, Gather):
        return bool((transfer.index == NEW).any())
    return isinstance(transfer, Select) and bool(transfer.added)


def mark(counts: Tensor, transfer: Transfer) -> Tensor:
    """Make the new entries of a transfer young; `counts` is changed."""
    if isinstance(transfer, Gather):
        counts.view(-1)[torch.from_numpy(transfer.index == NEW).to(counts.device)] = STEPS
    elif isinstance(transfer, Select):
        for dim, place in transfer.added.items():
            put(counts, dim, place, STEPS)
    return counts


def hold(optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any] | None:
    """Hold young entries back; a hook that an optimizer runs before every step.

    Gradients that a closure works out are looked at as soon as it has.
    """
    if not any(YOUNG in state for state in optimizer.state.values()):
        return None
    closure: Callable[[], Any] | None = kwargs.get("closure", args[1] if len(args) > 1 else None)
    if closure is None:
        _hold(optimizer)
        return None

    def closed() -> Any:
        loss = closure()
        _hold(optimizer)
        return loss

    return args[:1], {**kwargs, "closure": closed}


@torch.no_grad()
def _hold(optimizer: Optimizer) -> None:
    least = _least(optimizer)
    for group in optimizer.param_groups if least is not None else ():
        for p in group["params"]:
            state = optimizer.state.get(p, {})
            if least is None or YOUNG not in state or p.grad is None:
                continue
            index: Any = state[YOUNG].nonzero(as_tuple=True) if p.dim() else ...
            part = {k: v[index] if isinstance(v, Tensor) and v.dim() else v for k, v in state.items()}
            gradient = _gradient(optimizer, group, p, index)
            slot, decay = ("exp_avg_sq", group["betas"][1]) if "betas" in group else ("square_avg", group["alpha"])
            needed = (least(part, group, gradient) - (1 - decay) * gradient.square()) / decay
            raised = (needed > part[slot]) & needed.isfinite()
            state[slot][index] = torch.where(raised, needed, part[slot])
            left = part[YOUNG] - 1
            state[YOUNG][index] = left
            if not left.any():
                del state[YOUNG]


def _gradient(optimizer: Optimizer, group: Mapping[str, Any], p: Tensor, index: Any) -> Tensor:
    """Return the gradients at some entries as the step about to be taken sees them."""
    assert p.grad is not None
    gradient = p.grad[index]
    scale = getattr(optimizer, "grad_scale", None)  # a scaler leaves the gradients of a fused step as they are
    if scale is not None:
        gradient = gradient / scale
    if group.get("maximize"):
        gradient = -gradient
    if group["weight_decay"] and not group.get("decoupled_weight_decay", False):
        gradient = gradient + group["weight_decay"] * p[index]
    return gradient


# the least second moment after a step that makes the step no longer than a learning rate ----------------------------

Least = Callable[[Mapping[str, Any], Mapping[str, Any], Tensor], Tensor]


def _least(optimizer: Optimizer) -> Least | None:
    return next((_LEAST[cls.__name__] for cls in type(optimizer).__mro__ if cls.__name__ in _LEAST), None)


def _adam(state: Mapping[str, Any], group: Mapping[str, Any], gradient: Tensor) -> Tensor:
    (b1, b2), t = group["betas"], _number(state["step"]) + 1
    first = torch.lerp(state["exp_avg"], gradient, 1 - b1) / (1 - b1**t)
    return first.square() * (1 - b2**t)


def _nadam(state: Mapping[str, Any], group: Mapping[str, Any], gradient: Tensor) -> Tensor:
    (b1, b2), t = group["betas"], _number(state["step"]) + 1
    mu, following = (b1 * (1 - 0.5 * 0.96 ** (n * group["momentum_decay"])) for n in (t, t + 1))
    product = _number(state["mu_product"]) * mu
    first = torch.lerp(state["exp_avg"], gradient, 1 - b1)
    step = gradient * ((1 - mu) / (1 - product)) + first * (following / (1 - product * following))
    return step.square() * (1 - b2**t)


def _rmsprop(state: Mapping[str, Any], group: Mapping[str, Any], gradient: Tensor) -> Tensor:
    room: Any = 1.0
    if group["momentum"] > 0:
        whole = 1 / (1 - group["momentum"])
        room = (whole - group["momentum"] * state["momentum_buffer"] * gradient.sign()).clamp(min=1)
    least = (gradient / room).square()
    if group["centered"]:
        least = least + torch.lerp(state["grad_avg"], gradient, 1 - group["alpha"]).square()
    return least


def _number(value: Any) -> Any:
    """Return a scalar of the state as a number, but for one that would have to be waited for."""
    return value if isinstance(value, Tensor) and value.device.type != "cpu" else float(value)


_LEAST: dict[str, Least] = {"Adam": _adam, "AdamW": _adam, "NAdam": _nadam, "RAdam": _adam, "RMSprop": _rmsprop}
