"""Whatever the text, the answer is a graph or located errors, soon: mutants of real programs and generated ones."""

import os
import random
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis.extra.lark import from_lark
from lark import Lark

from irgrow.errors import ProgramError
from irgrow.grammar import format_text, parse_program, render
from irgrow.grammar.parser import parse_syntax

MUTANTS = int(os.environ.get("IRGROW_MUTANTS", "20000"))
SEEDS = [
    p.read_text() for p in sorted(Path("examples").glob("*.irg")) if p.stem in ("lenet", "gpt", "mobilenet", "llama")
]
SEEDS += [p.read_text() for p in sorted(Path("tests/golden/diagnostics").glob("*.irg"))]
TOKENS = [
    *'(){}[]|>=+-*/%:;,.#"\n\x00\ufeff\u2028é',
    *("|>", "==", "//", "net", "block", "axis", "fixed", "return", "if", "else", "true", "repeat(3)", "residual {"),
    *("x", "dense(3)", "conv(4, kernel = 3)", "0", "-1", "1e9", "999999999999", "1.5", "size(", "width(x)", "tied = x"),
    *("ids(5)", "import std.resnet", 'import "x.irg"', "grow {", "train {", "rule r {", "use ", "when = ", "every = 0"),
]


def answer(text):
    """Return what is wrong with the answer to a text, `None` if it is a graph or located errors."""
    started = time.perf_counter()
    try:
        program = parse_program(text, "f.irg")
        for part in (program.graph, lambda: program.growth, lambda: program.training, program.check):
            try:
                part()
            except ProgramError as error:
                render(error.diagnostics)
                if not error.diagnostics:
                    return "an error without a diagnostic"
                if any(d.span is None for d in error.diagnostics):
                    return f"no place: {error}"
    except ProgramError as error:
        if not error.diagnostics or any(d.span is None or not d.code for d in error.diagnostics):
            return f"no place: {error}"
        render(error.diagnostics)
    except RecursionError:
        return "recursion"
    except Exception as error:
        from irgrow.errors import OptionError

        if not isinstance(error, OptionError):
            return f"{type(error).__name__}: {error}"
    seconds = time.perf_counter() - started
    return f"took {seconds:.1f} s" if seconds > 2 else None


def mutant(rng):
    """Change a program in a few places."""
    text = rng.choice(SEEDS)
    for _ in range(rng.randint(1, 4)):
        i, j = sorted((rng.randrange(len(text) + 1), rng.randrange(len(text) + 1)))
        j = min(j, i + rng.choice([0, 1, 3, 20]))
        way = rng.randrange(5)
        piece = rng.choice(TOKENS) if way < 3 else text[i:j] * rng.randint(1, 3)
        if way == 4:
            other = rng.choice(SEEDS)
            k = rng.randrange(len(other))
            piece = other[k : k + rng.randint(1, 60)]
        text = text[:i] + piece + text[j:] if text else piece
    return text


def test_mutants():
    rng = random.Random(20)
    for number in range(MUTANTS):
        text = mutant(rng)
        wrong = answer(text)
        assert wrong is None, f"mutant {number}: {wrong}\n{text}"


def test_the_check_itself_can_fail(monkeypatch):
    """Negative control: an error that is not ours is noticed."""
    from irgrow.grammar import parser

    def broken(*args):
        raise KeyError("planted")

    monkeypatch.setattr(parser, "_check_bounds", broken)
    assert answer("net n(x: [1]) { return x }") == "KeyError: 'planted'"


LARK = Lark(Path("grammar/irgrow.lark").read_text(), start=["start", "net", "grow", "train"], parser="lalr")


@settings(suppress_health_check=list(HealthCheck))
@given(from_lark(LARK, start="start"))
def test_generated_texts(text):
    assert answer(text) is None
    try:
        parse_syntax_of(text)
    except ProgramError:
        return
    assert format_text(format_text(text)) == format_text(text)


@settings(suppress_health_check=list(HealthCheck))
@given(from_lark(LARK, start="net"))
def test_generated_nets(text):
    assert answer(text) is None


@settings(suppress_health_check=list(HealthCheck))
@given(from_lark(LARK, start="grow"), from_lark(LARK, start="train"))
def test_generated_sections(grow, train):
    assert answer(f"net n(x: [3]) {{ return x }}\n{grow}\n{train}") is None


def parse_syntax_of(text):
    from irgrow.errors import Source

    return parse_syntax(Source("f.irg", text))


@pytest.mark.parametrize(
    "text",
    [
        b"\x00\xff\xfe".decode("latin-1"),
        "\ud800",
        "\ufeffnet n(x: [1]) { return x }",
        "net n(x: [1]) { return x |> " + "concat { " * 70 + "relu" + " }" * 70 + " }",
        "net n(x: [1]) { return " + " + ".join(["x"] * 20000) + " }",
        "net n(" + ", ".join(f"x{i}: [1]" for i in range(2000)) + ") { return x0 }",
        "net n(x: [" + ", ".join(["1"] * 2000) + "]) { return x }",
        "net n(x: [1]) { return x |> if 1 { relu } else if 2 { relu } }",
        "net n(x: [1]) { x = x  return x }",
        "net n(x: [1]) { return n }",
        "net n(x: [1], y = y) { return x }",
        "net n(x: [1]) { axis d = d  return x |> dense(d) }",
    ],
)
def test_hostile_texts(text):
    assert answer(text) is None
