"""Where the activity of units is measured, and how it is sorted by unit."""

import numpy as np
import pytest

from irgrow.backends import interpret, random_params
from irgrow.edits import Impossible
from irgrow.grammar import parse
from irgrow.passes.analyses.activity import by_unit, carriers
from irgrow.testing.numbers import random_inputs

IMAGE = "net n(x: [2, 6, 6]) {{ return x |> {} }}"
TOKENS = "net n(x: ids(9)[5]) {{ return x |> {} }}"


@pytest.mark.parametrize(
    ("text", "axis", "nodes"),
    [
        (IMAGE.format("c: conv(4, kernel = 3) |> batchnorm |> r: relu |> maxpool(2) |> avgpool |> dense(2)"), "c", "r"),
        (IMAGE.format("c: conv(4, kernel = 3) |> b: batchnorm |> maxpool(2) |> avgpool |> dense(2)"), "c", "b"),
        (
            IMAGE.format(
                "c: conv(4, kernel = 1) |> r: relu |> residual { d: conv(4, kernel = 1) } |> avgpool |> dense(2)"
            ),
            "c",
            "r d",
        ),
        (TOKENS.format("e: embedding(4) |> p: positions |> dense(3) |> avgpool |> dense(2)"), "e", "p"),
        (TOKENS.format("e: embedding(4) |> t: classtoken |> dense(3) |> avgpool |> dense(2)"), "e", "t"),
        (TOKENS.format("embedding(4) |> a: attention(2, 3) |> avgpool |> dense(2)"), "a.heads", "a.mix"),
        ("net n(x: [3]) { h = dense(x, 4)  return h + relu(h) |> dense(2) }", "h", "h"),
        ("net n(x: [3]) { a = dense(x, 4)  b = dense(x, 4) |> s: silu  return a * b |> dense(2) }", "a", "a s"),
        ("net n(x: [3]) { return x |> dense(2) }", "x", ""),
    ],
)
def test_carriers(text, axis, nodes):
    assert carriers(parse(text), axis) == tuple(nodes.split())


def sorted_by_unit(text, axis, node):
    graph = parse(text)
    values = interpret(graph, random_params(graph, 0), random_inputs(graph, 0, 3)).values
    return values[node], by_unit(graph, axis, node, values[node])


def test_channels_tokens_and_heads():
    value, (part,) = sorted_by_unit(IMAGE.format("c: conv(4, kernel = 3) |> avgpool |> dense(2)"), "c", "c")
    np.testing.assert_array_equal(part, np.moveaxis(value, 1, 0).reshape(4, 3, 16))
    value, (part,) = sorted_by_unit(TOKENS.format("e: embedding(4) |> avgpool |> dense(2)"), "e", "e")
    np.testing.assert_array_equal(part, np.moveaxis(value, 2, 0))
    value, parts = sorted_by_unit(
        TOKENS.format("embedding(4) |> a: attention(2, 3) |> avgpool |> dense(2)"), "a.heads", "a.mix"
    )
    for i, part in enumerate(parts):
        np.testing.assert_array_equal(part, np.moveaxis(value.reshape(3, 5, 2, 3)[..., i], 2, 0))
    assert len(parts) == 3


def test_flattened_flipped_and_joined():
    value, parts = sorted_by_unit(IMAGE.format("c: conv(2, kernel = 3) |> f: flatten |> dense(2)"), "c", "f")
    np.testing.assert_array_equal(np.stack(parts, -1)[:, :, 0], np.moveaxis(value.reshape(3, 2, 16), 1, 0))
    graph = parse(
        "net n(x: [4]) { h = dense(x, 3)  g = dense(x, 2)  f = flip(h)  j = concat(g, f, h)  return dense(j, 2) }"
    )
    values = interpret(graph, random_params(graph, 0), random_inputs(graph, 0, 3)).values
    flipped, plain = by_unit(graph, "h", "j", values["j"])
    for part in (flipped, plain):
        np.testing.assert_array_equal(part[:, :, 0], values["h"].T)


def test_refusals():
    graph = parse("net n(x: [3]) { return x |> h: dense(4) |> dense(2) }")
    with pytest.raises(Impossible, match="no samples"):
        by_unit(graph, "h", "h", np.zeros((0, 4)))
    with pytest.raises(Impossible, match="what was recorded at `h` is not finite"):
        by_unit(graph, "h", "h", np.full((2, 4), np.nan))
    with pytest.raises(Impossible, match="`h` is 0 of the dimensions of `x`"):
        by_unit(graph, "h", "x", np.zeros((2, 3)))
