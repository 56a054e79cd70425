"""Counting nodes before anything is expanded, with big integers.

`repeat(10^9)` and blocks that double sixty times are refused here, in the time it takes to read them once: the count of
a block is remembered for each set of compile-time arguments, and a repetition multiplies instead of looping. The count
follows conditions and arithmetic on numbers; what depends on the widths of values is unknown and counts as one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from irgrow.errors import Diagnostic, ProgramError, Span
from irgrow.grammar import syntax
from irgrow.grammar.arguments import Mistake
from irgrow.grammar.compute import arithmetic, compare, is_number
from irgrow.grammar.scope import Block

MOST_NODES = 10**6


class _Unknown:
    """A value or axis, or something computed from one."""


UNKNOWN = _Unknown()
Env = dict[str, Any]


class Budget:
    """Counts the nodes a net will have."""

    def __init__(self, blocks: Mapping[str, Block]) -> None:
        self.blocks = blocks
        self._known: dict[tuple[str, tuple[tuple[str, Any], ...]], int] = {}
        self._open: list[str] = []

    def check(self, net: Block, values: Mapping[str, Any]) -> None:
        """Refuse a net with more nodes than allowed.

        Raises:
            ProgramError: The count, at the net.
        """
        env: Env = {}
        for param in net.definition.params:
            env[param.name] = UNKNOWN if param.type else self._value(param.default, env)
        env.update(values)
        total = len(net.definition.params) + self._body(net.definition.body, env)
        if total > MOST_NODES:
            count = f"{total:,}" if total < 10**30 else f"about 10^{len(str(total)) - 1}"
            span = Span(net.source, net.definition.start, net.definition.end)
            message = f"`{net.definition.name}` would have {count} nodes, at most {MOST_NODES:,} are allowed"
            raise ProgramError([Diagnostic(message, span, code="bound")])

    def _body(self, body: list[syntax.Statement], env: Env) -> int:
        total = 0
        for statement in body:
            match statement:
                case syntax.AxisDecl(name, value):
                    total += self._count(value, env)
                    env[name] = UNKNOWN
                case syntax.Assign(targets, value):
                    total += self._count(value, env)
                    result = self._value(value, env)
                    env.update((t, result if len(targets) == 1 else UNKNOWN) for t in targets)
                case syntax.Return(values):
                    return total + sum(self._count(v, env) for v in values)
        return total

    def _count(self, part: Any, env: Env) -> int:
        """Return the number of nodes a piece of syntax makes."""
        match part:
            case syntax.Pipe(head, stages):
                return self._count(head, env) + sum(self._count(s.step, env) for s in stages)
            case syntax.Chain(stages):
                return sum(self._count(s.step, env) for s in stages)
            case syntax.Call():
                return self._call(part, env)
            case syntax.Sequence(operands):
                return len(operands) - 1 + sum(self._count(o, env) for o in operands)
            case syntax.ListOf(items):
                return sum(self._count(i, env) for i in items)
            case syntax.Choose():
                return self._choose(part, env)
            case _:
                return 0

    def _choose(self, part: syntax.Choose, env: Env) -> int:
        for condition, arm in zip(part.conditions, part.arms, strict=True):
            holds = self._value(condition, env)
            if holds is UNKNOWN:
                return max(self._count(a, env) for a in (*part.arms, part.otherwise) if a is not None)
            if holds:
                return self._count(arm, env)
        return self._count(part.otherwise, env) if part.otherwise is not None else 0

    def _call(self, call: syntax.Call, env: Env) -> int:
        arguments = sum(self._count(a.value, env) for a in call.arguments)
        if call.branches is not None:
            inside = sum(self._count(b, env) for b in call.branches)
            if call.path != "repeat" or not call.arguments:
                return arguments + inside + 1
            count = self._value(call.arguments[0].value, env)
            return arguments + inside * (max(count, 0) if type(count) is int else 1)
        if call.path in self.blocks:
            return arguments + self._block(call, env)
        return arguments + 1

    def _block(self, call: syntax.Call, env: Env) -> int:
        definition = self.blocks[call.path].definition
        if call.path in self._open:
            return 0
        names = [p.name for p in definition.params]
        inner: Env = {}
        # A stage gives its value first, so positional arguments may stand one place later than written.
        positional = [self._value(a.value, env) for a in call.arguments if a.name is None]
        shift = len(positional) < len(names) and sum(a.name is None for a in call.arguments) < len(names)
        first = 1 if shift and (not positional or positional[0] is not UNKNOWN) else 0
        inner.update(zip(names[first:], positional, strict=False))
        inner.update((a.name, self._value(a.value, env)) for a in call.arguments if a.name is not None)
        for param in definition.params:
            if param.name not in inner:
                inner[param.name] = UNKNOWN if param.default is None else self._value(param.default, inner)
        key = (call.path, tuple(sorted((n, v) for n, v in inner.items() if v is not UNKNOWN)))
        if key not in self._known:
            self._open.append(call.path)
            self._known[key] = self._body(definition.body, inner)
            self._open.pop()
        return self._known[key]

    def _value(self, expr: Any, env: Env) -> Any:
        """Return a compile-time number or truth value, or `UNKNOWN`."""
        try:
            match expr:
                case syntax.Literal(value):
                    return value if is_number(value) or isinstance(value, bool) else UNKNOWN
                case syntax.Name(path):
                    return env.get(path, UNKNOWN)
                case syntax.Negative(sign, operand):
                    value = self._value(operand, env)
                    return value if value is UNKNOWN or sign == "+" else -value
                case syntax.Sequence(operands, operators):
                    values = [self._value(o, env) for o in operands]
                    if any(not is_number(v) for v in values):
                        return UNKNOWN
                    result = values[0]
                    for sign, value in zip(operators, values[1:], strict=True):
                        result = arithmetic(sign, result, value, 0, 0)
                    return result
                case syntax.Comparison(left, sign, right):
                    a, b = self._value(left, env), self._value(right, env)
                    return UNKNOWN if UNKNOWN in (a, b) else compare(sign, a, b, 0, 0)
                case syntax.Choose(conditions, arms, otherwise):
                    for condition, arm in zip(conditions, arms, strict=True):
                        holds = self._value(condition, env)
                        if holds is not False:
                            return UNKNOWN if holds is UNKNOWN else self._value(arm, env)
                    return self._value(otherwise, env)
        except Mistake:
            pass
        return UNKNOWN
