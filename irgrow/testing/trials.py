"""Trying a rewrite on a program: what is claimed of it, what the numbers say, and whether what comes out runs.

A trial never raises: whatever is wrong stands in its `fault`. A claim of sameness must be borne out by the numbers in
every mode it is made for, a refusal must have a reason; what results must print and parse to itself, lower to torch,
compute there what the reference interpreter computes, and pass gradients back.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch

from irgrow.axes import positions
from irgrow.backends import interpret, random_params
from irgrow.backends.torch_fx import lower
from irgrow.grammar import parse
from irgrow.graph import Graph
from irgrow.morphism import Morphism
from irgrow.ops import Role
from irgrow.passes import PASSES, Pass
from irgrow.testing.numbers import (
    LOWERING_BOUND,
    NETWORK_BOUND,
    as_tensors,
    carried,
    difference,
    is_stochastic,
    output_weights,
    planned,
    random_inputs,
    weighted_loss,
)
from irgrow.testing.options import rewrites_of
from irgrow.verdict import Approximate, Exact, Refused, Verdict

OUTCOMES = ("exact", "exact in evaluation", "approximate", "improving", "changes", "refused")
"""The five verdicts, the first one in two."""


@dataclass(frozen=True)
class Trial:
    """One rewrite of one program.

    Args:
        rewrite: The pass.
        verdict: What was claimed; `None` if it came to nothing.
        errors: How far the outputs are from what they were, in evaluation and, if nothing is drawn there, in training.
        fault: What is wrong; empty if nothing is.
        morphism: What was worked out; `None` if refused.
        params: The parameters afterwards.
    """

    rewrite: Pass
    verdict: Verdict | None
    errors: tuple[float, ...] = ()
    fault: str = ""
    morphism: Morphism | None = None
    params: dict[str, Any] = field(default_factory=dict)

    @property
    def outcome(self) -> str:
        """One of `OUTCOMES`, or `fault`."""
        if self.fault or self.verdict is None:
            return "fault"
        if isinstance(self.verdict, Exact) and self.verdict.mode != "always":
            return "exact in evaluation"
        return self.verdict.word

    @property
    def error(self) -> float:
        """The largest error in the modes for which the function is said to be the same; in all of them otherwise."""
        return max(self.errors[:1] if self.outcome == "exact in evaluation" else self.errors, default=0.0)

    @property
    def cautious(self) -> bool:
        """Whether the function is said to change and the numbers do not show it."""
        return self.outcome == "changes" and self.error <= NETWORK_BOUND


class Subject:
    """A program with random parameters and inputs, on which rewrites are tried.

    Args:
        graph: The program.
        seed: Where its numbers come from.
        batch: How many samples.
        params: Parameters that stand instead of random ones.
    """

    def __init__(self, graph: Graph, seed: int = 0, batch: int = 5, params: dict[str, Any] | None = None) -> None:
        self.graph = graph
        self.seed = seed
        self.params = random_params(graph, seed) | (params or {})
        self.inputs = random_inputs(graph, seed, batch)
        self.modes = (False,) if is_stochastic(graph) or batch < 2 else (False, True)
        self._kept = {name: np.array(value) for name, value in self.params.items()}
        self._ran: dict[str, str] = {}

    @cached_property
    def outputs(self) -> tuple[Any, ...]:
        """The outputs before, by mode."""
        return tuple(interpret(self.graph, self.params, self.inputs, mode).outputs for mode in self.modes)

    def attempt(self, rewrite: Pass) -> Trial:
        """Try a rewrite; whatever an error of irgrow would be called, it ends in the `fault`."""
        try:
            found = planned(rewrite, self.graph, self.params, self.inputs, self.seed)
        except Exception as error:
            return Trial(rewrite, None, fault=f"working it out: {type(error).__name__}: {error}")
        if any(not np.array_equal(self._kept[name], value) for name, value in self.params.items()):
            return Trial(rewrite, found.verdict, fault="the parameters of the network were touched")
        if found.morphism is None:
            silent = not isinstance(found.verdict, Refused) or not found.verdict.reason.strip()
            return Trial(rewrite, found.verdict, fault="refused without a reason" if silent else "")
        try:
            params = carried(found.morphism, self.params)
            after = found.morphism.after
            errors = tuple(
                difference(interpret(after, params, self.inputs, mode).outputs, wanted)
                for mode, wanted in zip(self.modes, self.outputs, strict=True)
            )
            fault = _unsound(found.verdict, errors) or self._does_not_run(after, params)
        except Exception as error:
            return Trial(rewrite, found.verdict, (), f"the result: {type(error).__name__}: {error}", found.morphism)
        return Trial(rewrite, found.verdict, errors, fault, found.morphism, params)

    def _does_not_run(self, after: Graph, params: dict[str, Any]) -> str:
        """Return why the new program is none, or does not run; looked at once for each program."""
        text = str(after)
        if text not in self._ran:
            self._ran[text] = _not_read_back(after, text) or self._not_lowered(after, params)
        return self._ran[text]

    def _not_lowered(self, after: Graph, params: dict[str, Any]) -> str:
        tensors = as_tensors(after, params)
        module = lower(after, tensors)
        batch = [torch.as_tensor(self.inputs[name]) for name in after.inputs]
        outputs = module.eval()(*batch)
        arrays = tuple(y.detach().numpy() for y in (outputs if isinstance(outputs, tuple) else (outputs,)))
        error = difference(arrays, interpret(after, params, self.inputs).outputs)
        if not error <= LOWERING_BOUND:
            return f"lowered to torch it differs from its definition by {error:.3g}"
        loss = weighted_loss(output_weights(after, params, self.inputs, self.seed))
        for total in (loss(outputs), loss(module.train()(*batch))):
            if total.requires_grad:
                total.backward()
        if any(t.grad is not None and not t.grad.isfinite().all() for t in tensors.values()):
            return "its gradients are not finite"
        return ""


def _not_read_back(after: Graph, text: str) -> str:
    return "" if parse(text) == after else "it is read back as another program"


def _unsound(verdict: Verdict, errors: tuple[float, ...]) -> str:
    """Return what is wrong with a claim, or nothing."""
    if isinstance(verdict, Approximate) and not verdict.bound.strip():
        return "approximate without a bound"
    if not isinstance(verdict, Exact):
        return ""
    claimed = errors if verdict.mode == "always" else errors[:1]
    if all(error <= NETWORK_BOUND for error in claimed):
        return ""
    return f"proved {verdict}, the outputs differ by {', '.join(f'{e:.3g}' for e in claimed)}"


def tried(graph: Graph, few: int | None = 2, at: str | None = None) -> dict[type[Pass], list[Trial]]:
    """Try every registered pass on a program; what finds nothing to do there, on worn parameters as well.

    Args:
        graph: The program.
        few: How many other options are tried at a site; all if `None`.
        at: Try only what works at this node, or on an axis that runs through it.
    """
    fresh, old = Subject(graph), Subject(graph, params=worn(graph, random_params(graph, 0)))
    found: dict[type[Pass], list[Trial]] = {}
    for cls in PASSES:
        found[cls] = []
        for rewrite in rewrites_of(cls, graph, few, at):
            trial = fresh.attempt(rewrite)
            found[cls].append(trial)
            if trial.outcome == "refused" and rewrite.match(graph, rewrite.site) is None:
                found[cls].append(old.attempt(rewrite))
    return found


def worn(graph: Graph, params: Mapping[str, Any]) -> dict[str, Any]:
    """Return parameters in which some passes find more to do.

    The first unit of every axis is dead, the third does what the second one does.
    """
    found = {name: np.array(value) for name, value in params.items()}
    for name, param in graph.params.items():
        for dim, axis in enumerate(param.spec.dims):
            roles = param.roles(dim)
            if roles - {Role.MAKES, Role.PER_UNIT}:
                continue
            lines = np.moveaxis(found[name], dim, 0)
            for units in (u for several in positions(axis, graph.widths).values() for u in several if u.max() >= 2):
                lines[units == 2] = lines[units == 1]
                if Role.MAKES in roles:
                    lines[units == 0] = 0.0
    return found


def size_of_error(error: float) -> str:
    """Return an error as a power of ten that it does not exceed, the same on every machine.

    >>> size_of_error(3e-16), size_of_error(2e-5), size_of_error(0.1)
    ('<= 1e-10', '<= 1e-3', '> 1e-3')
    """
    return next((f"<= {text}" for text in ("1e-10", "1e-6", "1e-3") if error <= float(text)), "> 1e-3")


def tally(trials: Iterable[Trial]) -> str:
    """Return how often each outcome occurred, as a cell of a table."""
    counts = Counter(trial.outcome for trial in trials)
    return ", ".join(f"{word} {counts[word]}" for word in (*OUTCOMES, "fault") if counts[word])


def report(graph: Graph, trial: Trial) -> str:
    """Return a fault with all it takes to see it again."""
    return f"{trial.fault}\n  pass: {trial.rewrite}\n  verdict: {trial.verdict}\n  program:\n{graph}"


__all__ = ["OUTCOMES", "Subject", "Trial", "report", "size_of_error", "tally", "tried", "worn"]
