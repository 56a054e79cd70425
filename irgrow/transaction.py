"""The transaction: one rewrite of a live network, with everything that must follow.

Match, prove and verify on the graph; refuse while a backward pass is outstanding; make new tensors from a derived seed;
lower; work out new optimizer state and averages. Nothing is visible until then. The swap replaces the module, the
parameters in the optimizer's groups and its state; then the invariants are checked, and if one does not hold
everything is put back.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from math import isfinite
from typing import Any

import torch
from torch import Tensor

from irgrow import registry
from irgrow.collecting import uncollected
from irgrow.errors import CompilerBug, RefusedError
from irgrow.journal import DEPTH, Entry, Receipt, seed_of
from irgrow.morphism import Morphism, with_notes
from irgrow.network import Network
from irgrow.newborns import settled, unsettled
from irgrow.probing import Evidence, Probed, evaluating, probe
from irgrow.swap import Swap, apply, lost_gradients, networks
from irgrow.verdict import Approximate, Exact, Refused, Verdict, required

ERROR_BOUND = {torch.float64: 1e-8, torch.float32: 1e-2}
"""A rewrite proved exact whose measured error is beyond this is a bug of ours, and is rolled back."""

ROUNDINGS = 1000
"""How many roundings of the largest number a network computes its outputs may differ by all the same."""


@dataclass(frozen=True)
class Prepared:
    """A rewrite of a live network that was worked out, with nothing touched; refused if it has no morphism."""

    rewrite: str
    site: str
    verdict: Verdict
    started: float
    morphism: Morphism | None = None
    entry: Entry | None = None

    def receipt(self, verdict: Verdict | None = None, error: float | None = None, losses: Any = None) -> Receipt:
        """Return what to tell people, with what was measured."""
        seconds = time.perf_counter() - self.started
        return Receipt(self.rewrite, verdict or self.verdict, (self.site,), error, losses, seconds, self.morphism)


@dataclass(frozen=True)
class Done:
    """A rewrite in place that was not yet committed."""

    receipt: Receipt
    entry: Entry
    swap: Swap


Undo = list[Callable[[], None]]
"""How to take back what was done so far, step by step; the last step is taken back first."""


def rewrite(
    net: Network, pass_: Any, evidence: Evidence, step: int | None, require: str = "any", seed: int | None = None
) -> Receipt:
    """Run a pass on a live network; see `Network.rewrite`. The seed is derived from the network's unless given."""
    return rewrite_all(net, (pass_,), evidence, step, require, seed)[0]


def rewrite_all(
    net: Network,
    passes: Sequence[Any],
    evidence: Evidence,
    step: int | None,
    require: str = "any",
    seed: int | None = None,
) -> list[Receipt]:
    """Run passes one after the other as a single transaction: all of them, or none.

    Returns:
        The receipts; if one was refused, it is the last, and the network is what it was.
    """
    required(Exact(), require)
    if net.has_pending_backward:
        raise RefusedError(
            "a forward pass was recorded and its backward pass has not run: its gradients would be lost; "
            "run backward, or drop the outputs and the loss, before rewriting"
        )
    undo: Undo = []
    done: list[Done] = []
    try:
        for number, pass_ in enumerate(passes, net.journal.counter):
            with uncollected(), trainable():
                evidence = usable(evidence)
                prepared = prepare(net, pass_, evidence, step, require, number, seed)
                if prepared.morphism is None:
                    put_back(undo)
                    return [*(d.receipt for d in done), prepared.receipt()]
                done.append(_carried_out(net, prepared, evidence, undo))
        undo.append(partial(net.journal.become, net.journal.copy()))
        for each in done:
            net.journal.add(each.entry, each.swap.morphism)
    except BaseException:
        put_back(undo)
        raise
    for each in done:
        each.swap.commit()
    return [each.receipt for each in done]


def put_back(undo: Undo) -> None:
    """Take back all that was done."""
    while undo:
        undo.pop()()


@contextmanager
def trainable() -> Iterator[None]:
    """Make tensors that can be trained, also for a caller in inference mode."""
    if not torch.is_inference_mode_enabled():
        yield
        return
    with torch.inference_mode(False), torch.no_grad():
        yield


def usable(evidence: Evidence) -> Evidence:
    """Return what may be looked at, with copies of the inputs that only inference may use."""

    def copied(batch: tuple[Tensor, ...] | None) -> tuple[Tensor, ...] | None:
        return batch and tuple(x.clone() if x.is_inference() else x for x in batch)

    return replace(evidence, batch=copied(evidence.batch), statistics=copied(evidence.statistics))


def prepare(
    net: Network, pass_: Any, evidence: Evidence, step: int | None, require: str, number: int, seed: int | None = None
) -> Prepared:
    """Work a rewrite out; `number` is its place in the journal."""
    started = time.perf_counter()
    own = seed_of(net.seed, number, pass_) if seed is None else seed
    probed = evidence.probed or _probed(net, pass_, evidence.statistics, evidence.loss)
    planned = registry.call("plan", pass_, net.graph, registry.lookup("context").seeing(net.params, own, probed))
    text, site, verdict = str(pass_), pass_.site, required(planned.verdict, require, pass_.site)
    if isinstance(verdict, Refused):
        return Prepared(text, site, verdict, started)
    morphism = with_notes(planned.morphism, lost_gradients(planned.morphism, net.params))
    old, new, used = morphism.before, morphism.after, pass_.used or probed.used
    entry = Entry(number, text, str(verdict), own, old.digest, new.digest, new.count(), step, used)
    return Prepared(text, site, verdict, started, morphism, entry)


def _carried_out(net: Network, prepared: Prepared, evidence: Evidence, undo: Undo) -> Done:
    """Put a rewrite in place without committing it."""
    morphism, entry, verdict = prepared.morphism, prepared.entry, prepared.verdict
    assert morphism is not None
    assert entry is not None
    batch, loss, shown = evidence.batch, evidence.loss, evidence.statistics
    before = _outputs(net, batch, loss)
    swap = apply(net, morphism, undo)
    measured = frozenset[str]() if shown is None else settled(networks(net), morphism, shown)
    told = replace(prepared, morphism=with_notes(morphism, unsettled(morphism, measured, shown is not None)))
    if measured:
        entry = replace(entry, used=entry.used or "norms")
    after = _outputs(net, batch, loss)
    if before is None or after is None:
        return Done(told.receipt(), entry, swap)
    error = relative_error(after[0], before[0])
    losses = None if loss is None else (before[1], after[1])
    _check_error(net, verdict, error, entry, partial(_is_rounding, net, evidence, after[0], before[0]))
    if isinstance(verdict, Approximate):
        verdict = replace(verdict, measured=error)
    return Done(told.receipt(verdict, error, losses), entry, swap)


def undo(net: Network) -> Receipt:
    """Take the latest rewrite back; see `Network.undo`."""
    started = time.perf_counter()
    if not net.journal.entries:
        raise RefusedError("there is nothing to undo")
    entry = net.journal.entries[-1]
    if entry.after != net.graph.digest:
        raise RefusedError(f"`{entry.rewrite}` cannot be undone: the network is not what it made")
    morphism = net.journal.morphisms.get(entry.number)
    inverse = morphism and morphism.inverse()
    if inverse is None:
        kept = f"its record is gone; kept are those of the latest {DEPTH} rewrites, and none in a checkpoint"
        why = kept if morphism is None else "it removed something"
        raise RefusedError(f"`{entry.rewrite}` cannot be undone: {why}")
    if net.has_pending_backward:
        raise RefusedError("a forward pass was recorded and its backward pass has not run; run it before undoing")
    verdict = registry.call("prove", inverse, net.params)
    back: Undo = []
    try:
        with trainable():
            swap = apply(net, inverse, back)
        back.append(partial(net.journal.become, net.journal.copy()))
        net.journal.entries.pop()
        del net.journal.morphisms[entry.number]
    except BaseException:
        put_back(back)
        raise
    swap.commit()
    seconds = time.perf_counter() - started
    return Receipt(f"undo {entry.rewrite}", verdict, (), None, None, seconds, inverse)


# measuring -----------------------------------------------------------------------------------------------------------


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
        apart, scale = (float(v.abs().max()) if v.numel() else 0.0 for v in (a - b, b))
        if not isfinite(apart):
            return 0.0 if torch.equal(a, b) else float("inf")
        worst = max(worst, apart / scale if scale > 0 else float("inf") if apart > 0 else 0.0)
    return worst


def _check_error(net: Network, verdict: Verdict, error: float, entry: Entry, is_rounding: Callable[[], bool]) -> None:
    bound = ERROR_BOUND.get(_precision(net))
    if isinstance(verdict, Exact) and bound is not None and not error <= bound and not is_rounding():
        raise CompilerBug(
            f"`{entry.rewrite}` was proved {verdict} and measured {error:.3g}; it was rolled back. Please report this "
            f"with the seed {entry.seed} and the program:\n{net.graph}"
        )


def _precision(net: Network) -> torch.dtype:
    return next((p.dtype for p in net.params.values() if p.is_floating_point()), torch.float32)


def _is_rounding(net: Network, evidence: Evidence, new: Any, old: Any) -> bool:
    """Return whether outputs differ by no more than what rounding makes of the largest number on the way to them.

    Outputs in which large numbers cancel are all rounding, and differ from themselves in another order.
    """
    assert evidence.batch is not None
    made = tuple(name for name in net.graph.by_name if name not in net.graph.inputs)
    values = probe(net.graph, net.module, net.params, evidence.batch, made).values.values()
    largest = max((float(v.abs().max()) for v in values if v.is_floating_point() and v.numel()), default=0.0)
    pairs = zip(new if isinstance(new, tuple) else (new,), old if isinstance(old, tuple) else (old,), strict=True)
    apart = max(float((a - b).abs().max()) for a, b in pairs if b.numel())
    return isfinite(largest) and apart <= ROUNDINGS * torch.finfo(_precision(net)).eps * largest


def _probed(net: Network, pass_: Any, batch: tuple[Tensor, ...] | None, loss: Callable[..., Tensor] | None) -> Probed:
    """Record on the batch what the pass asks for; gradients if it wants them and there is a loss."""
    nodes, gradients = registry.call("needs", pass_, net.graph)
    if batch is None or not (nodes or gradients):
        return Probed()
    return probe(net.graph, net.module, net.params, batch, nodes, loss if gradients else None)
