"""Parsing: located syntax errors, bounds, and nothing else."""

import time

import pytest

from irgrow.errors import ProgramError, Source
from irgrow.grammar import parse
from irgrow.grammar import syntax as s
from irgrow.grammar.parser import parse_expression, parse_syntax


def error(text):
    with pytest.raises(ProgramError) as caught:
        parse_syntax(Source("f.irg", text))
    return caught.value.diagnostics[0]


@pytest.mark.parametrize(
    ("text", "place", "message"),
    [
        ("net", "f.irg:1:4", "expected a name, found the end of the file"),
        ("net n(x: [3]) {\n  return x |> }", "f.irg:2:15", "expected `if` or a name, found `}`"),
        ("net n(x: [3]) { return x + }", "f.irg:1:28", "expected a value, found `}`"),
        ("net n(x: [3]) { return denze x }", "f.irg:1:32", "expected `,` or `=`, found `}`"),
        ("net n(x: [3]) { return x", "f.irg:1:25", "`}` or a name, found the end of the file"),
        ("net n(x: [3]) { return relu(x }", "f.irg:1:31", "expected `)` or `,`, found `}`"),
        ("net n(x: [3]) { x = = 3 }", "f.irg:1:21", "expected a value, found `=`"),
        ("\x00\x01", "f.irg:1:1", "found the character '\\x00'"),
        ("net n(x: [3]) { return x ? }", "f.irg:1:26", "found the character '?'"),
        ("net 5(x: [3]) { return x }", "f.irg:1:5", "expected a name, found `5`"),
    ],
)
def test_syntax_errors_say_where_and_what(text, place, message):
    found = error(text)
    assert str(found.span) == place
    assert message in found.message


def test_bounds_that_a_file_cannot_lift():
    assert "at most 128 characters" in error("net " + "n" * 129 + "(x: [1]) { return x }").message
    assert "at most 18 characters" in error("net n(x: [" + "9" * 19 + "]) { return x }").message
    assert "nested at most 64" in error("net n(x: [1]) { return " + "(" * 64 + "x" + ")" * 64 + " }").message
    assert "at most 1048576" in error("#" * (1 << 20) + "#").message
    deep = "net n(x: [1]) { return " + "(" * 62 + "x" + ")" * 62 + " }"
    assert parse(deep).outputs == ("x",)


def test_long_flat_programs_do_not_recurse():
    text = "net n(x: [1], k = " + "+".join(["1"] * 5000) + ") { return x |> " + " |> ".join(["relu"] * 3000) + " }"
    assert len(parse(text)) == 3001
    assert parse("net n(x: [2], k = ---1) { return x |> dense(k + 3) }").shape("dense_1") == (2,)


def test_many_signs_do_not_nest():
    text = "net n(x: [1], k = " + "-" * 100_001 + "1) { return x |> dense(k + 3) }"
    assert parse(text).shape("dense_1") == (2,)


def test_syntax_tree_keeps_places():
    text = "net n(x: [3]) { return x |> h: dense(5, bias = false) }"
    (net,) = parse_syntax(Source("f", text))
    assert isinstance(net, s.Definition)
    (returned,) = net.body
    stage = returned.values[0].stages[0]
    assert text[stage.start : stage.end] == "h: dense(5, bias = false)"
    argument = stage.step.arguments[1]
    assert text[argument.start : argument.end] == "bias = false"


def test_comments_white_space_and_line_breaks_do_not_matter():
    spread = "# top\nnet\nn ( x : [ 3 ] )\n{ # in\n return x\n|>\nrelu # end\n}"
    assert parse(spread) == parse("net n(x:[3]){return x|>relu}")


def test_keywords_need_a_word_boundary():
    assert parse("net n(netA: [3]) { returned = relu(netA)  return returned }").outputs == ("returned",)


def test_expressions_alone():
    assert isinstance(parse_expression(Source("p", "grow_units(f1, 8)")), s.Call)
    with pytest.raises(ProgramError):
        parse_expression(Source("p", "grow_units(f1, 8) x"))


def test_an_empty_file_is_an_empty_program():
    assert parse_syntax(Source("f", "")) == []
    assert parse_syntax(Source("f", "# nothing\n\n")) == []


def test_refusals_are_quick():
    started = time.perf_counter()
    error("#" * ((1 << 20) + 1))
    error("(" * 100_000)
    assert time.perf_counter() - started < 5.0, "a refusal must not depend on the size of what it refuses"
