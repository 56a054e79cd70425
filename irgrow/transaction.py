"""The transaction: one rewrite of a live network, with everything that must follow.

Match, prove and verify on the graph; refuse while a backward pass is outstanding; make new tensors from a derived seed;
lower; work out new optimizer state and averages. Nothing is visible until then. The swap replaces the module, the
parameters in the optimizer's groups and its state; then the invariants are checked, and if one does not hold
everything is put back.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from irgrow import registry
from irgrow.collecting import uncollected
from irgrow.errors import CompilerBug, RefusedError
from irgrow.journal import DEPTH, Entry, Receipt, seed_of
from irgrow.morphism import Morphism
from irgrow.network import Network
from irgrow.newborns import settle, unsettled
from irgrow.probing import Evidence, Probed, evaluating, probe
from irgrow.swap import Swap, apply, networks
from irgrow.verdict import Approximate, Exact, Refused, Verdict, required

ERROR_BOUND = {torch.float64: 1e-8, torch.float32: 1e-2}
"""A rewrite proved exact whose measured error is beyond this is a bug of ours, and is rolled back."""


@dataclass(frozen=True)
class Prepared:
    """A rewrite of a live network that was worked out, with nothing touched; refused if it has no morphism."""

    verdict: Verdict
    morphism: Morphism | None = None
    entry: Entry | None = None


@dataclass(frozen=True)
class Attempt:
    """A rewrite that was tried: refused, or in place and still to be committed or restored."""

    receipt: Receipt
    swap: Swap | None = None
    entry: Entry | None = None


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
    tried: list[Attempt] = []
    try:
        for number, pass_ in enumerate(passes, net.journal.counter):
            own = seed_of(net.seed, number, pass_) if seed is None else seed
            with uncollected():
                tried.append(_attempt(net, pass_, evidence, step, require, number, own))
            if not tried[-1].receipt.applied:
                _restore(tried)
                return [t.receipt for t in tried]
    except BaseException:
        _restore(tried)
        raise
    for attempt in tried:
        if attempt.swap is not None and attempt.entry is not None:
            attempt.swap.commit()
            net.journal.add(attempt.entry, attempt.swap.morphism)
    return [t.receipt for t in tried]


def _restore(tried: Sequence[Attempt]) -> None:
    for attempt in reversed(tried):
        if attempt.swap is not None:
            attempt.swap.restore()


def prepare(
    net: Network, pass_: Any, evidence: Evidence, step: int | None, require: str, number: int, seed: int
) -> Prepared:
    """Work a rewrite out; `number` is its place in the journal."""
    probed = evidence.probed or _probed(net, pass_, evidence.statistics, evidence.loss)
    planned = registry.call("plan", pass_, net.graph, registry.lookup("context").seeing(net.params, seed, probed))
    verdict = required(planned.verdict, require, pass_.site)
    if isinstance(verdict, Refused):
        return Prepared(verdict)
    morphism: Morphism = planned.morphism if evidence.statistics is not None else unsettled(planned.morphism)
    old, new, used = morphism.before, morphism.after, pass_.used or probed.used
    entry = Entry(number, str(pass_), str(verdict), seed, old.digest, new.digest, new.count(), step, used)
    return Prepared(verdict, morphism, entry)


def _attempt(
    net: Network, pass_: Any, evidence: Evidence, step: int | None, require: str, number: int, seed: int
) -> Attempt:
    """Put a rewrite in place without committing it; on any failure nothing has changed."""
    started = time.perf_counter()
    prepared = prepare(net, pass_, evidence, step, require, number, seed)
    verdict, morphism, entry, sites = prepared.verdict, prepared.morphism, prepared.entry, (pass_.site,)
    if morphism is None or entry is None:
        return Attempt(Receipt(str(pass_), verdict, sites, seconds=time.perf_counter() - started))
    batch, loss, shown = evidence.batch, evidence.loss, evidence.statistics
    before = _outputs(net, batch, loss)
    applied = apply(net, morphism)
    error, losses = None, None
    try:
        settled = [] if shown is None else [settle(each, morphism, shown) for each in networks(net)]
        if any(settled):
            entry = replace(entry, used=entry.used or "norms")
        if before is not None:
            after = _outputs(net, batch, loss)
            assert after is not None
            error = relative_error(after[0], before[0])
            losses = None if loss is None else (before[1], after[1])
            _check_error(net, verdict, error, str(pass_), seed)
            if isinstance(verdict, Approximate):
                verdict = replace(verdict, measured=error)
    except BaseException:
        applied.restore()
        raise
    seconds = time.perf_counter() - started
    return Attempt(Receipt(str(pass_), verdict, sites, error, losses, seconds, morphism), applied, entry)


def undo(net: Network) -> Receipt:
    """Take the latest rewrite back; see `Network.undo`."""
    started = time.perf_counter()
    if not net.journal.entries:
        raise RefusedError("there is nothing to undo")
    entry = net.journal.entries[-1]
    morphism = net.journal.morphisms.get(entry.number)
    inverse = morphism and morphism.inverse()
    if inverse is None:
        kept = f"its record is gone; kept are those of the latest {DEPTH} rewrites, and none in a checkpoint"
        why = kept if morphism is None else "it removed something"
        raise RefusedError(f"`{entry.rewrite}` cannot be undone: {why}")
    if net.has_pending_backward:
        raise RefusedError("a forward pass was recorded and its backward pass has not run; run it before undoing")
    verdict = registry.call("prove", inverse, net.params)
    applied = apply(net, inverse)
    applied.commit()
    net.journal.entries.pop()
    del net.journal.morphisms[entry.number]
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


def _probed(net: Network, pass_: Any, batch: tuple[Tensor, ...] | None, loss: Callable[..., Tensor] | None) -> Probed:
    """Record on the batch what the pass asks for; gradients if it wants them and there is a loss."""
    nodes, gradients = registry.call("needs", pass_, net.graph)
    if batch is None or not (nodes or gradients):
        return Probed()
    return probe(net.graph, net.module, net.params, batch, nodes, loss if gradients else None)
