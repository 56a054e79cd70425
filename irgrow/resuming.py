"""What trains a network, in a checkpoint: tracked optimizers with their schedulers, scalers and averages.

Parameters and their state are written by name, so that they are found whatever the order of a new optimizer is. What an
optimizer holds of other modules is theirs to save: their places in the groups are noted, and nothing else.

Giving back is all or nothing: everything is looked through before anything is touched, and if a scheduler then does not
take its state, what was given already is taken back.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from types import BuiltinFunctionType, FunctionType, MethodType
from typing import Any

from torch import Tensor
from torch.optim import Optimizer

from irgrow.encoding import decoded, encoded
from irgrow.errors import CheckpointError
from irgrow.network import Network, Tracked

_CODE = (FunctionType, BuiltinFunctionType, MethodType, type, partial)
"""What is no state: the scheduler or optimizer that takes a state up was made with code of its own."""

# writing -------------------------------------------------------------------------------------------------------------


def written(net: Network, index: int, tensors: dict[str, Tensor]) -> dict[str, Any]:
    """Return what a tracked optimizer is and holds as JSON.

    Args:
        net: The network.
        index: Which of the tracked ones.
        tensors: Its tensors go in here: `<index>/<parameter>/<slot>`, `<index>/average/<parameter>`,
            `<index>/n_averaged`, and other values that are tensors, `<index>/value/<number>`.

    Raises:
        CheckpointError: Something of its state, or of its scheduler's, cannot be kept.
    """
    tracked = net.tracked[index]
    optimizer, kind, average = tracked.optimizer, type(tracked.optimizer).__name__, tracked.averaged
    names = {id(p): n for n, p in net.params.items()}

    def put(tensor: Tensor) -> str:
        name = f"{index}/value/{len(tensors)}"
        tensors[name] = tensor
        return name

    groups = []
    for group in optimizer.param_groups:
        options = {k: v for k, v in group.items() if k not in ("params", "param_names")}
        groups.append({"params": [names.get(id(p)) for p in group["params"]], "options": _state(options, kind, put)})
    scalars: dict[str, dict[str, Any]] = {}
    for name, state in ((names[id(p)], state) for p, state in optimizer.state.items() if id(p) in names):
        for key, value in state.items():
            if isinstance(value, Tensor):
                tensors[f"{index}/{name}/{key}"] = value
            else:
                scalars.setdefault(name, {})[key] = encoded(value, f"{kind}: `{key}` of `{name}`", put)
    if average is not None:
        tensors |= {f"{index}/average/{name}": value for name, value in average.params.items()}
        tensors[f"{index}/n_averaged"] = tracked.average.n_averaged
    scheduler, scaler = tracked.scheduler, tracked.scaler
    return {
        "class": kind,
        "groups": groups,
        "scalars": scalars,
        "carry": tracked.carry.value,
        "schedules": None if scheduler is None else _kinds(scheduler),
        "scheduler": None if scheduler is None else _state(scheduler.state_dict(), type(scheduler).__name__, put),
        "scaler": None if scaler is None else _state(scaler.state_dict(), type(scaler).__name__, put),
    }


def _state(state: Mapping[str, Any], kind: str, put: Callable[[Tensor], str]) -> dict[str, Any]:
    """Return a state as JSON, that of the schedulers within a scheduler included."""
    found: dict[str, Any] = {}
    for key, value in state.items():
        if key == "_schedulers":
            found[key] = [_state(inner, kind, put) for inner in value]
        elif not _is_code(value):
            found[key] = encoded(value, f"{kind}: `{key}`", put)
    return found


def _is_code(value: Any) -> bool:
    """Whether a value is code, or a list of nothing else."""
    if isinstance(value, list | tuple):
        return bool(value) and all(map(_is_code, value))
    return isinstance(value, _CODE)


def _kinds(scheduler: Any) -> str:
    """Return the class of a scheduler with those within it, such as `SequentialLR(LinearLR, StepLR)`."""
    name, inner = type(scheduler).__name__, getattr(scheduler, "_schedulers", ())
    return f"{name}({', '.join(map(_kinds, inner))})" if inner else name


# giving back ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Taken:
    """What was read for one tracked optimizer, checked and ready to be put in place."""

    tracked: Tracked
    groups: list[dict[str, Any]]  # their options, and in `params` the names, `None` where others stand
    states: dict[str, dict[str, Any]]
    scheduler: dict[str, Any] | None
    scaler: dict[str, Any] | None
    averages: dict[str, Tensor] | None
    averaged: Tensor | None


def resume(net: Network, listed: Sequence[dict[str, Any]], tensors: Mapping[str, Tensor]) -> None:
    """Give what a network tracks the state it was written with.

    Args:
        net: The network; it tracks as many optimizers of the same classes, in the same order.
        listed: What `written` returned for each.
        tensors: What it put in.

    Raises:
        CheckpointError: They are of other optimizers or damaged; nothing was changed.
    """
    try:
        taken = [_taken(net, index, entry, tensors) for index, entry in enumerate(listed)]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise CheckpointError(f"damaged: what trains the network cannot be read: {error!r}") from None
    params, undo = net.params, list[Callable[[], None]]()
    try:
        for each in taken:
            _give_optimizer(each, params, undo)
            _give(each.tracked.scheduler, each.scheduler, undo)
            _give(each.tracked.scaler, each.scaler, undo)
    except BaseException:
        for action in reversed(undo):
            action()
        raise
    for each in taken:
        if each.averages is not None:
            each.tracked.average.module.load_state_dict(each.averages)
            each.tracked.average.n_averaged.copy_(each.averaged)


def _taken(net: Network, index: int, entry: dict[str, Any], tensors: Mapping[str, Tensor]) -> _Taken:
    """Read what was written for one optimizer and check that it fits; nothing is changed."""
    tracked, params = net.tracked[index], net.params
    optimizer, kind = tracked.optimizer, type(tracked.optimizer).__name__
    if kind != entry["class"]:
        raise CheckpointError(f"the checkpoint is of a {entry['class']}, the network tracks a {kind}")
    if len(entry["groups"]) != len(optimizer.param_groups):
        found = len(optimizer.param_groups)
        raise CheckpointError(f"the checkpoint has {len(entry['groups'])} parameter groups, the optimizer {found}")
    known, kinds = entry.get("schedules"), None if tracked.scheduler is None else _kinds(tracked.scheduler)
    if known and kinds and known != kinds:
        raise CheckpointError(f"the checkpoint has a {known}, the network tracks a {kinds}")
    groups = [
        {**_options(saved["options"], group, tensors), "params": [*saved["params"]]}
        for saved, group in zip(entry["groups"], optimizer.param_groups, strict=True)
    ]
    for name in (*(n for group in groups for n in group["params"] if n is not None), *entry["scalars"]):
        if name not in params:
            raise KeyError(name)
    averages, count = None, None
    if tracked.average is not None:
        averages, count = _averages(index, params, tensors), tensors[f"{index}/n_averaged"]
    schedule, scaler = (entry[k] and decoded(entry[k], tensors) for k in ("scheduler", "scaler"))
    _mend_milestones(tracked.scheduler, schedule)
    return _Taken(tracked, groups, _slots(index, entry, groups, params, tensors), schedule, scaler, averages, count)


def _mend_milestones(scheduler: Any, saved: Any) -> None:
    """Make numbers of the milestones that the first format wrote as text, in schedulers within others too."""
    if isinstance(getattr(scheduler, "milestones", None), Counter) and type(saved.get("milestones")) is dict:
        saved["milestones"] = Counter({int(step): times for step, times in saved["milestones"].items()})
    within = zip(getattr(scheduler, "_schedulers", ()), (saved or {}).get("_schedulers", ()), strict=False)
    for inner, state in within:
        _mend_milestones(inner, state)


def _options(saved: dict[str, Any], group: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """Read the options of a group; tensors go where those that they replace are."""
    found = decoded(saved, tensors)
    for key, value in found.items():
        before = group.get(key)
        if isinstance(value, Tensor) and isinstance(before, Tensor):
            found[key] = value.to(before.device)
        if isinstance(value, list) and isinstance(before, tuple):  # the first format had no tuples
            found[key] = tuple(value)
    return dict(found)


def _slots(
    index: int,
    entry: dict[str, Any],
    groups: Sequence[Mapping[str, Any]],
    params: Mapping[str, Tensor],
    tensors: Mapping[str, Tensor],
) -> dict[str, dict[str, Any]]:
    """Read the state of every parameter."""
    states = {n: {key: decoded(v, tensors) for key, v in scalars.items()} for n, scalars in entry["scalars"].items()}
    there = {n for g in groups if g.get("capturable") or g.get("fused") for n in g["params"]}
    for key, value in tensors.items():
        place, _, rest = key.partition("/")
        name, _, slot = rest.rpartition("/")
        if place != str(index) or name not in params:
            continue
        _check_shape(value, params[name], f"`{slot}` of `{name}`", scalar=True)
        device = params[name].device if value.dim() or name in there else value.device
        states.setdefault(name, {})[slot] = value.clone().to(device)
    return states


def _averages(index: int, params: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    found = {}
    for name, param in params.items():
        value = tensors.get(f"{index}/average/{name}")
        if value is None:
            raise CheckpointError(f"the checkpoint has no average for optimizer {index}: `{name}` is missing")
        _check_shape(value, param, f"the average of `{name}`")
        found[name] = value
    return found


def _check_shape(value: Tensor, param: Tensor, what: str, scalar: bool = False) -> None:
    if value.shape != param.shape and (value.dim() or not scalar):
        raise CheckpointError(f"{what}: expected {list(param.shape)}, found {list(value.shape)}")


def _give_optimizer(taken: _Taken, params: Mapping[str, Tensor], undo: list[Callable[[], None]]) -> None:
    """Put groups and state of the network's parameters in place; those of others keep theirs."""
    optimizer = taken.tracked.optimizer
    undo.append(_putting_back(optimizer))
    own, called = {id(p) for p in params.values()}, {id(p): name for name, p in params.items()}
    for group in optimizer.param_groups:
        called |= {id(p): name for p, name in zip(group["params"], group.get("param_names", ()), strict=False)}
    for group, saved in zip(optimizer.param_groups, taken.groups, strict=True):
        others = iter([p for p in group["params"] if id(p) not in own])
        placed = [next(others, None) if name is None else params[name] for name in saved["params"]]
        group["params"][:] = [*(p for p in placed if p is not None), *others]
        group.update({key: value for key, value in saved.items() if key != "params"})
        if "param_names" in group:
            group["param_names"][:] = [called[id(p)] for p in group["params"]]
    for param in [p for p in optimizer.state if id(p) in own]:
        del optimizer.state[param]
    for name, state in taken.states.items():
        optimizer.state[params[name]] = state


def _putting_back(optimizer: Optimizer) -> Callable[[], None]:
    groups = [
        (g, dict(g), {k: list(g[k]) for k in ("params", "param_names") if k in g}) for g in optimizer.param_groups
    ]
    states = dict(optimizer.state)

    def put_back() -> None:
        for group, before, lists in groups:
            group.clear()
            group.update(before)
            for key, values in lists.items():
                group[key][:] = values
        optimizer.state.clear()
        optimizer.state.update(states)

    return put_back


def _give(target: Any, state: dict[str, Any] | None, undo: list[Callable[[], None]]) -> None:
    """Give a scheduler or a scaler its state, if there are both."""
    if target is None or not state:
        return
    before = [(part, dict(vars(part))) for part in _with_state(target)]
    scales = {name: v.clone() for name, v in vars(target).items() if isinstance(v, Tensor)}  # filled in place

    def put_back() -> None:
        for part, values in before:
            vars(part).clear()
            vars(part).update(values)
        for name, value in scales.items():
            vars(target)[name].copy_(value)

    undo.append(put_back)
    try:
        target.load_state_dict(state)
    except Exception as error:
        raise CheckpointError(
            f"the {type(target).__name__} does not take the state it was saved with: {error!r}"
        ) from error


def _with_state(scheduler: Any) -> Iterator[Any]:
    """Yield a scheduler, those within it and callables with a state of their own."""
    yield scheduler
    for inner in getattr(scheduler, "_schedulers", ()):
        yield from _with_state(inner)
    for called in (*getattr(scheduler, "lr_lambdas", ()), getattr(scheduler, "_scale_fn_custom", None)):
        if hasattr(called, "__dict__") and not isinstance(called, _CODE):
            yield called
