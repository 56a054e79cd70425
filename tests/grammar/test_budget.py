"""Bombs are counted before they are expanded."""

import time
import tracemalloc

import pytest

from irgrow.errors import ProgramError
from irgrow.grammar import parse

DOUBLING = "\n".join(f"block b{i}(x) {{ return x |> b{i + 1} |> b{i + 1} }}" for i in range(60))
BOMBS = {
    "repeat": "net n(x: [1]) { return x |> repeat(1000000000) { relu } }",
    "nested repeat": "net n(x: [1]) { return x |> repeat(99999) { repeat(99999) { repeat(99999) { relu } } } }",
    "doubling blocks": DOUBLING + "\nblock b60(x) { return x |> relu }\nnet n(x: [1]) { return x |> b0 }",
    "computed count": "net n(x: [1], k = 1000) { return x |> repeat(k * k * k) { relu } }",
    "count through a block": "block b(x, k) { return x |> repeat(k) { relu } }\nnet n(x: [1]) { return x |> b(10000000) }",
    "count in a condition": "net n(x: [1], k = 3) { return x |> if k == 3 { repeat(9000000) { relu } } else { relu } }",
}


@pytest.mark.parametrize("name", BOMBS)
def test_bombs_are_refused_at_once(name):
    parse("net warm(x: [1]) { return x |> relu }")
    tracemalloc.start()
    started = time.perf_counter()
    with pytest.raises(ProgramError, match=r"nodes, at most 1,000,000 are allowed"):
        parse(BOMBS[name])
    seconds, (_, peak) = time.perf_counter() - started, tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 50e6, "nothing may be expanded to find out"
    assert seconds < 5.0, "a refusal must not take the time of the expansion"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("net n(x: [9]) { return x |> repeat(40) { concat { identity ; identity } } }", "a dimension must be at most"),
        ("net n(x: [9]) { return x |> dense(2147483648) }", "must be at most 2147483647"),
        ("net n(x: [99999999999]) { return x }", "must be at most 2147483647"),
        ("net n(x: [99999, 99999, 99999]) { return x |> flatten }", "a dimension must be at most"),
        (
            "net n(x: [99999]) { return x |> dense(99999) |> s: repeat(20) { dense(99999) } }",
            "at most 100000000000 param",
        ),
        ("net n(x: [9], k = 999999999 * 999999999 * 999999999) { return x |> dense(k) }", "a number must be at most"),
    ],
)
def test_sizes_are_bounded_without_allocating(text, message):
    tracemalloc.start()
    with pytest.raises(ProgramError) as caught:
        parse(text)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert message in str(caught.value)
    assert peak < 50e6


def test_a_million_is_a_bound_and_not_a_wall_before_it():
    assert len(parse("net n(x: [1]) { return x |> repeat(5000) { relu } }")) == 5001


def test_a_count_that_depends_on_a_width_is_bounded_while_it_expands():
    graph = parse("net n(x: [9]) { h = dense(x, 4)  return h |> repeat(size(width(h))) { relu } |> dense(1) }")
    assert len(graph) == 7
