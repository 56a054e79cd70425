"""Bridges through products with gates, open at zero or borrowed of an old unit, against autograd on real new units."""

import numpy as np
import pytest
from bridges import check, grown, of_new, probed, refused

from irgrow.edits import Impossible
from irgrow.fills import Given
from irgrow.grammar import parse
from irgrow.passes.analyses.auxiliary import auxiliary
from irgrow.passes.analyses.bridge import bridge
from irgrow.passes.analyses.companions import companions
from irgrow.passes.analyses.contributions import contributions
from irgrow.passes.analyses.received import way

GATES = {
    "sigmoid": "net n(x: [4]) {\n a = x |> h: dense(5) |> tanh\n b = x |> g: dense(5) |> sigmoid\n return mul(a, b) |> y: dense(3) |> tanh |> dense(2) }",
    "the gate first": "net n(x: [4]) {\n b = x |> g: dense(5) |> sigmoid\n a = x |> h: dense(5) |> tanh\n return mul(b, a) |> y: dense(3) |> tanh |> dense(2) }",
    "squeeze and excite": "net n(x: [3, 6, 5]) {\n s = x |> h: conv(4, kernel = 3) |> tanh |> depthwise(3)\n g = s |> avgpool |> q: dense(3) |> tanh |> dense(4) |> hardsigmoid\n return mul(s, g) |> y: conv(3, kernel = 1) |> tanh |> avgpool |> dense(2) }",
    "read elsewhere": "net n(x: [4]) {\n a = x |> h: dense(5) |> tanh\n b = x |> g: dense(5) |> sigmoid\n c = dense(b, 2)\n return mul(a, b) |> y: dense(3) |> tanh |> dense(2) |> add(c) }",
    "three": "net n(x: [4]) {\n a = x |> h: dense(5)\n b = x |> dense(5) |> sigmoid |> tanh\n c = x |> dense(5) |> softplus\n return mul(a, b, c) |> y: dense(3) |> tanh |> dense(2) }",
}


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("name", GATES)
def test_behind_gates_that_are_open_at_zero(name, batch):
    axis = next(a for a in ("h", "g") if a in parse(GATES[name]).leaves)
    graph, *_ = check(GATES[name], axis, batch)
    assert bridge(graph, axis).maker == "h", "not the gate, whose other factor is zero"


BORROWED = {
    "swiglu": (
        "net n(x: [4]) {\n a = x |> g: dense(5) |> silu\n b = x |> h: dense(5)\n return mul(a, b) |> y: dense(3) |> tanh |> dense(2) }",
        "h",
    ),
    "the other first, no biases": (
        "net n(x: [4, 5]) {\n t = transpose(x)\n b = t |> h: dense(5, bias = false)\n"
        " a = t |> g: dense(5, bias = false) |> gelu\n"
        " return mul(b, a) |> y: dense(3) |> tanh |> flatten |> dense(2) }",
        "h",
    ),
    "relu": (
        "net n(x: [4]) {\n a = x |> g: dense(5, masked = true) |> relu\n b = x |> h: dense(5)\n return mul(a, b) |> y: dense(3) |> tanh |> dense(2) }",
        "h",
    ),
    "bilinear": (
        "net n(x: [4]) {\n a = x |> h: dense(5)\n b = x |> g: dense(5)\n return mul(a, b) |> y: dense(3) |> tanh |> dense(2) }",
        "h",
    ),
    "normed convolutions": (
        "net n(x: [3, 6, 5]) {\n a = x |> g: conv(5, kernel = 3) |> batchnorm |> silu\n"
        " b = x |> h: conv(5, kernel = 3) |> tanh\n"
        " return mul(a, b) |> y: conv(3, kernel = 2) |> tanh |> avgpool |> dense(2) }",
        "h",
    ),
    "spread": (
        "net n(x: [3, 6, 5]) {\n b = x |> h: conv(5, kernel = 3) |> tanh\n a = x |> avgpool |> g: dense(5) |> tanh\n"
        " return mul(a, b) |> y: conv(3, kernel = 2) |> tanh |> avgpool |> dense(2) }",
        "h",
    ),
}


@pytest.mark.parametrize(("name", "batch"), [(n, b) for n in BORROWED for b in (1, 3) if (n, b) != ("relu", 1)])
def test_behind_gates_that_are_borrowed(name, batch):
    text, maker = BORROWED[name]
    axis = next(a for a in ("h", "g") if a in parse(text).leaves)
    graph, params, *_ = check(text, axis, batch)
    found = bridge(graph, axis)
    assert found.maker == maker, "the side with the larger slope is zero"
    assert [layer for _, layer in found.borrowed] == ["g"]
    weight = params["g.weight"] * params.get("g.mask", 1.0)
    lent = weight[np.linalg.norm(weight.reshape(len(weight), -1), axis=1).argmax()]
    assert np.array_equal(companions(graph, axis, 2, params)["g.weight"].values, np.stack([lent, lent]))


def test_another_gate_has_another_bridge():
    """Negative control: the fan-in receives its own factor, not that of any old unit."""
    graph, params, inputs, _, _, fan_outs = check(BORROWED["swiglu"][0], "g")
    wanted = of_new(graph, "g", grown(graph, "g", params, fan_outs), params, inputs)
    norms = np.linalg.norm(params["g.weight"], axis=1)
    least = {n: Given(np.repeat(params[n][[norms.argmin()]], 2, 0)) for n in ("g.weight", "g.bias")}
    other = of_new(graph, "g", grown(graph, "g", params, fan_outs, least), params, inputs)
    none = of_new(graph, "g", grown(graph, "g", params, fan_outs, {}), params, inputs)
    assert np.abs(other - wanted).max() > 0.1 * np.abs(wanted).max()
    assert not none.any(), "zero on both sides there is no gradient at all"


def test_borrowing_takes_the_parameters():
    graph, _, _, found = probed(BORROWED["swiglu"][0], "g")
    with pytest.raises(Impossible, match="it takes the parameters of the network to say which unit of `g`"):
        auxiliary(graph, "g", found.values, found.signals)


REFUSED = {
    "gated in lanes": (
        "net n(x: [4, 6, 6]) {\n a = x |> h: conv(6, kernel = 3, groups = 2) |> silu\n"
        " b = x |> g: conv(6, kernel = 3, groups = 2)\n return mul(a, b) |> y: conv(3, kernel = 1) }",
        "h.makes",
        "with others that are zero at first as well, so there is no gradient of first order",
    ),
    "gated, read elsewhere": (
        "net n(x: [4]) {\n a = x |> h: dense(5) |> silu\n b = x |> g: dense(5)\n c = dense(add(a, b), 3)\n"
        " return mul(a, b) |> y: dense(3) |> add(c) }",
        "h",
        "with others that are zero at first as well, so there is no gradient of first order",
    ),
    "not zero at first": (
        "net n(x: [4]) {\n b = x |> h: dense(5) |> sigmoid |> scale\n a = x |> g: dense(5)\n"
        " return mul(b, a) |> tanh |> y: dense(3) }",
        "h",
        "what they are multiplied with, `b`, is not known for new ones",
    ),
    "squared": ("net n(x: [4]) { h = dense(x, 3) return mul(h, h) |> dense(2) }", "h", "multiplied with one another"),
    "not known": (
        "net n(x: [4]) {\n a = x |> h: dense(3)\n b = x |> g: dense(3) |> softmax\n return mul(a, b) |> y: dense(2) }",
        "h",
        "what they are multiplied with, `b`, is not known for new ones",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_where_there_is_none_the_reason_says_so(name):
    refused(*REFUSED[name])


@pytest.mark.parametrize("text", [GATES["sigmoid"], BORROWED["swiglu"][0]])
def test_the_quick_product_says_that_it_does_not_know_these_ways(text):
    assert way(parse(text), next(a for a in ("h", "g") if a in parse(text).leaves)) is None


def test_candidates_are_tried_behind_open_gates_and_not_behind_borrowed_ones():
    text = GATES["sigmoid"]
    graph, _, inputs, found = probed(text, "h")
    rng = np.random.default_rng(3)
    fan_in, fan_out = rng.normal(size=(2, 4)), rng.normal(size=(2, 3))
    added = contributions(graph, "h", found.values["x"], fan_in, {"y.weight": fan_out})
    units = 0.5 * np.tanh(inputs["x"] @ fan_in.T)
    np.testing.assert_allclose(added["y"], units @ fan_out, rtol=1e-12)
    graph, _, _, found = probed(BORROWED["swiglu"][0], "g")
    with pytest.raises(Impossible, match="candidates are not tried there"):
        contributions(graph, "g", found.values["x"], fan_in, {"y.weight": fan_out})
