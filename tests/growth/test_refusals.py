"""What a controller refuses, says once, and tries again when it may be otherwise; and limits."""

import copy

import numpy as np
import pytest
import torch
from live import CNN, MLP
from loops import NORMED, SHARED, Spy, Training, only, rule

from irgrow.axes import NEW
from irgrow.cost import cost
from irgrow.errors import DataError
from irgrow.growth import (
    Limit,
    NorthRandomBundle,
    Where,
)
from irgrow.growth.controller import Controller
from irgrow.network import build
from irgrow.passes import (
    Dormancy,
    Fisher,
    GradMax,
    GrowUnits,
    InsertLayer,
    Magnitude,
    NorthSelect,
    PruneGlobally,
    PruneUnits,
    Schedule,
)
from irgrow.testing.laws import same_snapshot, snapshot
from irgrow.verdict import Changes, Refused

# refusals ------------------------------------------------------------------------------------------------------------


def test_a_refused_site_is_reported_once_and_asked_again_when_the_program_is_another():
    spy = Spy(units=1)
    run = Training(only(rule(when=spy, where=Where(("a", "head"))))).run(4)
    assert [r.sites for r in run.receipts if not r.applied] == [("head",)]
    assert [s[0] for s in spy.seen].count("head") == 4, "the program was another one each time"
    assert [s[0] for s in spy.seen].count("a") == run.widths["a"] - 8 == 4
    assert list(run.controller.refused) == ["r: head"]
    assert run.controller.refused["r: head"] == next(r for r in run.receipts if not r.applied).verdict.reason
    assert len(run.net.journal) == 4


def test_a_refused_site_is_not_asked_again_while_nothing_changes():
    spy = Spy(units=1)
    run = Training(only(rule(when=spy, where=Where(("head",))))).run(4)
    assert [s[0] for s in spy.seen] == ["head"]
    run.net.rewrite("grow_units(a, 1)")
    run.run(3)
    assert [s[0] for s in spy.seen] == ["head", "head"]
    assert [r.applied for r in run.receipts] == [False], "told once"


@pytest.mark.parametrize(("by", "threshold"), [(Dormancy(), 1e-3), (Magnitude(side="fan_out"), 0.1)], ids=str)
def test_units_that_become_weak_later_are_pruned_then(by, threshold):
    prune = PruneUnits(by=by, threshold=threshold)
    run = Training(only(rule(apply=prune, where=Where(("a",)), require="any"))).run(3)
    assert [r.applied for r in run.receipts] == [False], "told once"
    with torch.no_grad():
        run.net.params["a.bias"][2] = -100.0
        run.net.params["b.weight"][:, 2] = 0.0
    (receipt,) = run.step()
    assert receipt.applied
    assert receipt.morphism.edits["a"].tolist() == [0, 1, 3, 4, 5, 6, 7]


@pytest.mark.parametrize("apply", [PruneUnits(by=Fisher()), PruneGlobally(by=Fisher())], ids=str)
def test_a_pass_that_overflowed_is_no_reason_never_to_prune_again(apply):
    options = {} if apply.whole else {"where": Where(("a",))}
    run = Training(only(rule(apply=apply, require="any", **options)))
    (run.net(run.batch(0)).sum() * float("inf")).backward()
    (receipt,) = run.controller.step(run.batch(0))
    assert "pass a `loss`" in receipt.verdict.reason
    (receipt,) = run.step()
    assert receipt.applied
    assert run.net.journal[-1].used == "records"


def test_a_pass_for_which_no_gradient_was_recorded_is_asked_again():
    """A step that a scaler skips, or without a backward pass, is no reason never to grow again."""
    net = build(MLP.replace("relu", "tanh"), seed=1)
    grow = rule(apply=GrowUnits(init=GradMax()), when=Schedule(1), where=Where(("a",)))
    controller, told = Controller(net, only(grow)), []
    for scale in (float("inf"), 0.0, 1.0):
        net.zero_grad()
        (net(torch.randn(5, 6)).square().mean() * scale).backward()
        told += controller.step(torch.randn(5, 6))
    assert [str(receipt.verdict) for receipt in told if receipt.applied] == ["exact"]
    assert ["none were recorded" in r.verdict.reason for r in told if not r.applied] == [True, False]


def test_what_no_number_can_change_is_not_tried_again(monkeypatch):
    run = Training(only(rule(apply=PruneUnits(by=Dormancy()), where=Where(("head",)), require="any"))).run(1)
    assert [r.applied for r in run.receipts] == [False]
    monkeypatch.setattr(run.controller, "_rewrite", None)
    assert run.run(3).receipts == run.receipts[:1]


def test_each_rule_is_refused_for_itself():
    rules = [rule(name, where=Where(("head",))) for name in ("one", "two")]
    run = Training(only(*rules)).run(3)
    assert [r.applied for r in run.receipts] == [False, False]
    assert set(run.controller.refused) == {"one: head", "two: head"}


def test_only_exact_rewrites_are_carried_out_unless_any_is_asked_for():
    run = Training(only(rule(where=Where(("a",)))), NORMED)
    before = None
    for _ in range(3):
        x = run.batch(run.done)
        run.net(x).square().mean().backward()
        run.optimizer.step()
        before = snapshot(run.net)
        run.receipts += run.controller.step(x)
        assert same_snapshot(before, snapshot(run.net)) is None
    (receipt,) = run.receipts
    assert isinstance(receipt.verdict, Refused)
    assert "an exact rewrite is required, this one changes the function" in receipt.verdict.reason
    free = Training(only(rule(where=Where(("a",)), require="any")), NORMED).run(3)
    assert [type(r.verdict) for r in free.receipts] == [Changes] * 3
    assert free.widths["a"] == 11


def test_without_a_batch_north_select_is_refused_with_the_reason():
    run = Training(only(rule(apply=GrowUnits(init=NorthSelect()), where=Where(("a",)))))
    found = run.controller.step() + run.controller.step()
    assert [r.applied for r in found] == [False]
    assert "on a batch, none were recorded" in found[0].verdict.reason


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("wrap", [float, torch.tensor], ids=["number", "tensor"])
def test_a_loss_that_is_not_finite_grows_nothing(value, wrap):
    run = Training(only(rule(when=Schedule(2), where=Where(("a",))))).run(1)
    before, memory = snapshot(run.net), copy.deepcopy(run.controller.memory)
    with pytest.raises(DataError, match=f"the loss of step 2 is {value}; nothing was grown"):
        run.controller.step(run.batch(0), wrap(value))
    assert same_snapshot(before, snapshot(run.net)) is None
    assert run.controller.memory == memory
    run.run(1)
    assert run.widths["a"] == 12, "and one may go on"


# limits --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("quantity", "most"),
    [("width", 13), ("width", 8), ("width", 3), ("parameters", 300), ("parameters", 10), ("macs", 270)],
)
@pytest.mark.parametrize("text", [MLP, SHARED, CNN], ids=["mlp", "shared", "cnn"])
def test_limits_are_reached_and_never_exceeded(text, quantity, most):
    where = Where(("editable",))
    run = Training(only(rule(when=Schedule(5), where=where, limit=(Limit(quantity, most),))), text)

    def used(graph):
        if quantity == "width":
            return {a: graph.widths[a] for a in where.sites(graph)}
        return {"all": getattr(cost(graph), quantity)}

    start = used(run.net.graph)
    for _ in range(3):
        run.controller.step(run.batch(0))
        assert all(value <= max(most, start[key]) for key, value in used(run.net.graph).items())
    for site in where.sites(run.net.graph):
        wider = np.append(np.arange(run.net.graph.widths[site]), NEW)
        assert max(used(run.net.graph.resized({site: wider})).values()) > most, "one more would be too many"
    if all(value > most for value in start.values()):
        assert len(run.net.journal) == 0


def test_the_strictest_limit_counts():
    limits = (Limit("width", 100), Limit("width", 10), Limit("parameters", 10**6))
    assert Training(only(rule(when=Schedule(9), limit=limits))).run(2).widths == {"a": 10, "b": 10}


def test_units_beyond_a_limit_are_cut_and_asked_for_no_more():
    run = Training(only(rule(when=Schedule(3), where=Where(("a",)), limit=(Limit("width", 12),)))).run(4)
    assert [r.rewrite for r in run.receipts] == ["grow_units(a, 3)", "grow_units(a)"]
    assert run.controller.refused == {}


def test_north_stops_at_its_limit():
    run = Training(NorthRandomBundle(gamma=0.5, most=11).program()).run(8)
    assert run.widths == {"a": 11, "b": 11}


def test_a_limit_holds_for_new_layers_too():
    most = build(MLP).graph.count() + 20
    run = Training(
        only(rule(apply=InsertLayer("relu_1"), where=Where(("a",)), limit=(Limit("parameters", most),)))
    ).run(2)
    assert cost(run.net.graph).parameters <= most
    free = Training(only(rule(apply=InsertLayer("relu_1"), where=Where(("a",))))).run(2)
    assert cost(free.net.graph).parameters > most
