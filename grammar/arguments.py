"""From the arguments of a call to the attributes of an op or the options of a registered class."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from irgrow.errors import Diagnostic, Note, Source, Span, did_you_mean
from irgrow.grammar import syntax
from irgrow.grammar.scope import describe
from irgrow.ops import Attribute, attributes, show
from irgrow.typing import LARGEST_SIZE


class Mistake(Exception):
    """An error in the program at a range of characters; `others` were found beside it."""

    def __init__(self, message: str, start: int, end: int, help: str | None = None, code: str = "error") -> None:
        super().__init__(message)
        self.message, self.start, self.end, self.help, self.code = message, start, end, help, code
        self.others: list[Mistake] = []

    def diagnostics(self, source: Source, notes: tuple[Note, ...] = ()) -> list[Diagnostic]:
        """Return it, and those beside it, as diagnostics of a source."""
        found = [Diagnostic(self.message, Span(source, self.start, self.end), notes, self.help, self.code)]
        return found + [d for other in self.others for d in other.diagnostics(source, notes)]


class Mistakes:
    """Collects what goes wrong in parts that do not depend on one another.

    >>> mistakes = Mistakes()
    >>> for text in ("1", "one"):
    ...     with mistakes.kept():
    ...         if not text.isdigit():
    ...             raise Mistake(f"{text} is no number", 0, 3)
    >>> [m.message for m in mistakes.found]
    ['one is no number']
    """

    def __init__(self) -> None:
        self.found: list[Mistake] = []

    @contextmanager
    def kept(self) -> Iterator[None]:
        """Keep a mistake instead of raising it."""
        try:
            yield
        except Mistake as mistake:
            self.found.append(mistake)

    def diagnostics(self, source: Source) -> list[Diagnostic]:
        """Return what was kept as diagnostics of a source."""
        return [d for mistake in self.found for d in mistake.diagnostics(source)]

    def settle(self) -> None:
        """Raise what was kept as one.

        Raises:
            Mistake: The first, with the others beside it.
        """
        if self.found:
            first, *others = self.found
            first.others += others
            raise first


@dataclass(slots=True)
class Given:
    """An evaluated argument with its place."""

    name: str | None
    value: Any
    start: int
    end: int


def bind(
    word: str,
    cls: type,
    given: Sequence[Given],
    special: Callable[[Attribute, Given], Any],
    place: tuple[int, int],
) -> dict[str, Any]:
    """Match arguments with the attributes of a class, converted and checked one by one.

    Args:
        word: What the call is called in messages.
        cls: The class whose attributes they are.
        given: Positional arguments first.
        special: Converts one argument.
        place: The call, for what is missing.

    Raises:
        Mistake: Arguments are unknown, given twice, missing or of the wrong kind; carries all of them.
    """
    known = attributes(cls)
    found: dict[str, Any] = {}
    mistakes = Mistakes()
    for attribute, argument in _paired(word, known, given, mistakes):
        with mistakes.kept():
            if attribute.name in found:
                raise Mistake(f"`{attribute.name}` of {word} is given twice", argument.start, argument.end)
            found[attribute.name] = None
            found[attribute.name] = special(attribute, argument)
    mistakes.settle()
    for attribute in known:
        if attribute.required and attribute.name not in found:
            raise Mistake(f"{word} needs `{attribute.name}`", *place, code="missing-argument")
    return found


def _paired(
    word: str, known: Sequence[Attribute], given: Sequence[Given], mistakes: Mistakes
) -> Iterator[tuple[Attribute, Given]]:
    """Yield every argument with the attribute it is for: the one it names, else the next in order.

    Of positional arguments only the first that has no place is a mistake.
    """
    by_name = {a.name: a for a in known}
    in_order: Iterator[Attribute] | None = iter(known)
    for argument in given:
        if argument.name in by_name:
            yield by_name[argument.name], argument
        elif argument.name is not None:
            help = did_you_mean(argument.name, by_name) or f"its arguments are: {', '.join(by_name) or 'none'}"
            message = f"{word} has no argument `{argument.name}`"
            mistakes.found.append(Mistake(message, argument.start, argument.end, help))
        elif in_order is not None:
            attribute = next(in_order, None)
            if attribute is not None and not attribute.named:
                yield attribute, argument
                continue
            in_order = None
            message = f"{word} takes at most {len(known)} arguments here, found one more"
            more = Mistake(message, argument.start, argument.end)
            mistakes.found.append(more if attribute is None else _nameless(word, attribute, argument))


def _nameless(word: str, attribute: Attribute, argument: Given) -> Mistake:
    """Say that an option must be named, and how what was written would be."""
    value = argument.value.value if isinstance(argument.value, syntax.Literal) else argument.value
    found = "an expression" if isinstance(value, syntax.Expr) else describe(value)
    if attribute.kind == "real" and type(value) is int:
        value = float(value)
    fits = isinstance(value, int | float) and attribute.problem(value) is None
    help = attribute.named + (f"; write `{attribute.name} = {show(value)}` if you mean it" if fits else "")
    message = f"`{attribute.name}` of {word} is given by its name, found {found}"
    return Mistake(message, argument.start, argument.end, help, "named-argument")


def bind_block(definition: syntax.Definition, given: Sequence[Given], place: tuple[int, int]) -> dict[str, Any]:
    """Match arguments with the parameters of a block; those left to their defaults are not in the result.

    Raises:
        Mistake: Arguments are unknown, given twice or missing; carries all of them.
    """
    params = {p.name: p for p in definition.params}
    positional = iter(params)
    found: dict[str, Any] = {}
    mistakes = Mistakes()
    for argument in given:
        with mistakes.kept():
            name = argument.name or next(positional, None)
            if name is None:
                most = f"block `{definition.name}` takes {len(params)} arguments"
                raise Mistake(f"{most}, found {len(given)}", argument.start, argument.end)
            if name not in params:
                message = f"block `{definition.name}` has no parameter `{name}`"
                raise Mistake(message, argument.start, argument.end, did_you_mean(name, params))
            if name in found:
                raise Mistake(f"`{name}` of `{definition.name}` is given twice", argument.start, argument.end)
            found[name] = argument.value
    mistakes.settle()
    for param in definition.params:
        if param.name not in found and param.default is None:
            raise Mistake(f"block `{definition.name}` needs `{param.name}`", *place, code="missing-argument")
    return found


def converted(attribute: Attribute, argument: Given) -> Any:
    """Convert one argument by the kind of its attribute."""
    value = argument.value
    match attribute.kind:
        case "real" if isinstance(value, int) and not isinstance(value, bool):
            value = float(value)
        case "integers" if isinstance(value, int) and not isinstance(value, bool):
            value = (value,)
    problem = attribute.problem(value)
    if problem:
        raise Mistake(problem, argument.start, argument.end, code="bad-attribute")
    return value


def checked_size(word: str, value: Any, low: float | None, start: int, end: int) -> int:
    """Return a width given as a number, within the bounds."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise Mistake(f"{word} takes a number or an axis, found {show(value)}", start, end, code="bad-width")
    least = int(low or 0)
    if value < least:
        raise Mistake(f"{word} must be at least {least}, found {value}", start, end, code="bad-width")
    if value > LARGEST_SIZE:
        raise Mistake(f"{word} must be at most {LARGEST_SIZE}, found {value}", start, end, code="bound")
    return value
