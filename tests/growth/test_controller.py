"""The growth loop in a plain training loop: what is asked, recorded, carried out, refused, saved and taken up again."""

import copy
import json
from dataclasses import dataclass, field

import numpy as np
import pytest
import torch

from irgrow.axes import NEW
from irgrow.cost import cost
from irgrow.errors import DataError, OptionError
from irgrow.growth import (
    Epochs,
    EverySteps,
    GrowthProgram,
    Limit,
    NorthRandomBundle,
    NorthSelectBundle,
    Plateau,
    Rule,
    Steps,
    Where,
)
from irgrow.growth.controller import Controller
from irgrow.journal import Journal
from irgrow.network import build
from irgrow.passes import EffectiveDimension, GrowUnits, InsertLayer, NorthSelect, PruneUnits, Schedule, Trigger
from irgrow.passes import Plateau as PlateauTrigger
from irgrow.passes.analyses.spectrum import Gram
from irgrow.testing.laws import same_snapshot, snapshot
from irgrow.verdict import Changes, Exact, Refused

MLP = "net mlp(x: [6]) { return x |> a: dense(8) |> relu |> b: dense(7) |> relu |> head: dense(3) }"
CNN = """
net cnn(x: [2, 6, 6]) {
  return x |> stem: conv(4, kernel = 3, padding = 1) |> bn: batchnorm |> relu
    |> residual { c1: conv(5, kernel = 3, padding = 1) |> batchnorm |> relu |> c2: conv(4, kernel = 1) }
    |> maxpool(2) |> flatten |> head: dense(3)
}
"""
NORMED = "net normed(x: [6]) { return x |> a: dense(8) |> layernorm |> relu |> head: dense(3) }"
SHARED = "net shared(x: [6]) { return x |> a: dense(8) |> relu |> residual { b: dense(8) |> relu } |> head: dense(3) }"
NORTH = {"select": NorthSelectBundle, "random": NorthRandomBundle}


def rule(name="r", apply=None, when=None, **options):
    return Rule(name, apply or GrowUnits(), when or Schedule(), **options)


def only(*rules):
    return GrowthProgram(rules)


class Training:
    """A network, its optimizer, its controller and the numbers of the next step."""

    def __init__(self, program, text=MLP, seed=1, dtype=torch.float64, steps_per_epoch=None, size=8):
        self.net = build(text, seed=seed, dtype=dtype)
        self.optimizer = torch.optim.Adam(self.net.parameters(), lr=1e-2)
        self.net.track(self.optimizer)
        self.controller = Controller(self.net, program, steps_per_epoch)
        self.dtype, self.size = dtype, size
        self.done, self.receipts, self.losses = 0, [], []

    def batch(self, i):
        shape = self.net.graph.shape(self.net.graph.inputs[0])
        return torch.randn(self.size, *shape, generator=torch.Generator().manual_seed(i), dtype=self.dtype)

    def step(self):
        x = self.batch(self.done)
        loss = (self.net(x) - x.flatten(1)[:, :3].sin()).square().mean()
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        self.done += 1
        self.losses.append(loss.item())
        found = self.controller.step(x, self.losses[-1])
        self.receipts += found
        return found

    def run(self, steps):
        for _ in range(steps):
            self.step()
        return self

    def rebuilt(self, state, tensors):
        """Return the same training, taken up again from texts and tensors only."""
        other = copy.copy(self)
        other.net = build(str(self.net.graph), seed=self.net.seed, dtype=self.dtype)
        other.net.load_state_dict(self.net.state_dict())
        other.net.journal = Journal.from_json(json.loads(json.dumps(self.net.journal.to_json())))
        other.optimizer = torch.optim.Adam(other.net.parameters(), lr=9.0)
        other.optimizer.load_state_dict(copy.deepcopy(self.optimizer.state_dict()))
        other.net.track(other.optimizer)
        other.controller = Controller(other.net, self.controller.program, self.controller.steps_per_epoch)
        other.controller.load(state, tensors)
        other.receipts, other.losses = [], []
        return other

    @property
    def widths(self):
        return {name: self.net.graph.widths[name] for name in ("a", "b", "stem", "c1") if name in self.net.graph.widths}

    @property
    def rewrites(self):
        return [(r.rewrite, r.verdict) for r in self.receipts]


def hooks(net):
    return sum(len(leaf._forward_hooks) for leaf in net.module.meta["leaves"].values())


@pytest.fixture
def added(monkeypatch):
    """The steps of a training in which something was recorded, once for each record."""
    steps, add = [], Gram.add

    def counted(gram, value):
        steps.append(1)
        add(gram, value)

    monkeypatch.setattr(Gram, "add", counted)
    return steps


# the bundles at work -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("name", NORTH)
def test_north_grows_a_network_in_a_plain_loop(name, dtype):
    run = Training(NORTH[name](gamma=0.9, most=14).program(), dtype=dtype).run(12)
    assert run.widths["a"] > 8
    assert run.widths["b"] > 7
    assert {r.sites for r in run.receipts} == {("a",), ("b",)}
    assert all(r.verdict == Exact() for r in run.receipts)
    assert [e.step for e in run.net.journal] == sorted(e.step for e in run.net.journal)
    assert len(run.net.journal) == len(run.receipts)
    assert all(p.dtype == dtype for p in run.net.parameters())
    assert all(("north_select" in r.rewrite) == (name == "select") for r in run.receipts)


@pytest.mark.parametrize("name", NORTH)
def test_convolutions_grow_by_the_running_maximum(name):
    run = Training(NORTH[name](gamma=0.9, baseline="maximum", most=7).program(), CNN).run(6)
    assert run.widths == {"stem": 4, "c1": 7}, "the residual stream is not hidden"
    assert all(r.verdict.preserves for r in run.receipts)


def test_a_trigger_that_is_satisfied_adds_nothing():
    run = Training(NorthRandomBundle(gamma=2.0).program()).run(8)
    assert run.receipts == []
    assert all(gram.ready for gram in run.controller.recorded.values()), "it could have been asked"


def test_growth_preserves_the_function():
    run = Training(NorthSelectBundle(gamma=0.9).program())
    grown = 0
    for _ in range(8):
        x, y = run.batch(run.done), None
        loss = run.net(x).square().mean()
        run.optimizer.zero_grad()
        loss.backward()
        run.optimizer.step()
        run.done += 1
        with torch.no_grad():
            y = run.net(x)
        grown += len(run.controller.step(x, loss.item()))
        torch.testing.assert_close(run.net(x).detach(), y, rtol=1e-12, atol=1e-12)
    assert grown


def test_the_loss_may_be_the_tensor_that_was_trained_on():
    run = Training(only(rule(when=PlateauTrigger(1, 0.5, 2))))
    for i in range(3):
        loss = run.net(run.batch(i)).square().mean()
        run.optimizer.zero_grad()
        loss.backward()
        run.optimizer.step()
        run.receipts += run.controller.step(run.batch(i), loss)
    assert run.receipts


@pytest.mark.parametrize(
    "loss", [1, 1.0, np.float32(1), np.float64(1), torch.tensor(1.0)], ids=lambda x: type(x).__name__
)
def test_a_loss_of_any_kind_is_remembered_as_a_number(loss):
    run = Training(only(rule(when=PlateauTrigger(1), every=EverySteps(2))))
    assert [bool(run.controller.step(loss=loss)) for _ in range(5)] == [False, False, False, True, False]
    json.dumps(run.controller.state()[0])


def test_training_goes_on_and_the_new_units_learn():
    run = Training(only(rule(every=Steps((2,)), where=Where(("a",))))).run(2)
    before = {n: p.detach().clone() for n, p in run.net.named_parameters()}
    assert before["a.weight"].shape == (9, 6)
    run.run(3)
    assert all(not torch.equal(before[n][-1:], p[-1:]) for n, p in run.net.named_parameters())


@pytest.mark.parametrize("name", NORTH)
def test_the_seed_decides_everything(name):
    torch.manual_seed(0)
    rng = torch.get_rng_state()
    runs = []
    for seed in (1, 1, 2):
        runs.append(Training(NORTH[name](gamma=0.9, most=12).program(), seed=seed).run(8))
        assert runs[-1].receipts
    assert torch.equal(torch.get_rng_state(), rng), "the global generator is not touched"
    one, same, other = runs
    assert one.rewrites == same.rewrites
    assert one.losses == same.losses
    assert same_state(one.net, same.net)
    assert not same_state(one.net, other.net)


def same_state(one, two):
    a, b = one.state_dict(), two.state_dict()
    return a.keys() == b.keys() and all(a[n].shape == b[n].shape and torch.equal(a[n], b[n]) for n in a)


# what is asked, and in which order -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Spy(Trigger):
    """Notes what it is shown and wants nothing, or one unit."""

    seen: list[object] = field(default_factory=list, hash=False, compare=False)
    units: int = 0
    watched: tuple[object, ...] = ()

    def watches(self, graph, site):
        return dict(self.watched)

    def observe(self, loss, memory):
        memory["losses"] = [*memory.get("losses", ()), loss]

    def wanted(self, view, site, memory):
        self.seen.append((site, view.step, view.loss, dict(view.graph.widths), dict(view.recorded), dict(memory)))
        return self.units


def test_a_trigger_sees_the_network_the_step_the_loss_and_what_was_recorded():
    spy = Spy(watched=(("relu_2", 64), ("b", 32)))
    run = Training(only(rule(when=spy, every=EverySteps(2), where=Where(("b",))))).run(4)
    assert [s[:3] for s in spy.seen] == [("b", 2, run.losses[1]), ("b", 4, run.losses[3])]
    assert spy.seen[0][4].keys() == {"relu_2", "b"}
    assert spy.seen[0][4]["b"].window == 32
    assert spy.seen[1][5] == {"losses": run.losses}


def test_without_a_loss_nothing_is_observed_but_rules_are_asked():
    spy = Spy()
    run = Training(only(rule(when=spy, where=Where(("a",)))))
    assert run.controller.step() == []
    run.controller.step(loss=2.0)
    assert [(s[2], s[5]) for s in spy.seen] == [(None, {}), (2.0, {"losses": [2.0]})]


def test_losses_are_remembered_also_between_looks():
    spy = Spy()
    Training(only(rule(when=spy, every=Steps((3,)), where=Where(("a",))))).run(4)
    assert len(spy.seen) == 1
    assert len(spy.seen[0][5]["losses"]) == 3


def test_sites_are_asked_in_program_order():
    run = Training(only(rule(where=Where(("b", "a"))))).run(2)
    assert [r.sites for r in run.receipts] == [("a",), ("b",)] * 2


def test_rules_are_asked_in_order_and_see_what_was_done_before():
    first = rule("first", GrowUnits(), Schedule(2), where=Where(("b",)))
    spy = Spy()
    run = Training(only(first, rule("second", GrowUnits(), Schedule(3)), rule("third", when=spy, where=Where(("b",)))))
    assert [r.rewrite for r in run.step()] == ["grow_units(b, 2)", "grow_units(a, 3)", "grow_units(b, 3)"]
    assert spy.seen[0][3]["b"] == 7 + 2 + 3


def test_cadences_are_counted_from_the_first_step():
    program = only(
        rule("odd", every=EverySteps(3), where=Where(("a",))), rule("even", every=Epochs(), where=Where(("b",)))
    )
    run = Training(program, steps_per_epoch=4).run(8)
    assert [(e.rewrite, e.step) for e in run.net.journal] == [
        ("grow_units(a)", 3),
        ("grow_units(b)", 4),
        ("grow_units(a)", 6),
        ("grow_units(b)", 8),
    ]


@pytest.mark.parametrize("when", [Schedule(), EffectiveDimension()], ids=str)
@pytest.mark.parametrize("every", [Epochs(), Plateau()], ids=str)
def test_counting_epochs_without_their_length_is_an_error(every, when):
    with pytest.raises(OptionError, match="steps_per_epoch"):
        Training(only(rule(when=when, every=every))).run(1)


def test_a_plateau_of_the_loss_starts_growth():
    run = Training(only(rule(every=Plateau(2, 0.01, 1), where=Where(("a",)))))
    grown = [i for i, loss in enumerate([1.0, 0.5, 0.5, 0.5, 0.5, 0.1], 1) if run.controller.step(loss=loss)]
    assert grown == [4]


def test_a_site_may_be_called_like_a_word():
    """What a cadence remembers and what a trigger remembers of a site are never the same thing."""
    text = "net n(x: [6]) { return x |> every: dense(4) |> relu |> dense(3) }"
    losses = [1.0, 1.0, 1.0, 1.0, 1.0, 1.0]
    grown = []
    for program in (text, text.replace("every:", "other:")):
        run = Training(only(rule(when=PlateauTrigger(1), every=Plateau(1, 0.01, 1))), program)
        grown.append([i for i, loss in enumerate(losses, 1) if run.controller.step(loss=loss)])
    assert grown[1]
    assert grown[0] == grown[1]


def test_several_inputs_are_passed_on():
    text = "net two(x: [4], y: [5]) { return concat(x, y) |> a: dense(3) |> relu |> dense(2) }"
    net = build(text, dtype=torch.float64)
    controller = Controller(net, only(rule(apply=GrowUnits(init=NorthSelect(20)))))
    batch = [torch.randn(9, n, generator=torch.Generator().manual_seed(n), dtype=torch.float64) for n in (4, 5)]
    assert [r.applied for r in controller.step(batch) + controller.step(tuple(batch))] == [True, True]
    assert net.graph.widths["a"] == 5


# refusals ------------------------------------------------------------------------------------------------------------


def test_a_refused_site_is_asked_once_and_reported_once():
    spy = Spy(units=1)
    run = Training(only(rule(when=spy, where=Where(("a", "head"))))).run(4)
    assert [r.sites for r in run.receipts if not r.applied] == [("head",)]
    assert [s[0] for s in spy.seen].count("head") == 1
    assert [s[0] for s in spy.seen].count("a") == run.widths["a"] - 8 == 4
    assert list(run.controller.refused) == ["r: head"]
    assert run.controller.refused["r: head"] == next(r for r in run.receipts if not r.applied).verdict.reason
    assert len(run.net.journal) == 4


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


# construction --------------------------------------------------------------------------------------------------------


def test_a_site_where_no_layer_makes_units_is_an_error_at_once():
    with pytest.raises(OptionError, match="effective_dimension needs layers that make units, `x` has none"):
        Controller(build(MLP), only(rule(when=EffectiveDimension(), where=Where(("a", "x")))))


def test_an_unknown_site_is_an_error_at_once():
    with pytest.raises(OptionError, match="`where = c` matches no axis"):
        Controller(build(MLP), only(rule("fine"), rule(where=Where(("c",)))))


def test_what_has_no_module_cannot_be_watched():
    with pytest.raises(OptionError, match="nothing can be recorded at `x`: it has no module of its own"):
        Controller(build(MLP), only(rule(when=Spy(watched=(("x", 8),)))))


def test_a_failed_construction_leaves_no_hooks():
    net = build(MLP)
    with pytest.raises(OptionError):
        Controller(net, only(rule(when=Spy(watched=(("relu_1", 8), ("x", 8))))))
    assert hooks(net) == 0


def test_a_program_without_rules_does_nothing():
    run = Training(only()).run(3)
    assert run.receipts == []
    assert hooks(run.net) == 0


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


# recording -----------------------------------------------------------------------------------------------------------


def test_every_step_is_recorded_once_for_each_watched_node(added):
    rules = [rule(n, when=EffectiveDimension(2.0, samples=s)) for n, s in (("one", 16), ("two", 64), ("three", 32))]
    run = Training(only(*rules))
    for i in range(1, 6):
        run.step()
        assert len(added) == 2 * i
    assert {node: gram.window for node, gram in run.controller.recorded.items()} == {"relu_1": 64, "relu_2": 64}


def test_nothing_is_watched_for_a_schedule(added):
    run = Training(only(rule())).run(3)
    assert run.receipts
    assert added == []


def test_nothing_is_recorded_in_evaluation_or_without_gradients(added):
    run = Training(NorthRandomBundle(gamma=2.0).program())
    x = run.batch(0)
    run.net.eval()(x)
    with torch.no_grad():
        run.net.train()(x)
    with torch.inference_mode():
        run.net(x)
    assert added == []
    run.net(x)
    assert len(added) == 2


def test_looking_at_the_batch_records_nothing(added):
    run = Training(only(rule(apply=GrowUnits(init=NorthSelect(20)), when=Spy(units=1, watched=(("relu_1", 32),))))).run(
        4
    )
    assert len(run.receipts) == 8
    assert len(added) == 4


@pytest.mark.parametrize("every", [EverySteps(100), Steps((100, 200)), Epochs(2)], ids=str)
def test_recording_is_skipped_while_nothing_is_due_soon(added, every):
    when = EffectiveDimension(2.0, samples=24)
    run = Training(only(rule(when=when, every=every, where=Where(("a",)))), steps_per_epoch=50)
    recorded = []
    for i in range(1, 211):
        before = len(added)
        x = run.batch(i)
        run.net(x).square().mean().backward()
        recorded += [i] * (len(added) - before)
        run.controller.step()
        if i in (100, 200):
            fresh = sum(1 for s in recorded if i - 100 < s <= i)
            assert len(run.controller.recorded["relu_1"].parts) <= fresh, "all of the window is recent"
            assert run.controller.recorded["relu_1"].ready
    for asked in (100, 200):
        last = [s for s in recorded if asked - 50 < s <= asked]
        assert last == list(range(last[0], asked + 1)), "up to the step that asks"
        assert 3 <= len(last) <= 14
    assert recorded[-1] == 200, "and not behind it"
    assert len(recorded) <= 28
    assert run.controller.memory["r: a"]["width"] == 8


def test_what_is_recorded_is_what_was_trained_on():
    run = Training(NorthRandomBundle(gamma=2.0).program(), CNN, size=3).run(2)
    expected = Gram(0)
    twin = Training(NorthRandomBundle(gamma=2.0).program(), CNN, size=3)
    values = []
    twin.net.module.meta["leaves"]["relu_2"].register_forward_hook(lambda m, i, y: values.append(y.detach()))
    twin.run(2)
    for value in values:
        expected.add(value)
    assert torch.equal(run.controller.recorded["relu_2"].total, expected.total)
    assert expected.count == 2 * 3 * 36


def test_hooks_do_not_pile_up(added):
    run = Training(NorthRandomBundle(gamma=0.9, most=20).program())
    for i in range(1, 9):
        run.step()
        assert hooks(run.net) == 2
        assert len(added) == 2 * i
    assert len(run.receipts) > 4


def test_growing_one_layer_forgets_only_its_own_record():
    run = Training(only(rule(when=EffectiveDimension(2.0)), rule("grow", every=Steps((3,)), where=Where(("a",))))).run(
        3
    )
    assert run.widths["a"] == 9
    counts = {node: gram.count for node, gram in run.controller.recorded.items()}
    assert counts == {"relu_1": 0, "relu_2": 24}
    run.run(2)
    assert {node: gram.units for node, gram in run.controller.recorded.items()} == {"relu_1": 9, "relu_2": 7}
    assert {node: gram.count for node, gram in run.controller.recorded.items()} == {"relu_1": 16, "relu_2": 40}


# rewrites by hand ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NORTH)
def test_a_rewrite_by_hand_is_followed(name, added):
    run = Training(NORTH[name](gamma=0.9, most=30).program()).run(2)
    before = len(run.receipts)
    assert run.net.rewrite(GrowUnits("a", 3)).applied
    width = run.widths["a"]
    run.step()
    assert run.controller.recorded["relu_1"].units in (0, width)
    run.run(4)
    assert len(run.receipts) > before
    assert hooks(run.net) == 2
    assert len(added) == 2 * 7
    assert run.controller.recorded["relu_1"].units in (0, run.widths["a"])


def test_layers_inserted_and_taken_away_by_hand_are_watched_while_they_are_there():
    run = Training(NorthRandomBundle(gamma=2.0).program()).run(1)
    assert run.net.rewrite(InsertLayer("relu_1")).applied
    run.run(2)
    assert set(run.controller.recorded) == {"relu_1", "relu_1_deep1.act", "relu_2"}
    assert hooks(run.net) == 3
    run.net.undo()
    run.run(2)
    assert set(run.controller.recorded) == {"relu_1", "relu_2"}
    assert hooks(run.net) == 2


def test_units_exchanged_by_hand_are_forgotten_too():
    run = Training(NorthRandomBundle(gamma=2.0).program()).run(3)
    assert run.net.rewrite(PruneUnits("a", (0,))).applied
    assert run.net.rewrite(GrowUnits("a", 1)).applied
    run.step()
    assert run.controller.recorded["relu_1"].count <= 8, "only what was recorded since"


# other passes --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("require", ["exact", "any"])
@pytest.mark.parametrize("where", ["hidden", "relu_1", "*", "head"])
@pytest.mark.parametrize(
    "apply",
    [
        InsertLayer(),
        InsertLayer(form="residual"),
        InsertLayer("relu_2"),
        InsertLayer("nowhere"),
        InsertLayer(form="dirac"),
        PruneUnits(),
        PruneUnits(units=(0,)),
        PruneUnits("b", (0, 1)),
        PruneUnits(units=(0, 99)),
        PruneUnits(units=tuple(range(8))),
        GrowUnits("b", 5),
        GrowUnits(zero="fan_in"),
    ],
    ids=str,
)
def test_every_pass_is_carried_out_or_refused(apply, where, require):
    watching = rule("watch", when=EffectiveDimension(2.0))
    run = Training(only(watching, rule(apply=apply, where=Where((where,)), every=EverySteps(2), require=require))).run(
        5
    )
    assert run.receipts
    assert all(r.verdict.preserves or require == "any" for r in run.receipts if r.applied)
    assert len(run.net.journal) == sum(r.applied for r in run.receipts)


def test_pruning_goes_on_to_the_last_unit():
    run = Training(only(rule(apply=PruneUnits(units=(0,)), where=Where(("a",)), require="any"))).run(10)
    assert [r.applied for r in run.receipts] == [True] * 7 + [False]
    assert run.widths["a"] == 1


def test_an_inserted_layer_becomes_a_site_at_once():
    program = only(rule("deeper", InsertLayer("relu_1"), where=Where(("a",)), every=Steps((1,))), rule("wider"))
    run = Training(program)
    assert [r.sites[0] for r in run.step()] == ["a", "a", "relu_1_deep1.layer", "b"]


# saving --------------------------------------------------------------------------------------------------------------

PROGRAMS = {
    "select": (NorthSelectBundle(gamma=0.9, most=20, candidates=30).program(), MLP, 8),
    "random": (NorthRandomBundle(gamma=0.9, baseline="last", every=2).program(), MLP, 5),
    "convolutions": (NorthRandomBundle(gamma=0.9, baseline="maximum", most=12).program(), CNN, 2),
    "schedule": (only(rule(when=Schedule(2, total=7), every=EverySteps(2), where=Where(("b", "head")))), MLP, 4),
    "plateaus": (
        only(
            rule("one", when=PlateauTrigger(2, 0.2, 1), every=EverySteps(2)),
            rule("two", when=Schedule(2), every=Plateau(1, 0.2, 3), where=Where(("a",))),
        ),
        MLP,
        4,
    ),
}


@pytest.mark.parametrize("at", [0, 1, 2, 3, 5, 8])
@pytest.mark.parametrize("name", PROGRAMS)
def test_a_run_taken_up_again_goes_on_bit_by_bit(name, at):
    program, text, size = PROGRAMS[name]
    run = Training(program, text, size=size).run(at)
    state, tensors = run.controller.state()
    again = run.rebuilt(json.loads(json.dumps(state)), {k: v.clone() for k, v in tensors.items()})
    grown, before = len(run.receipts), len(run.losses)
    for _ in range(18 - at):
        run.step()
        again.step()
        assert run.losses[-1] == again.losses[-1]
        assert run.net.graph == again.net.graph
    assert again.losses == run.losses[before:]
    assert again.rewrites == run.rewrites[grown:]
    assert same_state(run.net, again.net)
    assert run.net.journal.to_json() == again.net.journal.to_json()
    assert len([r for r in run.receipts if r.applied]) >= 3
    for one, two in zip(run.controller.state(), again.controller.state(), strict=True):
        assert one.keys() == two.keys()
    assert json.dumps(run.controller.state()[0]) == json.dumps(again.controller.state()[0])
    assert all(torch.equal(v, again.controller.state()[1][k]) for k, v in run.controller.state()[1].items())


@pytest.mark.parametrize("name", ["select", "convolutions"])
def test_right_after_growth_too(name):
    program, text, size = PROGRAMS[name]
    run = Training(program, text, size=size)
    while not run.step():
        assert run.done < 20
    state, tensors = run.controller.state()
    again = run.rebuilt(json.loads(json.dumps(state)), {k: v.clone() for k, v in tensors.items()})
    grown = len(run.receipts)
    run.run(8)
    again.run(8)
    assert run.rewrites[grown:] == again.rewrites != []
    assert same_state(run.net, again.net)


def test_what_is_not_loaded_makes_a_difference():
    run = Training(PROGRAMS["select"][0]).run(8)
    run_state = run.controller.state()
    empty = ({"count": run.done, "memory": {}, "refused": {}}, {})
    with_state, without = run.rebuilt(*copy.deepcopy(run_state)), run.rebuilt(*empty)
    assert with_state.run(3).rewrites != without.run(3).rewrites


def test_a_state_is_what_it_was_when_it_was_taken():
    run = Training(PROGRAMS["select"][0], size=4).run(3)
    state, tensors = run.controller.state()
    before = json.dumps(state), {k: v.clone() for k, v in tensors.items()}
    run.run(6)
    assert json.dumps(run.controller.state()[0]) != before[0], "there was something to remember"
    assert json.dumps(state) == before[0]
    assert all(torch.equal(v, before[1][k]) for k, v in tensors.items())


def test_what_was_loaded_can_be_loaded_again():
    run = Training(PROGRAMS["plateaus"][0]).run(3)
    state, tensors = copy.deepcopy(run.controller.state())
    text = json.dumps(state)
    one = run.rebuilt(state, tensors).run(6)
    assert json.dumps(state) == text
    assert run.rebuilt(state, tensors).run(6).rewrites == one.rewrites


def test_loading_replaces_what_was_recorded():
    run = Training(NorthRandomBundle(gamma=2.0).program())
    fresh = copy.deepcopy(run.controller.state())
    run.run(3)
    assert all(gram.count == 24 for gram in run.controller.recorded.values())
    run.controller.load(*fresh)
    assert all(gram.count == 0 for gram in run.controller.recorded.values())
    assert run.controller.count == 0
    assert hooks(run.net) == 2


def test_a_refusal_is_remembered_across_a_save():
    run = Training(only(rule(where=Where(("head",))))).run(1)
    assert len(run.receipts) == 1
    again = run.rebuilt(*json.loads(json.dumps(run.controller.state())))
    assert again.run(3).receipts == []


def test_the_state_is_json_and_tensors():
    run = Training(NorthSelectBundle(gamma=0.9).program()).run(5)
    state, tensors = run.controller.state()
    assert json.loads(json.dumps(state)) == state
    assert set(state) == {"count", "memory", "refused"}
    assert {k.split("/")[0] for k in tensors} <= {"relu_1", "relu_2"}
    assert tensors
    assert all(isinstance(t, torch.Tensor) for t in tensors.values())


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")  # torch itself looks at it where a graph breaks
def test_a_compiled_network_grows_as_an_eager_one_does(added):
    eager, compiled = (Training(NorthSelectBundle(baseline="maximum").program()) for _ in range(2))
    compiled.net.compile_with(backend="eager")
    eager.run(3)
    counted = len(added)
    compiled.run(3)
    assert counted > 0
    assert len(added) == 2 * counted
    assert compiled.net.graph == eager.net.graph
    assert same_state(eager.net, compiled.net)
