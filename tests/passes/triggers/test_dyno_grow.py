"""DYNO's growing trigger, and the cap without which it could not grow."""

from fractions import Fraction
from math import floor

import pytest
from shares import run, view

from irgrow.errors import OptionError
from irgrow.passes import DynoGrow, View


@pytest.mark.parametrize("width", [1, 8, 33, 34, 100, 200])
def test_a_saturated_layer_wants_one_unit_whatever_it_was(width):
    """With phi* above 1 / (1 + delta) = 0.971 the text never grows; rounding must not eat the one unit either."""
    assert run(DynoGrow(), [width], width) == [1]
    assert run(DynoGrow(baseline=1.0), [width], width) == [1]
    assert run(DynoGrow(cap="none"), [width], width) == [0], "negative control: the text"


@pytest.mark.parametrize("cap", ["saturated", "none"])
def test_the_count_is_that_of_the_formula_in_exact_arithmetic(cap):
    for width in (10, 33, 100):
        for before in (1, width // 3, width - 1):
            for now in (before, before + 1, width):
                target = Fraction("1.03") * before
                target = min(target, Fraction(width - 1)) if cap == "saturated" else target
                first, then = run(DynoGrow(cap=cap), [before, now], width)
                assert first == 0
                assert then == max(0, floor(now - target))


def test_a_cap_of_ones_own():
    assert run(DynoGrow(most=0.5), [8]) == [4]
    assert run(DynoGrow(most=1.0), [8]) == [0]
    with pytest.raises(OptionError, match="give one of them"):
        DynoGrow(cap="none", most=0.5)


def test_the_baseline_is_that_after_the_last_change():
    trigger, memory = DynoGrow(), {}
    trigger.wanted(view(4), "h", memory)
    assert run(trigger, [7], memory=memory) == [2]
    trigger.settle(view(6, 10), "h", memory)
    assert run(trigger, [6, 7, 9], 10, memory) == [0, 0, 2]


def test_without_data():
    assert DynoGrow().fresh
    assert DynoGrow().wanted(View(view(8).graph), "h", {}) == 0
    assert str(DynoGrow(0.05, most=0.95)) == "dyno_grow(delta = 0.05, most = 0.95)"
