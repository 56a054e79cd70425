"""Variance transfer: new entries have the scale of the old ones, and what is read keeps its variance if asked to."""

import numpy as np
import pytest
import torch

from irgrow.backends import interpret, random_params
from irgrow.fills import Normal
from irgrow.grammar import parse
from irgrow.network import build
from irgrow.passes import Context, GrowUnits, VarianceTransfer, plan
from irgrow.testing.checking import check_pass
from irgrow.testing.laws import LAWS, Case
from irgrow.testing.numbers import carried, random_inputs
from irgrow.verdict import Changes

MLP = "net n(x: [30]) { return x |> h: dense(40) |> tanh |> y: dense(20) |> tanh |> dense(2) }"
CNN = "net n(x: [3, 6, 6]) { return x |> h: conv(8, kernel = 3) |> batchnorm |> relu |> y: conv(6, kernel = 3) |> relu |> avgpool |> dense(2) }"
FLAT = (
    "net n(x: [3, 4, 4]) { return x |> h: conv(8, kernel = 3) |> relu |> flatten |> y: dense(30) |> relu |> dense(2) }"
)


def grown(text, init, count, seed=0):
    graph = parse(text)
    params = random_params(graph, seed)
    params["h.weight"], params["y.weight"] = 3.0 * params["h.weight"], 0.2 * params["y.weight"]
    result = plan(GrowUnits("h", count, init), graph, Context(params, seed))
    assert isinstance(result.verdict, Changes)
    return graph, params, result.morphism, carried(result.morphism, params)


def spread(x):
    return np.sqrt((x**2).mean())


@pytest.mark.parametrize("text", [MLP, CNN, FLAT])
@pytest.mark.parametrize("keep", [False, True])
def test_scales_are_those_of_the_old_entries(text, keep):
    graph, params, _, new = grown(text, VarianceTransfer(keep), 40)
    old, columns = graph.widths["h"], params["y.weight"].shape[1]
    factor = np.sqrt(old / (old + 40)) if keep else 1.0
    assert spread(new["h.weight"][old:]) == pytest.approx(spread(params["h.weight"]), rel=0.1)
    assert spread(new["y.weight"][:, columns:]) == pytest.approx(factor * spread(params["y.weight"]), rel=0.1)
    np.testing.assert_array_equal(new["h.weight"][:old], params["h.weight"])
    np.testing.assert_allclose(new["y.weight"][:, :columns], factor * params["y.weight"], rtol=1e-14)
    assert not new["h.bias"][old:].any()


def test_the_variance_of_what_is_read_stays_only_if_asked():
    ratios = {True: [], False: []}
    for seed in range(10):
        for keep, found in ratios.items():
            graph, params, morphism, new = grown(MLP, VarianceTransfer(keep), 120, seed)
            for values in (params, new):
                values["y.bias"] = np.zeros(20)
            inputs = random_inputs(graph, seed, 50)
            before = interpret(graph, params, inputs).values["y"].var()
            found.append(interpret(morphism.after, new, inputs).values["y"].var() / before)
    assert np.mean(ratios[True]) == pytest.approx(1.0, abs=0.15)
    assert np.mean(ratios[False]) == pytest.approx(4.0, abs=0.6)


def test_both_sides_learn_at_once_and_moments_follow():
    net = build(CNN, seed=0)
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-3)
    net.track(optimizer)
    batch = torch.randn(4, 3, 6, 6)
    for _ in range(2):
        optimizer.zero_grad()
        net(batch).pow(2).mean().backward()
        optimizer.step()
    before = optimizer.state[net.params["y.weight"]]["exp_avg"].clone()
    receipt = net.rewrite(GrowUnits("h", 2, VarianceTransfer(True)))
    assert receipt.applied
    assert torch.equal(optimizer.state[net.params["y.weight"]]["exp_avg"][:, :8], before)
    net(batch).pow(2).mean().backward()
    for side in (net.params["h.weight"].grad[8:], net.params["y.weight"].grad[:, 8:].transpose(0, 1)):
        assert (side.flatten(1).norm(dim=1) > 0).all()


def test_what_is_missing_is_said():
    graph = parse(MLP)
    assert "needs the parameters" in plan(GrowUnits("h", 1, VarianceTransfer()), graph).verdict.reason
    params = random_params(graph, 0)
    for value, why in ((0.0, "is zero"), (np.nan, "is not finite")):
        bad = params | {"h.weight": np.full((40, 30), value)}
        reason = plan(GrowUnits("h", 1, VarianceTransfer()), graph, Context(bad)).verdict.reason
        assert f"`h.weight` {why}" in reason


def test_per_unit_filters_start_as_they_do():
    text = "net n(x: [3, 5, 5]) { return x |> h: conv(4, kernel = 1) |> d: depthwise(3) |> relu |> conv(2, kernel = 1) |> avgpool }"
    graph = parse(text)
    morphism = plan(GrowUnits("h", 1, VarianceTransfer()), graph, Context(random_params(graph, 0))).morphism
    assert not isinstance(morphism.transfers["d.weight"].fills[0], Normal)


@pytest.mark.parametrize("keep", [False, True])
def test_it_obeys_the_laws(keep):
    for text in (MLP, CNN):
        for law in LAWS:
            law(Case(parse(text), GrowUnits("h", 2, VarianceTransfer(keep)), 3, 4))
    check_pass(GrowUnits(init=VarianceTransfer(keep)), examples=8)
