"""Every registered pass at every operator of the language."""

import importlib
from pathlib import Path

import pytest
import torch

from irgrow.ops import OPS, WORDS, word_of
from irgrow.passes import PASSES
from irgrow.testing.idioms import OPERATORS, operator
from irgrow.testing.numbers import check_lowering
from irgrow.testing.trials import report

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture(autouse=True)
def one_thread():
    """Small tensors gain nothing from threads, and lose a lot where other tests run beside them."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def page(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "docs"))
    return importlib.import_module("operators")


@pytest.mark.parametrize("word", OPERATORS)
def test_every_pass_at_every_operator(word, page):
    graph, trials = operator(word), page.operator_trials(word)
    found = [report(graph, t) for tried in trials.values() for t in tried if t.fault]
    assert not found, f"{len(found)} faults, the first:\n{found[0]}"
    assert tuple(trials) == PASSES
    assert all(trials.values()), "a blank cell"
    line = page.operator_line(word, trials)
    assert line == page.written(page.PAGE.read_text())("Operators", word), "run `python docs/operators.py`"


def test_every_word_and_every_operator_has_a_program():
    assert {key.partition(" ")[0] for key in OPERATORS} == {"input", *WORDS}
    assert {type(operator(word)["it"].op) for word in OPERATORS} == set(OPS)


@pytest.mark.parametrize("word", OPERATORS)
def test_the_operator_stands_on_an_axis_that_can_be_edited(word):
    graph = operator(word)
    assert word_of(graph["it"].op) == word.partition(" ")[0]
    assert word == "input" or any(graph.locked(graph.axis(a)) is None for a in graph.reach["it"])
    assert check_lowering(graph).holds
