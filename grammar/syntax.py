"""The syntax tree: what was written, with the range of characters it was written in.

Plain slotted classes; the parser builds them in one pass and nothing changes them afterwards.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True, eq=False)
class Literal:
    """A number, string, `true` or `false`."""

    value: int | float | str | bool
    start: int
    end: int


@dataclass(slots=True, eq=False)
class Name:
    """A dotted name."""

    path: str
    start: int
    end: int


@dataclass(slots=True, eq=False)
class ListOf:
    """A list in square brackets."""

    items: list[Expr]
    start: int
    end: int


@dataclass(slots=True, eq=False)
class Argument:
    """One argument of a call; `name` is `None` for a positional one."""

    name: str | None
    value: Expr
    start: int
    end: int


@dataclass(slots=True, eq=False)
class Call:
    """`path(arguments)`; as a stage also a bare word, possibly with chains in braces."""

    path: str
    arguments: list[Argument]
    branches: list[Chain] | None
    start: int
    end: int


@dataclass(slots=True, eq=False)
class Sequence:
    """Operands of one precedence with the operators between them: `a + b - c`."""

    operands: list[Expr]
    operators: list[str]
    start: int
    end: int


@dataclass(slots=True, eq=False)
class Negative:
    """A sign in front of an operand."""

    sign: str
    operand: Expr
    start: int
    end: int


@dataclass(slots=True, eq=False)
class Comparison:
    """`left operator right`."""

    left: Expr
    operator: str
    right: Expr
    start: int
    end: int


@dataclass(slots=True, eq=False)
class Choose:
    """`if c { a } else if d { b } else { e }`; the last arm has no condition, `otherwise` may be missing in a stage."""

    conditions: list[Expr]
    arms: list[Expr | Chain]
    otherwise: Expr | Chain | None
    start: int
    end: int


@dataclass(slots=True, eq=False)
class Stage:
    """One step of a pipe, with its label."""

    label: str | None
    step: Call | Choose
    start: int
    end: int


@dataclass(slots=True, eq=False)
class Chain:
    """Stages one after the other, without the value they start from."""

    stages: list[Stage]
    start: int
    end: int


@dataclass(slots=True, eq=False)
class Pipe:
    """A value and the stages it runs through."""

    head: Expr
    stages: list[Stage]
    start: int
    end: int


Expr = Literal | Name | ListOf | Call | Sequence | Negative | Comparison | Choose | Pipe


@dataclass(slots=True, eq=False)
class AxisDecl:
    """`axis name = size fixed`."""

    name: str
    value: Expr
    fixed: bool
    start: int
    end: int


@dataclass(slots=True, eq=False)
class Assign:
    """`a, b = expression`."""

    targets: list[str]
    value: Expr
    start: int
    end: int


@dataclass(slots=True, eq=False)
class Return:
    """`return a, b`."""

    values: list[Expr]
    start: int
    end: int


Statement = AxisDecl | Assign | Return


@dataclass(slots=True, eq=False)
class InputType:
    """The type of an input: a shape, and for tokens the size of the vocabulary."""

    shape: ListOf
    word: str | None
    vocabulary: Expr | None
    start: int
    end: int


@dataclass(slots=True, eq=False)
class Param:
    """A parameter of a block or net: an input (`type`), or a compile-time value with a default."""

    name: str
    type: InputType | None
    default: Expr | None
    start: int
    end: int


@dataclass(slots=True, eq=False)
class Definition:
    """A `block` or a `net`; its place is its name, `extent` all of it."""

    kind: str
    name: str
    params: list[Param]
    body: list[Statement]
    start: int
    end: int
    extent: tuple[int, int]


@dataclass(slots=True, eq=False)
class Import:
    """`import "file.irg"` or `import std.name`."""

    target: str
    shipped: bool
    start: int
    end: int


@dataclass(slots=True, eq=False)
class Setting:
    """`name = value` in a rule or a `train` section."""

    name: str
    value: Expr
    start: int
    end: int


@dataclass(slots=True, eq=False)
class RuleDecl:
    """`rule name { settings }`."""

    name: str
    settings: list[Setting]
    start: int
    end: int


@dataclass(slots=True, eq=False)
class Use:
    """`use bundle(options)`."""

    bundle: Expr
    start: int
    end: int


@dataclass(slots=True, eq=False)
class GrowSection:
    """`grow { ... }`."""

    entries: list[RuleDecl | Use | Setting]
    start: int
    end: int


@dataclass(slots=True, eq=False)
class TrainSection:
    """`train { ... }`."""

    settings: list[Setting]
    start: int
    end: int


Item = Import | Definition | GrowSection | TrainSection
