"""Printing: every graph is a program again."""

import ast
from pathlib import Path

import pytest
from hypothesis import assume, given

from irgrow.errors import ProgramError
from irgrow.grammar import parse, print_call, read
from irgrow.testing import graphs

EXAMPLES = sorted(Path("examples").glob("*.irg"))


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda p: p.stem)
def test_examples_survive_printing(path):
    graph = read(path)
    text = str(graph)
    assert parse(text) == graph
    assert str(parse(text)) == text


@given(graphs())
def test_print_and_parse_are_inverse(graph):
    text = str(graph)
    assert parse(text) == graph
    assert str(parse(text)) == text
    assert parse(text).leaves == graph.leaves


@given(graphs())
def test_a_changed_program_is_another_graph(graph):
    """Negative control: the equality above can fail."""
    other = parse(str(graph).replace("net random(", "net other("))
    assert other != graph
    assume(graph.sizes)
    widest = max(graph.sizes, key=lambda n: graph.sizes[n])
    changed = dict(graph.sizes) | {widest: graph.sizes[widest] + 1}
    assert type(graph)(graph.name, graph.nodes, graph.outputs, changed, graph.named, graph.fixed) != graph


def test_calls_are_written_with_keywords():
    graph = parse("net n(x: [3, 8, 8]) { return x |> c: conv(6, kernel = [3, 5], padding = 1, bias = false) }")
    assert print_call(graph["c"], graph) == "conv(x, 6, kernel = [3, 5], padding = 1, bias = false)"


def test_named_axes_and_locks_are_printed():
    text = "net n(x: [4]) {\n  axis d = 6 fixed\n  a = dense(x, d)\n  b = dense(a, 2 * d)\n  return b\n}\n"
    assert str(parse(text)) == text


def test_a_repr_can_be_pasted():
    graph = parse("net n(x: [4]) { return x |> dense(2) }")
    call = ast.parse(repr(graph), mode="eval").body
    assert call.func.id == "parse"
    assert parse(ast.literal_eval(call.args[0])) == graph


def test_axis_names_cannot_clash_with_nodes():
    with pytest.raises(ProgramError, match="both called `d`"):
        parse("net n(x: [4]) { axis d = 6  return x |> d: dense(d) |> dense(1) }")
