"""Attributes of ops and options of passes, triggers and initializers: dataclass fields that know how they are written.

A field made by one of the helpers below carries its kind and range. The parser converts by kind, the printer prints by
kind, and one function says what is wrong with a value, so no op repeats these checks. `call_text` writes any object of
such fields as the language does.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import MISSING, dataclass, field, fields
from math import isfinite
from numbers import Integral, Real
from typing import Any

from irgrow.errors import OptionError


@dataclass(frozen=True, slots=True)
class Attribute:
    """One attribute: its name, kind, default and range.

    Args:
        name: Field name, which is also its name in the language.
        kind: `width`, `integer`, `real`, `flag`, `word`, `window` (an integer or one per dimension), `integers`,
            `text`, `site` (the name of an axis or node), `plan` (a member of the registered group in `choices`).
        default: Its default; `MISSING` if it must be given.
        low: Smallest value allowed, of each entry.
        choices: The words allowed.
        open_low: Whether `low` itself is excluded.
        open_high: Whether `high` itself is excluded.
        optional: Whether `None` is allowed.
        implied: For a width: whether it only cuts an axis that others make.
        named: Why it must be given by its name, as must all behind it; empty if its place will do.
    """

    name: str
    kind: str
    default: Any = MISSING
    low: float | None = None
    high: float | None = None
    choices: tuple[str, ...] = ()
    open_low: bool = False
    open_high: bool = False
    optional: bool = False
    implied: bool = False
    named: str = ""

    @property
    def required(self) -> bool:
        """Whether it must be given."""
        return self.default is MISSING

    def problem(self, value: Any) -> str | None:
        """Return what is wrong with a value, expected and found, or `None`."""
        if value is None:
            return None if self.optional else f"`{self.name}` must be given"
        match self.kind:
            case "integer":
                bad = not _is_int(value)
                return self._expected("an integer", value) if bad else self._out_of_range(value)
            case "real":
                bad = isinstance(value, bool) or not isinstance(value, Real) or not isfinite(value)
                return self._expected("a finite number", value) if bad else self._out_of_range(value)
            case "flag":
                return None if isinstance(value, bool) else self._expected("true or false", value)
            case "word":
                known = isinstance(value, str) and value in self.choices
                return None if known else self._expected("one of " + ", ".join(self.choices), value)
            case "text" | "site":
                return None if isinstance(value, str) else self._expected("a string", value)
            case "plan":
                return None if isinstance(value, Options) else self._expected(_one_of(self.choices[0]), value)
            case "window" | "integers":
                entries = tuple(value) if isinstance(value, tuple | list) else (value,)
                if entries == ():
                    return f"`{self.name}` is an empty list"
                if not all(_is_int(e) for e in entries):
                    return self._expected("an integer or a list of integers", value)
                return next((p for e in entries if (p := self._out_of_range(e))), None)
        return None

    def _expected(self, what: str, value: Any) -> str:
        return f"`{self.name}` takes {what}, found {show(value)}"

    def _out_of_range(self, value: float) -> str | None:
        if self.low is not None and (value <= self.low if self.open_low else value < self.low):
            sign = "above" if self.open_low else "at least"
            return f"`{self.name}` must be {sign} {show(self.low)}, found {show(value)}"
        if self.high is not None and (value >= self.high if self.open_high else value > self.high):
            sign = "below" if self.open_high else "at most"
            return f"`{self.name}` must be {sign} {show(self.high)}, found {show(value)}"
        return None


def _one_of(group: str) -> str:
    """Name a member of a registered group."""
    noun = "data source" if group == "data" else group
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


def _is_int(value: Any) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool)


def show(value: Any) -> str:
    """Write a value as the language writes it.

    >>> show((3, 5)), show(True), show(1e-05), show(2.0)
    ('[3, 5]', 'true', '1e-05', '2.0')
    """
    match value:
        case bool():
            return "true" if value else "false"
        case tuple() | list():
            return "[" + ", ".join(show(v) for v in value) + "]"
        case float():
            return repr(value)
        case None:
            return "nothing"
        case _:
            return str(value)


_KNOWN: dict[type, tuple[Attribute, ...]] = {}


def attributes(cls: type) -> tuple[Attribute, ...]:
    """Return the attributes of a dataclass, in order; fields not made by a helper are left out."""
    known = _KNOWN.get(cls)
    if known is not None:
        return known
    found = []
    for f in fields(cls):
        made = f.metadata.get("attribute")
        if made is not None:
            names = ("kind", "low", "high", "choices", "open_low", "open_high", "optional", "implied", "named")
            values = {k: getattr(made, k) for k in names}
            found.append(Attribute(f.name, default=f.default, **values))
    _KNOWN[cls] = tuple(found)
    return _KNOWN[cls]


def _field(default: Any, kind: str, **options: Any) -> Any:
    return field(
        default=default, metadata={"attribute": Attribute("", kind, default, optional=default is None, **options)}
    )


def width(default: Any = MISSING, low: int = 1, implied: bool = False) -> Any:
    """Declare a width: a number, which makes a fresh axis, or a named axis."""
    return _field(default, "width", low=low, implied=implied)


def integer(default: Any = MISSING, low: int | None = 1, high: int | None = None) -> Any:
    """Declare an integer."""
    return _field(default, "integer", low=low, high=high)


def real(
    default: Any = MISSING,
    low: float | None = None,
    high: float | None = None,
    open_low: bool = False,
    open_high: bool = False,
    named: str = "",
) -> Any:
    """Declare a finite number."""
    return _field(default, "real", low=low, high=high, open_low=open_low, open_high=open_high, named=named)


def flag(default: Any = MISSING) -> Any:
    """Declare true or false."""
    return _field(default, "flag")


def word(*choices: str, default: Any = MISSING) -> Any:
    """Declare one of several words."""
    return _field(default, "word", choices=choices)


def window(default: Any = MISSING, low: int = 1, named: str = "") -> Any:
    """Declare an integer, or a list with one integer per position dimension."""
    return _field(default, "window", low=low, named=named)


def integers(default: Any = MISSING, low: int = 0) -> Any:
    """Declare a list of integers."""
    return _field(default, "integers", low=low)


def site(default: Any = MISSING) -> Any:
    """Declare the name of an axis or node."""
    return _field(default, "site")


def plan(group: str, default: Any = MISSING) -> Any:
    """Declare an object of a registered group, such as an initializer."""
    return _field(default, "plan", choices=(group,))


def text(default: Any = MISSING) -> Any:
    """Declare a string, written in quotes, such as a path."""
    return _field(default, "text")


# text ----------------------------------------------------------------------------------------------------------------


def textual_name(cls: type) -> str:
    """Return the name of a class in programs: its `textual` attribute, else its name in small letters.

    >>> class GrowUnits: pass
    >>> textual_name(GrowUnits)
    'grow_units'
    """
    given: str | None = getattr(cls, "textual", None)
    return given or re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", cls.__name__).lower()


def problem_of(options: object) -> str | None:
    """Return what is wrong with the options of an object, the first thing found, or `None`."""
    return next((p for a in attributes(type(options)) if (p := a.problem(getattr(options, a.name)))), None)


def call_text(thing: object) -> str:
    """Write an object as the language writes it, with the options that differ from their defaults."""
    texts: list[str] = []
    positional = True
    for a in attributes(type(thing)):
        value = getattr(thing, a.name)
        positional = positional and not a.named
        if not a.required and value == a.default:
            positional = False
            continue
        written = _WRITERS.get(a.kind, show)(value)
        positional = positional and a.kind in _POSITIONAL
        texts.append(written if positional else f"{a.name} = {written}")
    name = textual_name(type(thing))
    return f"{name}({', '.join(texts)})" if texts else name


@dataclass(frozen=True)
class Options:
    """Base of what programs write as a call: the fields of a subclass are its options, and it prints as it is written.

    Raises:
        OptionError: An option is of the wrong kind or out of range.
    """

    def __post_init__(self) -> None:
        if problem := problem_of(self):
            raise OptionError(f"`{textual_name(type(self))}`: {problem}")

    def __str__(self) -> str:
        return call_text(self)


def _site(name: Any) -> str:
    if not isinstance(name, str):
        return show(name)
    return name if re.fullmatch(r"[A-Za-z_]\w*(\.\w+)*", name) else f'"{name}"'


_POSITIONAL = frozenset({"site", "integer", "integers", "word", "text"})
_WRITERS: dict[str, Callable[[Any], str]] = {"plan": str, "site": _site, "text": lambda value: f'"{value}"'}
