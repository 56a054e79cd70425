"""The table of function-preserving rewrites (growth.md, section 9), each row tried on programs and held to the numbers.

What the table says of a row stands in `preservation_rows`; what irgrow says and what is measured is computed here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from irgrow import registry
from irgrow.axes import NEW
from irgrow.backends import random_params
from irgrow.grammar import parse, parse_pass
from irgrow.morphism import Gather, New, Select, Transfer
from irgrow.ops import ParamSpec, Role
from irgrow.passes import Pass
from irgrow.testing.numbers import carried_entries, gradients, output_weights
from irgrow.testing.trials import Subject, Trial, size_of_error

Numbers = Mapping[str, Any]
SAME, OTHER, REFUSED, NEAR, UNPROVED = "same", "other", "refused", "near", "unproved"
"""What a row of the table comes to: the same function, another one, nothing that should be done, nearly the same function,
the same on this batch and maybe not elsewhere."""


@dataclass(frozen=True)
class Case:
    """A row of the table tried on one program.

    Args:
        body: The program, without its header.
        rewrite: A pass, written as in programs.
        says: What follows from the table: `SAME`, `OTHER`, `REFUSED` or `NEAR`.
        learns: What the table says receives a gradient at once, comma separated; nothing if it does not say.
        inputs: The header's inputs.
        params: Parameters that stand instead of random ones, made of those.
        note: Where table and measurement differ: why; else what there is to know.
    """

    body: str
    rewrite: str | Pass
    says: str = SAME
    learns: str = ""
    inputs: str = "x: [3]"
    params: Callable[[Numbers], Numbers] | None = None
    note: str = ""

    @property
    def program(self) -> str:
        """The whole program."""
        return f"net n({self.inputs}) {{ {self.body if 'return' in self.body else f'return {self.body}'} }}"


@dataclass(frozen=True)
class Row:
    """A row of the table.

    Args:
        number: Its number.
        operator: What it speaks of.
        given: Its class: R exact up to rounding, B bitwise, C on conditions, N not preserving.
        cases: The programs it is tried on.
        missing: Why there is nothing to try, or what of the row is not in irgrow.
    """

    number: int
    operator: str
    given: str
    cases: tuple[Case, ...] = ()
    missing: str = ""


@dataclass(frozen=True)
class Found:
    """What came of a case."""

    trial: Trial
    learns: tuple[str, ...]
    waits: tuple[str, ...]

    @property
    def error(self) -> str:
        """The error as a power of ten; a dash where nothing was done."""
        return "-" if self.trial.morphism is None else size_of_error(self.trial.error)


@cache
def measured(case: Case) -> Found:
    """Try a case: verdict, error in float64, and which of the new parameters receive a gradient at once."""
    graph = parse(case.program)
    special = None if case.params is None else dict(case.params(random_params(graph, 0)))
    subject = Subject(graph, batch=6, params=special)
    rewrite = parse_pass(case.rewrite) if isinstance(case.rewrite, str) else case.rewrite
    trial = subject.attempt(rewrite)
    learns, waits = _learning(subject, trial)
    return Found(trial, learns, waits)


def is_registered(case: Case) -> bool:
    """Whether the pass of a case is there."""
    return not isinstance(case.rewrite, str) or case.rewrite.partition("(")[0] in registry.group("pass")


def disagreement(case: Case, found: Found) -> str:
    """Return where verdict, error or gradients are not what the table says; empty where they are."""
    outcome = found.trial.outcome
    expected = {
        SAME: outcome.startswith("exact"),
        OTHER: outcome in ("changes", "approximate", "improving") and found.trial.error > 1e-6,
        REFUSED: outcome == "refused",
        UNPROVED: outcome == "changes" and found.trial.error <= 1e-10,
        NEAR: outcome == "approximate" and found.trial.error <= 1e-3,
    }
    if not expected[case.says]:
        return f"the table says {case.says}"
    if case.learns and found.trial.morphism is not None and set(case.learns.split(", ")) != set(found.learns):
        return f"the table says that {case.learns} learn at once"
    return ""


def _learning(subject: Subject, trial: Trial) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the kinds of new entries that receive a gradient in the first backward pass, and those that do not."""
    if trial.morphism is None or trial.fault:
        return (), ()
    after = trial.morphism.after
    weights = output_weights(after, trial.params, subject.inputs, 0)
    grads = gradients(after, trial.params, subject.inputs, weights)
    largest = max((float(g.abs().max()) for g in grads.values() if g.numel()), default=0.0)
    live: dict[str, bool] = {}
    for name, transfer in trial.morphism.transfers.items():
        grad = grads.get(name)
        if grad is None:
            continue
        param = after.params[name]
        for kind, entries in _new_entries(name, param.spec, transfer, tuple(grad.shape)):
            found = np.abs(grad.numpy()[entries]).max(initial=0.0) > 1e-12 * largest
            live[kind] = live.get(kind, False) or bool(found)
    return tuple(k for k, v in live.items() if v), tuple(k for k, v in live.items() if not v)


def _new_entries(name: str, spec: ParamSpec, transfer: Transfer, shape: tuple[int, ...]) -> list[tuple[str, Any]]:
    """Return which entries of a parameter are new, copies among them, by what they are."""
    if isinstance(transfer, New):
        return [(name.partition(".")[2], np.ones(shape, dtype=bool))]
    if isinstance(transfer, Gather):
        return [("synapses", ~carried_entries(transfer, shape))]
    found = []
    for dim, m in enumerate(transfer.maps if isinstance(transfer, Select) else ()):
        if m is None:
            continue
        first = np.zeros(len(m), dtype=bool)
        first[np.unique(m, return_index=True)[1]] = True
        new = (m == NEW) | ~first
        if new.any():
            found.append((_kind(spec, dim), (slice(None),) * dim + (new,)))
    return found


def _kind(spec: ParamSpec, dim: int) -> str:
    role = spec.roles[dim]
    if role is Role.READS:
        return "fan-out"
    if role is Role.PER_UNIT and len(spec.dims) == 1:
        return {"weight": "gain", "bias": "shift"}.get(spec.name, spec.name)
    return "bias" if len(spec.dims) == 1 else "fan-in"


def lines(row: Row) -> list[str]:
    """Return a row as lines of a table in Markdown."""
    head = f"| {row.number} | {row.operator} | {row.given} |"
    if not row.cases:
        return [f"{head} | not in irgrow yet | | | {row.missing} |"]
    found = []
    for case in row.cases:
        if not is_registered(case):
            found.append(f"{head} `{case.rewrite}` | not in irgrow yet | | | {case.body} |")
            continue
        result = measured(case)
        learns = ", ".join(result.learns) + (f"; later {', '.join(result.waits)}" if result.waits else "")
        differs = disagreement(case, result)
        verdict = f"**{result.trial.outcome}**" if differs else result.trial.outcome
        says = f"no: {differs}; {case.note}" if differs else f"yes; {case.note}" if case.note else "yes"
        shown = case.body.replace("|>", "▸").replace("\n", " ")
        found.append(f"{head} `{result.trial.rewrite}` on `{shown}` | {verdict} | {result.error} | {learns} | {says} |")
    if row.missing:
        found.append(f"{head} | not in irgrow yet | | | {row.missing} |")
    return found
