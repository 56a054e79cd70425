"""The formatter: spacing, indentation and blank lines; comments and line breaks stay where they are.

It works on the tokens, so it cannot change what a program means, and running it twice changes nothing.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from irgrow.errors import CompilerBug, Source
from irgrow.grammar.parser import parse_syntax

_TOKEN = re.compile(
    r"(?P<comment>#[^\n]*)|(?P<break>\n)|(?P<space>[ \t\r\f]+)|(?P<string>\"[^\"\n]*\")"
    r"|(?P<number>[0-9]+(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?)|(?P<word>[A-Za-z_][A-Za-z0-9_]*(?:\.[A-Za-z0-9_]+)*)"
    r"|(?P<sign>\|>|==|!=|<=|>=|//|[-+*/%<>=:;,(){}\[\]])"
)
_OPENERS, _CLOSERS = frozenset("([{"), frozenset(")]}")
_CONTINUES = frozenset({"|>", "+", "-", "*", "/", "//", "%", "==", "!=", "<=", ">=", "<", ">", "else"})
_BEFORE_UNARY = (_CONTINUES | {"=", ",", "(", "[", "{", "return", "if"}) - {"else"}
_STARTS = frozenset({"net", "block", "grow", "train", "rule"})


@dataclass(slots=True)
class _Token:
    kind: str
    text: str
    breaks: int = 0  # line breaks in front of it
    unary: bool = False  # a sign that belongs to what follows


def _tokens(text: str) -> list[_Token]:
    found: list[_Token] = []
    breaks = 0
    last: _Token | None = None
    for match in _TOKEN.finditer(text.lstrip("\ufeff")):
        kind = match.lastgroup or ""
        if kind == "break":
            breaks += 1
        elif kind != "space":
            text_of = match.group().rstrip()
            unary = text_of in ("-", "+") and (last is None or last.text in _BEFORE_UNARY)
            found.append(_Token(kind, text_of, breaks, unary))
            breaks = 0
            last = last if kind == "comment" else found[-1]
    return found


def format_text(text: str, name: str = "<text>") -> str:
    """Return a program in the standard layout.

    Raises:
        ProgramError: It does not parse.

    >>> print(format_text("net n(x:[2]){return x|>dense( 3,bias=false)}"), end="")
    net n(x: [2]) { return x |> dense(3, bias = false) }
    """
    parse_syntax(Source(name, text))
    tokens = _tokens(text)
    _part_statements(tokens)
    lines = _laid_out(tokens)
    result = "\n".join(lines) + "\n" if lines else ""
    if [t.text for t in _tokens(result)] != [t.text for t in tokens]:
        raise CompilerBug(f"formatting {name} would change its tokens")
    return result


def _part_statements(tokens: list[_Token]) -> None:
    """Put each statement of a body that holds several on a line of its own."""
    stack: list[tuple[int, bool]] = []
    starts: dict[int, list[int]] = {}
    definition = False
    for i, token in enumerate(tokens):
        if token.text in _STARTS and token.kind == "word" and _starts_statement(tokens, i):
            definition = True
        if token.text in _OPENERS and token.kind == "sign":
            stack.append((i, definition and token.text == "{"))
            definition = definition and token.text != "{"
        elif token.text in _CLOSERS and token.kind == "sign" and stack:
            opened, body = stack.pop()
            if body and len(starts.get(opened, [])) > 1:
                for start in starts[opened]:
                    tokens[start].breaks = max(tokens[start].breaks, 1)
                token.breaks = max(token.breaks, 1)
            continue
        if stack and stack[-1][1] and token.text != "{" and _starts_statement(tokens, i):
            starts.setdefault(stack[-1][0], []).append(i)


def _starts_statement(tokens: list[_Token], i: int) -> bool:
    token = tokens[i]
    if token.kind != "word":
        return False
    j = i - 1
    while j >= 0 and tokens[j].kind == "comment":
        j -= 1
    previous = tokens[j] if j >= 0 else None
    if token.text in ("axis", "return", "rule", "use", *_STARTS):
        return previous is None or previous.text not in ("|>", "=", "(", ",")
    following = [t.text for t in tokens[i + 1 : i + 2]]
    after_expression = previous is not None and (previous.text in _CLOSERS or previous.kind != "sign")
    fresh = previous is not None and (previous.text == "{" or (after_expression and previous.text != "axis"))
    return fresh and following in (["="], [","]) and (following == ["="] or _is_target(tokens, i))


def _is_target(tokens: list[_Token], i: int) -> bool:
    """Whether a name is the first of `a, b = ...`."""
    j = i
    while j + 2 < len(tokens) and tokens[j + 1].text == "," and tokens[j + 2].kind == "word":
        j += 2
    return j > i and j + 1 < len(tokens) and tokens[j + 1].text == "="


def _laid_out(tokens: list[_Token]) -> list[str]:
    """Return the lines."""
    lines: list[str] = []
    indents = [0]
    current = ""
    previous: _Token | None = None
    for token in tokens:
        if token.breaks and previous is not None and not (token.kind == "comment" and token.breaks == 0):
            lines.append(current)
            if token.breaks > 1 and current.strip():
                lines.append("")
            current = ""
        if not current:
            closing = token.text in _CLOSERS and token.kind == "sign"
            base = indents[-1] - 2 if closing and len(indents) > 1 else indents[-1]
            current = " " * (base + (2 if token.text in _CONTINUES and token.kind != "comment" else 0))
            current += token.text
        else:
            current += _gap(previous, token) + token.text
        if token.kind == "sign" and token.text in _OPENERS:
            indents.append(len(current) - len(current.lstrip()) + 2)
        elif token.kind == "sign" and token.text in _CLOSERS and len(indents) > 1:
            indents.pop()
        previous = token
    if current:
        lines.append(current)
    return [line.rstrip() for line in lines]


def _gap(previous: _Token | None, token: _Token) -> str:
    """Return the space between two tokens of a line."""
    if previous is None:
        return ""
    a, b = previous.text, token.text
    if token.kind == "comment":
        return "  "
    if token.kind == "sign" and b in (",", ")", "]", ":") and previous.kind != "comment":
        return ""
    if previous.kind == "sign" and a in ("(", "["):
        return ""
    if token.kind == "sign" and b == "(":
        return "" if previous.kind == "word" and a not in ("if", "else", "return") else " "
    if token.kind == "sign" and b == "[":
        return "" if a == ")" else " "
    return "" if previous.unary else " "
