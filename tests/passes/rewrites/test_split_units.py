"""Splitting units: shares, noise that cancels, noise of both signs, and copies that would never separate."""

import numpy as np
import pytest
import torch

import irgrow
from irgrow.backends import random_params
from irgrow.grammar import parse, parse_pass
from irgrow.passes import Context, SplitUnits, plan
from irgrow.testing import check_pass
from irgrow.testing.laws import Case, gradients_follow
from irgrow.testing.numbers import carried, output_error, random_inputs
from irgrow.verdict import Approximate, Changes, Exact, Refused

DENSE = "net n(x: [3]) { return x |> h: dense(5) |> tanh |> r: dense(2) }"
CONV = """net n(x: [2, 6, 5]) {
  return x |> h: conv(5, 3) |> bn: batchnorm(eps = 0.01) |> relu |> r: conv(3, 3) |> flatten |> dense(2)
}"""
FLAT = "net n(x: [2, 4, 5]) { return x |> h: conv(3, 2) |> gelu |> flatten |> r: dense(2) }"


def split(text, rewrite, seed=0):
    graph = parse(text)
    params = random_params(graph, seed)
    return graph, params, plan(rewrite, graph, Context(params, seed))


@pytest.mark.parametrize("text", [DENSE, CONV, FLAT])
@pytest.mark.parametrize("share", [0.5, 0.25, 0.9])
def test_noise_in_the_fan_out_cancels(text, share):
    graph, params, result = split(text, SplitUnits("h", (0, 2), share, 0.1))
    assert result.verdict == Exact()
    inputs = random_inputs(graph, 1)
    assert output_error(result.morphism, params, inputs) < 1e-13
    assert output_error(result.morphism, params, inputs, training=True) < 1e-13


def test_shares_and_noise_are_where_they_belong():
    _, params, result = split(DENSE, SplitUnits("h", (1,), 0.25, 0.1))
    new = carried(result.morphism, params)
    np.testing.assert_array_equal(new["h.weight"][5], params["h.weight"][1])
    np.testing.assert_array_equal(new["h.bias"][5], params["h.bias"][1])
    old = params["r.weight"][:, 1]
    np.testing.assert_allclose(new["r.weight"][:, 1] + new["r.weight"][:, 5], old, rtol=1e-14)
    noise = new["r.weight"][:, 5] - 0.75 * old
    rms = np.sqrt((params["r.weight"] ** 2).mean())
    assert 0 < np.abs(noise).max() < 0.5 * rms
    np.testing.assert_array_equal(new["r.weight"][:, 2:5], params["r.weight"][:, 2:5])


def test_batch_norm_entries_are_copied():
    _, params, result = split(CONV, SplitUnits("h", (4,)))
    new = carried(result.morphism, params)
    for name in ("bn.weight", "bn.bias", "bn.running_mean", "bn.running_var"):
        np.testing.assert_array_equal(new[name][5], params[name][4])


@pytest.mark.parametrize("text", [DENSE, CONV, FLAT])
def test_copies_that_never_separate_are_refused(text):
    _, _, result = split(text, SplitUnits("h", (1,), 0.5, 0.0))
    assert isinstance(result.verdict, Refused)
    assert "the copies of unit 1 of `h` would receive the same gradients for ever" in result.verdict.reason


def test_unequal_shares_part_copies_without_noise():
    graph, _, result = split(DENSE, SplitUnits("h", (1,), 0.25, 0.0))
    assert result.verdict == Exact()
    gradients_follow(Case(graph, SplitUnits("h", (1,), 0.25, 0.0)))


def test_copies_drift_apart_in_training():
    net = irgrow.build(DENSE, seed=0, dtype=torch.float64)
    net.rewrite(SplitUnits("h", (1,)))
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    x, y = torch.randn(20, 3, dtype=torch.float64), torch.randn(20, 2, dtype=torch.float64)
    for _ in range(5):
        optimizer.zero_grad()
        ((net(x) - y) ** 2).mean().backward()
        optimizer.step()
    assert (net.params["h.weight"][5] - net.params["h.weight"][1]).abs().max() > 1e-5


def test_noise_in_the_fan_in_is_of_second_order():
    """Row 8: halving the noise of a smooth activation divides the error by four."""
    graph = parse(DENSE)
    params, inputs = random_params(graph, 0), random_inputs(graph, 0, 8)
    errors = []
    for noise in (1e-2, 5e-3, 2.5e-3):
        result = plan(SplitUnits("h", (0, 3), 0.5, noise, "fan_in"), graph, Context(params, 7))
        assert isinstance(result.verdict, Approximate)
        assert "`h`" in result.verdict.bound
        errors.append(output_error(result.morphism, params, inputs))
    assert errors[0] / errors[1] == pytest.approx(4, rel=0.2)
    assert errors[1] / errors[2] == pytest.approx(4, rel=0.2)


def test_unequal_shares_with_noise_in_the_fan_in_are_of_first_order():
    """Negative control of the one above."""
    graph = parse(DENSE)
    params, inputs = random_params(graph, 0), random_inputs(graph, 0, 8)
    errors = [
        output_error(
            plan(SplitUnits("h", (0, 3), 0.3, n, "fan_in"), graph, Context(params, 7)).morphism, params, inputs
        )
        for n in (1e-3, 5e-4)
    ]
    assert errors[0] / errors[1] == pytest.approx(2, rel=0.1)


def test_the_receipt_carries_what_was_measured():
    net = irgrow.build(DENSE, seed=0, dtype=torch.float64)
    x = torch.randn(9, 3, dtype=torch.float64)
    receipt = net.rewrite(SplitUnits("h", (0,), 0.5, 0.01, "fan_in"), batch=x)
    assert isinstance(receipt.verdict, Approximate)
    assert receipt.verdict.measured == receipt.error > 0


def test_a_part_of_what_a_layer_norm_sees_cannot_be_split():
    text = "net n(x: [3]) { return x |> h: dense(5) |> layernorm(eps = 0.01) |> dense(2) }"
    _, _, result = split(text, SplitUnits("h", (1,)))
    assert isinstance(result.verdict, Changes)
    assert "normalises over units of `h`" in result.verdict.reason


def test_a_sum_without_weights_cannot_share():
    text = "net n(x: [3]) { return x |> h: dense(5) |> softmax |> dense(2) }"
    assert isinstance(split(text, SplitUnits("h", (1,)))[2].verdict, Changes)


def test_optimizer_moments_follow_the_shares():
    net = irgrow.build(DENSE, seed=0, dtype=torch.float64)
    optimizer = torch.optim.Adam(net.parameters(), lr=0.01)
    net.track(optimizer)
    ((net(torch.randn(4, 3, dtype=torch.float64)) ** 2).sum()).backward()
    optimizer.step()
    old = {k: v.clone() for k, v in optimizer.state[net.params["h.weight"]].items()}
    readers = optimizer.state[net.params["r.weight"]]["exp_avg"].clone()
    net.rewrite(SplitUnits("h", (1,), 0.25, 0.0))
    state = optimizer.state[net.params["h.weight"]]
    torch.testing.assert_close(
        state["exp_avg"][[1, 5]], old["exp_avg"][[1, 1]] * torch.tensor([[0.25], [0.75]]).double()
    )
    squares = torch.tensor([[0.0625], [0.5625]]).double()
    torch.testing.assert_close(state["exp_avg_sq"][[1, 5]], old["exp_avg_sq"][[1, 1]] * squares)
    torch.testing.assert_close(optimizer.state[net.params["r.weight"]]["exp_avg"][:, [1, 5]], readers[:, [1, 1]])


@pytest.mark.parametrize(
    ("rewrite", "reason"),
    [
        (SplitUnits("h", (5,)), "has units 0 to 4, found 5"),
        (SplitUnits("h", ()), "`units` is an empty list"),
        (SplitUnits("x", (0,)), "interface"),
        (SplitUnits("nope"), "no axis or node is called `nope`"),
    ],
)
def test_what_cannot_be_split(rewrite, reason):
    verdict = split(DENSE, rewrite)[2].verdict
    assert isinstance(verdict, Refused)
    assert reason in verdict.reason


def test_tied_units_cannot_share():
    text = "net n(t: ids(7)[4]) { return t |> e: embedding(5) |> dense(7, bias = false, tied = e) }"
    verdict = split(text, SplitUnits("e"))[2].verdict
    assert isinstance(verdict, Refused)
    assert "`e.weight` is tied" in verdict.reason


@pytest.mark.parametrize("text", ["split_units(h)", "split_units(h, [0, 2], share = 0.25, noise = 0.0)"])
def test_text(text):
    assert str(parse_pass(text)) == text


def test_laws():
    check_pass(SplitUnits)
