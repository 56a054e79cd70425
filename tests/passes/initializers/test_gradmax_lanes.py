"""GradMax through depthwise convolutions, attention, groups and gates: every lane of a unit gets the best fan-outs."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from irgrow.axes import positions
from irgrow.backends import random_params
from irgrow.backends.torch_fx import lower
from irgrow.fills import Given, XavierUniform
from irgrow.grammar import parse
from irgrow.morphism import Select
from irgrow.network import build
from irgrow.passes import GradMax, GrowFirefly, GrowUnits, Nest
from irgrow.passes.analyses.auxiliary import auxiliary
from irgrow.passes.analyses.bridge import bridge, needed
from irgrow.passes.analyses.fan_outs import fan_out_norm, new_columns
from irgrow.probing import probe
from irgrow.testing.laws import LAWS, Case
from irgrow.testing.numbers import (
    as_tensors,
    carried,
    gradients,
    output_error,
    output_weights,
    planned,
    random_inputs,
    weighted_loss,
)
from irgrow.verdict import Exact

ATTENTION = "net n(x: [5, 4]) {{ return x |> transpose |> a: attention({0}) |> tanh |> flatten |> dense(2) }}"
MOBILE = (
    "net n(x: [3, 6, 5]) { return x |> h: conv(4, kernel = 1) |> tanh |> depthwise(3, padding = 1) |> silu "
    "|> y: conv(3, kernel = 1) |> tanh |> avgpool |> dense(2) }"
)
PROGRAMS = {
    "depthwise": (MOBILE, "h"),
    "several filters": (MOBILE.replace("padding = 1", "padding = 1, multiplier = 2"), "h"),
    "depthwise, beside others": (
        "net n(x: [3, 6, 5]) { a = x |> h: conv(4, kernel = 3) b = x |> conv(3, kernel = 3) |> tanh "
        "return concat(b, a) |> depthwise(3, padding = 1) |> y: conv(5, kernel = 1) |> tanh |> avgpool |> dense(2) }",
        "h",
    ),
    "head_dim": (ATTENTION.format("heads = 3, head_dim = 2"), "a.head_dim"),
    "one head": (ATTENTION.format("heads = 1, head_dim = 3"), "a.head_dim"),
    "causal, groups": (ATTENTION.format("heads = 4, head_dim = 3, kv_heads = 2, causal = true"), "a.head_dim"),
    "rotary": (ATTENTION.format("heads = 2, head_dim = 4, causal = true, rotary = true"), "a.mix.pairs"),
    "heads": (ATTENTION.format("heads = 3, head_dim = 2"), "a.heads"),
    "key/value heads": (ATTENTION.format("heads = 4, head_dim = 2, kv_heads = 2, causal = true"), "a.kv_heads"),
    "groups": (
        "net n(x: [3, 6, 6]) { return x |> h: conv(4, kernel = 3) |> tanh |> y: conv(6, kernel = 2, groups = 2) "
        "|> tanh |> avgpool |> dense(2) }",
        "y.reads",
    ),
    "gate": (
        "net n(x: [4]) { a = x |> h: dense(5) |> tanh b = x |> g: dense(5) |> sigmoid "
        "return mul(a, b) |> y: dense(3) |> tanh |> dense(2) }",
        "h",
    ),
    "swiglu": (
        "net n(x: [6, 4]) { t = transpose(x) a = t |> g: dense(5, bias = false) |> silu b = t |> h: dense(5, bias = false) "
        "return mul(a, b) |> y: dense(3) |> tanh |> flatten |> dense(2) }",
        "h",
    ),
}


def site(name):
    text, axis = PROGRAMS[name]
    return text, axis if axis in parse(text).leaves else "g"


def grown(name, count=2, init=None, batch=5):
    text, axis = site(name)
    graph = parse(text)
    params, inputs = random_params(graph, 0), random_inputs(graph, 0, batch)
    return graph, axis, params, inputs, planned(GrowUnits(axis, count, init or GradMax()), graph, params, inputs, 0)


def squared_norm(graph, axis, params, inputs, morphism):
    """Return the squared gradient norm of the fan-in of the new units by autograd, biases left out."""
    found = gradients(morphism.after, carried(morphism, params), inputs, output_weights(graph, params, inputs, 0))
    weight = f"{bridge(graph, axis).maker}.weight"
    (units,) = positions(morphism.after.params[weight].spec.dims[0], morphism.after.widths)[axis]
    return float((found[weight][units >= graph.widths[axis]] ** 2).sum())


def parts_of(graph, axis, params, inputs):
    tensors = as_tensors(graph, params)
    batch = tuple(torch.as_tensor(inputs[n]) for n in graph.inputs)
    loss = weighted_loss(output_weights(graph, params, inputs, 0))
    found = probe(graph, lower(graph, tensors), tensors, batch, needed(graph, axis), loss)
    return auxiliary(graph, axis, found.values, found.signals, sloped=True, params=params)


@pytest.mark.parametrize("name", PROGRAMS)
def test_exact_and_the_gradient_is_the_sum_of_squares_over_lanes(name):
    graph, axis, params, inputs, result = grown(name)
    assert result.verdict == Exact()
    assert output_error(result.morphism, params, inputs) < 1e-12
    a = parts_of(graph, axis, params, inputs)
    values = torch.linalg.svdvals(a.blocks)[:, :2].square().sum() / len(a.blocks)
    scale = fan_out_norm(graph, axis, tuple(a.parts), params)
    assert squared_norm(graph, axis, params, inputs, result.morphism) == pytest.approx(
        scale**2 * float(values), rel=1e-10
    )


@pytest.mark.parametrize("name", PROGRAMS)
def test_no_random_fan_outs_orthonormal_in_every_lane_do_better(name):
    graph, axis, params, inputs, result = grown(name)
    best = squared_norm(graph, axis, params, inputs, result.morphism)
    a = parts_of(graph, axis, params, inputs)
    count, size = a.blocks.shape[:2]
    scale = fan_out_norm(graph, axis, tuple(a.parts), params) / np.sqrt(count)
    rng, others = np.random.default_rng(0), []
    for _ in range(40):
        rows = np.stack([np.linalg.qr(rng.normal(size=(size, 2)))[0].T for _ in range(count)], 1) * scale
        transfers = dict(result.morphism.transfers)
        for weight, part in a.fan_outs(rows).items():
            t = transfers[weight]
            assert isinstance(t, Select)
            fills = (t.fills[0], Given(new_columns(graph, axis, weight, part)), *t.fills[2:])
            transfers[weight] = Select(t.name, t.maps, fills)
        others.append(squared_norm(graph, axis, params, inputs, replace(result.morphism, transfers=transfers)))
    assert 0.01 * best < max(others) < best


@pytest.mark.parametrize("name", PROGRAMS)
def test_every_lane_of_every_new_unit_is_read(name):
    """Singular vectors of all of it would leave all lanes but one without fan-in, fan-out and gradient."""
    graph, axis, params, _, result = grown(name)
    after = carried(result.morphism, params)
    for weight, shape in bridge(graph, axis).shapes().items():
        (units,) = positions(result.morphism.after.params[weight].spec.dims[1], result.morphism.after.widths)[axis]
        new = np.abs(after[weight][:, units >= graph.widths[axis]]).reshape(
            shape[0], (units >= graph.widths[axis]).sum(), -1
        )
        assert (new.max((0, 2)) > 0).all()


def test_new_units_hand_on_what_depthwise_layers_read():
    graph, _, params, _, result = grown("several filters")
    filters = carried(result.morphism, params)["depthwise_1.weight"][2 * graph.widths["h"] :]
    assert filters.shape == (4, 1, 3, 3)
    centre, above = (np.eye(9)[i].reshape(1, 3, 3) for i in (4, 1))
    assert np.array_equal(filters, np.stack([centre, above, centre, above]))
    assert not carried(result.morphism, params)["depthwise_1.bias"][2 * graph.widths["h"] :].any()


def test_new_queries_are_zero_and_new_keys_are_not():
    graph, axis, params, _, result = grown("head_dim")
    after = carried(result.morphism, params)
    (units,) = positions(result.morphism.after.params["a.key.weight"].spec.dims[0], result.morphism.after.widths)[axis]
    new = units >= graph.widths[axis]
    assert not after["a.query.weight"][new].any()
    assert after["a.key.weight"][new].any(1).all()
    transfer = result.morphism.transfers["a.key.weight"]
    assert isinstance(transfer, Select)
    assert transfer.fills[0] == XavierUniform(match=True)


def test_what_would_leave_lanes_dead_is_refused():
    assert "only one of them would live" in grown("head_dim", 1, GradMax(constraint="frobenius"))[4].verdict.reason
    assert grown("one head", 1, GradMax(constraint="frobenius"))[4].verdict == Exact()


def test_the_bias_counts_in_every_lane():
    totals = {}
    for bias in (False, True):
        graph, axis, params, inputs, result = grown("head_dim", 2, GradMax(bias=bias))
        found = gradients(
            result.morphism.after, carried(result.morphism, params), inputs, output_weights(graph, params, inputs, 0)
        )
        (units,) = positions(result.morphism.after.params["a.value.bias"].spec.dims[0], result.morphism.after.widths)[
            axis
        ]
        new = units >= graph.widths[axis]
        totals[bias] = float(sum((found[f"a.value.{n}"][new] ** 2).sum() for n in ("weight", "bias")))
    assert totals[True] > totals[False] * (1 + 1e-9)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", PROGRAMS)
def test_on_a_live_network_units_learn_at_once(name, dtype):
    text, axis = site(name)
    net = build(text, seed=3, dtype=dtype)
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-3)
    net.track(optimizer)
    batch = torch.randn(8, *net.graph.shape("x"), dtype=dtype)
    loss = lambda y: ((y - 1) ** 2).mean()  # noqa: E731
    old, weight = net.graph.widths[axis], f"{bridge(net.graph, axis).maker}.weight"
    receipt = net.rewrite(GrowUnits(axis, 2, GradMax()), batch=batch, statistics=batch, loss=loss)
    assert receipt.verdict == Exact()
    assert receipt.error < (1e-5 if dtype == torch.float32 else 1e-13)
    optimizer.zero_grad()
    before = loss(net(batch))
    before.backward()
    (units,) = positions(net.graph.params[weight].spec.dims[0], net.graph.widths)[axis]
    assert (net.params[weight].grad[units >= old].flatten(1).norm(dim=1) > 0).all()
    optimizer.step()
    assert float(loss(net(batch)).detach()) < float(before.detach())
    net.undo()
    assert net.graph.widths[axis] == old


@pytest.mark.parametrize("name", PROGRAMS)
def test_it_obeys_the_laws(name):
    text, axis = site(name)
    for law in LAWS:
        law(Case(parse(text), GrowUnits(axis, 2, GradMax()), 3, 4))


@pytest.mark.parametrize("name", ["depthwise", "several filters", "gate"])
def test_candidates_of_firefly_and_nest_get_the_same_company(name):
    text, axis = site(name)
    for pass_ in (GrowUnits(axis, 2, Nest(candidates=4)), GrowFirefly(axis, 2, candidates=6)):
        for law in LAWS:
            law(Case(parse(text), pass_, 3, 4))
        graph = parse(text)
        result = planned(pass_, graph, random_params(graph, 0), random_inputs(graph, 0, 5), 0)
        if name != "gate" and isinstance(pass_, GrowUnits):
            filters = carried(result.morphism, random_params(graph, 0))["depthwise_1.weight"]
            assert np.array_equal(np.sort(filters[-2:].reshape(2, 9), 1)[:, -1], [1.0, 1.0])
            assert np.abs(filters[-2:]).sum() == 2.0


def test_new_units_of_a_gated_layer_have_the_gate_of_an_old_one():
    graph, axis, params, _, result = grown("swiglu")
    after, weight = carried(result.morphism, params), params["g.weight"]
    assert bridge(graph, axis).maker == "h"
    assert np.array_equal(after["g.weight"][5:], weight[[np.linalg.norm(weight, axis=1).argmax()] * 2])
    assert not after["h.weight"][5:].any()


def test_nest_knows_borrowed_gates_and_firefly_says_that_it_does_not():
    text, axis = site("swiglu")
    for law in LAWS:
        law(Case(parse(text), GrowUnits(axis, 2, Nest()), 3, 4))
    graph = parse(text)
    result = planned(GrowFirefly(axis, 1), graph, random_params(graph, 0), random_inputs(graph, 0, 5), 0)
    assert "candidates are not tried there" in result.verdict.reason


@pytest.mark.parametrize("pass_", [GrowUnits("a.head_dim", 1, Nest()), GrowFirefly("a.head_dim", 1)], ids=str)
def test_nest_and_firefly_know_one_lane(pass_):
    graph = parse(PROGRAMS["head_dim"][0])
    result = planned(pass_, graph, random_params(graph, 0), random_inputs(graph, 0, 5), 0)
    assert "lanes" in result.verdict.reason


@pytest.mark.parametrize("frozen", ["h.weight", "y.weight"])
def test_a_frozen_fan_in_is_refused_and_a_frozen_fan_out_is_not(frozen):
    net = build(MOBILE, seed=3, dtype=torch.float64)
    net.params[frozen].requires_grad_(False)
    batch = torch.randn(4, 3, 6, 5, dtype=torch.float64)
    verdict = net.rewrite(GrowUnits("h", 1, GradMax()), batch=batch, loss=lambda y: (y**2).mean()).verdict
    if frozen == "y.weight":
        assert verdict == Exact()
    else:
        assert verdict.reason == "`h.weight` is frozen, so units with zero fan-in would never receive a gradient"
