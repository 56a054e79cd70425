"""The trace of a run of passes: what was done step by step, what it adds up to, and why a step was refused."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, reduce
from typing import Any

from irgrow.cost import cost
from irgrow.graph import Graph
from irgrow.morphism import Morphism
from irgrow.passes.base import Pass
from irgrow.verdict import Approximate, Changes, Exact, Improving, Refused, Verdict

_ORDER: tuple[type[Verdict], ...] = (Exact, Approximate, Improving, Changes, Refused)


def _rank(verdict: Verdict) -> tuple[int, bool]:
    """Return how weak a verdict is; among the exact ones, `eval` is weaker than `always`."""
    return _ORDER.index(type(verdict)), isinstance(verdict, Exact) and verdict.mode != "always"


def combined(verdicts: Sequence[Verdict]) -> Verdict:
    """Return what holds of rewrites done one after the other: the weakest of their verdicts.

    Errors of several approximate rewrites add up, as do expected changes of the loss.

    >>> print(combined((Exact(), Exact("eval"), Changes("`a` reads 1 unit that is gone"))))
    changes the function: `a` reads 1 unit that is gone
    """
    weakest: Verdict = max(verdicts, key=_rank, default=Exact())
    same = [v for v in verdicts if type(v) is type(weakest)]
    if isinstance(weakest, Approximate):
        bounds = dict.fromkeys(v.bound for v in same if isinstance(v, Approximate))
        return Approximate(" plus ".join(bounds)) if len(same) > 1 else weakest
    if isinstance(weakest, Improving):
        return Improving(sum(v.expected for v in same if isinstance(v, Improving)))
    return weakest


@dataclass(frozen=True)
class TraceStep:
    """One step of a run.

    Args:
        rewrite: The pass.
        verdict: What was proved, or why it does not apply here.
        before: The graph in front of it.
        after: The graph behind it; the same if it was refused.
        seconds: How long it took.
        error: The relative error measured on a batch, if one was given.
        morphism: Where every parameter comes from; `None` if it was refused.
    """

    rewrite: Pass
    verdict: Verdict
    before: Graph
    after: Graph
    seconds: float = field(default=0.0, compare=False)
    error: float | None = None
    morphism: Morphism | None = field(default=None, repr=False, compare=False)

    @property
    def applied(self) -> bool:
        """Whether it was carried out."""
        return self.morphism is not None

    @property
    def digests(self) -> tuple[str, str]:
        """Digests of the program before and after."""
        return self.before.digest, self.after.digest

    @cached_property
    def parameters(self) -> int:
        """Change of the number of trainable parameters."""
        return cost(self.after).parameters - cost(self.before).parameters

    @cached_property
    def macs(self) -> int:
        """Change of the multiply-accumulate operations for one sample."""
        return cost(self.after).macs - cost(self.before).macs

    @property
    def remark(self) -> str | None:
        """Why it does not apply here; `None` if it was carried out."""
        return self.verdict.reason if isinstance(self.verdict, Refused) else None

    def to_json(self) -> dict[str, Any]:
        """Return a JSON form; of a refused step only what was asked and why not."""
        row: dict[str, Any] = {"pass": str(self.rewrite), "verdict": str(self.verdict), "kind": self.verdict.word}
        return row | {"parameters": self.parameters, "macs": self.macs} if self.applied else row


@dataclass(frozen=True)
class Trace:
    """What a pipeline did, step by step.

    Args:
        steps: The steps, refused ones among them; up to the one that was refused if all or nothing was asked.
        before: The graph it started from.
        after: The graph it ended with; `before` if it was given up.
        given_up: Whether a step was refused where all or nothing was asked.
        params: The parameters of `after`, if the run had parameters.
    """

    steps: tuple[TraceStep, ...]
    before: Graph
    after: Graph
    given_up: bool = False
    params: Mapping[str, Any] | None = field(default=None, repr=False, compare=False)

    def __iter__(self) -> Iterator[TraceStep]:
        return iter(self.steps)

    def __len__(self) -> int:
        return len(self.steps)

    def __getitem__(self, index: int) -> TraceStep:
        return self.steps[index]

    @property
    def refused(self) -> tuple[TraceStep, ...]:
        """The steps that were refused."""
        return tuple(step for step in self.steps if not step.applied)

    @property
    def verdict(self) -> Verdict:
        """What holds of the whole: the weakest verdict of what was done; a refusal if nothing was."""
        done = tuple(s.verdict for s in self.steps if s.applied)
        if self.refused and (self.given_up or not done):
            return self.refused[-1 if self.given_up else 0].verdict
        return combined(done)

    @cached_property
    def morphism(self) -> Morphism | None:
        """The whole run as one rewrite; `None` if nothing was done."""
        parts = [] if self.given_up else [s.morphism for s in self.steps if s.morphism is not None]
        return reduce(Morphism.then, parts) if parts else None

    def __str__(self) -> str:
        rows = [("pass", "program", "parameters", "MACs", "ms", "verdict")]
        for step in self.steps:
            moved = f"{step.digests[0][:8]} -> {step.digests[1][:8]}" if step.applied else step.digests[0][:8]
            deltas = (f"{step.parameters:+,}", f"{step.macs:+,}") if step.applied else ("", "")
            rows.append((str(step.rewrite), moved, *deltas, f"{1e3 * step.seconds:.1f}", str(step.verdict)))
        end = "given up, nothing was done" if self.given_up else str(self.verdict)
        return f"{table(rows, right=(2, 3, 4))}\n{end}"


def table(rows: Sequence[Sequence[str]], right: tuple[int, ...] = ()) -> str:
    """Return rows as aligned columns."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = []
    for row in rows:
        cells = (c.rjust(w) if i in right else c.ljust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True)))
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)
