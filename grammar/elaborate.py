"""Elaboration: blocks, repetitions and conditions are carried out; what is left is a graph, typed as it grows.

Compile-time values are integers, floats, booleans, words, lists and axes; `Value` stands for a node. An expression that
failed yields `BROKEN`. Of what depends on it only words and options are checked: one run reports every error, and once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from irgrow.axes import Atom
from irgrow.builder import GraphBuilder
from irgrow.errors import Diagnostic, Note, ProgramError, Span, did_you_mean
from irgrow.grammar import sugar, syntax
from irgrow.grammar.applying import apply, words_of
from irgrow.grammar.arguments import Given, Mistake, bind_block, checked_size
from irgrow.grammar.compute import arithmetic, compare, is_number
from irgrow.grammar.scope import AXIS, BROKEN, Block, Scope, Value, describe, explicit_names, is_broken
from irgrow.graph import Graph
from irgrow.ops import WORDS, Input, Op

MOST_NODES = 10**6
Names = tuple[str, ...]


class Elaborator:
    """Turns one net of a program into a graph."""

    def __init__(self, blocks: Mapping[str, Block]) -> None:
        self.blocks = blocks
        self.build = GraphBuilder("net")
        self._stack: list[tuple[str, Span]] = []
        self._explicit: dict[int, frozenset[str]] = {}
        self._said: set[tuple[str, int, int, str]] = set()

    def net(self, net: Block, values: Mapping[str, Any]) -> Graph:
        """Elaborate a net with some of its compile-time parameters given.

        Raises:
            ProgramError: It is not well-formed; carries everything that was found.
        """
        definition = net.definition
        span = Span(net.source, definition.start, definition.end)
        self.build = GraphBuilder(definition.name)
        scope = Scope("", net.source, explicit_names(definition.body))
        known = [p.name for p in definition.params if p.type is None]
        for name in values:
            if name not in known:
                message = f"`{definition.name}` has no compile-time parameter `{name}`"
                raise ProgramError([Diagnostic(message, span, (), did_you_mean(name, known), "unknown-name")])
        for param in definition.params:
            try:
                if param.name in scope.env:
                    raise Mistake(f"two parameters are called `{param.name}`", param.start, param.end)
                scope.env[param.name] = BROKEN
                scope.env[param.name] = self._parameter(param, values, scope)
            except Mistake as mistake:
                self._keep(mistake, scope)
        outputs = self._body(definition, scope)
        diagnostics = self.build.diagnostics
        names = [v.node for v in outputs if isinstance(v, Value)]
        if not names and not diagnostics:
            diagnostics.append(Diagnostic("a net must return a value", span, code="no-interface"))
        diagnostics.sort(key=lambda d: (d.span.source.name, d.span.start) if d.span else ("", 0))
        return self.build.finish(names)

    def _parameter(self, param: syntax.Param, values: Mapping[str, Any], scope: Scope) -> Any:
        if param.type is None:
            if param.name in values:
                return values[param.name]
            if param.default is None:
                raise Mistake(f"`{param.name}` needs an input type or a default", param.start, param.end)
            return self.evaluate(param.default, scope)
        kind, word = param.type, param.type.word
        if word not in (None, "ids"):
            raise Mistake(f"an input is a shape, or `ids(size)` and a shape, found `{word}`", kind.start, kind.end)
        if not kind.shape.items:
            raise Mistake("an input needs at least one dimension", kind.start, kind.end)
        shape = tuple(self._size("a dimension", item, scope) for item in kind.shape.items)
        vocabulary = None if kind.vocabulary is None else self._size("a vocabulary", kind.vocabulary, scope)
        if is_broken(shape) or is_broken(vocabulary):
            return BROKEN
        return self.add(param.name, Input(shape, vocabulary), [], scope, (param.start, param.end))

    def _size(self, what: str, expr: syntax.Expr, scope: Scope) -> Any:
        value = self.tried(expr, scope)
        return value if value is BROKEN else checked_size(what, value, 1, expr.start, expr.end)

    # errors ---------------------------------------------------------------------------------------------------------

    def tried(self, expr: Any, scope: Scope, suggested: Names = ()) -> Any:
        """Evaluate an expression whose mistakes do not hinder what stands beside it."""
        try:
            return self.evaluate(expr, scope, suggested)
        except Mistake as mistake:
            return self._keep(mistake, scope)

    def _keep(self, mistake: Mistake, scope: Scope) -> Any:
        """Keep a mistake as a diagnostic, with the calls that led to it; the first of those at one place."""
        for d in mistake.diagnostics(scope.source, self._trail()):
            if self._is_news(d):
                self.build.diagnostics.append(d)
        return BROKEN

    def _is_news(self, d: Diagnostic) -> bool:
        """Return whether nothing like it was said of the same place, as happens in blocks that are called twice."""
        key = (d.span.source.name, d.span.start, d.span.end, d.message) if d.span else ("", 0, 0, d.message)
        known = key in self._said
        self._said.add(key)
        return not known

    def _trail(self) -> tuple[Note, ...]:
        return tuple(Note(f"in block `{name}`, called here", span) for name, span in reversed(self._stack[-3:]))

    # statements -----------------------------------------------------------------------------------------------------

    def _body(self, definition: syntax.Definition, scope: Scope) -> list[Any]:
        """Carry out the statements of a block or net and return what it returns."""
        for statement in definition.body:
            before = len(self.build.diagnostics)
            try:
                match statement:
                    case syntax.Return(values):
                        return [self._returned(v, scope) for v in values]
                    case syntax.AxisDecl():
                        scope.env.setdefault(statement.name, BROKEN)
                        scope.env[statement.name] = self._axis(statement, scope)
                    case syntax.Assign():
                        self._assign(statement, scope)
            except Mistake as mistake:
                self._keep(mistake, scope)
                if isinstance(statement, syntax.Assign):
                    scope.env.update(dict.fromkeys(statement.targets, BROKEN))
            if len(self.build.diagnostics) > before:
                for name in explicit_names([statement]):
                    scope.env.setdefault(name, BROKEN)
        message = f"{definition.kind} `{definition.name}` returns nothing"
        return [self._keep(Mistake(message, definition.start, definition.end), scope)]

    def _returned(self, expr: syntax.Expr, scope: Scope) -> Any:
        value = self.tried(expr, scope)
        if value is BROKEN or isinstance(value, Value):
            return value
        return self._keep(Mistake(f"only values can be returned, found {describe(value)}", expr.start, expr.end), scope)

    def _axis(self, statement: syntax.AxisDecl, scope: Scope) -> Any:
        value = self.tried(statement.value, scope)
        span = Span(scope.source, statement.start, statement.end)
        if value is BROKEN:
            return BROKEN
        if isinstance(value, AXIS):
            if statement.fixed and isinstance(value, Atom):
                self.build.fixed[value.name] = span
            return value
        what = f"axis `{statement.name}`"
        size = checked_size(what, value, 1, statement.value.start, statement.value.end)
        name = scope.prefix + statement.name
        if name in self.build.sizes:
            raise Mistake(f"two axes are called `{name}`", statement.start, statement.end, code="name-clash")
        return self.build.axis(name, size, statement.fixed, span)

    def _assign(self, statement: syntax.Assign, scope: Scope) -> None:
        targets = statement.targets
        previous = {t: scope.env.get(t, BROKEN) for t in targets}
        scope.env.update(dict.fromkeys(targets, BROKEN) | {t: v for t, v in previous.items() if v is not BROKEN})
        value = self.tried(statement.value, scope, tuple(targets))
        if len(targets) == 1:
            scope.env[targets[0]] = value
        elif value is BROKEN:
            scope.env.update(dict.fromkeys(targets, BROKEN))
        else:
            count = len(value) if isinstance(value, tuple) else 1
            if count != len(targets):
                raise Mistake(f"expected {len(targets)} values, found {count}", statement.start, statement.end)
            scope.env.update(zip(targets, value, strict=True))

    # expressions ----------------------------------------------------------------------------------------------------

    def evaluate(self, expr: Any, scope: Scope, suggested: Names = ()) -> Any:
        """Evaluate an expression; `suggested` names the node it ends in, unless that has a label."""
        match expr:
            case syntax.Literal(value):
                return value
            case syntax.Name():
                return self._name(expr, scope)
            case syntax.Pipe(head, stages):
                value, last = self.tried(head, scope), len(stages) - 1
                for i, stage in enumerate(stages):
                    value = self.stage(stage, value, scope, None, suggested if i == last else ())
                return value
            case syntax.Call():
                return self.call(expr, scope, None, None, suggested)
            case syntax.Sequence():
                return self._sequence(expr, scope, suggested)
            case syntax.ListOf(items):
                values = tuple(self.tried(i, scope) for i in items)
                return BROKEN if BROKEN in values else values
            case syntax.Choose():
                arm = self._arm(expr, scope)
                return BROKEN if arm is BROKEN else self.evaluate(arm, scope, suggested)
            case syntax.Comparison(left, sign, right):
                a, b = self.tried(left, scope), self.tried(right, scope)
                broken = a is BROKEN or b is BROKEN
                return BROKEN if broken else compare(sign, a, b, expr.start, expr.end)
            case syntax.Negative(sign, operand):
                value = self.evaluate(operand, scope)
                if value is BROKEN:
                    return BROKEN
                if not is_number(value):
                    raise Mistake(f"`{sign}` takes a number, found {describe(value)}", expr.start, expr.end)
                return -value if sign == "-" else value
        raise AssertionError(expr)

    def _name(self, expr: syntax.Name, scope: Scope) -> Any:
        if expr.path in scope.env:
            value = scope.env[expr.path]
            if value is BROKEN and not self.build.diagnostics:  # nothing went wrong yet, so it is what is being made
                raise Mistake(
                    f"`{expr.path}` is used in its own definition", expr.start, expr.end, None, "unknown-name"
                )
            return value
        if (node := scope.prefix + expr.path) in self.build.names:
            return BROKEN if self.build.type_of(node) is None else Value(node)
        if (axis := self.build.known_axis(expr.path)) is not None:
            return axis
        if "." in expr.path and self.build.diagnostics:
            return BROKEN  # it may lie in what could not be made
        close = did_you_mean(expr.path, scope.env)
        raise Mistake(f"unknown name `{expr.path}`", expr.start, expr.end, close, "unknown-name")

    def _sequence(self, expr: syntax.Sequence, scope: Scope, suggested: Names) -> Any:
        """Evaluate `a + b - c` or `a * b / c`; a run of + or * over values is one node."""
        values = [self.tried(o, scope) for o in expr.operands]
        if any(v is BROKEN for v in values):
            return BROKEN
        kind = {"+": "add", "*": "mul"}.get("".join(sorted(set(expr.operators))))
        if kind and all(isinstance(v, Value) for v in values):
            name = self.name(kind, scope, None, suggested)
            return self.add(name, WORDS[kind](), [v.node for v in values], scope, (expr.start, expr.end))
        result = values[0]
        for sign, value in zip(expr.operators, values[1:], strict=True):
            result = arithmetic(sign, result, value, expr.start, expr.end)
        return result

    def _arm(self, expr: syntax.Choose, scope: Scope) -> Any:
        """Return the arm of an `if` whose condition holds; `BROKEN` if that is not known."""
        for condition, arm in zip(expr.conditions, expr.arms, strict=True):
            holds = self.evaluate(condition, scope)
            if holds is BROKEN:
                return BROKEN
            if not isinstance(holds, bool):
                found = describe(holds)
                raise Mistake(f"a condition is true or false, found {found}", condition.start, condition.end)
            if holds:
                return arm
        return expr.otherwise

    # stages and calls -----------------------------------------------------------------------------------------------

    def stage(
        self, stage: syntax.Stage, value: Any, scope: Scope, label: str | None = None, suggested: Names = ()
    ) -> Any:
        """Run a value through one stage and bind its label, which may be given from outside."""
        name = stage.label or label
        try:
            if isinstance(stage.step, syntax.Choose):
                arm = self._arm(stage.step, scope)
                inner = scope if name is None else self.inside(name, scope)
                value = value if arm is None else BROKEN if arm is BROKEN else self.chain(arm, value, inner)
            else:
                value = self.call(stage.step, scope, value, name, suggested)
        except Mistake as mistake:
            value = self._keep(mistake, scope)
        if stage.label:
            scope.env[stage.label] = value
        return value

    def chain(self, chain: syntax.Chain, value: Any, scope: Scope) -> Any:
        """Run a value through the stages of a chain."""
        for stage in chain.stages:
            value = self.stage(stage, value, scope)
        return value

    def inside(self, label: str, scope: Scope) -> Scope:
        """Open a scope for what is made under a label; it sees the names around it."""
        return Scope(f"{scope.prefix}{label}.", scope.source, scope.reserved, dict(scope.env))

    def call(self, call: syntax.Call, scope: Scope, piped: Any, label: str | None, suggested: Names = ()) -> Any:
        """Carry out a call: a combinator, a block, an op or a function."""
        word = call.path
        if call.branches is not None:
            return sugar.combine(self, call, scope, piped, label, suggested)
        op = WORDS.get(word) if word not in self.blocks else None
        words = words_of(op) if op is not None else frozenset()
        given = [Given(a.name, self._argument(a, scope, words), a.start, a.end) for a in call.arguments]
        if piped is not None:
            given.insert(0, Given(None, piped, call.start, call.end))
        if word in self.blocks:
            return self._block(self.blocks[word], call, given, scope, label, suggested)
        if op is not None:
            return apply(self, call, given, scope, self.name(word, scope, label, suggested))
        if word in sugar.FUNCTIONS:
            broken = any(is_broken(g.value) for g in given)
            request = sugar.Request(self, call, given, scope, label, suggested)
            return BROKEN if broken else sugar.FUNCTIONS[word](request)
        if word in sugar.COMBINATORS:
            raise Mistake(f"`{word}` needs stages in braces", call.start, call.end, f"write `{word} {{ ... }}`")
        known = [*self.blocks, *WORDS, *sugar.FUNCTIONS, *sugar.COMBINATORS]
        end = call.start + len(word)
        raise Mistake(f"unknown operator `{word}`", call.start, end, did_you_mean(word, known), "unknown-name")

    def _argument(self, argument: syntax.Argument, scope: Scope, words: frozenset[str]) -> Any:
        """Evaluate an argument; for an attribute that takes a word, an unknown name is that word."""
        value = argument.value
        if argument.name in words and isinstance(value, syntax.Name) and value.path not in scope.env:
            return value.path
        return self.tried(value, scope)

    def _block(
        self, block: Block, call: syntax.Call, given: list[Given], scope: Scope, label: str | None, suggested: Names
    ) -> Any:
        definition = block.definition
        if any(name == definition.name for name, _ in self._stack):
            raise Mistake(f"block `{definition.name}` calls itself", call.start, call.end, code="recursion")
        name = self.name(definition.name, scope, label, suggested)
        if id(definition) not in self._explicit:
            self._explicit[id(definition)] = explicit_names(definition.body)
        inner = Scope(f"{name}.", block.source, self._explicit[id(definition)])
        inner.env = bind_block(definition, given, (call.start, call.end))
        if any(is_broken(g.value) for g in given):
            return BROKEN
        self._stack.append((definition.name, Span(scope.source, call.start, call.end)))
        try:
            for param in definition.params:
                if param.name not in inner.env:
                    inner.env[param.name] = BROKEN
                    inner.env[param.name] = self.tried(param.default, inner)
            returned = self._body(definition, inner)
        finally:
            self._stack.pop()
        return returned[0] if len(returned) == 1 else tuple(returned)

    # nodes ----------------------------------------------------------------------------------------------------------

    def name(self, word: str, scope: Scope, label: str | None, suggested: Names = ()) -> str:
        """Choose the name of a node: its label, else the name it is assigned to, else the word with a number."""
        if label is not None:
            return scope.prefix + label
        if len(suggested) == 1 and scope.prefix + suggested[0] not in self.build.names:
            return scope.prefix + suggested[0]
        while True:
            count = scope.counts[word] = scope.counts.get(word, 0) + 1
            name = f"{word}_{count}"
            if name not in scope.reserved and scope.prefix + name not in self.build.names:
                return scope.prefix + name

    def add(
        self, name: str, op: Op, inputs: list[str], scope: Scope, place: tuple[int, int], tied: str | None = None
    ) -> Any:
        """Add a node; what its typing rule finds gets the trail of calls."""
        if len(self.build.nodes) >= MOST_NODES:
            raise Mistake(f"a network has at most {MOST_NODES} nodes", *place, code="bound")
        found = self.build.diagnostics
        before = len(found)
        if self.build.add(name, op, inputs, tied, Span(scope.source, *place)) is not None:
            return Value(name)
        trail = self._trail()
        found[before:] = [replace(d, notes=(*d.notes, *trail)) for d in found[before:] if self._is_news(d)]
        return BROKEN
