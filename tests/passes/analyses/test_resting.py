"""What new units are while all that makes them is zero, and the slopes there, against autograd on real new units."""

import numpy as np
import pytest
import torch
from bridges import grown, of_new, probed

from irgrow.backends import interpret, random_params
from irgrow.edits import Impossible
from irgrow.fills import Given
from irgrow.grammar import parse
from irgrow.ops import ACTIVATIONS, Activate, LeakyReLU
from irgrow.passes import GradMax, GrowUnits
from irgrow.passes.analyses.auxiliary import auxiliary
from irgrow.passes.analyses.bridge import bridge
from irgrow.passes.analyses.companions import companions
from irgrow.passes.analyses.contributions import contributions
from irgrow.passes.analyses.resting import at_rest, slope
from irgrow.testing.numbers import carried, planned, random_inputs

ENDS = "|> y: dense(3) }"
PROGRAMS = {
    "two activations": f"net n(x: [4]) {{ return x |> h: dense(5) |> sigmoid |> tanh {ENDS}",
    "a kink": f"net n(x: [4]) {{ return x |> h: dense(5) |> softplus |> relu {ENDS}",
    "a sum": f"net n(x: [4]) {{ a = dense(x, 5) b = x |> dense(5) |> sigmoid return add(a, b) |> m: gelu {ENDS}",
    "two ways": f"net n(x: [4]) {{ a = x |> h: dense(5) |> softplus b = a |> silu c = a |> tanh return add(b, c) {ENDS}",
    "a product": (
        "net n(x: [4]) { a = x |> h: dense(5) |> sigmoid b = x |> dense(5) |> softplus |> leaky_relu(slope = 0.2) "
        f"return mul(a, b) |> tanh {ENDS}"
    ),
    "zero beside": "net n(x: [3, 5, 5]) { a = x |> h: conv(4, kernel = 2) b = x |> conv(2, kernel = 2) return concat(b, a) |> pad(1) |> mish |> depthwise(2) |> silu |> y: conv(2, kernel = 2) }",
}


def linear(outputs):
    """A loss whose gradient is the same whatever new units do to the outputs."""
    return (torch.as_tensor(np.random.default_rng(5).normal(size=tuple(outputs.shape))) * outputs).sum()


@pytest.mark.parametrize("name", PROGRAMS)
def test_slopes_are_those_where_new_units_are(name):
    axis = next(a for a in parse(PROGRAMS[name]).leaves if a not in ("x", "y"))
    graph, params, inputs, found = probed(PROGRAMS[name], axis, loss=linear)
    a = auxiliary(graph, axis, found.values, found.signals, sloped=True, params=params)
    rows = np.random.default_rng(1).normal(size=(2, *a.blocks.shape[:2]))
    wanted = of_new(graph, axis, grown(graph, axis, params, a.fan_outs(rows)), params, inputs, linear)
    assert np.abs(wanted).max() > 1e-3
    np.testing.assert_allclose(np.einsum("ucr,cre->uce", rows, a.blocks), wanted, rtol=0, atol=1e-12)


def test_the_slope_at_zero_would_be_another():
    """Negative control for the slopes above."""
    route = bridge(parse(PROGRAMS["two activations"]), "h", True).routes[0]
    assert route.slope == pytest.approx(0.25 * (1 - np.tanh(0.5) ** 2))
    assert abs(route.slope - 0.25) > 0.05


RESTING = {
    "batchnorm": ("conv(4, kernel = 2) |> batchnorm |> sigmoid", 0.5),
    "instance norm": ("conv(4, kernel = 2) |> instancenorm", 0.0),
    "depthwise": ("conv(4, kernel = 2) |> tanh |> depthwise(2)", 0.0),
    "pooled": ("conv(4, kernel = 2) |> maxpool(2) |> softplus", np.log(2)),
    "filters of a constant": ("conv(4, kernel = 2) |> sigmoid |> depthwise(2)", None),
    "normed together": ("conv(4, kernel = 2) |> groupnorm(1)", None),
    "flattened": ("conv(4, kernel = 2) |> flatten", 0.0),
}


@pytest.mark.parametrize("name", RESTING)
def test_what_is_known_of_new_units(name):
    text, wanted = RESTING[name]
    graph = parse(f"net n(x: [3, 5, 5]) {{ return x |> {text} }}")
    found = at_rest(graph, graph.outputs[0], "conv_1")
    assert found == (None if wanted is None else pytest.approx(wanted))
    if wanted is not None:
        params, inputs = random_params(graph, 0), random_inputs(graph, 0)
        morphism = grown(graph, "conv_1", params, {}, {})
        (after,) = interpret(morphism.after, carried(morphism, params), inputs).outputs
        where = 1 + graph.types[graph.outputs[0]].unit_dim
        new = np.take(after, np.arange(after.shape[where])[-2:], where)
        np.testing.assert_allclose(new, wanted, rtol=0, atol=1e-15)


@pytest.mark.parametrize("op", [*map(Activate, ACTIVATIONS), LeakyReLU(0.3)], ids=str)
def test_slopes_of_activations(op):
    assert slope(op, 0.0) == op.facts.slope_at_zero
    for at in (0.4, -0.7):
        low, high = (float(op.evaluate(None, np.array(at + step))) for step in (-1e-6, 1e-6))
        assert slope(op, at) == pytest.approx((high - low) / 2e-6, abs=1e-7)


def test_where_the_slope_is_not_known_gradmax_says_so():
    text = f'net n(x: [5, 4]) {{ return x |> transpose |> h: dense(6) |> positions("sinusoidal") |> a: tanh {ENDS}'
    graph = parse(text)
    reason = "what new units of `h` are before `a` is not known, so neither is its slope there"
    with pytest.raises(Impossible) as error:
        bridge(graph, "h", True)
    assert str(error.value) == reason
    assert bridge(graph, "h").routes[0].slope == 1.0, "where slopes are not counted they are ones"
    params, inputs = random_params(graph, 0), random_inputs(graph, 0)
    verdict = planned(GrowUnits("h", 1, GradMax()), graph, params, inputs, 0).verdict
    assert verdict.reason == reason


@pytest.mark.parametrize("name", ["a sum", "zero beside"])
def test_candidates_are_added_to_what_others_are(name):
    axis = next(a for a in parse(PROGRAMS[name]).leaves if a not in ("x", "y"))
    graph, params, inputs, found = probed(PROGRAMS[name], axis)
    rng, maker = np.random.default_rng(3), bridge(graph, axis).maker
    fan_in = rng.normal(size=(2, *graph.param_shape(f"{maker}.weight")[1:]))
    fan_outs = {w: rng.normal(size=(2, *shape)) for w, shape in bridge(graph, axis).shapes().items()}
    added = contributions(graph, axis, found.values["x"], fan_in, fan_outs)
    given = companions(graph, axis, 2, params) | {f"{maker}.weight": Given(fan_in)}
    morphism = grown(graph, axis, params, fan_outs, given)
    after = interpret(morphism.after, carried(morphism, params), inputs).values["y"]
    np.testing.assert_allclose(
        added["y"], after - interpret(graph, params, inputs).values["y"], rtol=0, atol=1e-12 * np.abs(after).max()
    )


@pytest.mark.parametrize("between", ['positions("sinusoidal")', "add(dense(t, 6) |> softmax)"])
def test_candidates_are_not_tried_where_that_is_not_known(between):
    text = f"net n(x: [5, 4]) {{ t = transpose(x) return t |> h: dense(6) |> {between} |> y: dense(3) }}"
    graph, _, _, found = probed(text, next(a for a in parse(text).leaves if a not in ("x", "y")))
    axis = next(a for a in graph.leaves if a not in ("x", "y"))
    with pytest.raises(Impossible, match="candidates are not tried there"):
        contributions(graph, axis, found.values["t"], np.ones((1, 5)), {"y.weight": np.ones((1, 3))})
