"""DYNO's pruning trigger: how far the dimension of activity fell since the last change."""

from fractions import Fraction
from math import floor

import pytest
from shares import run, view

from irgrow.errors import OptionError
from irgrow.grammar import parse
from irgrow.passes import DynoGrow, DynoPrune, View


@pytest.mark.parametrize("width", [1, 8, 33, 100])
@pytest.mark.parametrize("delta", [0.01, 0.03, 0.25, 0.5])
def test_the_count_is_that_of_the_formula_in_exact_arithmetic(width, delta):
    for before in {width, max(1, width // 2)}:
        for now in {0, width // 3, before}:
            exact = floor((1 - Fraction(str(delta))) * before - now)
            assert run(DynoPrune(delta), [before, now], width) == [0, max(0, exact)]


def test_nothing_goes_at_the_first_look_unless_a_baseline_is_given():
    assert run(DynoPrune(), [2, 2]) == [0, 0]
    assert run(DynoPrune(baseline=1.0), [2]) == [5], "floor(0.97 * 8 - 2)"
    assert run(DynoPrune(baseline=1.0), [0]) == [7]


def test_a_layer_is_never_emptied():
    for width in (1, 2, 8, 50):
        assert run(DynoPrune(1e-12, baseline=1.0), [0], width) == [width - 1]


@pytest.mark.parametrize(
    ("trigger", "left"),
    [({}, 1), ({"least_dense": 5}, 5), ({"least_dense": 0}, 3), ({"share": 0.3}, 3), ({"share": 1.0}, 8)],
)
def test_what_dense_layers_and_shares_keep(trigger, left):
    assert run(DynoPrune(1e-12, baseline=1.0, **trigger), [0]) == [8 - left]


def test_a_convolution_is_not_a_dense_layer():
    graph = parse("net n(x: [1, 9]) { return x |> h: conv(8, kernel = 3) |> relu |> flatten |> dense(3) }")
    trigger = DynoPrune(1e-12, baseline=1.0, least_dense=5)
    record = view(0).recorded["r"]
    assert trigger.wanted(View(graph, recorded={"relu_1": record}), "h", {}) == 7


def test_the_share_is_of_the_width_at_the_first_look():
    memory = {}
    trigger = DynoPrune(1e-12, share=0.5)
    assert run(trigger, [16], 16, memory) == [0]
    trigger.settle(view(10, 10), "h", memory)
    assert run(trigger, [0], 10, memory) == [2], "8 of the first 16 stay"


def test_the_printed_minimum_would_never_prune():
    """Negative control: min(0, .) is never above zero, and what falls is what is counted."""
    assert run(DynoPrune(), [8, 4]) == [0, 3]
    assert min(0, 3) == 0


def test_both_triggers_know_the_same_dimension_after_a_change():
    prune, grow, one, two = DynoPrune(), DynoGrow(), {}, {}
    for trigger, memory in ((prune, one), (grow, two)):
        trigger.wanted(view(8), "h", memory)
        trigger.settle(view(4, 6), "h", memory)
        assert memory == {"phi": 4 / 6, "width": 6}
    assert run(prune, [4, 2], 6, one) == [0, 1]
    assert run(grow, [4, 6], 6, two) == [0, 1]


def test_units_changed_by_somebody_else_are_measured_at_the_next_look():
    memory = {}
    assert run(DynoPrune(baseline=1.0), [8], memory=memory) == [0]
    assert run(DynoPrune(baseline=1.0), [3, 2], 10, memory) == [0, 0]
    assert memory["phi"] == 0.3


def test_a_change_without_activity_is_measured_at_the_next_look():
    memory = {}
    trigger = DynoPrune(baseline=1.0)
    run(trigger, [8], memory=memory)
    trigger.settle(View(view(8).graph), "h", memory)
    assert run(trigger, [5, 2], memory=memory) == [0, 2]


def test_without_data_and_where_there_is_none():
    assert DynoPrune().fresh
    assert DynoPrune().wanted(View(view(8).graph), "h", {}) == 0
    with pytest.raises(OptionError, match="dyno_prune needs layers that make units, `x` has none"):
        DynoPrune().watches(view(8).graph, "x")
