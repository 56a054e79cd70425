"""Intervals of values, held against the numbers."""

from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st

from irgrow.backends import interpret
from irgrow.grammar import parse
from irgrow.passes.preservation.ranges import value_range
from irgrow.testing import graphs
from irgrow.testing.numbers import random_inputs


@given(graphs(), st.integers(0, 1000))
def test_values_lie_in_their_ranges(graph, seed):
    from irgrow.backends import random_params

    values = interpret(graph, random_params(graph, seed), random_inputs(graph, seed)).values
    for name, value in values.items():
        if name not in graph.inputs:
            low, high = value_range(graph, name)
            assert low - 1e-12 <= value.min()
            assert value.max() <= high + 1e-12, name


@pytest.mark.parametrize(
    ("body", "wanted"),
    [
        ("relu", (0.0, inf)),
        ("sigmoid |> avgpool(2)", (0.0, 1.0)),
        ("tanh |> maxpool(2) |> flatten", (-1.0, 1.0)),
        ("relu |> dropout(p = 0.5)", (0.0, inf)),
        ("sigmoid |> dropout(p = 0.5)", (0.0, inf)),
        ("sum { sigmoid ; tanh }", (-1.0, 2.0)),
        ("product { sigmoid ; tanh }", (-1.0, 1.0)),
        ("product { relu ; relu }", (0.0, inf)),
        ("concat { relu6 ; tanh }", (-1.0, 6.0)),
        ("conv(2, kernel = 1)", (-inf, inf)),
        ("relu |> batchnorm", (-inf, inf)),
        ("sigmoid |> pad(1)", (0.0, 1.0)),
    ],
)
def test_examples(body, wanted):
    graph = parse(f"net n(x: [2, 4, 4]) {{ return x |> {body} }}")
    assert value_range(graph, graph.outputs[0]) == wanted


def test_deep_chains_do_not_recurse():
    graph = parse("net n(x: [2]) { return x |> relu |> repeat(5000) { identity } }")
    assert value_range(graph, graph.outputs[0]) == (0.0, inf)
