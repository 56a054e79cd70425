"""Every registered pass on every idiom, at every site: no claim that the numbers deny, no result that does not run."""

import importlib
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from broken import RandomFanOut, Scaled, WrongOffset

from irgrow.attributes import attributes, textual_name
from irgrow.edits import Impossible
from irgrow.ops import site
from irgrow.passes import PASSES, GrowUnits, Pass, Prover
from irgrow.testing.idioms import IDIOMS, idiom
from irgrow.testing.laws import Case, refused_changes_nothing
from irgrow.testing.numbers import check_lowering
from irgrow.testing.options import option_sets, rewrites_of, sites, values
from irgrow.testing.trials import OUTCOMES, Subject, report, tally, tried
from irgrow.verdict import Exact

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


def faults(graph, trials):
    return [report(graph, t) for found in trials.values() for t in found if t.fault]


@pytest.mark.parametrize("name", IDIOMS)
def test_every_pass_on_every_idiom(name, page):
    graph, trials = idiom(name), page.idiom_trials(name)
    found = faults(graph, trials)
    assert not found, f"{len(found)} faults, the first:\n{found[0]}"
    assert all(trials.values()), "a pass without a trial"
    line = page.idiom_line(name, trials)
    assert line == page.written(page.PAGE.read_text())("Idioms", name), "run `python docs/operators.py`"


@pytest.mark.slow
@pytest.mark.timeout(3000)
@pytest.mark.parametrize("name", IDIOMS)
def test_every_pass_with_all_its_options_on_every_idiom(name):
    graph = idiom(name)
    found = faults(graph, tried(graph, few=None))
    assert not found, f"{len(found)} faults, the first:\n{found[0]}"


@pytest.mark.slow
@pytest.mark.parametrize("name", IDIOMS)
def test_what_is_refused_changes_nothing_of_a_live_network(name):
    graph = idiom(name)
    for cls in PASSES:
        refused = (r for r in rewrites_of(cls, graph) if r.match(graph, r.site) is not None)
        rewrite = next(refused, None)
        if rewrite is not None:
            refused_changes_nothing(Case(graph, rewrite))


@pytest.mark.parametrize("name", IDIOMS)
def test_idioms_compute_what_they_say(name):
    result = check_lowering(idiom(name))
    assert result.holds, str(result)


@pytest.mark.parametrize("cls", PASSES, ids=lambda c: c.__name__)
def test_every_pass_does_something_in_the_battery(cls, page):
    body = page.PAGE.read_text().partition("## Idioms")[2].partition("\n## ")[0]
    rows = [line.split(" | ") for line in body.splitlines() if line.startswith("| ")]
    column = rows[0].index(textual_name(cls))
    assert any(word in row[column] for row in rows[1:] for word in OUTCOMES[:5])


# options -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cls", PASSES, ids=lambda c: c.__name__)
def test_every_value_of_every_option_is_tried(cls):
    sets = option_sets(cls, few=False)
    for a in attributes(cls):
        for value in values(a):
            assert any(options.get(a.name) == value for options in sets), f"{a.name} = {value}"
        if a.kind not in ("site", "text"):
            assert values(a), f"no values for `{a.name}`"


@pytest.mark.parametrize("cls", PASSES, ids=lambda c: c.__name__)
def test_every_editable_axis_and_node_is_a_site(cls):
    for name in ("residual", "pre-norm transformer", "groups over unequal parts"):
        graph = idiom(name)
        given = [a.name for a in attributes(cls) if a.kind == "site"]
        found = sites(cls, graph)
        for option in given:
            reached = {where[option] for where in found}
            if option == "axis":
                assert {str(graph.axis(n)) for n in graph.by_name} <= {str(graph.axis(n)) for n in reached}
            else:
                assert set(graph.by_name) <= reached


def test_a_few_options_are_the_same_every_time():
    for cls in PASSES:
        first, second = (list(map(str, rewrites_of(cls, idiom("residual")))) for _ in range(2))
        assert first == second


# negative controls ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cls", [RandomFanOut, Scaled, WrongOffset], ids=lambda c: c.__name__)
def test_a_wrong_claim_is_a_fault(cls, monkeypatch):
    monkeypatch.setattr(Prover, "verdict", lambda self: Exact())
    trial = Subject(idiom("layers in a row")).attempt(cls("a", 2))
    assert trial.outcome == "fault"
    assert "proved exact, the outputs differ by" in trial.fault


def test_a_claim_for_evaluation_is_held_to_evaluation_only(monkeypatch):
    claim = Subject(idiom("convolution and batch norm"))
    from irgrow.passes import FoldBatchNorm

    fold = FoldBatchNorm("batchnorm_1")
    trial = claim.attempt(fold)
    assert trial.outcome == "exact in evaluation"
    assert trial.errors[0] < 1e-12
    assert trial.errors[1] > 1e-3
    assert trial.error == trial.errors[0]
    monkeypatch.setattr(Prover, "verdict", lambda self: Exact())
    assert "the outputs differ" in claim.attempt(fold).fault


@dataclass(frozen=True)
class _Wrong(Pass):
    """A pass that does one of several things wrong."""

    axis: str = site("a")
    how: str = ""

    @property
    def site(self):
        return self.axis

    def match(self, graph, site):
        return "" if self.how == "silent" else None

    def rewrite(self, graph, site, context):
        if self.how == "touches":
            context.params["a.weight"][0, 0] += 1.0
        if self.how == "raises":
            raise ValueError("no such thing")
        if self.how == "empty":
            raise Impossible(" ")
        morphism = GrowUnits(site, 1).rewrite(graph, site, context)
        if self.how == "forgets":
            return replace(morphism, transfers={k: v for k, v in morphism.transfers.items() if k != "a.bias"})
        return morphism


@pytest.mark.parametrize(
    ("how", "fault"),
    [
        ("touches", "the parameters of the network were touched"),
        ("raises", "ValueError: no such thing"),
        ("empty", "refused without a reason"),
        ("silent", "refused without a reason"),
        ("forgets", "CompilerBug"),
    ],
)
def test_what_goes_wrong_is_a_fault(how, fault):
    trial = Subject(idiom("layers in a row")).attempt(_Wrong(how=how))
    assert trial.outcome == "fault"
    assert fault in trial.fault
    assert "program:" in report(idiom("layers in a row"), trial)
    assert tally([trial]) == "fault 1"


@pytest.mark.parametrize(
    ("name", "fault"), [("lower", "lowered to torch it differs"), ("parse", "read back as another program")]
)
def test_a_result_that_is_not_what_it_says_is_a_fault(name, fault, monkeypatch):
    from irgrow.testing import trials

    real, other = getattr(trials, name), idiom("one unit")

    def lower(graph, tensors):
        return real(graph, {n: t.detach() * 2 for n, t in tensors.items()})

    monkeypatch.setattr(trials, name, lower if name == "lower" else lambda text: other)
    trial = Subject(idiom("layers in a row")).attempt(GrowUnits("a", 1))
    assert fault in trial.fault


def test_the_right_pass_is_no_fault():
    trial = Subject(idiom("layers in a row")).attempt(_Wrong())
    assert trial.outcome == "exact"
    assert trial.fault == ""
    assert len(trial.errors) == 2
    assert np.isfinite(trial.errors).all()
