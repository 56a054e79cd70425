"""GradMax: new units do nothing, and no orthonormal fan-outs would give their fan-in a larger gradient."""

import numpy as np
import pytest
import torch

from irgrow.backends import random_params
from irgrow.backends.torch_fx import lower
from irgrow.fills import Given
from irgrow.grammar import parse
from irgrow.morphism import Select
from irgrow.network import build
from irgrow.passes import Context, GradMax, GrowUnits, plan
from irgrow.passes.analyses.auxiliary import auxiliary
from irgrow.passes.analyses.bridge import bridge
from irgrow.passes.analyses.fan_outs import fan_out_norm, new_columns
from irgrow.probing import probe
from irgrow.testing.checking import check_pass
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

MLP = "net n(x: [7]) {{ return x |> h: dense(6) |> {0} |> y: dense(5) |> tanh |> dense(2) }}"
CNN = "net n(x: [2, 7, 7]) {{ return x |> h: conv(4, kernel = 3, padding = 1, stride = 2) |> {0} |> y: conv(3, kernel = 3, padding = 1) |> tanh |> avgpool |> dense(2) }}"
FLAT = "net n(x: [2, 5, 5]) {{ return x |> h: conv(4, kernel = 3, padding = 1) |> {0} |> avgpool(2) |> flatten |> y: dense(3) |> tanh |> dense(2) }}"
STREAM = "net n(x: [4]) {{ return x |> h: dense(5) |> residual {{ {0} |> a: dense(3) |> tanh |> b: dense(5) }} |> y: dense(2) }}"
PROGRAMS = {"dense": MLP, "convolution": CNN, "flatten": FLAT, "stream": STREAM}
SLOPES = {"tanh": 1.0, "silu": 0.5, "right_relu": 1.0, "gelu": 0.5}


def grown(text, count, init=None, seed=0, batch=5):
    graph = parse(text)
    params, inputs = random_params(graph, seed), random_inputs(graph, seed, batch)
    result = planned(GrowUnits("h", count, init or GradMax()), graph, params, inputs, seed)
    return graph, params, inputs, result


def squared_norm(graph, params, inputs, morphism, seed=0):
    """Return the squared gradient norm of the fan-in of the new units by autograd, biases left out."""
    weights = output_weights(graph, params, inputs, seed)
    found = gradients(morphism.after, carried(morphism, params), inputs, weights)
    return float((found["h.weight"][graph.widths["h"] :] ** 2).sum())


def parts_of(graph, params, inputs, borders="exact", seed=0):
    from irgrow.passes.analyses.bridge import needed

    tensors = as_tensors(graph, params)
    batch = tuple(torch.as_tensor(inputs[n]) for n in graph.inputs)
    loss = weighted_loss(output_weights(graph, params, inputs, seed))
    found = probe(graph, lower(graph, tensors), tensors, batch, needed(graph, "h"), loss)
    return auxiliary(graph, "h", found.values, found.signals, borders, sloped=True)


@pytest.mark.parametrize("activation", SLOPES)
@pytest.mark.parametrize("program", PROGRAMS)
def test_exact_and_the_gradient_is_the_sum_of_squares(program, activation):
    graph, params, inputs, result = grown(PROGRAMS[program].format(activation), 2)
    assert result.verdict == Exact()
    assert output_error(result.morphism, params, inputs) < 1e-12
    a = parts_of(graph, params, inputs)
    values = np.linalg.svd(a.matrix.numpy(), compute_uv=False)
    scale = fan_out_norm(graph, "h", tuple(a.parts), params)
    found = squared_norm(graph, params, inputs, result.morphism)
    assert found == pytest.approx(scale**2 * (values[:2] ** 2).sum(), rel=1e-10)
    if program == "dense":  # the slope counts squared
        ones = auxiliary_without_slopes(graph, params, inputs)
        assert found == pytest.approx(SLOPES[activation] ** 2 * scale**2 * (ones[:2] ** 2).sum(), rel=1e-10)


def auxiliary_without_slopes(graph, params, inputs):
    tensors = as_tensors(graph, params)
    batch = tuple(torch.as_tensor(inputs[n]) for n in graph.inputs)
    loss = weighted_loss(output_weights(graph, params, inputs, 0))
    found = probe(graph, lower(graph, tensors), tensors, batch, ("x", "y"), loss)
    return np.linalg.svd((found.signals["y"].T @ found.values["x"]).numpy(), compute_uv=False)


@pytest.mark.parametrize("program", PROGRAMS)
def test_no_random_orthonormal_fan_outs_do_better(program):
    """Brute force: carry out the rewrite with random orthonormal fan-outs of the same norm and ask autograd."""
    graph, params, inputs, result = grown(PROGRAMS[program].format("tanh"), 2)
    best = squared_norm(graph, params, inputs, result.morphism)
    a = parts_of(graph, params, inputs)
    scale = fan_out_norm(graph, "h", tuple(a.parts), params)
    rng = np.random.default_rng(0)
    others = []
    for _ in range(60):
        rows = np.linalg.qr(rng.normal(size=(len(a.matrix), 2)))[0].T * scale
        sizes = np.cumsum([int(np.prod(s)) for s in a.parts.values()])[:-1]
        transfers = dict(result.morphism.transfers)
        for weight, part in zip(a.parts, np.split(rows, sizes, 1), strict=True):
            t = transfers[weight]
            assert isinstance(t, Select)
            fills = list(t.fills)
            fills[1] = Given(new_columns(graph, "h", weight, part))
            transfers[weight] = Select(t.name, t.maps, tuple(fills))
        from dataclasses import replace

        others.append(squared_norm(graph, params, inputs, replace(result.morphism, transfers=transfers)))
    assert max(others) < best
    assert max(others) > 0.05 * best


def test_the_printed_kernel_does_worse_where_the_second_layer_pads():
    """Negative control: the bridge kernel sees what lies beyond the border, so its fan-outs are not the best."""
    text = CNN.format("tanh").replace("stride = 2", "stride = 1")
    norms = {b: squared_norm(*(g := grown(text, 2, GradMax(b)))[:3], g[3].morphism) for b in ("exact", "kernel")}
    assert norms["kernel"] < norms["exact"]
    inside = text.replace("|> y: conv(3, kernel = 3, padding = 1)", "|> y: conv(3, kernel = 3)")
    norms = {b: squared_norm(*(g := grown(inside, 2, GradMax(b)))[:3], g[3].morphism) for b in ("exact", "kernel")}
    assert norms["kernel"] == pytest.approx(norms["exact"], rel=1e-10)


@pytest.mark.parametrize("program", PROGRAMS)
@pytest.mark.parametrize("borders", ["exact", "kernel"])
def test_with_the_bias_the_gradient_of_both_is_the_largest(program, borders):
    """The text appends a row of ones to what a layer reads; then biases count, and with them more can be had."""
    text = PROGRAMS[program].format("tanh").replace("stride = 2", "stride = 1")
    inside = text.replace("|> y: conv(3, kernel = 3, padding = 1)", "|> y: conv(3, kernel = 3)")
    totals = {}
    for bias in (False, True):
        graph, params, inputs, result = grown(inside, 2, GradMax(borders, bias=bias))
        found = gradients(
            result.morphism.after, carried(result.morphism, params), inputs, output_weights(graph, params, inputs, 0)
        )
        old = graph.widths["h"]
        totals[bias] = float((found["h.weight"][old:] ** 2).sum() + (found["h.bias"][old:] ** 2).sum())
    assert totals[True] > totals[False] * (1 + 1e-9)


def test_fan_outs_are_orthogonal_and_of_the_mean_norm():
    _, params, _, result = grown(MLP.format("tanh"), 3)
    new = carried(result.morphism, params)["y.weight"][:, 6:]
    mean = np.linalg.norm(params["y.weight"], axis=0).mean()
    np.testing.assert_allclose(new.T @ new, mean**2 * np.eye(3), atol=1e-12)
    assert not carried(result.morphism, params)["h.weight"][6:].any()
    assert not carried(result.morphism, params)["h.bias"][6:].any()


def test_under_the_frobenius_constraint_copies_are_best_and_the_receipt_says_what_they_are():
    graph, params, inputs, result = grown(MLP.format("tanh"), 3, GradMax(constraint="frobenius"))
    assert result.verdict == Exact()
    values = np.linalg.svd(parts_of(graph, params, inputs).matrix.numpy(), compute_uv=False)
    scale = np.linalg.norm(params["y.weight"], axis=0).mean()
    assert squared_norm(graph, params, inputs, result.morphism) == pytest.approx(3 * scale**2 * values[0] ** 2)
    assert "3 copies of one fan-out" in result.morphism.notes[0]
    assert not grown(MLP.format("tanh"), 3)[3].morphism.notes


@pytest.mark.parametrize("text", [MLP, CNN, FLAT.replace("avgpool", "maxpool")])
def test_relu_is_refused_and_the_reason_names_what_works(text):
    verdict = grown(text.format("relu"), 1)[3].verdict
    assert "`relu_1` at zero is zero" in verdict.reason
    assert "`right_relu`" in verdict.reason
    assert grown(text.format("right_relu"), 1)[3].verdict == Exact()


def test_right_relu_is_relu_with_a_slope_at_zero():
    x = torch.tensor([-1.0, 0.0, 2.0], requires_grad=True)
    from irgrow.ops import ACTIVATIONS

    y = ACTIVATIONS["right_relu"].layer()(x)
    assert torch.equal(y, torch.relu(x))
    y.sum().backward()
    assert x.grad.tolist() == [0.0, 1.0, 1.0]


def test_more_than_the_rank_is_refused():
    text = MLP.format("tanh")
    verdict = grown(text, 4, batch=3)[3].verdict
    assert "has rank 3 on this batch, so gradmax gives at most 3 units a gradient, asked for 4" in verdict.reason
    assert "rank 5" in grown(text, 6, batch=9)[3].verdict.reason
    assert grown(text, 3, batch=3)[3].verdict == Exact()


def test_a_zero_gradient_is_refused():
    net = build(MLP.format("tanh"), dtype=torch.float64)
    receipt = net.rewrite(
        GrowUnits("h", 1, GradMax()), statistics=torch.randn(4, 7).double(), loss=lambda y: 0 * y.sum()
    )
    assert "the auxiliary gradient is zero" in receipt.verdict.reason


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("program", PROGRAMS)
def test_on_a_live_network_units_learn_at_once(program, dtype):
    net = build(PROGRAMS[program].format("right_relu"), seed=3, dtype=dtype)
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-2)
    net.track(optimizer)
    batch = torch.randn(8, *net.graph.shape("x"), dtype=dtype)
    loss = lambda y: ((y - 1) ** 2).mean()  # noqa: E731
    for _ in range(2):
        optimizer.zero_grad()
        loss(net(batch)).backward()
        optimizer.step()
    old = net.graph.widths["h"]
    receipt = net.rewrite(GrowUnits("h", 2, GradMax()), batch=batch, statistics=batch, loss=loss)
    assert receipt.verdict == Exact()
    assert receipt.error < (1e-5 if dtype == torch.float32 else 1e-13)
    before = float(loss(net(batch)).detach())
    optimizer.zero_grad()
    loss(net(batch)).backward()
    assert (net.params["h.weight"].grad[old:].flatten(1).norm(dim=1) > 0).all()
    optimizer.step()
    assert float(loss(net(batch)).detach()) < before
    net.undo()
    assert net.graph.widths["h"] == old


def test_sigmoid_units_are_absorbed():
    text = MLP.format("sigmoid")
    assert not grown(text, 2)[3].verdict.preserves
    graph = parse(text)
    params, inputs = random_params(graph, 0), random_inputs(graph, 0, 5)
    result = planned(GrowUnits("h", 2, GradMax(), zero="fan_in", absorb=True), graph, params, inputs, 0)
    assert result.verdict == Exact()
    assert output_error(result.morphism, params, inputs) < 1e-12


def test_what_is_missing_is_said():
    graph = parse(MLP.format("tanh"))
    params = random_params(graph, 0)
    reason = plan(GrowUnits("h", 1, GradMax()), graph, Context(params)).verdict.reason
    assert "the values of `x`" in reason
    assert "give `batch` or `statistics`" in reason
    values = {"x": np.ones((2, 7)), "y": np.ones((2, 5))}
    reason = plan(GrowUnits("h", 1, GradMax()), graph, Context(params, 0, values)).verdict.reason
    assert "give `loss`" in reason
    signals = {"y": np.full((2, 5), np.nan)}
    reason = plan(GrowUnits("h", 1, GradMax()), graph, Context(params, 0, values, {}, signals)).verdict.reason
    assert "the gradient by the values of `y` are not finite" in reason
    reason = plan(GrowUnits("h", 1, GradMax()), graph, Context(None, 0, values, {}, values)).verdict.reason
    assert "needs the parameters" in reason


def test_behind_a_batch_norm_zero_fan_in_is_refused():
    text = MLP.format("batchnorm |> tanh")
    assert "its variance would be zero" in grown(text, 1)[3].verdict.reason


def test_the_pass_cannot_be_told_otherwise():
    graph = parse(MLP.format("tanh"))
    assert "says itself" in plan(GrowUnits("h", 1, GradMax(), zero="neither"), graph).verdict.reason
    assert bridge(graph, "h").maker == "h"


@pytest.mark.parametrize("program", PROGRAMS)
def test_it_obeys_the_laws(program):
    for law in LAWS:
        law(Case(parse(PROGRAMS[program].format("tanh")), GrowUnits("h", 2, GradMax()), 3, 4))


def test_it_obeys_the_laws_on_random_programs():
    check_pass(GrowUnits(init=GradMax()), examples=15)
