"""Spans, diagnostics and the two families of errors.

A *user error* is something the person in front of irgrow can mend: a program, an option, a file. A *compiler bug* is
ours. Both derive from `IrgrowError`, so `except IrgrowError` catches everything irgrow raises on purpose.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from difflib import get_close_matches


@dataclass(frozen=True, slots=True)
class Source:
    """A named text; line and column are worked out only when a message is printed."""

    name: str
    text: str

    def position(self, offset: int) -> tuple[int, int]:
        """Return the 1-based line and column of a character offset."""
        offset = max(0, min(offset, len(self.text)))
        line = self.text.count("\n", 0, offset) + 1
        column = offset - self.text.rfind("\n", 0, offset)
        return line, column

    def line(self, number: int) -> str:
        """Return line `number` (1-based) without its line break; empty beyond the end."""
        lines = self.text.split("\n")
        return lines[number - 1].rstrip("\r") if 1 <= number <= len(lines) else ""


@dataclass(frozen=True, slots=True)
class Span:
    """A range of characters, `start` inclusive and `end` exclusive, in a source."""

    source: Source = field(repr=False, compare=False)
    start: int
    end: int

    def __str__(self) -> str:
        line, column = self.source.position(self.start)
        return f"{self.source.name}:{line}:{column}"


@dataclass(frozen=True, slots=True)
class Note:
    """A second place that belongs to a diagnostic, such as the other end of a conflict."""

    message: str
    span: Span | None = None


@dataclass(frozen=True, slots=True)
class Diagnostic:
    """One located message: lower case, no final period, expected *and* found.

    Args:
        message: What is wrong.
        span: Where; `None` for a graph that was not written as text.
        notes: Other places that matter.
        help: The one obvious fix, if there is one.
        code: A short stable word for the kind of error, such as `shape-conflict`.
        nodes: Names of the offending nodes.
    """

    message: str
    span: Span | None = None
    notes: tuple[Note, ...] = ()
    help: str | None = None
    code: str = "error"
    nodes: tuple[str, ...] = ()

    def __str__(self) -> str:
        place = f"{self.span}: " if self.span else ""
        return f"{place}error: {self.message}"

    @property
    def full(self) -> str:
        """The message with its notes and its help, a line each."""
        notes = (f"{n.span}: note: {n.message}" if n.span else f"note: {n.message}" for n in self.notes)
        return "\n".join([str(self), *notes, *([f"help: {self.help}"] if self.help else [])])


class IrgrowError(Exception):
    """Everything irgrow raises on purpose."""


class UserError(IrgrowError):
    """Something the user can mend; the command line answers it with exit code 2."""


class ProgramError(UserError):
    """A program that does not parse, elaborate, type or verify.

    Attributes:
        diagnostics: All that was found, in order of appearance.
    """

    def __init__(self, diagnostics: list[Diagnostic] | tuple[Diagnostic, ...]) -> None:
        self.diagnostics = tuple(diagnostics)
        super().__init__("\n".join(d.full for d in self.diagnostics) or "invalid program")


class RefusedError(UserError):
    """A rewrite that was refused; nothing was touched."""


class OptionError(UserError):
    """An option or argument out of range, or a name that is not registered."""


class DataError(UserError):
    """Data of the wrong shape, type, range or with non-finite values."""


class CheckpointError(UserError):
    """A checkpoint that is missing, damaged, newer than this version or of another program."""


class CompilerBug(IrgrowError):
    """A broken promise of irgrow itself; the message carries what is needed to reproduce it."""


def did_you_mean(name: str, known: Iterable[str]) -> str | None:
    """Return a help line that names the closest known word, if one is close.

    >>> did_you_mean("maxpol", ["maxpool", "dense"])
    'did you mean `maxpool`?'
    """
    close = get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f"did you mean `{close[0]}`?" if close else None
