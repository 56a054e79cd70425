"""From the arguments of a call to the attributes of an op or the options of a registered class."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from irgrow.errors import did_you_mean
from irgrow.grammar import syntax
from irgrow.ops import Attribute, attributes, show
from irgrow.typing import LARGEST_SIZE


class Mistake(Exception):
    """An error in the program at a range of characters."""

    def __init__(self, message: str, start: int, end: int, help: str | None = None, code: str = "error") -> None:
        super().__init__(message)
        self.message, self.start, self.end, self.help, self.code = message, start, end, help, code


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
        Mistake: An argument is unknown, given twice, missing or of the wrong kind.
    """
    known = attributes(cls)
    by_name = {a.name: a for a in known}
    found: dict[str, Any] = {}
    positional = 0
    for argument in given:
        if argument.name is None:
            if positional >= len(known):
                most = f"{word} takes at most {len(known)} arguments here"
                raise Mistake(f"{most}, found one more", argument.start, argument.end)
            attribute = known[positional]
            positional += 1
        else:
            named = by_name.get(argument.name)
            if named is None:
                close = did_you_mean(argument.name, by_name)
                listed = ", ".join(by_name) or "none"
                message = f"{word} has no argument `{argument.name}`"
                raise Mistake(message, argument.start, argument.end, close or f"its arguments are: {listed}")
            attribute = named
        if attribute.name in found:
            raise Mistake(f"`{attribute.name}` of {word} is given twice", argument.start, argument.end)
        found[attribute.name] = special(attribute, argument)
    for attribute in known:
        if attribute.required and attribute.name not in found:
            raise Mistake(f"{word} needs `{attribute.name}`", *place, code="missing-argument")
    return found


def bind_block(definition: syntax.Definition, given: Sequence[Given], place: tuple[int, int]) -> dict[str, Any]:
    """Match arguments with the parameters of a block; those left to their defaults are not in the result.

    Raises:
        Mistake: An argument is unknown, given twice or missing.
    """
    params = {p.name: p for p in definition.params}
    positional = iter(params)
    found: dict[str, Any] = {}
    for argument in given:
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
