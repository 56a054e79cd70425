"""Compile-time arithmetic and comparison over numbers and axes."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

from irgrow.axes import Axis, Const, cat, prod
from irgrow.grammar.arguments import Mistake
from irgrow.grammar.scope import AXIS, describe
from irgrow.ops import show

_ARITHMETIC: dict[str, Callable[[Any, Any], Any]] = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "/": operator.truediv,
    "//": operator.floordiv,
    "%": operator.mod,
}
_ORDER: dict[str, Callable[[Any, Any], bool]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
LARGEST_NUMBER = 10**18


def is_number(value: Any) -> bool:
    """Return whether a value is a number; `true` and `false` are not."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def arithmetic(sign: str, a: Any, b: Any, start: int, end: int) -> Any:
    """Combine two numbers, or axes with `+` (concatenation) and `*` (product).

    Raises:
        Mistake: The operands do not allow it.
    """
    if isinstance(a, AXIS) or isinstance(b, AXIS):
        parts: list[Axis] = [Const(v) if type(v) is int and v > 0 else v for v in (a, b)]
        if sign in "+*" and all(isinstance(p, AXIS) for p in parts):
            return cat(parts) if sign == "+" else prod(parts)
        found = f"{describe(a)} {sign} {describe(b)}"
        help = "`size(axis)` is its number"
        raise Mistake(f"an axis takes only `+` and `*` with axes and numbers, found {found}", start, end, help)
    if not (is_number(a) and is_number(b)):
        found = f"{describe(a)} and {describe(b)}"
        raise Mistake(f"`{sign}` takes two values, two axes or two numbers, found {found}", start, end)
    try:
        if sign == "/" and isinstance(a, int) and isinstance(b, int) and b and a % b == 0:
            return a // b
        result = _ARITHMETIC[sign](a, b)
    except (ZeroDivisionError, OverflowError):
        raise Mistake(f"`{show(a)} {sign} {show(b)}` has no result", start, end) from None
    if abs(result) > LARGEST_NUMBER:
        raise Mistake(f"a number must be at most {LARGEST_NUMBER}", start, end, code="bound")
    return result


def compare(sign: str, a: Any, b: Any, start: int, end: int) -> bool:
    """Compare two compile-time values; the order only of numbers.

    Raises:
        Mistake: They have no order.
    """
    if sign in ("==", "!="):
        return bool(a == b) == (sign == "==")
    if is_number(a) and is_number(b):
        return _ORDER[sign](a, b)
    raise Mistake(f"`{sign}` compares numbers, found {describe(a)} and {describe(b)}", start, end)
