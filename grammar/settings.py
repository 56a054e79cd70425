"""`grow` and `train` sections, and passes written as text: syntax to the same dataclasses the Python API has.

Every word resolves to a registered class; a program can never name Python code.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from irgrow import registry
from irgrow.attributes import Attribute, attributes, show
from irgrow.errors import Diagnostic, OptionError, ProgramError, Source, Span, did_you_mean
from irgrow.grammar import syntax
from irgrow.grammar.arguments import Given, Mistake, Mistakes, bind, converted
from irgrow.grammar.diagnostics import in_order
from irgrow.grammar.parser import parse_expression
from irgrow.graph import Graph
from irgrow.growth import EverySteps, GrowthProgram, Limit, Rates, Rule, Where
from irgrow.training import TrainSettings

_KINDS = {"integer": "an integer", "real": "a number", "flag": "true or false", "integers": "a list of integers"}
_GROUP_OF = {
    "initializer": "an initializer",
    "trigger": "a trigger",
    "pass": "a pass",
    "bundle": "a bundle",
    "rates": "a rule for learning rates",
}


class _Word(str):
    """A bare name, to tell it from a string in quotes."""


def _plain(expr: Any) -> Any:
    """Return the value of a literal, a list of them, or a bare name."""
    match expr:
        case syntax.Literal(value):
            return value
        case syntax.Name(path):
            return _Word(path)
        case syntax.ListOf(items):
            return tuple(_plain(i) for i in items)
        case syntax.Negative(sign, operand):
            value = _plain(operand)
            if isinstance(value, int | float) and not isinstance(value, bool):
                return -value if sign == "-" else value
    return expr


def build(expr: syntax.Expr, group: str) -> Any:
    """Make the object of a registered group that an expression names.

    Raises:
        Mistake: It names none, or an option is wrong.
    """
    arguments: list[syntax.Argument] = []
    match expr:
        case syntax.Name(path):
            word = path
        case syntax.Call(path, given_arguments, None):
            word, arguments = path, given_arguments
        case _:
            raise Mistake(f"expected {_GROUP_OF.get(group, f'a {group}')}", expr.start, expr.end)
    known = registry.group(group)
    if word not in known:
        close = did_you_mean(word, known) or f"there are: {', '.join(known)}"
        raise Mistake(f"unknown {group} `{word}`", expr.start, expr.start + len(word), close, "unknown-name")
    cls = known[word]
    given = [Given(a.name, a.value, a.start, a.end) for a in arguments]
    try:
        return cls(**bind(word, cls, given, _option, (expr.start, expr.end)))
    except OptionError as error:
        raise Mistake(str(error), expr.start, expr.end) from None


def _option(attribute: Attribute, given: Given) -> Any:
    """Convert the syntax of one option by its kind."""
    if attribute.kind == "plan":
        return build(given.value, attribute.choices[0])
    value = _plain(given.value)
    if attribute.kind == "site":
        if isinstance(value, str):
            return str(value)
        raise Mistake(f"`{attribute.name}` takes the name of an axis or node", given.start, given.end)
    if isinstance(value, _Word):
        value = str(value) if attribute.kind == "word" else value
        if attribute.kind not in ("word", "text"):
            wanted = _KINDS.get(attribute.kind, attribute.kind)
            raise Mistake(f"`{attribute.name}` takes {wanted}, found `{value}`", given.start, given.end)
    if isinstance(value, tuple) and not value and attribute.kind == "integers":
        return ()
    return converted(attribute, Given(given.name, value, given.start, given.end))


# grow ----------------------------------------------------------------------------------------------------------------


def growth_program(source: Source, sections: Sequence[syntax.GrowSection]) -> GrowthProgram:
    """Build the growth program of the `grow` sections of a file.

    Raises:
        ProgramError: Something in them is unknown, missing or wrong; carries every diagnostic.
    """
    rules: list[Rule] = []
    rates: Rates | None = None
    names: set[str] = set()
    found: list[Diagnostic] = []
    for entry in (entry for section in sections for entry in section.entries):
        mistakes = Mistakes()
        stated = GrowthProgram(())
        with mistakes.kept():
            stated = _stated(entry)
        own = [entry.name] if isinstance(entry, syntax.RuleDecl) else [r.name for r in stated.rules]
        for name in [name for name in own if name in names]:
            mistakes.found.append(Mistake(f"two rules are called `{name}`", entry.start, entry.end, code="name-clash"))
        if rates is not None and stated.rates is not None:
            mistakes.found.append(Mistake("`rates` is given twice", entry.start, entry.end))
        names.update(own)
        rules += stated.rules
        rates = rates or stated.rates
        found += mistakes.diagnostics(source)
    if found:
        raise ProgramError(in_order(found, source))
    return GrowthProgram(tuple(rules), rates)


def _stated(entry: syntax.Use | syntax.Setting | syntax.RuleDecl) -> GrowthProgram:
    """Return what one entry of a `grow` section adds to the program.

    Raises:
        Mistake: Something in it is unknown, missing or wrong; carries all that is.
    """
    match entry:
        case syntax.Use():
            try:
                program: GrowthProgram = build(entry.bundle, "bundle").program()
            except OptionError as error:
                raise Mistake(str(error), entry.start, entry.end) from None
            return program
        case syntax.Setting():
            mistakes = Mistakes()
            _settings([entry], ("rates",), "`grow`", mistakes)
            mistakes.settle()
            return GrowthProgram((), build(entry.value, "rates"))
        case syntax.RuleDecl():
            return GrowthProgram((_rule(entry),))


def check_growth(source: Source, sections: Sequence[syntax.GrowSection], graph: Graph) -> list[Diagnostic]:
    """Ask every rule whether it can work on a network; return what is wrong, at the entry at fault.

    Entries that are wrong on any network are left out; `growth_program` tells of them.
    """
    found: list[Diagnostic] = []
    for entry in (entry for section in sections for entry in section.entries):
        stated = GrowthProgram(())
        with Mistakes().kept():
            stated = _stated(entry)
        parts = {s.name: s for s in entry.settings} if isinstance(entry, syntax.RuleDecl) else {}
        for part, why in (problem for rule in stated.rules for problem in rule.problems(graph)):
            at = parts.get(part, entry)
            found.append(Diagnostic(why, Span(source, at.start, at.end), code="growth"))
    return found


def _rule(entry: syntax.RuleDecl) -> Rule:
    mistakes = Mistakes()
    settings = _settings(entry.settings, tuple(_PARTS), "a rule", mistakes)
    for needed in ("when", "apply"):
        if needed not in settings and len(settings) == len(entry.settings):  # else it may be what was misspelt
            message = f"rule `{entry.name}` needs `{needed}`"
            mistakes.found.append(Mistake(message, entry.start, entry.end, code="missing-argument"))
    options: dict[str, Any] = {}
    for name, setting in settings.items():
        with mistakes.kept():
            options[name] = _PARTS[name](setting.value)
    mistakes.settle()
    try:
        return Rule(entry.name, **options)
    except OptionError as error:
        raise Mistake(str(error), entry.start, entry.end) from None


def _settings(
    given: Sequence[syntax.Setting], known: Sequence[str], what: str, mistakes: Mistakes
) -> dict[str, syntax.Setting]:
    """Return the settings by name; what is unknown or given twice is kept as a mistake."""
    found: dict[str, syntax.Setting] = {}
    for setting in given:
        end = setting.start + len(setting.name)
        with mistakes.kept():
            if setting.name not in known:
                close = did_you_mean(setting.name, known) or f"there are: {', '.join(known)}"
                raise Mistake(f"{what} has no `{setting.name}`", setting.start, end, close, "unknown-name")
            if setting.name in found:
                raise Mistake(f"`{setting.name}` is given twice", setting.start, end)
            found[setting.name] = setting
    return found


def _cadence(expr: syntax.Expr) -> Any:
    value = _plain(expr)
    if isinstance(value, int) and not isinstance(value, bool):
        count = replace(attributes(EverySteps)[0], name="every")  # as it was written
        return EverySteps(converted(count, Given(None, value, expr.start, expr.end)))
    return build(expr, "cadence")


def _where(expr: syntax.Expr) -> Where:
    value = _plain(expr)
    items = value if isinstance(value, tuple) else (value,)
    if not items or not all(isinstance(i, str) for i in items):
        raise Mistake("`where` takes names of axes, patterns in quotes, or a list of them", expr.start, expr.end)
    return Where(tuple(str(i) for i in items))


def _limit(expr: syntax.Expr) -> Limit:
    if isinstance(expr, syntax.Comparison) and expr.operator == "<=" and isinstance(expr.left, syntax.Name):
        most = _plain(expr.right)
        if isinstance(most, int | float) and not isinstance(most, bool) and most == int(most):
            try:
                return Limit(expr.left.path, int(most))
            except OptionError as error:
                raise Mistake(str(error), expr.start, expr.end) from None
    raise Mistake("a limit is written `width <= 512`", expr.start, expr.end)


def _limits(expr: syntax.Expr) -> tuple[Limit, ...]:
    mistakes = Mistakes()
    found: list[Limit] = []
    for item in expr.items if isinstance(expr, syntax.ListOf) else [expr]:
        with mistakes.kept():
            found.append(_limit(item))
    mistakes.settle()
    return tuple(found)


def _choice(name: str, *choices: str) -> Callable[[syntax.Expr], str]:
    def chosen(expr: syntax.Expr) -> str:
        value = _plain(expr)
        if value not in choices:
            found = value if isinstance(value, str) else show(value)
            message = f"`{name}` takes {' or '.join(choices)}, found {found}"
            raise Mistake(message, expr.start, expr.end)
        return str(value)

    return chosen


_PARTS: dict[str, Callable[[syntax.Expr], Any]] = {
    "every": _cadence,
    "when": partial(build, group="trigger"),
    "apply": partial(build, group="pass"),
    "where": _where,
    "limit": _limits,
    "require": _choice("require", "exact", "any"),
    "order": _choice("order", "rules", "sites"),
}
"""What a rule may say, and what reads it."""


# train ---------------------------------------------------------------------------------------------------------------


def training_settings(source: Source, sections: Sequence[syntax.TrainSection]) -> TrainSettings:
    """Build the settings of the `train` section of a file.

    Raises:
        ProgramError: Something in it is unknown or wrong; carries every diagnostic.
    """
    known = {a.name: a for a in attributes(TrainSettings)}
    mistakes = Mistakes()
    given = [setting for section in sections for setting in section.settings]
    options: dict[str, Any] = {}
    for name, setting in _settings(given, tuple(known), "`train`", mistakes).items():
        with mistakes.kept():
            value = setting.value
            options[name] = _option(known[name], Given(name, value, value.start, value.end))
    if mistakes.found:
        raise ProgramError(in_order(mistakes.diagnostics(source), source))
    return TrainSettings(**options)


# passes as text ------------------------------------------------------------------------------------------------------


def parse_pass(text: str) -> Any:
    """Parse a pass written as text, such as `grow_units(f1, 8)`.

    Raises:
        ProgramError: It does not parse, or names no registered pass.

    >>> str(parse_pass("grow_units(f1, 8, init = north_select(candidates = 100))"))
    'grow_units(f1, 8, init = north_select(100))'
    """
    source = Source("<pass>", text)
    try:
        return build(parse_expression(source), "pass")
    except Mistake as m:
        raise ProgramError(m.diagnostics(source)) from None
