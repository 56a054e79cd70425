"""Verdicts: what a rewrite says about the function of the network. They are derived by the prover, never asserted."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from irgrow.errors import OptionError, Span


@dataclass(frozen=True)
class Verdict:
    """Base of the five verdicts."""

    word: ClassVar[str] = ""

    @property
    def preserves(self) -> bool:
        """Whether the function is the same up to rounding, at least in evaluation mode."""
        return False

    @property
    def applies(self) -> bool:
        """Whether the rewrite was, or would be, carried out."""
        return True


@dataclass(frozen=True)
class Exact(Verdict):
    """The same function up to rounding: `always`, or only in `eval` mode (dropout, batch statistics)."""

    word: ClassVar[str] = "exact"

    mode: str = "always"

    @property
    def preserves(self) -> bool:
        return True

    def __str__(self) -> str:
        return "exact" if self.mode == "always" else f"exact in {self.mode} mode"


@dataclass(frozen=True)
class Approximate(Verdict):
    """Nearly the same function; `bound` is the formula of the bound, `measured` the error on the probe batch."""

    word: ClassVar[str] = "approximate"

    bound: str
    measured: float | None = None

    def __str__(self) -> str:
        found = "" if self.measured is None else f", measured {self.measured:.3g}"
        return f"approximate: error {self.bound}{found}"


@dataclass(frozen=True)
class Improving(Verdict):
    """The function changes on purpose; `expected` is the predicted change of the loss."""

    word: ClassVar[str] = "improving"

    expected: float

    def __str__(self) -> str:
        return f"improving: expected loss change {self.expected:+.3g}"


@dataclass(frozen=True)
class Changes(Verdict):
    """The function changes; `reason` names the first place where it does."""

    word: ClassVar[str] = "changes"

    reason: str

    def __str__(self) -> str:
        return f"changes the function: {self.reason}"


@dataclass(frozen=True)
class Refused(Verdict):
    """Nothing was touched; names the axis or node and the place in the program."""

    word: ClassVar[str] = "refused"

    reason: str
    site: str | None = None
    span: Span | None = field(default=None, compare=False)

    @property
    def applies(self) -> bool:
        return False

    def __str__(self) -> str:
        place = f"{self.span}: " if self.span is not None else ""
        at = f" `{self.site}`" if self.site else ""
        return f"{place}refused{at}: {self.reason}"


def required(verdict: Verdict, require: str, site: str | None = None) -> Verdict:
    """Return the verdict, or a refusal if sameness is required (`exact`) and not proved.

    Raises:
        OptionError: `require` is neither `any` nor `exact`.

    >>> print(required(Changes("`a` is gone"), "exact", "h"))
    refused `h`: an exact rewrite is required, this one changes the function: `a` is gone
    """
    if require not in ("any", "exact"):
        raise OptionError(f"`require` takes any or exact, found {require}")
    if require == "exact" and verdict.applies and not verdict.preserves:
        return Refused(f"an exact rewrite is required, this one {verdict}", site)
    return verdict
