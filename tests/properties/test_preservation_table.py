"""The table of function-preserving rewrites, row by row: what it says, what irgrow says, and what is measured."""

import importlib
from itertools import pairwise
from pathlib import Path

import pytest

from irgrow.grammar import parse, parse_pass
from irgrow.passes import Prover
from irgrow.testing.trials import Subject, size_of_error
from irgrow.verdict import Exact

rows = importlib.import_module("preservation_rows")
table = importlib.import_module("preservation_table")

ROOT = Path(__file__).parent.parent.parent
CASES = [(row, case) for row in rows.ROWS for case in row.cases]
DIFFER = {(5, "split_units(h, noise = 0.0)")}
"""Where irgrow is known not to do what the table says; the note of the case says why."""


@pytest.fixture
def page(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "docs"))
    return importlib.import_module("operators")


@pytest.mark.parametrize(("row", "case"), CASES, ids=[f"{r.number}-{c.rewrite}-{c.body[:20]}" for r, c in CASES])
def test_a_row_is_what_the_table_says(row, case):
    if not table.is_registered(case):
        pytest.skip(f"`{case.rewrite}` is not registered")
    found = table.measured(case)
    assert not found.trial.fault, found.trial.fault
    differs = table.disagreement(case, found)
    assert bool(differs) == ((row.number, str(case.rewrite)) in DIFFER), f"{differs}: {found.trial.verdict}, {found}"
    assert not differs or case.note


@pytest.mark.parametrize("row", rows.ROWS, ids=lambda r: str(r.number))
def test_a_row_on_the_page_is_what_is_computed(row, page):
    written = page.written(page.PAGE.read_text())("The table", str(row.number))
    assert written == "\n".join(table.lines(row)), "run `python docs/operators.py`"


def test_every_row_is_there_once_and_has_programs_or_a_reason():
    assert [row.number for row in rows.ROWS] == list(range(1, 53))
    for row in rows.ROWS:
        assert row.cases or row.missing, row.number
        for case in row.cases:
            assert parse(case.program)


def test_what_parts_copies_changes_the_function_to_second_order():
    """Row 8: half the noise, a quarter of the error."""
    graph = parse(rows.Case(rows.hidden("gelu"), "").program)
    subject = Subject(graph, batch=6)
    noises = (0.02, 0.01, 0.005)
    errors = [subject.attempt(parse_pass(f"split_units(h, between = fan_in, noise = {n})")).error for n in noises]
    for larger, smaller in pairwise(errors):
        assert larger / smaller == pytest.approx(4, rel=0.2)


def test_a_row_that_does_not_preserve_cannot_be_claimed(monkeypatch):
    """Negative control: were everything said to be exact, the numbers would object."""
    monkeypatch.setattr(Prover, "verdict", lambda self: Exact())
    wrong = [c for _, c in CASES if c.says == table.OTHER and table.is_registered(c)]
    assert len(wrong) > 8
    for case in wrong:
        found = table.measured.__wrapped__(case)
        assert "the outputs differ" in found.trial.fault, f"{case.rewrite}\n{case.program}"


def test_what_learns_is_measured():
    """Negative control: with zero fan-out it is the fan-out alone, with zero fan-in it is not."""
    zero_out = table.measured(table.Case(rows.hidden("gelu"), "grow_units(h, 2)"))
    zero_in = table.measured(table.Case(rows.hidden("gelu"), "grow_units(h, 2, zero = fan_in)"))
    assert (zero_out.learns, zero_out.waits) == (("fan-out",), ("fan-in", "bias"))
    assert (zero_in.learns, zero_in.waits) == (("fan-in", "bias"), ("fan-out",))
    wrong = table.Case(rows.hidden("gelu"), "grow_units(h, 2)", learns="fan-in")
    assert table.disagreement(wrong, zero_out) == "the table says that fan-in learn at once"
    assert table.disagreement(table.Case("", "", says=table.OTHER), zero_out) == "the table says other"


def test_errors_are_written_as_powers_of_ten():
    assert [size_of_error(e) for e in (0.0, 1e-11, 1e-9, 1e-5, 1.0)] == [
        "<= 1e-10",
        "<= 1e-10",
        "<= 1e-6",
        "<= 1e-3",
        "> 1e-3",
    ]
