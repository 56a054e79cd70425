"""The transaction: one rewrite of a live network, with everything that must follow.

Match, prove and verify on the graph; refuse while a backward pass is outstanding; make new tensors from a derived seed;
lower; work out new optimizer state and averages. Nothing is visible until then. The swap replaces the module, the
parameters in the optimizer's groups and its state; then the invariants are checked, and if one does not hold
everything is put back.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.optim import Optimizer

from irgrow import registry
from irgrow.axes import NEW
from irgrow.cost import cost
from irgrow.errors import CompilerBug, OptionError, RefusedError
from irgrow.fills import ZERO
from irgrow.graph import Graph
from irgrow.journal import Entry, Receipt
from irgrow.morphism import Gather, Keep, Morphism, Select
from irgrow.network import Network, Tracked, seed_of
from irgrow.slots import Carry, carried_state, place_new
from irgrow.transfer import Kind, carried_params, move
from irgrow.verdict import Exact, Refused
from irgrow.verify import check_level

ERROR_BOUND = {torch.float64: 1e-8, torch.float32: 1e-2}
"""A rewrite proved exact whose measured error is beyond this is a bug of ours, and is rolled back."""


def rewrite(
    net: Network,
    pass_: Any,
    batch: tuple[Tensor, ...] | None,
    loss: Callable[..., Tensor] | None,
    step: int | None,
    recorded: tuple[Tensor, ...] | None,
    require: str,
) -> Receipt:
    """Run a pass on a live network; see `Network.rewrite`."""
    started = time.perf_counter()
    if require not in ("any", "exact"):
        raise OptionError(f"`require` takes any or exact, found {require}")
    if net.has_pending_backward:
        raise RefusedError(
            "a forward pass was recorded and its backward pass has not run: its gradients would be lost; "
            "run backward, or drop the outputs and the loss, before rewriting"
        )
    seed = seed_of(net.seed, net.journal.counter, pass_)
    context = registry.lookup("context")(net.params, seed, _statistics(net, pass_, recorded))
    planned = registry.call("plan", pass_, net.graph, context)
    sites = (pass_.site,)
    verdict = planned.verdict
    if require == "exact" and verdict.applies and not verdict.preserves:
        verdict = Refused(f"an exact rewrite is required, this one {verdict}", pass_.site)
    if isinstance(verdict, Refused):
        return Receipt(str(pass_), verdict, sites, seconds=time.perf_counter() - started)
    before = _outputs(net, batch, loss)
    applied = _apply(net, planned.morphism)
    error, losses = None, None
    try:
        if before is not None:
            after = _outputs(net, batch, loss)
            assert after is not None
            error = relative_error(after[0], before[0])
            losses = None if loss is None else (before[1], after[1])
            _check_error(net, planned.verdict, error, str(pass_), seed)
    except BaseException:
        applied.restore()
        raise
    applied.commit()
    old, new = planned.morphism.before, planned.morphism.after
    entry = Entry(
        net.journal.counter, str(pass_), str(planned.verdict), seed, old.digest, new.digest, new.count(), step
    )
    net.journal.add(entry, planned.morphism)
    return _receipt(str(pass_), planned, sites, error, losses, time.perf_counter() - started)


def undo(net: Network) -> Receipt:
    """Take the latest rewrite back; see `Network.undo`."""
    started = time.perf_counter()
    if not net.journal.entries:
        raise RefusedError("there is nothing to undo")
    entry = net.journal.entries[-1]
    morphism = net.journal.morphisms.get(entry.number)
    inverse = morphism and morphism.inverse()
    if inverse is None:
        why = "its record was not kept in the checkpoint" if morphism is None else "it removed something"
        raise RefusedError(f"`{entry.rewrite}` cannot be undone: {why}")
    if net.has_pending_backward:
        raise RefusedError("a forward pass was recorded and its backward pass has not run; run it before undoing")
    applied = _apply(net, inverse)
    applied.commit()
    net.journal.entries.pop()
    del net.journal.morphisms[entry.number]
    verdict = registry.call("prove", inverse)
    old, new = cost(inverse.before), cost(inverse.after)
    changed = new.parameters - old.parameters, new.macs - old.macs
    seconds = time.perf_counter() - started
    return Receipt(f"undo {entry.rewrite}", verdict, (), None, None, *changed, seconds, inverse)


def _receipt(text: str, planned: Any, sites: tuple[str, ...], error: Any, losses: Any, seconds: float) -> Receipt:
    old, new = cost(planned.morphism.before), cost(planned.morphism.after)
    changed = new.parameters - old.parameters, new.macs - old.macs
    return Receipt(text, planned.verdict, sites, error, losses, *changed, seconds, planned.morphism)


# measuring -----------------------------------------------------------------------------------------------------------


@contextmanager
def evaluating(net: Network) -> Iterator[None]:
    """Run a network in evaluation mode without gradients; the mode of every submodule is put back."""
    modes = [(m, m.training) for m in net.modules()]
    net.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, training in modes:
            module.training = training


def _outputs(net: Network, batch: tuple[Tensor, ...] | None, loss: Callable[..., Tensor] | None) -> Any:
    if batch is None:
        return None
    with evaluating(net):
        outputs = net.module(*batch)
        value = None if loss is None else float(loss(outputs))
    return outputs, value


def relative_error(new: Any, old: Any) -> float:
    """Return max |new - old| / max |old| over all outputs; infinite if shapes differ."""
    worst = 0.0
    for a, b in zip(new if isinstance(new, tuple) else (new,), old if isinstance(old, tuple) else (old,), strict=True):
        if a.shape != b.shape:
            return float("inf")
        scale = max(float(b.abs().max()), torch.finfo(b.dtype).tiny) if b.numel() else 1.0
        worst = max(worst, float((a - b).abs().max()) / scale if b.numel() else 0.0)
    return worst


def _check_error(net: Network, verdict: Any, error: float, text: str, seed: int) -> None:
    dtype = next((p.dtype for p in net.params.values() if p.is_floating_point()), torch.float32)
    bound = ERROR_BOUND.get(dtype)
    if isinstance(verdict, Exact) and bound is not None and not error <= bound:
        raise CompilerBug(
            f"`{text}` was proved {verdict} and measured {error:.3g}; it was rolled back. Please report this with "
            f"the seed {seed} and the program:\n{net.graph}"
        )


def _statistics(net: Network, pass_: Any, batch: tuple[Tensor, ...] | None) -> dict[str, Tensor]:
    """Record on the batch what the pass asks for."""
    needed = registry.call("needs", pass_, net.graph)
    if batch is None or not needed:
        return {}
    return capture(net, batch, needed)


def capture(net: Network, batch: tuple[Tensor, ...], nodes: tuple[str, ...]) -> dict[str, Tensor]:
    """Return the values of nodes on a batch, in evaluation mode."""
    wanted = {net.module.meta["values"][name]: name for name in nodes}
    found: dict[str, Tensor] = {}

    class Recorder(fx.Interpreter):
        def run_node(self, n: fx.Node) -> Any:
            value = super().run_node(n)
            if n.name in wanted:
                found[wanted[n.name]] = value.detach()
            return value

    with evaluating(net):
        Recorder(net.module).run(*batch)
    return found


# the swap ------------------------------------------------------------------------------------------------------------


@dataclass
class _Swap:
    """Everything a rewrite puts in place, worked out before anything is touched."""

    net: Network
    morphism: Morphism
    old: dict[str, Tensor]
    new: dict[str, Tensor]
    module: fx.GraphModule
    undo: list[Callable[[], None]] = field(default_factory=list)

    def restore(self) -> None:
        """Put everything back."""
        for action in reversed(self.undo):
            action()
        self.undo.clear()

    def commit(self) -> None:
        """Let go of what was there before; a gradient that still reaches it is an error."""
        self.undo.clear()
        for name in set(self.old) - {t.name for t in self.morphism.transfers.values() if isinstance(t, Keep)}:
            if self.old[name].requires_grad:
                self.old[name].register_hook(_lost(name))


def _lost(name: str) -> Callable[[Tensor], None]:
    def fail(grad: Tensor) -> None:
        raise RefusedError(
            f"a gradient reached `{name}` as it was before a rewrite: the forward pass was recorded before it; "
            "run the forward pass again"
        )

    return fail


def _apply(net: Network, morphism: Morphism) -> _Swap:
    """Work everything out, then swap; on any failure nothing has changed."""
    old = net.params
    new = _new_params(net, morphism, old)
    module = registry.call("lower", morphism.after, new, _reusable(net, morphism))
    _take_over(net, morphism, module)
    states = [carried_state(t.optimizer, morphism, old, new, t.carry) for t in net.tracked]
    averages = [_averaged(t.average, morphism, new) for t in net.tracked]
    swap = _Swap(net, morphism, old, new, module)
    left_out = _orphans(net)
    orphans = {name for name, t in morphism.transfers.items() if getattr(t, "name", None) in left_out}
    try:
        _install(swap)
        for i, (tracked, state, average) in enumerate(zip(net.tracked, states, averages, strict=True)):
            _replace_in_optimizer(tracked.optimizer, swap, state, adopts=i == 0)
            if average is not None:
                _install(average, swap.undo)
        check_invariants(net, orphans)
    except BaseException:
        swap.restore()
        raise
    return swap


def _install(swap: _Swap, record: list[Callable[[], None]] | None = None) -> None:
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
        source = old.get(transfer.name) if isinstance(transfer, Select | Gather) else None
        parameter = nn.Parameter(tensor, requires_grad=source.requires_grad if source is not None else True)
        if source is not None:
            parameter.__dict__.update(source.__dict__)
            if source.grad is not None and isinstance(transfer, Select | Gather):
                shape = tuple(tensor.shape)
                with torch.no_grad():
                    parameter.grad = move(
                        transfer, {transfer.name: source.grad}, shape, name, morphism.seed, Kind.GRADIENT, ZERO
                    )
        made[name] = parameter
    return made


def _reusable(net: Network, morphism: Morphism) -> dict[str, nn.Module]:
    """Return the leaf modules of nodes that stay as they are."""
    before, after = morphism.before, morphism.after
    touched = set(morphism.touched)
    kept = {}
    for name, leaf in net.module.meta["leaves"].items():
        node = after.by_name.get(name)
        if node is None or node.op != before[name].op or leaf._modules:
            continue
        if touched.isdisjoint(after.own_params[name]) and _same_sizes(morphism, name):
            kept[name] = leaf
    return kept


def _same_sizes(morphism: Morphism, name: str) -> bool:
    """Return whether no size that a leaf module may hold has changed."""
    before, after = morphism.before, morphism.after
    if morphism.edits:
        return before.reach[name].isdisjoint(morphism.edits)
    old, new = before.signatures[name], after.signatures[name]
    if [before.size(a) for a in old.axes.values()] != [after.size(a) for a in new.axes.values()]:
        return False
    pairs = zip((*old.inputs, old.output), (*new.inputs, new.output), strict=True)
    return all([before.size(d) for d in a.dims] == [after.size(d) for d in b.dims] for a, b in pairs)


def _take_over(net: Network, morphism: Morphism, module: fx.GraphModule) -> None:
    """Give new leaf modules the mode and the hooks of those they replace."""
    old = net.module.meta["leaves"]
    leaves = {id(leaf) for leaf in module.meta["leaves"].values()}
    for part in module.modules():
        if id(part) not in leaves:
            part.training = net.training
    for name, leaf in module.meta["leaves"].items():
        before = old.get(name)
        if before is leaf:
            continue
        leaf.training = net.training if before is None else before.training
        if before is not None:
            for hooks in ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks"):
                getattr(leaf, hooks).update(getattr(before, hooks))


def _averaged(average: Any, morphism: Morphism, live: Mapping[str, Tensor]) -> _Swap | None:
    """Work out the averages of the new network: old entries follow, new ones start at the live values."""
    inner = getattr(average, "module", None)
    if not isinstance(inner, Network):
        return None
    old = inner.params
    new = _new_params(inner, morphism, old)
    with torch.no_grad():
        for name in morphism.touched:
            _adopt(new[name], live[name], morphism.transfers[name])
    module = registry.call("lower", morphism.after, new, _reusable(inner, morphism))
    _take_over(inner, morphism, module)
    return _Swap(inner, morphism, old, new, module)


def _adopt(average: Tensor, live: Tensor, transfer: Any) -> None:
    if not isinstance(transfer, Select):
        average.copy_(live)
        return
    for dim, m in enumerate(transfer.maps):
        if m is not None and (m == NEW).any():
            index = torch.from_numpy((m == NEW).nonzero()[0]).to(average.device)
            average.index_copy_(dim, index, live.detach().index_select(dim, index).to(average))


def _replace_in_optimizer(
    optimizer: Optimizer, swap: _Swap, states: Mapping[str, dict[str, Any]], adopts: bool
) -> None:
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
        source = getattr(swap.morphism.transfers[name], "name", None)
        old = swap.old.get(source) if source else None
        if old is None and adopts:
            group = place_new(optimizer, new)
            group["params"].append(new)
            if "param_names" in group:
                group["param_names"].append(name)
        elif old is not None and id(old) in place:
            group, index = place[id(old)]
            group["params"][index] = new
        if old is not None and old in optimizer.state:
            optimizer.state.pop(old)
        if name in states:
            optimizer.state[new] = states[name]
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


# tracking and invariants ---------------------------------------------------------------------------------------------


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
    strangers = sum(id(p) not in own for p in held)
    if held and strangers == len(held):
        raise OptionError("the optimizer holds none of this network's parameters; make it from `net.parameters()`")
    if average is not None and not isinstance(getattr(average, "module", None), Network):
        raise OptionError("`average` takes an AveragedModel of this network")
    return tracked


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
    for name, value in params.items():
        if tuple(value.shape) != net.graph.param_shape(name):
            expected = list(net.graph.param_shape(name))
            raise CompilerBug(f"`{name}` has shape {list(value.shape)}, the graph says {expected}")
    named = dict(nn.Module.named_parameters(net.module))
    trainable = {id(p) for p in params.values() if isinstance(p, nn.Parameter)}
    if {id(p) for p in named.values()} != trainable:
        raise CompilerBug("the names of the module and of the graph do not agree")
    storages: dict[int, str] = {}
    for name, value in params.items():
        if value.numel() and not value.is_meta:
            other = storages.setdefault(value.untyped_storage().data_ptr(), name)
            if other != name:
                raise CompilerBug(f"`{name}` and `{other}` share storage and are not tied")
    _check_optimizers(net)
    if left_out is not None and (orphans := _orphans(net) - left_out):
        raise CompilerBug(f"`{min(orphans)}` is trainable and in no parameter group")
    if check_level() >= 3:
        _check_typing(net.graph)


def _orphans(net: Network) -> set[str]:
    """Return the trainable parameters that no tracked optimizer holds."""
    if not net.tracked:
        return set()
    held = {id(p) for t in net.tracked for g in t.optimizer.param_groups for p in g["params"]}
    return {n for n, p in net.params.items() if p.requires_grad and id(p) not in held}


def _check_optimizers(net: Network) -> None:
    names = {id(p): n for n, p in net.params.items()}
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
