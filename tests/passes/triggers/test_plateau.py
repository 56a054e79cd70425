"""Growth when learning stalls."""

import json

import pytest

from irgrow.errors import OptionError
from irgrow.grammar import parse
from irgrow.passes import Plateau, View

GRAPH = parse("net n(x: [4]) { return x |> h: dense(2) |> dense(1) }")
VIEW = View(GRAPH, loss=1.0)


def run(trigger, losses, memory=None):
    memory = {} if memory is None else memory
    found = []
    for loss in losses:
        trigger.observe(loss, memory)
        found.append(trigger.wanted(VIEW, "h", memory))
    return found


def test_it_needs_the_loss():
    with pytest.raises(OptionError, match="`plateau` watches the loss, and none was given"):
        Plateau().wanted(View(GRAPH), "h", {})


def test_it_waits_for_patience():
    assert run(Plateau(2, 0.01, 5), [1.0, 0.9, 0.9, 0.9, 0.9, 0.9]) == [0, 0, 0, 5, 0, 5]


def test_improvement_starts_the_count_anew():
    assert run(Plateau(2, 0.01, 1), [1.0, 1.0, 0.8, 0.8, 0.7, 0.7, 0.7]) == [0, 0, 0, 0, 0, 0, 1]


def test_a_small_improvement_is_none():
    assert run(Plateau(1, 0.1, 1), [1.0, 0.95, 0.85]) == [0, 1, 0]


def test_a_look_takes_the_mean_since_the_last_one():
    trigger, memory = Plateau(1, 0.01, 1), {}
    for loss in (2.0, 0.0):
        trigger.observe(loss, memory)
    assert trigger.wanted(VIEW, "h", memory) == 0
    assert memory["best"] == 1.0
    assert trigger.wanted(VIEW, "h", memory) == 0, "nothing was observed since"


def test_losses_below_zero_and_not_finite():
    assert run(Plateau(1, 0.1, 1), [-1.0, -1.05, -1.2]) == [0, 1, 0]
    assert run(Plateau(1, 0.1, 1), [1.0, float("nan"), 1.0]) == [0, 0, 1]


def test_memory_is_json():
    memory = {}
    run(Plateau(3), [1.0, 1.0], memory)
    assert json.loads(json.dumps(memory)) == memory
