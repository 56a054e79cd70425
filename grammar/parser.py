"""Text to syntax tree: LALR, one pass, nothing but located errors."""

from __future__ import annotations

import re
from functools import lru_cache
from pathlib import Path
from typing import Any

from lark import Lark, Token, Transformer, UnexpectedCharacters, UnexpectedInput, UnexpectedToken, v_args

from irgrow.errors import Diagnostic, ProgramError, Source, Span
from irgrow.grammar import syntax as s

LARGEST_SOURCE = 1 << 20
DEEPEST_NESTING = 64
LONGEST_NAME = 128
LONGEST_INTEGER = 18
LONGEST_REAL = 32  # every float is written with at most 24
_BRACKETS = re.compile(r'#[^\n]*|"[^"\n]*"|[(\[{]|[)\]}]')
_READABLE = {
    "PATH": "a name",
    "INT": "a number",
    "FLOAT": "a number",
    "STRING": "a string",
    "SIGN": "`+` or `-`",
    "FACTOR": "an operator",
    "COMPARISON": "a comparison",
    "RPAR": "`)`",
    "RSQB": "`]`",
    "RBRACE": "`}`",
    "LPAR": "`(`",
    "LSQB": "`[`",
    "LBRACE": "`{`",
    "COMMA": "`,`",
    "COLON": "`:`",
    "SEMICOLON": "`;`",
    "EQUAL": "`=`",
    "$END": "the end of the file",
}


class _TooLong(Exception):
    def __init__(self, token: Token, what: str, most: int) -> None:
        self.token, self.what, self.most = token, what, most


def _path(token: Token) -> str:
    if len(token) > LONGEST_NAME:
        raise _TooLong(token, "a name", LONGEST_NAME)
    return str(token.value)


def _number(token: Token, most: int) -> str:
    if len(token) > most:
        raise _TooLong(token, "a number", most)
    return str(token.value)


def _start(x: Any) -> int:
    return (x.start_pos or 0) if type(x) is Token else x.start


def _end(x: Any) -> int:
    return (x.end_pos or 0) if type(x) is Token else x.end


@v_args(inline=True)
class _Builder(Transformer[Token, Any]):
    """Builds the tree while parsing; every method gets the children of its rule."""

    def start(self, *items: s.Item) -> list[s.Item]:
        return list(items)

    def import_(self, word: Token, target: Token) -> s.Import:
        text = target.value.strip('"')
        return s.Import(text, target.type == "PATH", _start(word), _end(target))

    def _definition(self, kind: str, word: Token, name: Token, params: Any, body: Any, end: Token) -> s.Definition:
        extent = _start(word), _end(end)
        return s.Definition(kind, _path(name), params or [], body, _start(name), _end(name), extent)

    def block(self, *parts: Any) -> s.Definition:
        return self._definition("block", *parts)

    def net(self, *parts: Any) -> s.Definition:
        return self._definition("net", *parts)

    def params(self, *params: s.Param) -> list[s.Param]:
        return list(params)

    def param(self, name: Token, type_: s.InputType | None, default: s.Expr | None) -> s.Param:
        return s.Param(_path(name), type_, default, _start(name), _end(default or type_ or name))

    def type(self, word: Token | None, vocabulary: s.Expr | None, shape: s.ListOf) -> s.InputType:
        return s.InputType(shape, word and word.value, vocabulary, _start(word or shape), _end(shape))

    def body(self, *statements: s.Statement) -> list[s.Statement]:
        return list(statements)

    def axis(self, word: Token, name: Token, value: s.Expr, fixed: Token | None) -> s.AxisDecl:
        return s.AxisDecl(_path(name), value, fixed is not None, _start(word), _end(fixed or value))

    def assign(self, *parts: Any) -> s.Assign:
        *targets, value = parts
        return s.Assign([_path(t) for t in targets], value, _start(targets[0]), _end(value))

    def return_(self, word: Token, *values: s.Expr) -> s.Return:
        return s.Return(list(values), _start(word), _end(values[-1]))

    def pipe(self, head: s.Expr, *stages: s.Stage) -> s.Pipe:
        return s.Pipe(head, list(stages), _start(head), _end(stages[-1]))

    def comparison(self, left: s.Expr, operator: Token, right: s.Expr) -> s.Comparison:
        return s.Comparison(left, operator.value, right, _start(left), _end(right))

    def chain_of(self, *parts: Any) -> s.Sequence:
        operators = [t.value for t in parts[1::2]]
        return s.Sequence(list(parts[::2]), operators, _start(parts[0]), _end(parts[-1]))

    def negative(self, *parts: Any) -> s.Negative:
        *signs, operand = parts
        minus = sum(sign.value == "-" for sign in signs) % 2 == 1
        return s.Negative("-" if minus else "+", operand, _start(signs[0]), _end(operand))

    def integer(self, token: Token) -> s.Literal:
        return s.Literal(int(_number(token, LONGEST_INTEGER)), token.start_pos or 0, token.end_pos or 0)

    def float(self, token: Token) -> s.Literal:
        return s.Literal(float(_number(token, LONGEST_REAL)), _start(token), _end(token))

    def string(self, token: Token) -> s.Literal:
        return s.Literal(token.value[1:-1], _start(token), _end(token))

    def true(self, token: Token) -> s.Literal:
        return s.Literal(True, _start(token), _end(token))

    def false(self, token: Token) -> s.Literal:
        return s.Literal(False, _start(token), _end(token))

    def name(self, token: Token) -> s.Name:
        return s.Name(_path(token), token.start_pos or 0, token.end_pos or 0)

    def call(self, path: Token, args: list[s.Argument] | None, end: Token) -> s.Call:
        return s.Call(_path(path), args or [], None, path.start_pos or 0, end.end_pos or 0)

    def group(self, inner: s.Expr, end: Token) -> s.Expr:
        return inner

    def list_(self, args: list[s.Argument] | None, end: Token) -> s.ListOf:
        items = [a.value for a in args or []]
        first = _start(items[0]) if items else _start(end)
        return s.ListOf(items, max(first - 1, 0), _end(end))

    def if_(self, *parts: Any) -> s.Choose:
        words = [p for p in parts if type(p) is not Token]
        return s.Choose(words[:-1:2], words[1:-1:2], words[-1], _start(parts[0]), _end(parts[-1]))

    def args(self, *args: Any) -> list[s.Argument]:
        return [a if type(a) is s.Argument else s.Argument(None, a, a.start, a.end) for a in args]

    def keyword(self, name: Token, value: s.Expr) -> s.Argument:
        return s.Argument(_path(name), value, _start(name), _end(value))

    def stage(self, label: Token | None, step: s.Call | s.Choose) -> s.Stage:
        return s.Stage(_path(label) if label else None, step, _start(label or step), step.end)

    def bare(self, path: Token) -> s.Call:
        return s.Call(_path(path), [], None, _start(path), _end(path))

    def step(self, path: Token, args: list[s.Argument] | None, end: Token) -> s.Call:
        return s.Call(_path(path), args or [], None, path.start_pos or 0, end.end_pos or 0)

    def braces(self, path: Token, args: list[s.Argument] | None, branches: list[s.Chain], end: Token) -> s.Call:
        return s.Call(_path(path), args or [], branches, _start(path), _end(end))

    def choose(self, *parts: Any) -> s.Choose:
        words = [p for p in parts if p is not None and type(p) is not Token]
        complete = len(words) % 2 == 1
        pairs = words[:-1] if complete else words
        return s.Choose(pairs[::2], pairs[1::2], words[-1] if complete else None, _start(parts[0]), _end(words[-1]))

    def branches(self, *chains: s.Chain) -> list[s.Chain]:
        return list(chains)

    def chain(self, *stages: s.Stage) -> s.Chain:
        return s.Chain(list(stages), stages[0].start, stages[-1].end)

    def grow(self, word: Token, *rest: Any) -> s.GrowSection:
        *entries, end = rest
        return s.GrowSection(entries, _start(word), _end(end))

    def rule(self, word: Token, name: Token, *rest: Any) -> s.RuleDecl:
        *settings, _ = rest
        return s.RuleDecl(_path(name), settings, _start(word), _end(name))

    def use(self, word: Token, bundle: s.Expr) -> s.Use:
        return s.Use(bundle, _start(word), _end(bundle))

    def train(self, word: Token, *rest: Any) -> s.TrainSection:
        *settings, end = rest
        return s.TrainSection(settings, _start(word), _end(end))

    def setting(self, name: Token, value: s.Expr) -> s.Setting:
        return s.Setting(_path(name), value, _start(name), _end(value))


@lru_cache(maxsize=1)
def _parser() -> Lark:
    grammar = Path(__file__).with_name("irgrow.lark").read_text(encoding="utf-8")
    starts = ["start", "compare"]
    return Lark(grammar, parser="lalr", start=starts, maybe_placeholders=True, transformer=_Builder())


def parse_syntax(source: Source) -> list[s.Item]:
    """Parse a source into its items.

    Raises:
        ProgramError: The text is not a program; says where and what was expected.
    """
    items: list[s.Item] = _parse(source, "start")
    return items


def parse_expression(source: Source) -> s.Expr:
    """Parse a source that is a single expression.

    Raises:
        ProgramError: It is not.
    """
    expr: s.Expr = _parse(source, "compare")
    return expr


def _parse(source: Source, start: str) -> Any:
    _check_bounds(source)
    try:
        return _parser().parse(source.text, start=start)
    except UnexpectedInput as error:
        raise ProgramError([_explain(error, source)]) from None
    except Exception as error:
        # Lark wraps what a callback raises; only the length checks above raise on purpose.
        original = getattr(error, "orig_exc", error)
        if not isinstance(original, _TooLong):
            raise
        token = original.token
        span = Span(source, _start(token), _start(token) + 1)
        message = f"{original.what} has at most {original.most} characters, found {len(token)}"
        raise ProgramError([Diagnostic(message, span, code="bound")]) from None


def _check_bounds(source: Source) -> None:
    """Refuse texts beyond the bounds before the parser sees them."""
    text = source.text
    if len(text) > LARGEST_SOURCE:
        found = f"a source has at most {LARGEST_SOURCE} characters, found {len(text)}"
        raise ProgramError([Diagnostic(found, Span(source, 0, 0), code="bound")])
    depth = 0
    for match in _BRACKETS.finditer(text):
        first = text[match.start()]
        if first in "([{":
            depth += 1
            if depth > DEEPEST_NESTING:
                span = Span(source, match.start(), match.end())
                found = f"brackets are nested at most {DEEPEST_NESTING} deep"
                raise ProgramError([Diagnostic(found, span, code="bound")])
        elif first in ")]}":
            depth -= 1


def _explain(error: UnexpectedInput, source: Source) -> Diagnostic:
    """Turn a parser error into a diagnostic."""
    position = min(error.pos_in_stream or 0, len(source.text))
    if isinstance(error, UnexpectedToken) and error.token.type == "$END":
        found, position, width = "the end of the file", len(source.text.rstrip()), 0
        expected = error.accepts or error.expected
    elif isinstance(error, UnexpectedToken):
        token = error.token
        found, width = f"`{_short(token.value)}`", len(token.value)
        expected = error.accepts or error.expected
    else:
        assert isinstance(error, UnexpectedCharacters)
        found, width = f"the character {source.text[position]!r}", 1
        expected = error.allowed or set()
    return Diagnostic(
        f"expected {_wanted(expected)}, found {found}", Span(source, position, position + width), code="syntax"
    )


def _short(text: str) -> str:
    return text if len(text) <= 40 else text[:37] + "..."


def _wanted(expected: set[str]) -> str:
    if {"INT", "PATH"} <= expected:
        return "a value"
    names = {_READABLE.get(e, f"`{e.lower()}`") for e in expected if not e.startswith("__")} - {"`comment`"}
    if len(names) > 6:
        names = {_READABLE[e] for e in ("RPAR", "RSQB", "RBRACE", "COMMA", "$END") if e in expected}
    ordered = sorted(names) or ["the end"]
    return ordered[0] if len(ordered) == 1 else ", ".join(ordered[:-1]) + " or " + ordered[-1]
