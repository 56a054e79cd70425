"""What the growth loop records from training, what follows rewrites, and taking a run up again."""

import copy
import json

import pytest
import torch
from live import CNN, MLP
from loops import NORTH, Spy, Training, hooks, only, rule, same_state

from irgrow.growth import (
    Epochs,
    EverySteps,
    NorthRandomBundle,
    NorthSelectBundle,
    Plateau,
    Steps,
    Where,
)
from irgrow.passes import (
    Dormancy,
    DynoGrow,
    EffectiveDimension,
    GrowUnits,
    InsertLayer,
    NorthSelect,
    PruneUnits,
    Schedule,
)
from irgrow.passes import Plateau as PlateauTrigger
from irgrow.passes.analyses.spectrum import Gram

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
    torch.testing.assert_close(run.controller.recorded["relu_2"].total, expected.total, rtol=1e-14, atol=0)
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


def test_what_a_rewrite_left_as_it_was_is_not_recorded_twice():
    """The stream `a` is written before and behind `b`; of its two nodes only the later one is stale."""
    text = """net n(x: [6]) {
      return x |> a: dense(8) |> early: relu |> residual { b: dense(7) |> relu |> dense(8) |> late: relu } |> dense(3)
    }"""
    rules = [rule("watch", when=EffectiveDimension(2.0), where=Where(("a",))), rule("told", when=DynoGrow())]
    levels = rule("levels", PruneUnits(by=Dormancy()), every=Steps((9,)), where=Where(("a",)), require="any")
    run = Training(only(*rules, levels, rule("grow", every=Steps((3,)), where=Where(("b",)))), text).run(2)
    run.step()
    assert run.net.graph.widths["b"] == 8
    assert "a [levels]" in run.controller.recorded, "both nodes are recorded for it"
    assert run.controller.recorded["early"].count == 24


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
        InsertLayer(form="dirac"),
        PruneUnits(units=(0,)),
        PruneUnits(units=(0, 1)),
        PruneUnits(units=(0, 99)),
        PruneUnits(units=tuple(range(8))),
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
    assert {"count", "memory", "refused"} <= set(state)
    assert {k.split("/")[0] for k in tensors} <= {"relu_1", "relu_2", "[recent]"}
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
