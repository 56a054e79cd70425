"""Preset growth: so many units, in so many portions, by then."""

import pytest
from loops import Training

from irgrow.errors import OptionError, ProgramError
from irgrow.grammar import parse_program
from irgrow.growth import BatchedBundle, LinearBundle, StaticBundle
from irgrow.passes import NorthSelect

NET = "net n(x: [4]) { return x |> h: dense(3) |> relu |> dense(1) }\n"


@pytest.mark.parametrize(
    ("bundle", "widths"),
    [
        (LinearBundle(4, 8), [0, 1, 1, 2, 2, 3, 3, 4, 4, 4]),
        (LinearBundle(3, 3), [1, 2, 3, 3, 3]),
        (BatchedBundle(5, 8, times=4), [0, 2, 2, 3, 3, 4, 4, 5, 5]),
        (LinearBundle(3, 7), [0, 0, 1, 1, 2, 2, 3, 3]),
        (BatchedBundle(3, 5, times=2), [0, 0, 2, 2, 3, 3]),
        (BatchedBundle(2, 4), [0, 1, 1, 2, 2]),
        (StaticBundle(), [0, 0, 0]),
    ],
    ids=str,
)
def test_units_come_when_they_should(bundle, widths):
    run = Training(bundle.program())
    start = run.widths
    gained = []
    for _ in widths:
        run.step()
        gained.append({name: run.widths[name] - start[name] for name in start})
    assert gained == [dict.fromkeys(start, g) for g in widths]
    assert all(r.applied for r in run.receipts)


def test_any_initializer():
    program = parse_program(f"{NET}grow {{ use batched(8, 100, north_select(20)) }}").growth
    assert program.rules[0].apply.init == NorthSelect(20)
    assert parse_program(NET + str(program)).growth == program


def test_impossible_times():
    with pytest.raises(OptionError, match="`until` must be at least 9, once a step; found 8"):
        LinearBundle(9, 8)
    with pytest.raises(ProgramError, match="at least 4"):
        _ = parse_program(f"{NET}grow {{ use batched(8, 3, times = 4) }}").growth


def test_static_prints_and_parses():
    program = StaticBundle().program()
    assert parse_program(NET + str(program)).growth == program == parse_program(f"{NET}grow {{ use static }}").growth
