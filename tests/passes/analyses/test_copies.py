"""Copies and multiples of units: what is said holds in the numbers, and what was copied is found."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from irgrow.backends import interpret, random_params
from irgrow.grammar import parse
from irgrow.ops import BatchNorm, Coupling, Scale
from irgrow.passes.analyses import copies
from irgrow.passes.analyses.copies import Copies, folded, grouped
from irgrow.testing import graphs
from irgrow.testing.numbers import is_stochastic, random_inputs
from irgrow.testing.planting import with_copies, with_dead_units


def net(body, shape="[4]"):
    return parse(f"net n(x: {shape}) {{ return x |> {body} }}")


def alike(graph, name, params, **options):
    found = Copies(graph, params, **options).of(name)
    return found.first.tolist(), found.times.tolist()


def copied(graph, names, source, target, times=1.0, seed=0):
    """Return random parameters in which entry `target` of some of them is `times` the entry `source`."""
    params = random_params(graph, seed)
    for name in names:
        params[name][target] = times * params[name][source]
    return params


def check(graph, params, seed=0, batch=4):
    """Hold all claims against what the interpreter gives; return how many units were said to be multiples."""
    inputs, count = random_inputs(graph, seed, batch), 0
    for training in (False,) if is_stochastic(graph) else (False, True):
        values = interpret(graph, params, inputs, training).values
        for evaluation in (False,) if training else (False, True):
            analysis = Copies(graph, params, evaluation)
            for node in graph:
                if graph.types[node.name].ids is not None:
                    continue
                value = np.moveaxis(values[node.name], 1 + graph.types[node.name].unit_dim, 0).reshape(
                    graph.size(graph.types[node.name].units), -1
                )
                found = analysis.of(node.name)
                wanted = found.times[:, None] * value[found.first]
                scale = np.abs(value).max(initial=1.0)
                assert np.abs(value - wanted).max(initial=0.0) <= 1e-10 * scale, f"{node.name}: {found}\n{graph}"
                assert (found.first[found.first] == found.first).all()
                assert (found.times > 0).all()
                count += int((found.first != np.arange(len(value))).sum())
    return count


@given(graphs(), st.integers(0, 10**6), st.sampled_from([with_copies, with_dead_units]))
def test_what_is_said_holds(graph, seed, plant):
    check(graph, plant(graph, seed), seed)


def test_copies_are_found_on_random_programs():
    counts = []

    @settings(max_examples=40, derandomize=True, database=None)
    @given(graphs(), st.integers(0, 100))
    def run(graph, seed):
        counts.append(check(graph, with_copies(graph, seed, (1.0,)), seed))

    run()
    assert sum(n > 0 for n in counts) > len(counts) // 2


@pytest.mark.parametrize(
    ("kind", "broken"),
    [
        (Coupling.PER_UNIT, lambda c, node, inputs: None if c.graph.specs[node.name] else inputs[0]),
        (Coupling.SUM, lambda c, node, inputs: inputs[0]),
        (BatchNorm, lambda c, node, inputs: inputs[0]),
        (Scale, lambda c, node, inputs: inputs[0]),
    ],
)
def test_a_wrong_rule_is_seen(monkeypatch, kind, broken):
    """Negative control: every function hands multiples on, sums look at one side, norms and scales at nothing."""
    monkeypatch.setitem(copies._RULES if isinstance(kind, type) else copies._BY_COUPLING, kind, broken)

    @settings(max_examples=300, derandomize=True, database=None, deadline=None, report_multiple_bugs=False)
    @given(graphs(dropout=False), st.integers(0, 10**6))
    def run(graph, seed):
        params = with_copies(graph, seed, (2.5,))
        for name in [n for n in params if n.endswith(("running_mean",)) or "scale" in n]:
            params[name] = np.linspace(0.1, 0.9, params[name].size)
        check(graph, params, seed)

    with pytest.raises((AssertionError, ValueError)):
        run()


def test_equal_rows_make_equal_units_and_multiples_pass_a_relu_only():
    for function, wanted in (("relu", ([0, 1, 0], [1, 1, 2.5])), ("tanh", ([0, 1, 2], [1, 1, 1]))):
        graph = net(f"h: dense(3) |> f: {function} |> dense(1)")
        params = copied(graph, ("h.weight", "h.bias"), 0, 2, 2.5)
        assert alike(graph, "h", params) == ([0, 1, 0], [1, 1, 2.5])
        assert alike(graph, "f", params) == wanted
        assert alike(graph, "f", copied(graph, ("h.weight", "h.bias"), 0, 2)) == ([0, 1, 0], [1, 1, 1])


def test_negative_multiples_are_none():
    graph = net("h: dense(3) |> f: relu |> dense(1)")
    params = copied(graph, ("h.weight", "h.bias"), 0, 2, -1.0)
    assert alike(graph, "h", params)[0] == alike(graph, "f", params)[0] == [0, 1, 2]


def test_two_equal_multiples_of_another_one_are_copies_behind_a_tanh():
    graph = net("h: dense(4) |> f: tanh |> dense(1)")
    params = copied(graph, ("h.weight", "h.bias"), 0, 2, 3.0)
    for name in ("h.weight", "h.bias"):
        params[name][3] = params[name][2]
    assert alike(graph, "h", params)[0] == [0, 1, 0, 0]
    assert alike(graph, "f", params) == ([0, 1, 2, 2], [1, 1, 1, 1])


@pytest.mark.parametrize("name", ["n.weight", "n.bias", "n.running_mean", "n.running_var"])
def test_a_batch_norm_needs_equal_entries_and_statistics(name):
    graph = net("h: conv(3, kernel = 1) |> n: batchnorm |> r: relu |> conv(1, kernel = 1)", "[2, 3, 3]")
    everything = [n for n in graph.params if n.startswith(("h.", "n.")) and "tracked" not in n]
    params = copied(graph, everything, 0, 2)
    assert alike(graph, "r", params)[0] == [0, 1, 0]
    check(graph, params)
    params[name][2] *= 1.5
    assert alike(graph, "r", params)[0] == [0, 1, 2]


def test_gain_and_shift_may_be_multiples_but_not_what_a_norm_reads():
    graph = net("h: conv(3, kernel = 1) |> n: batchnorm |> r: relu |> conv(1, kernel = 1)", "[2, 3, 3]")
    everything = [n for n in graph.params if n.startswith(("h.", "n.")) and "tracked" not in n]
    params = copied(graph, everything, 0, 2)
    for name in ("n.weight", "n.bias"):
        params[name][2] *= 2
    assert alike(graph, "r", params) == ([0, 1, 0], [1, 1, 2])
    check(graph, params)
    for name in ("h.weight", "h.bias", "n.running_mean"):
        params[name][2] *= 2
    params["n.running_var"][2] *= 4
    assert alike(graph, "n", params)[0] == [0, 1, 2], "eps stands in the way"


def test_a_mask_is_part_of_a_row():
    graph = net("h: dense(2, masked = true) |> dense(1)")
    params = copied(graph, ("h.weight", "h.bias", "h.mask"), 0, 1)
    params["h.mask"][:] = 1.0
    params["h.weight"][:] = 0.5
    assert alike(graph, "h", params)[0] == [0, 0]
    params["h.mask"][1, 2] = 0
    assert alike(graph, "h", params)[0] == [0, 1]


def test_rows_are_compared_by_what_they_read_of_copies_together():
    graph = net("a: dense(2) |> relu |> b: dense(2) |> dense(1)")
    params = copied(graph, ("a.weight", "a.bias"), 0, 1)
    params["b.weight"] = np.array([[1.0, 2.0], [2.5, 0.5]])
    params["b.bias"][:] = 0.25
    assert alike(graph, "b", params)[0] == [0, 0]
    params["a.bias"][1] += 1e-6
    assert alike(graph, "b", params)[0] == [0, 1]


def test_positions_of_a_flattened_channel():
    graph = net("h: conv(2, kernel = 1) |> r: relu |> f: flatten |> dense(1)", "[1, 1, 3]")
    params = copied(graph, ("h.weight", "h.bias"), 0, 1, 2.0)
    assert alike(graph, "f", params) == ([0, 1, 2, 0, 1, 2], [1, 1, 1, 2, 2, 2])


def test_a_value_put_beside_itself():
    graph = parse("net n(x: [3]) { h = dense(x, 2)  c = concat(h, h)  return dense(c, 1) }")
    assert alike(graph, "c", random_params(graph, 0))[0] == [0, 1, 0, 1]


def test_dropout_parts_copies_unless_it_is_off():
    graph = net("h: dense(3) |> d: dropout |> dense(1)")
    params = copied(graph, ("h.weight", "h.bias"), 0, 2)
    assert alike(graph, "d", params)[0] == [0, 1, 2]
    assert alike(graph, "d", params, evaluation=True)[0] == [0, 1, 0]


def test_a_tolerance_takes_what_is_almost_a_multiple():
    graph = net("h: dense(3) |> dense(1)")
    params = copied(graph, ("h.weight", "h.bias"), 0, 2, 2.0)
    params["h.weight"][2, 1] += 1e-3
    assert alike(graph, "h", params)[0] == [0, 1, 2]
    first, times = alike(graph, "h", params, tolerance=1e-2)
    assert first == [0, 1, 0]
    assert times[2] == pytest.approx(2.0, abs=1e-2)


@given(st.integers(1, 40), st.integers(1, 200), st.integers(0, 1000))
def test_multiples_are_found_among_many_rows(rows, width, seed):
    rng = np.random.default_rng(seed)
    base = rng.normal(size=(rows, width)) + 0.1
    times, source = rng.uniform(0.1, 10.0, rows), rng.permutation(rows)
    vectors = np.concatenate([base, times[:, None] * base[source]])
    found = grouped(vectors, np.zeros((2 * rows, 1), dtype=np.int64), 2e-15, 0.0, True)
    if width > 1:
        assert found.first.tolist() == [*range(rows), *source.tolist()]
        np.testing.assert_allclose(found.times[rows:], times, rtol=1e-14)
    np.testing.assert_allclose(vectors, found.times[:, None] * vectors[found.first], rtol=1e-13)


def test_zero_rows_are_copies_of_each_other_only():
    vectors = np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 0.0], [1e-300, 0.0]])
    found = grouped(vectors, np.zeros((4, 1), dtype=np.int64), 1e-15, 0.0, True)
    assert found.first.tolist()[:3] == [0, 1, 0]
    assert found.first[3] != 0


def test_columns_are_folded_into_those_of_the_first():
    weight = np.array([[1.0, 10.0, 100.0, 1000.0]])
    found = copies.Alike(np.array([0, 1, 0, 0]), np.array([1.0, 1.0, 2.0, 3.0]))
    assert folded(weight, found).tolist() == [[3201.0, 10.0, 0.0, 0.0]]


def test_numbers_that_are_not_finite_are_like_nothing():
    graph = net("h: dense(3) |> dense(1)")
    params = copied(graph, ("h.weight", "h.bias"), 0, 2)
    params["h.weight"][[0, 2], 1] = np.nan
    assert alike(graph, "h", params)[0] == [0, 1, 2]
