"""Given numbers: rows, biases and columns of new units are those given, and bad ones are refused by name."""

import numpy as np
import pytest
import torch

from irgrow.backends import random_params
from irgrow.grammar import parse
from irgrow.network import build
from irgrow.passes import INITIALIZERS, Context, GivenUnits, GrowUnits, plan
from irgrow.testing.numbers import carried, output_error, random_inputs
from irgrow.verdict import Changes, Exact, Refused

GRAPH = parse("net n(x: [4]) { return x |> h: dense(5) |> tanh |> o: dense(3) }")
RNG = np.random.default_rng(0)
ROWS, BIAS, COLUMNS = RNG.normal(size=(2, 4)), RNG.normal(size=2), RNG.normal(size=(3, 2))


def grow(values, graph=GRAPH, site="h", count=2, zero="neither", seed=0):
    params = random_params(graph, seed)
    return plan(GrowUnits(site, count, GivenUnits(values), zero), graph, Context(params, 1)), params


def test_rows_biases_and_columns_are_those_given():
    result, params = grow({"h.weight": ROWS, "h.bias": BIAS, "o.weight": COLUMNS})
    assert isinstance(result.verdict, Changes)
    new = carried(result.morphism, params)
    np.testing.assert_array_equal(new["h.weight"], np.concatenate([params["h.weight"], ROWS]))
    np.testing.assert_array_equal(new["h.bias"], np.concatenate([params["h.bias"], BIAS]))
    np.testing.assert_array_equal(new["o.weight"], np.concatenate([params["o.weight"], COLUMNS], axis=1))
    inputs = random_inputs(GRAPH, 0)["x"]
    hidden = np.tanh(inputs @ new["h.weight"].T + new["h.bias"])
    np.testing.assert_allclose(
        hidden @ new["o.weight"].T + new["o.bias"],
        _outputs(result.morphism.after, new, inputs),
        rtol=1e-12,
    )


def _outputs(graph, params, x):
    from irgrow.backends import interpret

    return interpret(graph, params, {"x": x}).outputs[0]


def test_columns_of_zeros_are_exact_and_so_are_columns_that_are_left_out():
    for values in ({"h.weight": ROWS, "o.weight": np.zeros((3, 2))}, {"h.weight": ROWS, "h.bias": BIAS}):
        for zero in ("neither", "auto"):
            result, params = grow(values, zero=zero)
            assert result.verdict == Exact()
            assert output_error(result.morphism, params, random_inputs(GRAPH, 0)) < 1e-14


def test_units_that_are_constants_may_be_made_up_for_by_hand():
    graph = parse("net n(x: [4]) { return x |> h: dense(5) |> sigmoid |> o: dense(3) }")
    result, params = grow({"o.weight": COLUMNS}, graph)
    assert isinstance(result.verdict, Changes)
    result, params = grow({"o.weight": np.array([[1.0, -1.0], [2.0, -2.0], [0.5, -0.5]])}, graph)
    assert result.verdict == Exact(), "both new units are 1/2, and the columns cancel"
    assert output_error(result.morphism, params, random_inputs(graph, 0)) < 1e-12


def test_a_unit_that_could_never_learn_is_refused():
    assert "never receive a gradient" in grow({"h.bias": np.zeros(2)})[0].verdict.reason


def test_convolutions_norms_and_masks():
    graph = parse(
        "net n(x: [2, 4, 4]) { return x |> h: conv(3, kernel = 3, padding = 1, masked = true) |> n: batchnorm |> relu"
        " |> o: conv(2, kernel = 3, padding = 1) }"
    )
    mask = np.ones((1, 2, 3, 3))
    mask[0, 0] = 0
    values = {
        "h.weight": np.full((1, 2, 3, 3), 0.5) * mask,
        "h.mask": mask,
        "n.weight": np.array([2.0]),
        "n.running_mean": np.array([0.25]),
        "o.weight": np.zeros((2, 1, 3, 3)),
    }
    result, params = grow(values, graph, count=1)
    assert result.verdict == Exact()
    new = carried(result.morphism, params)
    for name, value in values.items():
        part = new[name][:, 3:] if name == "o.weight" else new[name][3:]
        np.testing.assert_array_equal(part, value)
    assert new["n.running_var"][3] == 1.0


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"h.weight": ROWS.T}, "new entries of `h.weight`: expected shape [2, 4], found [4, 2]"),
        ({"o.weight": COLUMNS[:, :1]}, "new entries of `o.weight`: expected shape [3, 2], found [3, 1]"),
        ({"o.bias": BIAS}, "`o.bias` gains no entries; those that do are h.weight, h.bias, o.weight"),
        ({"nothing": BIAS}, "`nothing` gains no entries"),
        ({"h.bias": np.array([1.0, np.nan])}, "expected finite numbers, found 1 others"),
        ({"h.bias": np.array([np.inf, np.nan])}, "expected finite numbers, found 2 others"),
        ({"h.bias": ["a", "b"]}, "not an array of numbers"),
    ],
)
def test_bad_numbers_are_refused_and_nothing_changes(values, reason):
    verdict = grow(values)[0].verdict
    assert isinstance(verdict, Refused)
    assert reason in verdict.reason
    net = build(GRAPH)
    before = {name: value.detach().clone() for name, value in net.params.items()}
    assert not net.rewrite(GrowUnits("h", 2, GivenUnits(values), "neither")).applied
    assert all(torch.equal(value, before[name]) for name, value in net.params.items())


def test_masks_are_zeros_and_ones():
    graph = parse("net n(x: [4]) { return x |> h: dense(5, masked = true) |> tanh |> o: dense(3) }")
    verdict = grow({"h.mask": np.full((2, 4), 0.5)}, graph)[0].verdict
    assert "expected zeros and ones" in verdict.reason


def test_a_weight_that_grows_both_ways_takes_no_numbers():
    graph = parse("net n(x: [4]) { return x |> h: dense(5) |> residual { a: dense(5) } |> o: dense(3) }")
    verdict = grow({"a.weight": np.zeros((2, 5))}, graph)[0].verdict
    assert "`a.weight` grows along dimensions 0 and 1; numbers go with one" in verdict.reason


@pytest.mark.parametrize("zero", ["fan_in", "mean"])
def test_zero_sides_leave_no_room(zero):
    assert f"leave `zero = {zero}` out" in grow({"h.weight": ROWS}, zero=zero)[0].verdict.reason


def test_it_is_for_python_and_compares_by_its_numbers():
    assert GivenUnits not in INITIALIZERS
    assert str(GrowUnits("h", 2, GivenUnits({"h.bias": BIAS}), "neither")) == (
        "grow_units(h, 2, init = given(h.bias), zero = neither)"
    )
    assert GivenUnits({"h.bias": BIAS}) == GivenUnits({"h.bias": BIAS.copy()})
    assert hash(GivenUnits({"h.bias": BIAS})) == hash(GivenUnits({"h.bias": BIAS + 1}))
    assert GivenUnits({"h.bias": BIAS}) != GivenUnits({"h.bias": BIAS + 1})
    assert GivenUnits({"h.bias": BIAS}) != GivenUnits({"h.weight": ROWS})


def test_torch_tensors_will_do_and_are_not_shared():
    net = build(GRAPH, dtype=torch.float64)
    rows = torch.ones(2, 4, dtype=torch.float64)
    assert net.rewrite(GrowUnits("h", 2, GivenUnits({"h.weight": rows}), "neither")).verdict == Exact()
    with torch.no_grad():
        net.params["h.weight"][5:] += 1
    assert torch.equal(rows, torch.ones(2, 4, dtype=torch.float64))
    net.undo()
    assert net.graph == GRAPH


def test_which_side_is_zero_the_numbers_say():
    result, _ = grow({"h.weight": ROWS}, zero="fan_out")
    assert "says itself which side of new units is zero" in result.verdict.reason
