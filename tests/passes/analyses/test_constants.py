"""Constant units: what is proved holds in the numbers, and what is easily seen is proved."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from irgrow.backends import interpret, random_params
from irgrow.grammar import parse
from irgrow.passes.analyses import constants
from irgrow.passes.analyses.constants import Constants
from irgrow.testing import graphs
from irgrow.testing.numbers import is_stochastic, random_inputs
from irgrow.testing.planting import with_dead_units


def net(body, shape="[4]"):
    return parse(f"net n(x: {shape}) {{ return x |> {body} }}")


def found(graph, name, params, evaluation=False):
    return Constants(graph, params, evaluation).of(name)


def lines(graph, name, value):
    """Return a value as (units, entries)."""
    moved = np.moveaxis(value, 1 + graph.types[name].unit_dim, 0)
    return moved.reshape(len(moved), -1)


def check(graph, params, seed=0, batch=4, spread=5.0):
    """Hold all claims against what the interpreter gives; return how many units were said to be constant."""
    inputs = {k: v * spread if v.dtype.kind == "f" else v for k, v in random_inputs(graph, seed, batch).items()}
    count = 0
    for training in (False,) if is_stochastic(graph) else (False, True):
        values = interpret(graph, params, inputs, training).values
        for evaluation in (False,) if training else (False, True):
            analysis = Constants(graph, params, evaluation)
            for node in graph:
                if graph.types[node.name].ids is not None:
                    continue
                seen, claimed = lines(graph, node.name, values[node.name]), analysis.of(node.name)
                bounds = analysis.bounds(node.name)
                slack = 1e-9 * (1 + np.abs(seen))
                assert (seen >= bounds.low[:, None] - slack).all(), f"{node.name} goes below its bound\n{graph}"
                assert (seen <= bounds.high[:, None] + slack).all(), f"{node.name} goes above its bound\n{graph}"
                sure = ~np.isnan(claimed)
                np.testing.assert_allclose(
                    seen[sure], np.broadcast_to(claimed[sure, None], seen[sure].shape), 1e-10, 1e-10
                )
                count += int(sure.sum())
    return count


@given(graphs(), st.integers(0, 10**6))
def test_what_is_proved_holds(graph, seed):
    check(graph, with_dead_units(graph, seed), seed)


def test_random_programs_hold_constants_to_be_found():
    counts = []

    @settings(max_examples=40, derandomize=True, database=None)
    @given(graphs(), st.integers(0, 100))
    def run(graph, seed):
        counts.append(check(graph, with_dead_units(graph, seed), seed))

    run()
    assert sum(n > 0 for n in counts) > len(counts) // 2


@pytest.mark.parametrize(
    "broken",
    [
        {"pads": lambda graph, node: False},
        {"_product": lambda x, y: constants.Bounds(x.low * y.low, x.high * y.high)},
        {"_movement": lambda c, node, inputs: inputs[0]},
    ],
    ids=lambda b: next(iter(b)),
)
def test_a_wrong_rule_is_seen(monkeypatch, broken):
    """Negative control."""
    for name, value in broken.items():
        monkeypatch.setattr(constants, name, value)
        if name == "_movement":
            monkeypatch.setitem(constants._BY_COUPLING, constants.Coupling.MOVEMENT, value)

    @settings(max_examples=300, derandomize=True, database=None, deadline=None, report_multiple_bugs=False)
    @given(graphs(), st.integers(0, 10**6))
    def run(graph, seed):
        check(graph, with_dead_units(graph, seed), seed)

    with pytest.raises((AssertionError, ValueError, IndexError)):
        run()


def test_zero_rows_give_their_bias_and_activations_map_it():
    graph = net("h: dense(3) |> t: tanh |> s: sigmoid |> dense(1)")
    params = random_params(graph, 0)
    params["h.weight"][1] = 0
    bias = params["h.bias"][1]
    np.testing.assert_array_equal(found(graph, "h", params), [np.nan, bias, np.nan])
    np.testing.assert_allclose(found(graph, "s", params)[1], 1 / (1 + np.exp(-np.tanh(bias))), rtol=1e-14)


def test_masked_rows_are_zero_rows():
    graph = net("h: dense(3, masked = true) |> dense(1)")
    params = random_params(graph, 0)
    params["h.weight"][:] = 1.0
    params["h.mask"][:] = 1.0
    params["h.mask"][2] = 0.0
    assert np.isnan(found(graph, "h", params)).tolist() == [True, True, False]


def test_rows_that_read_constants_only():
    graph = net("a: dense(2) |> r: relu |> b: dense(2) |> dense(1)")
    params = random_params(graph, 0)
    params["a.weight"][0], params["a.bias"][0] = 0, 0.5
    params["b.weight"] = np.array([[2.0, 0.0], [2.0, 1e-9]])
    value = found(graph, "b", params)
    assert value[0] == pytest.approx(1.0 + params["b.bias"][0], rel=1e-15)
    assert np.isnan(value[1])


@pytest.mark.parametrize(
    ("body", "wanted"), [("relu", 0.0), ("relu6", 0.0), ("leaky_relu(slope = 0.0)", 0.0), ("hardtanh", -1.0)]
)
def test_inputs_below_the_bend(body, wanted):
    graph = net(f"a: dense(2) |> s: sigmoid |> h: dense(2) |> f: {body} |> dense(1)")
    params = random_params(graph, 0)
    params["h.weight"] = np.array([[-1.0, -2.0], [-1.0, 2.0]])
    params["h.bias"] = np.array([-1.0 if wanted else 0.0, 0.0])
    value = found(graph, "f", params)
    assert value[0] == wanted
    assert np.isnan(value[1])
    params["h.bias"][0] = 3.0
    assert np.isnan(found(graph, "f", params)).all()


def test_a_gelu_has_no_flat_part():
    graph = net("a: dense(2) |> s: sigmoid |> h: dense(1) |> f: gelu |> dense(1)")
    params = random_params(graph, 0)
    params["h.weight"][:], params["h.bias"][:] = -1.0, -2.0
    assert np.isnan(found(graph, "f", params)).all()
    params["h.weight"][:] = 0.0
    assert not np.isnan(found(graph, "f", params)).any()


def test_zero_padding_ends_a_constant_that_is_not_zero():
    for padding, kept in ((0, True), (1, False)):
        graph = net(
            f"a: conv(2, kernel = 1) |> b: conv(1, kernel = 3, padding = {padding}) |> conv(1, kernel = 1)", "[1, 5, 5]"
        )
        params = random_params(graph, 0)
        params["a.weight"][:] = 0
        assert np.isnan(found(graph, "b", params)).any() != kept
        params["a.bias"][:] = 0
        assert not np.isnan(found(graph, "b", params)).any()
        check(graph, params)


def test_a_batch_norm_is_constant_in_both_modes_or_not_at_all():
    graph = net("h: conv(4, kernel = 1) |> n: batchnorm |> conv(1, kernel = 1)", "[2, 3, 3]")
    params = random_params(graph, 0)
    params["h.weight"][1:] = 0  # constants from here on
    params["h.bias"][2] = 0
    params["n.weight"][3] = 0
    params["n.running_mean"][:] = [0.3, 0.3, 0.0, 0.3]
    shift = params["n.bias"]
    np.testing.assert_array_equal(found(graph, "n", params), [np.nan, np.nan, shift[2], shift[3]])
    assert np.isnan(found(graph, "n", params, evaluation=True)).tolist() == [True, False, False, False]
    check(graph, params)


def test_dropout_leaves_zeros_only_unless_it_is_off():
    graph = net("h: dense(2) |> d: dropout |> dense(1)")
    params = random_params(graph, 0)
    params["h.weight"][:] = 0
    params["h.bias"][:] = [0.0, 0.5]
    np.testing.assert_array_equal(found(graph, "d", params), [0.0, np.nan])
    np.testing.assert_array_equal(found(graph, "d", params, evaluation=True), [0.0, 0.5])


def test_a_stream_is_constant_where_all_that_write_to_it_are():
    graph = net("h: dense(3) |> residual { relu |> b: dense(3) } |> dense(1)")
    (last,) = graph["dense_1"].inputs
    params = random_params(graph, 0)
    params["h.weight"][[0, 1]] = 0
    params["b.weight"][[1, 2]] = 0
    assert np.isnan(found(graph, last, params)).tolist() == [True, False, True]
    check(graph, params)


def test_units_are_followed_through_flatten_concat_and_padding_of_units():
    graph = net(
        "h: conv(2, kernel = 1) |> c: concat { identity ; padunits(before = 1, after = 0) } |> f: flatten |> dense(1)",
        "[1, 2, 2]",
    )
    params = random_params(graph, 0)
    params["h.weight"][1] = 0
    bias = params["h.bias"][1]
    expected = np.array([np.nan, bias, 0.0, np.nan, bias])
    np.testing.assert_array_equal(found(graph, "f", params), expected.repeat(4))


def test_tables_of_embeddings():
    graph = parse("net n(x: ids(5)[3]) { return x |> e: embedding(3) |> p: positions |> dense(1) }")
    params = random_params(graph, 0)
    params["e.weight"][:, 1] = 0.25
    assert np.isnan(found(graph, "e", params)).tolist() == [True, False, True]
    assert np.isnan(found(graph, "p", params)).all()
    params["p.weight"][:, 1] = 1.0
    assert found(graph, "p", params)[1] == 1.25


def test_numbers_that_are_not_finite_prove_nothing():
    graph = net("h: dense(3) |> relu |> o: dense(2)")
    params = random_params(graph, 0)
    params["h.weight"][0], params["h.bias"][0] = 0, np.inf
    params["h.weight"][1] = np.nan
    assert np.isnan(found(graph, "h", params)).all()
    assert np.isnan(found(graph, "o", params)).all()
