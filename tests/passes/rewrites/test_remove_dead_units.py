"""Removing dead units: exact where it is claimed, in both modes; refused, or left standing, where it cannot be."""

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from irgrow.backends import random_params
from irgrow.grammar import parse
from irgrow.network import build
from irgrow.passes import Context, Pass, RemoveDeadUnits, plan
from irgrow.passes.analyses.places import editable_axes
from irgrow.testing import check_pass, graphs
from irgrow.testing.laws import LAWS, Broken, gradients_follow, verdict_is_sound
from irgrow.testing.numbers import gradient_error, output_error, planned, random_inputs
from irgrow.testing.planting import DeadUnits
from irgrow.verdict import Changes, Exact, Refused

DENSE = "net n(x: [4]) {{ return x |> h: dense(5) |> {} |> o: dense(2) }}"
IMAGE = "net n(x: [2, 5, 5]) {{ return x |> h: conv(4, kernel = 1) |> {} }}"


def removed(text, plant, site="h", mode="always", seed=0, batch=3):
    """Remove the dead units and hold the outcome against the numbers; return the morphism and the parameters."""
    graph = parse(text)
    params = random_params(graph, seed)
    plant(params)
    result = plan(RemoveDeadUnits(site), graph, Context(params, 7))
    assert result.verdict == Exact(mode), str(result.verdict)
    inputs = random_inputs(graph, seed, batch)
    modes = (False, True) if mode == "always" else (False,)
    assert max(output_error(result.morphism, params, inputs, training) for training in modes) < 1e-12
    return result.morphism, params


def refused(text, plant, site="h", seed=0):
    graph = parse(text)
    params = random_params(graph, seed)
    plant(params)
    verdict = plan(RemoveDeadUnits(site), graph, Context(params)).verdict
    assert isinstance(verdict, Refused), str(verdict)
    return verdict.reason


def zero_rows(*units, bias=None, layer="h"):
    def plant(params):
        params[f"{layer}.weight"][list(units)] = 0
        if bias is not None:
            params[f"{layer}.bias"][list(units)] = bias

    return plant


@pytest.mark.parametrize("function", ["relu", "tanh", "sigmoid", "softplus", "gelu", "leaky_relu", "identity"])
@pytest.mark.parametrize("batch", [1, 3])
def test_constant_units_go_and_the_bias_takes_over(function, batch):
    morphism, params = removed(DENSE.format(function), zero_rows(1, 3), batch=batch)
    assert morphism.after.widths["h"] == 3
    inputs = random_inputs(morphism.before, 0)
    assert gradient_error(morphism, params, inputs) < 1e-12, "what is carried keeps its gradient"


def test_dead_relus_leave_nothing_behind():
    def plant(params):
        params["h.bias"][:] = 3.0
        params["h.weight"][2], params["h.bias"][2] = -np.abs(params["h.weight"][2]), -0.5

    text = "net n(x: [4]) { return x |> a: dense(3) |> sigmoid |> h: dense(5) |> relu |> o: dense(2, bias = false) }"
    morphism, _ = removed(text, plant)
    assert morphism.edits["h"].tolist() == [0, 1, 3, 4]
    assert "plus" not in str(morphism)


def test_the_row_may_be_switched_off_by_its_mask():
    text = "net n(x: [4]) { return x |> h: dense(5, masked = true) |> tanh |> o: dense(2, masked = true) }"

    def plant(params):
        params["h.mask"][:] = 1
        params["h.mask"][[0, 4]] = 0
        params["o.weight"][:] = 1.0  # also where the mask is off

    morphism, _ = removed(text, plant)
    assert morphism.edits["h"].tolist() == [1, 2, 3]


def test_behind_a_batch_norm_whose_gain_is_zero():
    def plant(params):
        params["n.weight"][1], params["n.bias"][1] = 0, 0.8
        params["n.weight"][2], params["n.bias"][2] = 0, -0.8

    text = IMAGE.format("n: batchnorm |> relu |> o: conv(3, kernel = 3) |> flatten |> dense(2)")
    morphism, _ = removed(text, plant)
    assert morphism.edits["h"].tolist() == [0, 3]
    assert "no unit of `h` is provably constant" in refused(text, zero_rows(1, bias=0.5)), "the modes would differ"


@pytest.mark.parametrize("reader", ["o: conv(3, kernel = 3) |> flatten", "flatten", "maxpool(2) |> flatten", "avgpool"])
def test_channels(reader):
    morphism, _ = removed(IMAGE.format(f"tanh |> {reader} |> dense(2)"), zero_rows(0, 2))
    assert morphism.edits["h"].tolist() == [1, 3]


def test_at_a_border_only_zeros_go():
    text = IMAGE.format("tanh |> o: conv(3, kernel = 3, padding = 1) |> flatten |> dense(2)")
    reason = refused(text, zero_rows(0, 2))
    assert reason == (
        "no unit of `h` is provably constant and can go; "
        "units 0, 2: `o` reads zeros beside the border, where the constant is missing"
    )
    morphism, _ = removed(text, lambda p: (zero_rows(0, 2)(p), zero_rows(2, bias=0)(p)))
    assert morphism.edits["h"].tolist() == [0, 1, 3]
    assert "staying: unit 0: `o` reads zeros beside the border" in morphism.summary


def test_a_border_a_mean_counts():
    text = IMAGE.format("tanh |> avgpool(3, stride = 1, padding = 1) |> flatten |> dense(2)")
    assert "provably constant" in refused(text, zero_rows(1))


def test_a_reader_needs_a_bias():
    text = "net n(x: [4]) { return x |> h: dense(5) |> tanh |> o: dense(2, bias = false) }"
    assert "unit 1: `o` has no bias to take over what it reads of them" in refused(text, zero_rows(1))
    removed(text, lambda p: (zero_rows(1)(p), p["o.weight"][:, 1].fill(0)))
    removed(text, zero_rows(1, bias=0))


def test_groups_are_read_by_no_bias():
    text = IMAGE.format("tanh |> g: conv(4, kernel = 1, groups = 2) |> avgpool |> dense(2)")
    assert "`g` reads them in groups" in refused(text, zero_rows(0, 2), "g.reads")
    removed(text, zero_rows(0, 2, bias=0), "g.reads")


def test_whole_groups_go_if_what_they_make_is_constant():
    text = IMAGE.format(
        "tanh |> g: conv(4, kernel = 1, groups = 2) |> relu |> o: conv(2, kernel = 1) |> avgpool |> dense(2)"
    )
    morphism, _ = removed(text, zero_rows(2, 3, layer="g"), "g.groups")
    assert morphism.after.shape("h") == (2, 5, 5)
    morphism, _ = removed(text, zero_rows(2, 3), "g.groups")
    assert morphism.after.shape("g") == (2, 5, 5), "rows that read constants only are constants"
    assert "provably constant" in refused(text, zero_rows(1, 2), "g.groups")


def test_depthwise_filters():
    text = IMAGE.format("relu |> d: depthwise(kernel = 3) |> relu |> o: conv(2, kernel = 1) |> avgpool |> dense(2)")
    removed(text, zero_rows(1, 2, layer="d"))
    removed(text, zero_rows(1, 2))


def test_of_a_residual_stream_all_writers_must_be_constant():
    text = "net n(x: [4]) { return x |> h: dense(5) |> residual { a: dense(3) |> relu |> b: dense(5) } |> tanh |> o: dense(2) }"
    morphism, _ = removed(text, lambda p: (zero_rows(0, 1)(p), zero_rows(1, 2, layer="b")(p)))
    assert morphism.edits["h"].tolist() == [0, 2, 3, 4]
    assert "provably constant" in refused(text, zero_rows(0, 1))


def test_a_layer_that_reads_and_writes_the_stream():
    text = "net n(x: [4]) { return x |> h: dense(5) |> residual { a: dense(5) } |> tanh |> o: dense(2) }"
    morphism, _ = removed(text, lambda p: (zero_rows(3)(p), zero_rows(3, layer="a")(p)))
    assert dict(morphism.transfers["a.bias"].plus.options)["rows"] == (0, 1, 2, 4)


def test_two_readers_each_take_over_their_own():
    text = "net n(x: [4]) { t = x |> h: dense(5) |> tanh  a = dense(t, 3)  b = dense(t, 3) |> relu  return a + b }"
    morphism, _ = removed(text, zero_rows(2))
    assert morphism.transfers["a.bias"].plus != morphism.transfers["dense_1.bias"].plus


def test_a_tied_layer():
    text = "net n(x: [5]) { return x |> a: dense(5) |> tanh |> b: dense(5, tied = a) |> tanh |> dense(2) }"
    graph = parse(text)
    params = random_params(graph, 0)
    params["a.weight"][3] = 0
    verdict = plan(RemoveDeadUnits("a"), graph, Context(params)).verdict
    assert isinstance(verdict, Refused)
    text = (
        "net n(x: [4], y: [4]) { p = x |> h: dense(5) |> tanh |> o: dense(3)"
        "  q = y |> g: dense(5, tied = h) |> tanh |> dense(3, tied = o)  return p + q }"
    )
    morphism, _ = removed(text, zero_rows(3))
    assert morphism.after.shape("g") == (4,)
    other = text.replace("g: dense(5, tied = h) |> tanh", "g: dense(5, tied = h) |> sigmoid")
    assert "`o.bias` is tied and cannot take over what differs between its uses" in refused(other, zero_rows(3))


def test_units_normalised_with_others_stay():
    text = "net n(x: [4]) { return x |> h: dense(5) |> layernorm |> o: dense(2) }"

    def plant(params):
        zero_rows(1)(params)
        params["layernorm_1.weight"][1] = 0

    assert "`layernorm_1` normalises over units of `h`, which loses 1" in refused(text, plant)


def test_one_unit_stays():
    morphism, _ = removed(DENSE.format("tanh"), zero_rows(0, 1, 2, 3, 4))
    assert morphism.edits["h"].tolist() == [0]
    text = "net n(x: [4]) { return x |> h: dense(1) |> tanh |> o: dense(2) }"
    assert "unit 0: one unit of an axis must stay" in refused(text, zero_rows(0))


def test_parts_of_a_concatenation_lose_their_own():
    text = "net n(x: [4]) { a = dense(x, 3)  b = dense(x, 4)  c = concat(a, b) |> tanh  return dense(c, 2) }"
    morphism, _ = removed(text, lambda p: (zero_rows(1, layer="a")(p), zero_rows(2, layer="b")(p)), "c")
    assert {k: v.tolist() for k, v in morphism.edits.items()} == {"a": [0, 2], "b": [0, 1, 3]}


def test_dropout_lets_zeros_through_and_makes_it_exact_in_evaluation():
    text = DENSE.format("relu |> dropout(p = 0.5)")
    removed(text, zero_rows(1, bias=-1), mode="eval")
    assert "provably constant" in refused(text, zero_rows(1, bias=1))


@pytest.mark.parametrize(
    ("rewrite", "reason"),
    [
        (RemoveDeadUnits(), "no axis was named"),
        (RemoveDeadUnits("h"), "no unit of `h` is provably constant"),
        (RemoveDeadUnits("x"), "interface"),
        (RemoveDeadUnits("o"), "interface"),
        (RemoveDeadUnits("nothing"), "no axis or node is called `nothing`"),
        (RemoveDeadUnits("h", tolerance=0.1), "goes with `evidence = data`"),
        (RemoveDeadUnits("h", "data"), "none were recorded"),
    ],
)
def test_refusals(rewrite, reason):
    graph = parse(DENSE.format("tanh"))
    verdict = plan(rewrite, graph, Context(random_params(graph, 0))).verdict
    assert isinstance(verdict, Refused)
    assert reason in verdict.reason


def test_without_parameters_nothing_is_known():
    assert "parameters" in plan(RemoveDeadUnits("h"), parse(DENSE.format("tanh"))).verdict.reason


# evidence from data --------------------------------------------------------------------------------------------------


def on_data(plant, tolerance=0.0, function="relu", seed=0):
    graph = parse(DENSE.format(function))
    params = random_params(graph, seed)
    plant(params)
    inputs = random_inputs(graph, seed, 6)
    return planned(RemoveDeadUnits("h", "data", tolerance), graph, params, inputs, seed), params, inputs


def test_what_is_dead_on_the_batch_goes_and_nothing_is_claimed():
    result, params, inputs = on_data(lambda p: p["h.bias"].__setitem__(2, -100.0))
    assert isinstance(result.verdict, Changes)
    assert result.morphism.edits["h"].tolist() == [0, 1, 3, 4]
    assert output_error(result.morphism, params, inputs) < 1e-12, "on the batch it is what it was"
    assert output_error(result.morphism, params, {"x": 100 * np.sign(params["h.weight"][2]) + inputs["x"]}) > 1e-3


def test_what_is_provable_is_proved_on_data_as_well():
    result, _, _ = on_data(zero_rows(1, 2), function="tanh")
    assert result.verdict == Exact()
    assert result.morphism.edits["h"].tolist() == [0, 3, 4]


def test_the_tolerance_is_a_variance_and_the_mean_takes_over():
    def plant(params):
        params["h.weight"][4] = 1e-4

    result, params, inputs = on_data(plant, 1e-4, "tanh")
    assert isinstance(result.verdict, Changes)
    assert result.morphism.edits["h"].tolist() == [0, 1, 2, 3]
    assert 0 < output_error(result.morphism, params, inputs) < 1e-2
    assert isinstance(on_data(plant, 1e-12, "tanh")[0].verdict, Refused)


def test_a_batch_may_be_given_to_a_live_network():
    net = build(DENSE.format("relu"), dtype=torch.float64)
    with torch.no_grad():
        net.params["h.bias"][1] = -1e3
    batch = torch.randn(8, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    before = net(batch).detach()
    receipt = net.rewrite(RemoveDeadUnits("h", "data"), batch=(batch,))
    assert receipt.applied
    torch.testing.assert_close(net(batch).detach(), before, rtol=1e-12, atol=1e-12)


# live networks and laws ----------------------------------------------------------------------------------------------


def test_a_trained_network_in_single_precision_goes_on_training():
    net = build("net n(x: [4]) { return x |> h: dense(6) |> tanh |> o: dense(2) }", dtype=torch.float32)
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-2)
    net.track(optimizer)
    x = torch.randn(16, 4, generator=torch.Generator().manual_seed(1))
    for _ in range(3):
        optimizer.zero_grad()
        net(x).square().sum().backward()
        optimizer.step()
    with torch.no_grad():
        net.params["h.weight"][[0, 5]] = 0
    before, moments = net(x).detach(), optimizer.state[net.params["o.bias"]]["exp_avg"].clone()
    receipt = net.rewrite(RemoveDeadUnits("h"), batch=(x,))
    assert receipt.verdict == Exact()
    torch.testing.assert_close(net(x).detach(), before)
    assert net.params["h.weight"].shape == (4, 4)
    assert torch.equal(optimizer.state[net.params["o.bias"]]["exp_avg"], moments)
    optimizer.zero_grad()
    net(x).square().sum().backward()
    optimizer.step()


def test_frozen_parameters_stay_frozen():
    net = build(DENSE.format("tanh"), dtype=torch.float64)
    with torch.no_grad():
        net.params["h.weight"][2] = 0
    net.params["o.bias"].requires_grad_(False)
    assert net.rewrite(RemoveDeadUnits("h")).applied
    assert not net.params["o.bias"].requires_grad


@st.composite
def planted(draw):
    graph = draw(graphs())
    editable = editable_axes(graph)
    site = draw(st.sampled_from(editable)) if editable else "x"
    rewrite = draw(
        st.sampled_from([RemoveDeadUnits(site), RemoveDeadUnits(site, "data"), RemoveDeadUnits(site, "data", 0.1)])
    )
    return DeadUnits(graph, rewrite, draw(st.integers(0, 10**6)), draw(st.integers(2, 4)))


@settings(suppress_health_check=list(HealthCheck))
@given(planted())
def test_laws_on_random_programs_with_dead_units(case):
    for law in LAWS:
        law(case)


def test_random_programs_have_dead_units_that_go():
    found = []

    @settings(max_examples=60, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
    @given(planted())
    def run(case):
        found.append(case.plan().verdict)

    run()
    assert sum(v.preserves for v in found) >= 10
    assert sum(isinstance(v, Changes) for v in found) >= 1


def test_check_pass():
    check_pass(RemoveDeadUnits)


@pytest.mark.parametrize("law", [verdict_is_sound])
def test_a_bias_that_takes_over_too_much_breaks_a_law(monkeypatch, law):
    """Negative control: were the verdict planted as well, the numbers would object."""
    from irgrow import computing
    from irgrow.passes import Prover

    real = computing.RULES["read_constants"]
    monkeypatch.setitem(computing.RULES, "read_constants", lambda *a, **k: 2 * real(*a, **k))
    graph = parse(DENSE.format("tanh"))
    case = DeadUnits(graph, RemoveDeadUnits("h"), next(s for s in range(50) if _folds(graph, s)))
    assert isinstance(case.plan().verdict, Refused), "the prover sees it"
    monkeypatch.setattr(Prover, "verdict", lambda self: Exact())
    with pytest.raises(Broken):
        law(case)


def _folds(graph, seed):
    morphism = plan(RemoveDeadUnits("h", "data"), graph, _context(graph, seed)).morphism
    return morphism is not None and "plus" in str(morphism)


def _context(graph, seed):
    from irgrow.backends import interpret

    params = DeadUnits(graph, Pass(), seed).params
    return Context(params, seed, interpret(graph, params, random_inputs(graph, seed)).values)


def test_gradients_of_what_stays_are_what_they_were():
    graph = parse(DENSE.format("sigmoid"))
    params = random_params(graph, 0)
    params["h.weight"][1] = 0
    morphism = plan(RemoveDeadUnits("h"), graph, Context(params)).morphism
    assert gradient_error(morphism, params, random_inputs(graph, 0)) < 1e-12
    gradients_follow(DeadUnits(graph, RemoveDeadUnits("h"), 3))
