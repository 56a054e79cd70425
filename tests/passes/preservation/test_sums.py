"""Sums compared number by number: what was taken over rightly is proved, what was forged is not."""

from dataclasses import replace

import helpers
import numpy as np
import pytest
from helpers import net, verdict

from irgrow.backends import random_params
from irgrow.fills import ZERO, Given, Normal
from irgrow.morphism import Compute, Select
from irgrow.passes import prove
from irgrow.passes.absorbing import taken_over
from irgrow.passes.preservation.sums import NewParams
from irgrow.testing.numbers import carried
from irgrow.verdict import Changes, Exact

GRAPH = net("h: dense(4) |> tanh |> o: dense(2)")


def resized(*args, **options):
    """Return a rewrite that asks for a proof by numbers."""
    return replace(helpers.resized(*args, **options), by_numbers=True)


def constant(graph=GRAPH, unit=1, bias=None):
    """Return parameters in which a unit of `h` is a constant, and what it is behind the tanh."""
    params = random_params(graph, 2)
    params["h.weight"][unit] = 0
    if bias is not None:
        params["h.bias"][unit] = bias
    return params, float(np.tanh(params["h.bias"][unit]))


def without(graph, *units):
    return resized(graph, h=[u for u in range(graph.widths["h"]) if u not in units])


def read(values, units=(1,), weight="o.weight"):
    return Compute("read_constants", (weight,), (("units", units), ("values", values)))


def test_nothing_is_read_unless_it_is_asked_for():
    """Reading all numbers takes as long as the network is large, so plain pruning does without."""
    params, _ = constant(bias=0.0)
    assert prove(without(GRAPH, 1), params) == Exact()
    assert isinstance(prove(replace(without(GRAPH, 1), by_numbers=False), params), Changes)


def test_a_constant_goes_if_the_bias_takes_over():
    params, c = constant()
    assert verdict(taken_over(without(GRAPH, 1), {"o.bias": read((c,))}), params) == Exact()
    assert verdict(taken_over(without(GRAPH, 1), {"o.bias": Given(params["o.weight"][:, 1] * c)}), params) == Exact()
    found = verdict(without(GRAPH, 1), params)
    assert isinstance(found, Changes)
    assert "reads 1 unit that is gone" in found.reason


@pytest.mark.parametrize(
    "plus",
    [
        lambda c: {"o.bias": read((c,), (2,))},
        lambda c: {"o.bias": read((c + 1e-6,))},
        lambda c: {"o.bias": read((-c,))},
        lambda c: {"h.bias": Given(np.full(3, 0.1))},
    ],
    ids=["units", "values", "sign", "another bias"],
)
def test_what_was_forged_is_not_proved(plus):
    """Negative controls."""
    params, c = constant()
    assert isinstance(verdict(taken_over(without(GRAPH, 1), plus(c)), params), Changes)


def test_the_weights_of_another_layer_prove_nothing():
    graph = net("h: dense(4) |> tanh |> a: dense(4) |> tanh |> o: dense(4) |> dense(2)")
    params = random_params(graph, 2)
    params["a.weight"][1] = 0
    c = float(np.tanh(params["a.bias"][1]))
    right, wrong = (
        taken_over(resized(graph, a=[0, 2, 3]), {"o.bias": read((c,), weight=name)})
        for name in ("o.weight", "a.weight")
    )
    assert verdict(right, params) == Exact()
    assert isinstance(verdict(wrong, params), Changes)


def test_a_unit_that_lives_does_not_go_whatever_the_bias_gains():
    params = random_params(GRAPH, 2)
    assert isinstance(verdict(taken_over(without(GRAPH, 1), {"o.bias": read((0.5,))}), params), Changes)


def test_a_unit_that_is_always_zero_goes_without_a_trace():
    params, c = constant(bias=0.0)
    assert c == 0
    assert verdict(without(GRAPH, 1), params) == Exact()
    assert isinstance(verdict(without(GRAPH, 2), params), Changes)
    graph = net("a: dense(3) |> sigmoid |> h: dense(3) |> relu |> o: dense(2)")
    params = random_params(graph, 0)
    params["h.weight"][2], params["h.bias"][2] = -1.0, 0.0
    assert verdict(without(graph, 2), params) == Exact()


@pytest.mark.parametrize(("padding", "kernel"), [(0, 3), (1, 3), (2, 5)])
def test_at_a_border_a_constant_is_missing(padding, kernel):
    graph = net(
        f"h: conv(3, kernel = 1) |> tanh |> o: conv(2, kernel = {kernel}, padding = {padding}) |> conv(1, kernel = 1)",
        "x: [2, 6, 6]",
    )
    params, c = constant(graph)
    found = verdict(taken_over(without(graph, 1), {"o.bias": read((c,))}), params)
    assert found == Exact() if padding == 0 else isinstance(found, Changes)
    params["h.bias"][1] = 0
    assert verdict(without(graph, 1), params) == Exact(), "zeros are what the border is"


def test_zeros_in_groups_and_masks():
    graph = net(
        "h: conv(4, kernel = 1) |> tanh |> g: conv(4, kernel = 1, groups = 2) |> avgpool |> dense(2)", "x: [2, 3, 3]"
    )
    params = random_params(graph, 0)
    for unit in (1, 3):
        params["h.weight"][unit], params["h.bias"][unit] = 0, 0
    assert verdict(resized(graph, g_DOT_reads=[0]), params) == Exact()
    params["h.bias"][3] = 0.5
    assert isinstance(verdict(resized(graph, g_DOT_reads=[0]), params), Changes)
    masked = net("h: dense(4) |> tanh |> o: dense(2, masked = true) |> dense(2)")
    params, c = constant(masked)
    params["o.weight"][:], params["o.mask"][:] = 1.0, 1.0
    params["o.mask"][0, 1] = 0
    names = Compute("read_constants", ("o.weight", "o.mask"), (("units", (1,)), ("values", (c,))))
    assert verdict(taken_over(without(masked, 1), {"o.bias": names}), params) == Exact()
    assert isinstance(verdict(taken_over(without(masked, 1), {"o.bias": read((c,))}), params), Changes)


def test_columns_that_take_over_copies():
    graph = net("h: dense(4) |> relu |> o: dense(2)")
    params = random_params(graph, 1)
    for name in ("h.weight", "h.bias"):
        params[name][3] = 2.5 * params[name][1]

    def merged(times, into=1, units=(3,)):
        options = ("units", units), ("into", (into,)), ("times", (times,)), ("columns", 3)
        return taken_over(without(graph, 3), {"o.weight": Compute("merge_columns", ("o.weight",), options)})

    assert verdict(merged(2.5), params) == Exact()
    for forged in (merged(1.0), merged(2.5 + 1e-6), merged(2.5, into=2), merged(2.5, units=(2,))):
        assert isinstance(verdict(forged, params), Changes)
    other = net("h: dense(4) |> tanh |> o: dense(2)")
    options = ("units", (3,)), ("into", (1,)), ("times", (2.5,)), ("columns", 3)
    curved = taken_over(without(other, 3), {"o.weight": Compute("merge_columns", ("o.weight",), options)})
    assert isinstance(verdict(curved, params), Changes)


def test_new_constants_are_known_from_the_numbers_that_were_drawn():
    graph = net("h: dense(3) |> sigmoid |> o: dense(2)")
    params = random_params(graph, 0)
    grown = resized(graph, reads=Normal(1.0), h=[0, 1, 2, -1, -1])
    new = carried(grown, params)["o.weight"][:, 3:]
    assert verdict(taken_over(grown, {"o.bias": Given(-0.5 * new.sum(1))}), params) == Exact()
    assert isinstance(verdict(taken_over(grown, {"o.bias": Given(0.5 * new.sum(1))}), params), Changes)
    alive = resized(graph, makes=Normal(1.0), reads=Normal(1.0), h=[0, 1, 2, -1, -1])
    assert isinstance(verdict(taken_over(alive, {"o.bias": Given(-0.5 * new.sum(1))}), params), Changes)


def test_what_is_exact_in_evaluation_only():
    graph = net("h: dense(3) |> sigmoid |> dropout |> o: dense(2)")
    params = random_params(graph, 0)
    params["h.weight"][0] = 0
    c = 1 / (1 + np.exp(-params["h.bias"][0]))
    from irgrow.passes import prove

    assert prove(taken_over(without(graph, 0), {"o.bias": read((float(c),), (0,))}), params) == Exact("eval")


def test_other_terms_are_told_apart_from_rounding():
    params, c = constant()
    off = np.zeros(2)
    off[1] = 1e-12
    plus = {"o.bias": Given(params["o.weight"][:, 1] * c + off)}
    from irgrow.passes import prove

    assert isinstance(prove(taken_over(without(GRAPH, 1), plus), params), Changes)


def test_new_parameters_are_those_the_transfers_make():
    params = random_params(GRAPH, 0)
    morphism = resized(GRAPH, makes=Normal(1.0), reads=Normal(1.0), h=[0, 1, 3, -1])
    made, wanted = NewParams(morphism, params), carried(morphism, params)
    assert set(made) == set(wanted)
    assert len(made) == len(wanted)
    for name, value in wanted.items():
        np.testing.assert_array_equal(made[name].numpy(), value)


def test_a_plus_makes_a_parameter_another_one_everywhere_else():
    graph = net(
        "h: conv(3, kernel = 1) |> batchnorm |> scale |> depthwise(kernel = 1) |> conv(1, kernel = 1)", "x: [2, 3, 3]"
    )
    params = random_params(graph, 0)
    for name in ("batchnorm_1.weight", "scale_1.weight", "depthwise_1.bias", "batchnorm_1.running_mean"):
        morphism = resized(graph, h=[0, 1, 2])
        found = morphism.transfers[name]
        assert isinstance(found, Select)
        assert found.fills == (ZERO,)
        changed = taken_over(morphism, {name: Given(np.full(3, 0.25))})
        assert isinstance(verdict(changed, params), Changes), name
