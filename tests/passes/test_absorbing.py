"""Zero fan-in behind functions with f(0) != 0: biases take over what is read of the new constants (growth.md, row 3)."""

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from irgrow.backends import random_params
from irgrow.grammar import parse, parse_pass
from irgrow.network import build
from irgrow.passes import Context, GrowUnits, PruneUnits, RemoveDeadUnits, plan
from irgrow.passes.analyses.places import editable_axes
from irgrow.testing import graphs
from irgrow.testing.laws import (
    Case,
    morphism_survives_json,
    newborns_learn,
    refused_changes_nothing,
    same_seed_same_numbers,
    verdict_is_sound,
)
from irgrow.testing.numbers import carried, gradient_error, output_error, random_inputs
from irgrow.verdict import Changes, Exact, Refused

DENSE = "net n(x: [4]) {{ return x |> h: dense(5) |> {} |> o: dense(2) }}"
IMAGE = "net n(x: [2, 5, 5]) {{ return x |> h: conv(4, kernel = 1) |> {} }}"


def grown(text, site="h", count=2, mode="always", seed=0, batch=3):
    """Grow with zero fan-in and hold the outcome against the numbers; return the morphism and the parameters."""
    graph = parse(text)
    params = random_params(graph, seed)
    result = plan(GrowUnits(site, count, zero="fan_in", absorb=True), graph, Context(params, 5))
    assert result.verdict == Exact(mode), str(result.verdict)
    inputs = random_inputs(graph, seed, batch)
    modes = (False, True) if mode == "always" else (False,)
    assert max(output_error(result.morphism, params, inputs, training) for training in modes) < 1e-12
    assert gradient_error(result.morphism, params, inputs) < 1e-12
    return result.morphism, params


def refused(text, site="h", **options):
    graph = parse(text)
    verdict = plan(GrowUnits(site, 2, zero="fan_in", absorb=True), graph, Context(random_params(graph, 0), 5)).verdict
    assert isinstance(verdict, Refused), str(verdict)
    return verdict.reason


@pytest.mark.parametrize(("function", "value"), [("sigmoid", 0.5), ("softplus", np.log(2.0)), ("hardsigmoid", 0.5)])
@pytest.mark.parametrize("batch", [1, 3])
def test_the_bias_takes_over_what_is_read_of_the_new_units(function, value, batch):
    morphism, params = grown(DENSE.format(function), batch=batch)
    new = carried(morphism, params)
    assert np.abs(new["o.weight"][:, 5:]).min() > 0
    assert not new["h.weight"][5:].any()
    assert not new["h.bias"][5:].any()
    np.testing.assert_allclose(new["o.bias"], params["o.bias"] - new["o.weight"][:, 5:].sum(1) * value, rtol=1e-13)
    newborns_learn(Case(parse(DENSE.format(function)), GrowUnits("h", 2, zero="fan_in", absorb=True), 1, 6))


def test_without_absorbing_the_function_changes():
    """Negative control."""
    graph = parse(DENSE.format("sigmoid"))
    params = random_params(graph, 0)
    result = plan(GrowUnits("h", 2, zero="fan_in"), graph, Context(params))
    assert isinstance(result.verdict, Changes)
    assert output_error(result.morphism, params, random_inputs(graph, 0)) > 1e-2


def test_with_f_of_zero_being_zero_there_is_nothing_to_absorb():
    morphism, _ = grown(DENSE.format("tanh"))
    assert "plus" not in str(morphism)


@pytest.mark.parametrize("reader", ["o: conv(3, kernel = 3) |> flatten", "flatten", "maxpool(2) |> flatten", "avgpool"])
def test_channels(reader):
    grown(IMAGE.format(f"sigmoid |> {reader} |> dense(2)"))


def test_at_a_border_the_constant_is_missing():
    reason = refused(IMAGE.format("sigmoid |> o: conv(3, kernel = 3, padding = 1) |> flatten |> dense(2)"))
    assert reason == "`o` reads zeros beside the border, where the constant is missing"
    grown(IMAGE.format("tanh |> o: conv(3, kernel = 3, padding = 1) |> flatten |> dense(2)"))


def test_masked_layers():
    grown("net n(x: [4]) { return x |> h: dense(5, masked = true) |> sigmoid |> o: dense(2, masked = true) }")


def test_a_stream_with_several_writers_and_readers():
    grown("net n(x: [4]) { return x |> h: dense(5) |> residual { sigmoid |> a: dense(5) } |> softplus |> o: dense(2) }")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("x |> h: dense(5) |> sigmoid |> o: dense(2, bias = false)", "`o` has no bias"),
        ("x |> h: dense(5) |> sigmoid |> dropout |> o: dense(2)", "are no constants where `o` reads them"),
        ("x |> h: dense(5) |> sigmoid |> layernorm |> o: dense(2)", "no constants where `o` reads them"),
        ("x |> h: dense(5) |> batchnorm |> sigmoid |> o: dense(2)", "its variance would be zero"),
    ],
)
def test_what_cannot_be_made_exact_is_refused(text, reason):
    assert reason in refused(f"net n(x: [4]) {{ return {text} }}")


def test_a_tied_reader():
    text = (
        "net n(x: [4], y: [4]) { p = x |> h: dense(5) |> sigmoid |> o: dense(3)"
        "  q = y |> g: dense(5, tied = h) |> {} |> dense(3, tied = o)  return p + q }"
    )
    grown(text.replace("{}", "sigmoid"))
    assert "`o.bias` is tied" in refused(text.replace("{}", "softplus"))


def test_it_goes_with_zero_fan_in_and_needs_parameters():
    graph = parse(DENSE.format("sigmoid"))
    for zero in ("fan_out", "mean", "neither"):
        verdict = plan(GrowUnits("h", 2, zero=zero, absorb=True), graph, Context(random_params(graph, 0))).verdict
        assert isinstance(verdict, Refused)
        assert "goes with `zero = fan_in`" in verdict.reason
    assert "needs the parameters" in plan(GrowUnits("h", 2, zero="fan_in", absorb=True), graph).verdict.reason


def test_its_text():
    rewrite = GrowUnits("h", 2, zero="fan_in", absorb=True)
    assert str(rewrite) == "grow_units(h, 2, zero = fan_in, absorb = true)"
    assert parse_pass(str(rewrite)) == rewrite


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_what_was_absorbed_is_given_back_when_the_units_go(dtype):
    net = build(DENSE.format("sigmoid"), dtype=dtype, seed=1)
    bias = net.params["o.bias"].detach().clone()
    x = torch.randn(4, 4, dtype=dtype, generator=torch.Generator().manual_seed(0))
    before = net(x).detach()
    receipt = net.rewrite(GrowUnits("h", 3, zero="fan_in", absorb=True), batch=(x,))
    assert receipt.verdict == Exact()
    torch.testing.assert_close(net(x).detach(), before)
    assert net.rewrite(RemoveDeadUnits("h"), batch=(x,)).verdict == Exact()
    assert net.graph == parse(DENSE.format("sigmoid"))
    torch.testing.assert_close(net.params["o.bias"].detach(), bias, rtol=1e-5, atol=1e-6)
    net.rewrite(GrowUnits("h", 1, zero="fan_in", absorb=True))
    assert isinstance(net.rewrite(PruneUnits("h", (5,))).verdict, Changes), "pruning alone forgets the bias"


@st.composite
def cases(draw):
    graph = draw(graphs())
    editable = editable_axes(graph)
    site = draw(st.sampled_from(editable)) if editable else "x"
    rewrite = GrowUnits(site, draw(st.integers(1, 3)), zero="fan_in", absorb=True)
    return Case(graph, rewrite, draw(st.integers(0, 10**6)), draw(st.integers(2, 4)))


@settings(suppress_health_check=list(HealthCheck))
@given(cases())
def test_laws_on_random_programs(case):
    verdict = case.plan().verdict
    assert verdict.preserves or isinstance(verdict, Refused)
    for law in (verdict_is_sound, same_seed_same_numbers, morphism_survives_json, refused_changes_nothing):
        law(case)
