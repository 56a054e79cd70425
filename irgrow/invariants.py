"""What a network, its module and its optimizers must agree on.

`track` checks an optimizer when it is handed over; `check_invariants` checks everything after every rewrite.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from irgrow.errors import CompilerBug, OptionError
from irgrow.graph import Graph
from irgrow.network import Network, Tracked, parts
from irgrow.slots import Carry
from irgrow.verify import check_level
from irgrow.young import follow

REPLACED = "_irgrow_replaced"
"""What a tensor is marked with in whose place a rewrite has put another one."""


def track(net: Network, optimizer: Optimizer, scheduler: Any, scaler: Any, average: Any, carry: str) -> Tracked:
    """Check what is to be tracked; see `Network.track`."""
    if carry not in [c.value for c in Carry]:
        raise OptionError(f"`carry` takes siblings, zero or fresh, found {carry}")
    tracked = Tracked(optimizer, scheduler, scaler, average, Carry(carry))
    driven = getattr(scheduler, "optimizer", optimizer)
    if driven is not optimizer:
        raise OptionError("the scheduler drives another optimizer")
    if any(t.optimizer is optimizer for t in net.tracked):
        raise OptionError("this optimizer is tracked already")
    own = {id(p) for p in net.parameters()}
    held = [p for g in optimizer.param_groups for p in g["params"]]
    if any(REPLACED in p.__dict__ for p in held):
        raise OptionError(
            "the optimizer holds parameters that a rewrite has replaced; make it anew from `net.parameters()`"
        )
    strangers = sum(id(p) not in own for p in held)
    if held and strangers == len(held):
        raise OptionError("the optimizer holds none of this network's parameters; make it from `net.parameters()`")
    if average is not None and tracked.averaged is None:
        raise OptionError("`average` takes an AveragedModel of this network")
    if tracked.averaged is not None and tracked.averaged.graph != net.graph:
        raise OptionError(
            "`average` is of another program: of another network, or of this one before a rewrite; make it anew, "
            "`AveragedModel(net)`"
        )
    _check_held_once(net, optimizer, held)
    follow(optimizer)
    return tracked


def _check_held_once(net: Network, optimizer: Optimizer, held: Sequence[Tensor]) -> None:
    """Check that no parameter is in two places of a new optimizer, or in one that is tracked already."""
    names = {id(p): f"`{n}`" for n, p in net.params.items()}
    holders = {id(p): t.optimizer for t in net.tracked for g in t.optimizer.param_groups for p in g["params"]}
    for p in held:
        name, holder = names.get(id(p), "a parameter of another module"), holders.get(id(p))
        if holder is optimizer:
            raise OptionError(f"{name} is twice in the optimizer")
        if holder is not None:
            raise OptionError(
                f"{name} is held by the {type(holder).__name__} that is tracked already; if this one takes its place, "
                "let that one go first: `net.untrack(optimizer)`"
            )
        holders[id(p)] = optimizer


def check_invariants(net: Network, left_out: set[str] | None = None) -> None:
    """Check what must hold after every rewrite.

    Args:
        net: The network.
        left_out: Trainable parameters that no tracked optimizer held before.

    Raises:
        CompilerBug: A parameter is orphaned or held twice, a slot has another shape than its parameter, a name of the
            module is not one of the graph, or storage is shared that is not tied.
    """
    params = net.params
    for name, expected in net.graph.param_shapes.items():
        if params[name].shape != expected:
            found = list(params[name].shape)
            raise CompilerBug(f"`{name}` has shape {found}, the graph says {list(expected)}")
    held = {id(p) for m in parts(net.module) for p in m._parameters.values() if p is not None}
    if held != {id(p) for p in params.values() if isinstance(p, nn.Parameter)}:
        raise CompilerBug("the names of the module and of the graph do not agree")
    storages: dict[int, str] = {}
    for name, value in params.items():
        if value.numel() and not value.is_meta:
            other = storages.setdefault(value.untyped_storage().data_ptr(), name)
            if other != name:
                raise CompilerBug(f"`{name}` and `{other}` share storage and are not tied")
    _check_optimizers(net, params)
    if left_out is not None and (lost := orphans(net, params) - left_out):
        raise CompilerBug(f"`{min(lost)}` is trainable and in no parameter group")
    if check_level() >= 3:
        _check_typing(net.graph)


def orphans(net: Network, params: Mapping[str, Tensor]) -> set[str]:
    """Return those of a network's parameters that are trainable and that no tracked optimizer holds."""
    if not net.tracked:
        return set()
    held = {id(p) for t in net.tracked for g in t.optimizer.param_groups for p in g["params"]}
    return {n for n, p in params.items() if p.requires_grad and id(p) not in held}


def _check_optimizers(net: Network, params: Mapping[str, Tensor]) -> None:
    names = {id(p): n for n, p in params.items()}
    seen: set[int] = set()
    for tracked in net.tracked:
        for group in tracked.optimizer.param_groups:
            for p in group["params"]:
                if id(p) in seen:
                    raise CompilerBug(f"`{names.get(id(p), '?')}` is in two parameter groups")
                seen.add(id(p))
        for p, state in tracked.optimizer.state.items():
            for key, value in state.items():
                if isinstance(value, Tensor) and value.dim() and value.shape != p.shape:
                    raise CompilerBug(f"state `{key}` of `{names.get(id(p), '?')}` does not have its shape")


def _check_typing(graph: Graph) -> None:
    """Compare what was carried over with the same worked out from scratch."""
    again = Graph(graph.name, graph.nodes, graph.outputs, graph.sizes, graph.named, graph.fixed)
    for name in again.by_name:
        if again.shape(name) != graph.shape(name):
            raise CompilerBug(f"the carried type of `{name}` is not the one inferred from scratch")
