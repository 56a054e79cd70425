"""The transaction: one rewrite of a live network, with everything that must follow.

Match, prove and verify on the graph; refuse while a backward pass is outstanding; make new tensors from a derived seed;
lower; work out new optimizer state and averages. Nothing is visible until then. The swap replaces the module, the
parameters in the optimizer's groups and its state; then the invariants are checked, and if one does not hold
everything is put back.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from irgrow import registry
from irgrow.errors import CompilerBug, OptionError, RefusedError
from irgrow.journal import Entry, Receipt
from irgrow.network import Network, seed_of
from irgrow.newborns import settle
from irgrow.probing import Probed, evaluating, probe
from irgrow.swap import apply
from irgrow.verdict import Approximate, Exact, Refused

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
    probed = _probed(net, pass_, recorded, loss)
    context = registry.lookup("context")(net.params, seed, probed.values, probed.gradients, probed.signals)
    planned = registry.call("plan", pass_, net.graph, context)
    sites = (pass_.site,)
    verdict = planned.verdict
    if require == "exact" and verdict.applies and not verdict.preserves:
        verdict = Refused(f"an exact rewrite is required, this one {verdict}", pass_.site)
    if isinstance(verdict, Refused):
        return Receipt(str(pass_), verdict, sites, seconds=time.perf_counter() - started)
    before = _outputs(net, batch, loss)
    applied = apply(net, planned.morphism)
    error, losses = None, None
    try:
        for grown in (net, *(a for t in net.tracked if isinstance(a := getattr(t.average, "module", None), Network))):
            if recorded is not None:
                settle(grown, planned.morphism, recorded)
        if before is not None:
            after = _outputs(net, batch, loss)
            assert after is not None
            error = relative_error(after[0], before[0])
            losses = None if loss is None else (before[1], after[1])
            _check_error(net, planned.verdict, error, str(pass_), seed)
            if isinstance(verdict, Approximate):
                verdict = replace(verdict, measured=error)
    except BaseException:
        applied.restore()
        raise
    applied.commit()
    old, new = planned.morphism.before, planned.morphism.after
    entry = Entry(
        net.journal.counter, str(pass_), str(planned.verdict), seed, old.digest, new.digest, new.count(), step
    )
    net.journal.add(entry, planned.morphism)
    seconds = time.perf_counter() - started
    return Receipt(str(pass_), verdict, sites, error, losses, seconds, planned.morphism)


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
