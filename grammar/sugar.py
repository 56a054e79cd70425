"""What the language offers beyond ops: combinators with stages in braces, and functions of values and axes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from irgrow.axes import Axis, Const
from irgrow.grammar import syntax
from irgrow.grammar.arguments import Given, Mistake
from irgrow.grammar.compute import is_number
from irgrow.grammar.scope import AXIS, BROKEN, Scope, Value, describe
from irgrow.ops import WORDS
from irgrow.ops.movement import Part

if TYPE_CHECKING:
    from irgrow.grammar.elaborate import Elaborator

COMBINATORS = {"residual": "add", "sum": "add", "product": "mul", "concat": "concat", "repeat": None}
"""Combinators and the op that joins their branches."""


def combine(
    e: Elaborator, call: syntax.Call, scope: Scope, piped: Any, label: str | None, suggested: tuple[str, ...]
) -> Any:
    """Carry out a call with stages in braces."""
    word, branches = call.path, call.branches or []
    if word not in COMBINATORS:
        help = "stages in braces go with " + ", ".join(COMBINATORS)
        raise Mistake(f"`{word}` takes no stages", call.start, call.end, help)
    if piped is not BROKEN and not isinstance(piped, Value):
        raise Mistake(f"`{word}` takes a value, found {describe(piped)}", call.start, call.end)
    if word == "repeat":
        return _repeat(e, call, scope, piped, label, suggested)
    if call.arguments:
        raise Mistake(f"`{word}` takes no arguments before its braces", call.start, call.end)
    if word == "residual" and len(branches) != 1:
        raise Mistake(f"`residual` takes one branch, found {len(branches)}", call.start, call.end)
    inner = scope if label is None else e.inside(label, scope)
    results = [e.chain(branch, piped, inner) for branch in branches]
    values = [piped, *results] if word == "residual" else results
    if any(r is BROKEN for r in values):
        return BROKEN
    for value in values:
        if not isinstance(value, Value):
            raise Mistake(f"a branch of `{word}` gives one value, found {describe(value)}", call.start, call.end)
    join = COMBINATORS[word] or word
    name = e.name(join, scope, label, suggested)
    return e.add(name, WORDS[join](), [v.node for v in values], scope, (call.start, call.end))


def _repeat(
    e: Elaborator, call: syntax.Call, scope: Scope, value: Any, label: str | None, suggested: tuple[str, ...]
) -> Any:
    """Chain independent copies of the stages; a single unlabelled stage is called by its number."""
    branches = call.branches or []
    if len(call.arguments) != 1 or len(branches) != 1:
        raise Mistake("`repeat` takes one count and one branch", call.start, call.end)
    count = e.tried(call.arguments[0].value, scope)
    if count is BROKEN:
        e.chain(branches[0], BROKEN, e.inside("0", scope))
        return BROKEN
    if not isinstance(count, int) or isinstance(count, bool) or count < 1:
        argument = call.arguments[0]
        raise Mistake(f"`repeat` takes a count of at least 1, found {describe(count)}", argument.start, argument.end)
    name = e.name("repeat", scope, label, suggested)
    outer = Scope(f"{name}.", scope.source, scope.reserved, scope.env)
    stages = branches[0].stages
    for i in range(count):
        if len(stages) == 1 and stages[0].label is None:
            value = e.stage(stages[0], value, outer, str(i))
        else:
            value = e.chain(branches[0], value, e.inside(str(i), outer))
        if value is BROKEN:
            return BROKEN
    return value


# functions -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Request:
    """A call of a function."""

    elaborator: Elaborator
    call: syntax.Call
    given: list[Given]
    scope: Scope
    label: str | None
    suggested: tuple[str, ...]

    @property
    def place(self) -> tuple[int, int]:
        """The range of characters of the call."""
        return self.call.start, self.call.end

    def arguments(self, *names: str, optional: int = 0) -> list[Any]:
        """Match the arguments with names; the last `optional` ones may be missing."""
        found: dict[str, Any] = {}
        positional = iter(names)
        for argument in self.given:
            name = argument.name or next(positional, None)
            if name not in names:
                listed = ", ".join(names)
                raise Mistake(f"{self.call.path} takes {listed}", argument.start, argument.end)
            if name in found:
                raise Mistake(f"`{name}` of {self.call.path} is given twice", argument.start, argument.end)
            found[name] = argument.value
        for name in names[: len(names) - optional]:
            if name not in found:
                raise Mistake(f"{self.call.path} needs `{name}`", *self.place, code="missing-argument")
        return [found.get(name) for name in names]


def _width(r: Request) -> Any:
    """The axis of the units of a value; its number where the axis has been flipped or cut."""
    (value,) = r.arguments("value")
    if not isinstance(value, Value):
        raise Mistake(f"width takes a value, found {describe(value)}", *r.place)
    build = r.elaborator.build
    known = build.type_of(value.node)
    if known is None:
        return BROKEN
    return known.units if build.writable(known.units) else build.axis_size(known.units)


def _size(r: Request) -> Any:
    """The number of an axis."""
    (axis,) = r.arguments("axis")
    if isinstance(axis, int) and not isinstance(axis, bool):
        return axis
    if not isinstance(axis, AXIS):
        raise Mistake(f"size takes an axis, found {describe(axis)}", *r.place, help="`size(width(x))` for a value")
    return r.elaborator.build.axis_size(axis)


def _extreme(choose: Callable[[Any, Any], Any]) -> Callable[[Request], Any]:
    def function(r: Request) -> Any:
        a, b = r.arguments("a", "b")
        if not (is_number(a) and is_number(b)):
            raise Mistake(f"{r.call.path} takes two numbers, found {describe(a)} and {describe(b)}", *r.place)
        return choose(a, b)

    return function


def _cut(r: Request, value: Any, sizes: list[Any], dim: Any, chosen: list[int]) -> Any:
    """Make the parts of a value that `chosen` names; `sizes` cover all of it."""
    e = r.elaborator
    parts = []
    for order, index in enumerate(chosen):
        if len(chosen) == len(r.suggested) > 1:
            name = e.name("part", r.scope, None, (r.suggested[order],))
        elif len(chosen) > 1 and r.label is not None:
            name = f"{r.scope.prefix}{r.label}.{order}"
        else:
            name = e.name("part", r.scope, r.label, r.suggested if len(chosen) == 1 else ())
        widths = (sizes[:index], [sizes[index]], sizes[index + 1 :])
        before, take, after = (
            _total(r, f"{name}.{which}", part) for which, part in zip(("before", "take", "after"), widths, strict=True)
        )
        parts.append(e.add(name, Part(before, take, after, dim), [value.node], r.scope, r.place))
    return BROKEN if BROKEN in parts else tuple(parts)


def _total(r: Request, name: str, sizes: list[Any]) -> Axis:
    """Return one axis for several widths: the named one if there is only one, else a fresh one."""
    if len(sizes) == 1 and isinstance(sizes[0], AXIS):
        return sizes[0]
    build = r.elaborator.build
    total = sum(build.axis_size(s) if isinstance(s, AXIS) else s for s in sizes)
    return build.width(name, total) if total else Const(0)


def _whole(r: Request, value: Any, dim: Any) -> int | None:
    """Return the size that is to be cut; `None` if the value is broken."""
    if not isinstance(value, Value):
        raise Mistake(f"{r.call.path} takes a value, found {describe(value)}", *r.place)
    known = r.elaborator.build.type_of(value.node)
    if known is None:
        return None
    if dim is not None and (not isinstance(dim, int) or not 0 <= dim < known.rank):
        raise Mistake(f"`dim` must be below {known.rank}, found {describe(dim)}", *r.place)
    return r.elaborator.build.axis_size(known.units if dim is None else known.dims[dim])


def _slice(r: Request) -> Any:
    """`slice(x, start, stop)`: the units from `start` up to, not including, `stop`."""
    value, start, stop, dim = r.arguments("value", "start", "stop", "dim", optional=1)
    whole = _whole(r, value, dim)
    if whole is None:
        return BROKEN
    if type(start) is not int or type(stop) is not int or not 0 <= start < stop <= whole:
        found = f"{describe(start)} and {describe(stop)}"
        raise Mistake(f"slice takes 0 <= start < stop <= {whole}, found {found}", *r.place)
    parts = _cut(r, value, [start, stop - start, whole - stop], dim, [1])
    return parts if parts is BROKEN else parts[0]


def _split(r: Request) -> Any:
    """`split(x, [a, b])`: parts of these sizes, in order."""
    value, sizes, dim = r.arguments("value", "sizes", "dim", optional=1)
    whole = _whole(r, value, dim)
    if whole is None:
        return BROKEN
    build = r.elaborator.build
    parts = list(sizes) if isinstance(sizes, tuple) else []
    fine = all(isinstance(s, AXIS) or (type(s) is int and s > 0) for s in parts)
    if not parts or not fine:
        raise Mistake(f"split takes a list of sizes, found {describe(sizes)}", *r.place)
    total = sum(build.axis_size(s) if isinstance(s, AXIS) else s for s in parts)
    if total != whole:
        raise Mistake(f"split needs sizes that sum to {whole}, found {total}", *r.place, code="shape-conflict")
    return _cut(r, value, parts, dim, list(range(len(parts))))


def _chunk(r: Request) -> Any:
    """`chunk(x, n)`: `n` parts of equal size."""
    value, count, dim = r.arguments("value", "count", "dim", optional=1)
    whole = _whole(r, value, dim)
    if whole is None:
        return BROKEN
    if type(count) is not int or count < 1 or whole % count:
        raise Mistake(f"chunk needs a count that divides {whole}, found {describe(count)}", *r.place)
    return _cut(r, value, [whole // count] * count, dim, list(range(count)))


FUNCTIONS: dict[str, Callable[[Request], Any]] = {
    "width": _width,
    "size": _size,
    "min": _extreme(min),
    "max": _extreme(max),
    "slice": _slice,
    "split": _split,
    "chunk": _chunk,
}
