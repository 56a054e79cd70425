"""After which steps a rule asks, and when recording must be on for it."""

import json

import pytest

from irgrow.attributes import textual_name
from irgrow.errors import OptionError
from irgrow.growth import CADENCES, Epochs, EverySteps, Moment, Plateau, Steps


def due(cadence, steps, per_epoch=None):
    return [s for s in range(1, steps + 1) if cadence.due(Moment(s, per_epoch), {})]


def looks(cadence, losses, memory=None, per_epoch=None):
    """Return the steps after which it asks, with one loss a step."""
    memory = {} if memory is None else memory
    found = []
    for step, loss in enumerate(losses, 1):
        cadence.observe(loss, memory)
        if cadence.due(Moment(step, per_epoch), memory):
            found.append(step)
    return found


@pytest.mark.parametrize(
    ("cadence", "steps"),
    [
        (EverySteps(), [1, 2, 3, 4, 5, 6, 7, 8, 9]),
        (EverySteps(4), [4, 8]),
        (EverySteps(10), []),
        (Epochs(), [3, 6, 9]),
        (Epochs(2), [6]),
        (Steps((1, 5)), [1, 5]),
        (Steps((5, 1, 5)), [1, 5]),
        (Steps((10,)), []),
    ],
    ids=str,
)
def test_it_asks_after_these_steps(cadence, steps):
    assert due(cadence, 9, per_epoch=3) == steps


@pytest.mark.parametrize("cadence", [EverySteps(1), EverySteps(7), Epochs(1), Epochs(2), Steps((1, 4, 20))], ids=str)
@pytest.mark.parametrize("within", [0, 1, 2, 5, 100])
def test_soon_is_whether_one_of_the_next_steps_is_due(cadence, within):
    for done in range(25):
        ahead = [cadence.due(Moment(s, 3), {}) for s in range(done + 1, done + 1 + within)]
        assert cadence.soon(Moment(done, 3), within) == any(ahead), done


def test_steps_are_over_after_the_last():
    assert Steps((3,)).soon(Moment(2), 1)
    assert not Steps((3,)).soon(Moment(3), 10**6)


def test_a_plateau_may_always_come():
    assert Plateau().soon(Moment(0), 0)
    assert Plateau(interval=10**6).soon(Moment(1), 1)


@pytest.mark.parametrize("cadence", [Epochs(), Plateau()], ids=str)
def test_counting_epochs_needs_their_length(cadence):
    with pytest.raises(OptionError, match="say how many steps one has"):
        cadence.due(Moment(1), {})


def test_soon_of_epochs_needs_their_length():
    with pytest.raises(OptionError, match="steps_per_epoch"):
        Epochs().soon(Moment(0), 1)


@pytest.mark.parametrize(
    ("cadence", "per_epoch"), [(EverySteps(2), None), (Steps((2,)), None), (Plateau(interval=2), None)]
)
def test_what_counts_no_epochs_does_not_need_their_length(cadence, per_epoch):
    assert cadence.due(Moment(2, per_epoch), {}) is not isinstance(cadence, Plateau)


@pytest.mark.parametrize("cadence", [EverySteps(2), Epochs(), Steps((2,))], ids=str)
def test_only_a_plateau_remembers_losses(cadence):
    memory = {}
    cadence.observe(1.0, memory)
    cadence.due(Moment(2, 2), memory)
    assert memory == {}


def test_a_plateau_waits_for_patience():
    assert looks(Plateau(2, 0.01, 1), [1.0, 0.9, 0.9, 0.9, 0.9, 0.9]) == [4, 6]
    assert looks(Plateau(1, 0.01, 1), [1.0, 0.9, 0.8, 0.7]) == []


def test_a_plateau_looks_at_the_mean_of_its_interval():
    losses = [2.0, 0.0, 0.0, 2.0, 2.0, 0.0, 0.0, 1.0]
    assert looks(Plateau(1, 0.01, 2), losses) == [4, 6]
    assert looks(Plateau(1, 0.01), losses, per_epoch=2) == [4, 6], "an epoch unless it is given"
    assert looks(Plateau(1, 0.01, 4), losses, per_epoch=2) == [], "0.75 after 1.0"


def test_a_plateau_without_losses_never_comes():
    assert due(Plateau(1, 0.0, 1), 9) == []


def test_what_a_plateau_remembers_is_json():
    memory, losses = {}, [1.0, 1.0, 1.0, 0.1 + 0.2, 1.0, 1.0, 1.0, 1.0]
    cadence = Plateau(2, 0.01, 2)
    first = looks(cadence, losses[:3], memory)
    kept = json.loads(json.dumps(memory))
    assert kept == memory
    assert first == []
    for other in (memory, kept):
        cadence.observe(1.0, other)
        assert cadence.due(Moment(4), other) == cadence.due(Moment(5), {}) is False
    assert kept == memory


@pytest.mark.parametrize(
    ("cadence", "text"),
    [
        (EverySteps(), "1"),
        (EverySteps(20), "20"),
        (Epochs(), "epochs"),
        (Epochs(3), "epochs(3)"),
        (Steps((4,)), "steps([4])"),
        (Steps((4, 8)), "steps([4, 8])"),
        (Plateau(), "plateau"),
        (Plateau(2, interval=50), "plateau(2, interval = 50)"),
    ],
)
def test_they_print_as_the_language_writes_them(cadence, text):
    assert str(cadence) == text


@pytest.mark.parametrize(
    ("cadence", "options"),
    [
        (EverySteps, (0,)),
        (EverySteps, (-3,)),
        (EverySteps, (1.5,)),
        (Epochs, (0,)),
        (Steps, ((0,),)),
        (Plateau, (0,)),
        (Plateau, (1, -0.1)),
        (Plateau, (1, 0.1, -1)),
    ],
)
def test_options_out_of_range(cadence, options):
    with pytest.raises(OptionError, match="at least|takes"):
        cadence(*options)


def test_names_are_told_apart():
    assert [textual_name(c) for c in CADENCES] == ["every_steps", "epochs", "steps", "plateau"]
