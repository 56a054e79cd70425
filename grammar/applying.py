"""Calls of ops: from evaluated arguments to a node.

Where an argument is broken the call is still checked, as far as that goes without it, and makes nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from irgrow.axes import Const
from irgrow.grammar import syntax
from irgrow.grammar.arguments import Given, Mistake, bind, checked_size, converted
from irgrow.grammar.scope import AXIS, BROKEN, Scope, Value, describe, is_broken
from irgrow.ops import WORDS, Activate, Attribute, Op, attributes

if TYPE_CHECKING:
    from irgrow.grammar.elaborate import Elaborator


def words_of(cls: type[Op]) -> frozenset[str]:
    """Return the attributes of an op that take a word."""
    return frozenset(a.name for a in attributes(cls) if a.kind == "word")


def apply(e: Elaborator, call: syntax.Call, given: list[Given], scope: Scope, name: str) -> Any:
    """Add the node that a call of an op makes.

    Raises:
        Mistake: Arguments do not fit.
    """
    word, place = call.path, (call.start, call.end)
    cls = WORDS[word]
    inputs, options = _parted(word, cls, given)
    tied = [g for g in options if g.name == "tied"]
    options = [g for g in options if g.name != "tied"]
    whole = not any(is_broken(g.value) for g in given)
    if cls is Activate:
        if options:
            raise Mistake(f"{word} takes no arguments", options[0].start, options[0].end)
        op: Op = Activate(word)
    else:
        bound = bind(word, cls, options, lambda a, g: _attribute(e, name if whole else None, word, a, g), place)
        if any(is_broken(value) for value in bound.values()):
            return BROKEN
        op = cls(**bound)
    if problem := op.check():
        raise Mistake(problem, *place, code="bad-attribute")
    if tied and not (is_broken(tied[0].value) or isinstance(tied[0].value, Value)):
        found = describe(tied[0].value)
        raise Mistake(f"`tied` takes the label of a node, found {found}", tied[0].start, tied[0].end)
    return e.add(name, op, inputs, scope, place, tied[0].value.node if tied else None) if whole else BROKEN


def _parted(word: str, cls: type[Op], given: list[Given]) -> tuple[list[str], list[Given]]:
    """Part the arguments of an op into the nodes it reads, broken ones left out, and its attributes."""
    inputs: list[str] = []
    broken = 0
    most = len(given) if cls.arity is None else cls.arity
    for i, argument in enumerate(given):
        value = argument.value
        if argument.name is not None or len(inputs) + broken >= most:
            return inputs, given[i:]
        if is_broken(value):
            broken += 1
        elif isinstance(value, Value):
            inputs.append(value.node)
        elif isinstance(value, tuple) and value and all(isinstance(v, Value) for v in value):
            inputs.extend(v.node for v in value)
        elif cls.arity is None and i:
            return inputs, given[i:]
        else:
            found = describe(value)
            raise Mistake(f"{word} takes a value here, found {found}", argument.start, argument.end)
    return inputs, []


def _attribute(e: Elaborator, node: str | None, word: str, attribute: Attribute, given: Given) -> Any:
    """Convert an argument to its attribute; a number for a width makes a fresh axis, if there will be a node."""
    value: Any = given.value
    if is_broken(value) or (isinstance(value, AXIS) and attribute.kind == "width"):
        return value
    if attribute.kind != "width":
        return converted(attribute, given)
    what = f"`{attribute.name}` of {word}"
    if isinstance(value, Value):
        message = f"{what} takes a number or an axis, found {describe(value)}"
        raise Mistake(message, given.start, given.end, f"`width({value.node})` is its axis")
    size = checked_size(what, value, attribute.low, given.start, given.end)
    if size == 0 or node is None:
        return Const(size)
    return e.build.width(node if attribute.name == "units" else f"{node}.{attribute.name}", size)
