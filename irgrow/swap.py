"""The swap: everything a rewrite puts in place, worked out before anything is touched.

New tensors, a new module around the old leaves that stay as they are, the optimizer's groups and state, the averages.
Each step of the swap records how to take it back, so that a failed invariant leaves the network as it was.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.optim import Optimizer

from irgrow import registry
from irgrow.errors import RefusedError
from irgrow.fills import ZERO
from irgrow.invariants import REPLACED, check_invariants, orphans
from irgrow.morphism import Chain, Compute, Cut, Gather, Keep, Morphism, Select, predecessor, source_of
from irgrow.network import Network, parts
from irgrow.slots import carried_state, place_new
from irgrow.transfer import Kind, carried_params, move, put


@dataclass
class Swap:
    """Everything a rewrite puts in place, worked out before anything is touched."""

    net: Network
    morphism: Morphism
    old: dict[str, Tensor]
    new: dict[str, Tensor]
    module: fx.GraphModule
    undo: list[Callable[[], None]] = field(default_factory=list)

    def restore(self) -> None:
        """Put everything back."""
        while self.undo:
            self.undo.pop()()

    def commit(self) -> None:
        """Let go of what was there before; a gradient that still reaches it is an error."""
        self.undo.clear()
        for name in set(self.old) - {t.name for t in self.morphism.transfers.values() if isinstance(t, Keep)}:
            self.old[name].__dict__[REPLACED] = True
            if self.old[name].requires_grad:
                self.old[name]._backward_hooks = None  # those of its owner are with its successor
                self.old[name].register_hook(_lost(name))


def _lost(name: str) -> Callable[[Tensor], None]:
    def fail(grad: Tensor) -> None:
        raise RefusedError(
            f"a gradient reached `{name}` as it was before a rewrite: the forward pass was recorded before it; "
            "run the forward pass again"
        )

    return fail


def apply(net: Network, morphism: Morphism, undo: list[Callable[[], None]] | None = None) -> Swap:
    """Work everything out, then swap; on any failure nothing has changed.

    How to take it back is added to `undo`; on failure all that is there is taken back.
    """
    old = net.params
    new = _new_params(net, morphism, old)
    module = registry.call("lower", morphism.after, new, _reusable(net, morphism), net.shareable)
    _take_over(net, morphism, module)
    states = [carried_state(t.optimizer, morphism, old, new, t.carry) for t in net.tracked]
    averages = [None if (a := t.averaged) is None else _averaged(a, morphism, new) for t in net.tracked]
    swap = Swap(net, morphism, old, new, module, [] if undo is None else undo)
    left_out = orphans(net, old)
    adopted = {name for name, t in morphism.transfers.items() if left_out and predecessor(t) in left_out}
    try:
        _install(swap)
        for i, (tracked, state, average) in enumerate(zip(net.tracked, states, averages, strict=True)):
            _replace_in_optimizer(tracked.optimizer, swap, state, adopts=i == 0)
            if average is not None:
                _install(average, swap.undo)
        check_invariants(net, adopted)
    except BaseException:
        swap.restore()
        raise
    return swap


def networks(net: Network) -> list[Network]:
    """Return the networks that a rewrite of one changes: it and those that average its weights."""
    return [net, *(average for t in net.tracked if (average := t.averaged) is not None)]


def _install(swap: Swap, record: list[Callable[[], None]] | None = None) -> None:
    net, graph, module = swap.net, swap.net.graph, swap.net.module
    (swap.undo if record is None else record).append(lambda: net.install(graph, module))
    net.install(swap.morphism.after, swap.module)


def _new_params(net: Network, morphism: Morphism, old: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Make the new tensors: parameters keep being parameters, frozen ones stay frozen, gradients follow."""
    made = carried_params(morphism, old)
    for name, tensor in made.items():
        transfer = morphism.transfers[name]
        if isinstance(transfer, Keep) or not morphism.after.params[name].spec.trainable:
            continue
        source = old.get(predecessor(transfer) or "")
        parameter = nn.Parameter(tensor, requires_grad=source.requires_grad if source is not None else True)
        if source is not None:
            parameter.__dict__.update(source.__dict__)
            for hooks in ("_backward_hooks", "_post_accumulate_grad_hooks"):
                if getattr(source, hooks):
                    setattr(parameter, hooks, getattr(source, hooks))  # shared: handles go on working
            origin = source_of(transfer)
            if source.grad is not None and origin is not None:  # what is computed has none
                shape = tuple(tensor.shape)
                with torch.no_grad():
                    parameter.grad = move(
                        transfer, {origin: source.grad}, shape, name, morphism.seed, Kind.GRADIENT, ZERO
                    )
        made[name] = parameter
    return made


def lost_gradients(morphism: Morphism, old: Mapping[str, Tensor]) -> tuple[str, ...]:
    """Return notes of the gradients that wait for a step and cannot follow: those of parameters that are computed."""
    found = []
    for name in morphism.touched:
        transfer = morphism.transfers[name]
        source = old.get(predecessor(transfer) or "")
        if source is not None and source.grad is not None and source_of(transfer) is None:
            found.append(f"the gradient that waits at `{name}` is gone, because it is computed; step before rewriting")
    return tuple(found)


def _reusable(net: Network, morphism: Morphism) -> dict[str, nn.Module]:
    """Return the leaf modules of nodes that stay as they are."""
    before, after = morphism.before, morphism.after
    touched = {node for name in morphism.touched for node, _ in after.params[name].uses}
    touched |= before.reached(morphism.edits)
    kept = {}
    for name, leaf in net.module.meta["leaves"].items():
        node, old = after.by_name.get(name), before[name]
        if node is None or name in touched or leaf._modules or (node is not old and node.op != old.op):
            continue
        if morphism.edits or _same_sizes(morphism, name):
            kept[name] = leaf
    return kept


def _same_sizes(morphism: Morphism, name: str) -> bool:
    """Return whether no size that a leaf module may hold is another one in a rewrite that edits nodes."""
    before, after = morphism.before, morphism.after
    old, new = before.signatures[name], after.signatures[name]
    if [before.size(a) for a in old.axes.values()] != [after.size(a) for a in new.axes.values()]:
        return False
    pairs = zip((*old.inputs, old.output), (*new.inputs, new.output), strict=True)
    return all([before.size(d) for d in a.dims] == [after.size(d) for d in b.dims] for a, b in pairs)


_HOOKS = (
    "_forward_hooks",
    "_forward_hooks_with_kwargs",
    "_forward_hooks_always_called",
    "_forward_pre_hooks",
    "_forward_pre_hooks_with_kwargs",
    "_backward_hooks",
    "_backward_pre_hooks",
    "_is_full_backward_hook",
)


def _take_over(net: Network, morphism: Morphism, module: fx.GraphModule) -> None:
    """Give new leaf modules the mode and the hooks of those they replace."""
    old = net.module.meta["leaves"]
    leaves = {id(leaf) for leaf in module.meta["leaves"].values()}
    for part in parts(module):
        if id(part) not in leaves:
            part.training = net.training
    for name, leaf in module.meta["leaves"].items():
        before = old.get(name)
        if before is leaf:
            continue
        leaf.training = net.training if before is None else before.training
        if before is not None:
            # shared, not copied: the handles their owners hold go on working
            leaf.__dict__.update({hooks: getattr(before, hooks) for hooks in _HOOKS})


def _averaged(average: Network, morphism: Morphism, live: Mapping[str, Tensor]) -> Swap:
    """Work out the averages of the new network: old entries follow, new ones start at the live values."""
    old = average.params
    new = _new_params(average, morphism, old)
    with torch.no_grad():
        for name in morphism.touched:
            _adopt(new[name], live[name], morphism.transfers[name], old)
    module = registry.call("lower", morphism.after, new, _reusable(average, morphism), average.shareable)
    _take_over(average, morphism, module)
    return Swap(average, morphism, old, new, module)


def _adopt(average: Tensor, live: Tensor, transfer: Any, old: Mapping[str, Tensor]) -> None:
    source = source_of(transfer)
    parts = [s.transfer for s in transfer.steps] if isinstance(transfer, Chain) else [transfer]
    moved = all(isinstance(t, Select | Cut | Gather) for t in parts)
    if source is not None and moved and not isinstance(transfer, Select):
        ones = {source: torch.ones_like(old[source])}
        kept = move(transfer, ones, tuple(average.shape), "", 0, Kind.FREE, ZERO).bool()
        average.copy_(torch.where(kept, average, live.detach().to(average)))
        return
    if isinstance(transfer, Compute):
        return  # computed from the averages
    if not isinstance(transfer, Select):
        average.copy_(live)
        return
    for dim, place in transfer.added.items():
        put(average, dim, place, live.detach().index_select(dim, torch.from_numpy(place.added).to(live.device)))


def _replace_in_optimizer(optimizer: Optimizer, swap: Swap, states: Mapping[str, dict[str, Any]], adopts: bool) -> None:
    """Replace parameters at their places in the groups and put their state under the new objects.

    The optimizer that `adopts` also takes the parameters that had no predecessor.
    """
    groups = [(g, list(g["params"]), list(g.get("param_names", ())) or None) for g in optimizer.param_groups]
    saved = dict(optimizer.state)

    def put_back() -> None:
        for group, params, names in groups:
            group["params"][:] = params
            if names is not None:
                group["param_names"][:] = names
        optimizer.state.clear()
        optimizer.state.update(saved)

    swap.undo.append(put_back)
    place = {id(p): (g, i) for g, params, _ in groups for i, p in enumerate(params)}
    gone = {id(swap.old[n]) for n in swap.morphism.before.params} - {id(t) for t in swap.new.values()}
    for name in swap.morphism.touched:
        new = swap.new[name]
        if not isinstance(new, nn.Parameter):
            continue
        old = swap.old.get(predecessor(swap.morphism.transfers[name]) or "")
        if old is None and adopts:
            group = place_new(optimizer, new, swap.old.values())
            group["params"].append(new)
            if "param_names" in group:
                group["param_names"].append(name)
        elif old is not None and id(old) in place:
            group, index = place[id(old)]
            group["params"][index] = new
        if old is not None and old in optimizer.state:
            optimizer.state.pop(old)
        if name in states and (adopts if old is None else id(old) in place):
            optimizer.state[new] = states[name]
    for name in states.keys() - set(swap.morphism.touched):
        optimizer.state[swap.new[name]] = states[name]
    _drop(optimizer, gone)


def _drop(optimizer: Optimizer, gone: set[int]) -> None:
    """Take parameters that are no more out of the groups and the state."""
    for group in optimizer.param_groups:
        kept = [i for i, p in enumerate(group["params"]) if id(p) not in gone]
        if len(kept) < len(group["params"]):
            if "param_names" in group:
                group["param_names"][:] = [group["param_names"][i] for i in kept]
            group["params"][:] = [group["params"][i] for i in kept]
    for param in [p for p in optimizer.state if id(p) in gone]:
        optimizer.state.pop(param)
