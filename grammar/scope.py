"""What names stand for while a program is elaborated."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from irgrow.axes import Atom, Cat, Const, Prod, Reversed
from irgrow.errors import Source
from irgrow.grammar import syntax
from irgrow.ops import show

AXIS = (Atom, Const, Cat, Prod, Reversed)


@dataclass(frozen=True, slots=True)
class Value:
    """The output of a node."""

    node: str


class _Broken:
    """Stands for the result of something that failed; the error has been reported."""


BROKEN = _Broken()


def is_broken(value: Any) -> bool:
    """Return whether a compile-time value, or one of a list of them, failed."""
    return value is BROKEN or (type(value) is tuple and any(v is BROKEN for v in value))


@dataclass(frozen=True, slots=True)
class Block:
    """A definition and the source it stands in."""

    definition: syntax.Definition
    source: Source


@dataclass(slots=True)
class Scope:
    """Names visible at one place, and how nodes made there are called.

    Args:
        prefix: What the names of nodes start with, ending in a dot unless empty.
        source: The text the code stands in.
        reserved: Names the program gives explicitly here; automatic names avoid them.
        env: Variables and labels.
        counts: How many automatic names of each word were given.
    """

    prefix: str
    source: Source
    reserved: frozenset[str] = frozenset()
    env: dict[str, Any] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)


def describe(value: Any) -> str:
    """Say what kind of thing a compile-time value is, for messages."""
    match value:
        case Value(node):
            return f"the value `{node}`"
        case tuple():
            return f"a list of {len(value)}"
        case str():
            return f'the word "{value}"'
        case _ if isinstance(value, AXIS):
            return f"the axis `{value}`"
        case _:
            return show(value)


def explicit_names(body: Sequence[syntax.Statement | syntax.Chain]) -> frozenset[str]:
    """Collect the labels and targets written in a body, not those in the blocks it calls."""
    found: set[str] = set()
    pending: list[Any] = list(body)
    while pending:
        match pending.pop():
            case syntax.Assign(targets, value):
                found.update(targets)
                pending.append(value)
            case syntax.Return(values):
                pending.extend(values)
            case syntax.Pipe(head, stages):
                pending.extend((head, *stages))
            case syntax.Chain(stages):
                pending.extend(stages)
            case syntax.Stage(label, step):
                if label is not None:
                    found.add(label)
                pending.append(step)
            case syntax.Call(_, arguments, branches):
                pending.extend(a.value for a in arguments)
                pending.extend(branches or ())
            case syntax.Choose(_, arms, otherwise):
                pending.extend(arms)
                pending.append(otherwise)
            case syntax.Sequence(operands) | syntax.ListOf(operands):
                pending.extend(operands)
            case _:
                pass
    return frozenset(found)
