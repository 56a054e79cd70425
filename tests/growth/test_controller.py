"""The growth loop in a plain training loop: what is asked, recorded, carried out, refused, saved and taken up again."""

import json

import numpy as np
import pytest
import torch
from live import CNN, MLP
from loops import NORTH, Spy, Training, hooks, only, rule, same_state

from irgrow.errors import DataError, OptionError
from irgrow.growth import (
    Epochs,
    EverySteps,
    NorthRandomBundle,
    NorthSelectBundle,
    Plateau,
    Steps,
    Where,
)
from irgrow.growth.controller import Controller
from irgrow.network import build
from irgrow.passes import (
    EffectiveDimension,
    GrowUnits,
    NorthSelect,
    Schedule,
)
from irgrow.passes import Plateau as PlateauTrigger
from irgrow.verdict import Exact

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


def test_growth_nobody_trains_is_told():
    program = only(rule(when=Schedule(1)))
    net = build(MLP)
    untracked, offline = Controller(net, program).step(), Controller(build(MLP).eval(), program).step()
    assert all("no optimizer is tracked" in str(r) for r in untracked)
    assert not any(r.notes for r in offline), "nothing is trained"
    assert untracked
    assert offline
    net.track(torch.optim.SGD(net.parameters(), lr=0.1))
    assert not any(r.notes for r in Controller(net, program).step())


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


# what is asked, and in which order -----------------------------------------------------------------------------------


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


def test_a_network_that_is_never_run_in_training_mode_is_told_of():
    run = Training(NorthSelectBundle(baseline="maximum").program())
    run.net.eval()
    before = str(run.net.graph)
    with pytest.raises(DataError, match="`north_select` has nothing to look at: .* call `train\\(\\)` on it"):
        run.step()
    assert str(run.net.graph) == before
    run.net.train()
    run.run(2)
    run.net.eval()
    run.run(2)  # what was recorded is not new, but there is something


def test_rules_that_look_at_nothing_need_no_training_pass():
    """Negative control: in evaluation mode all the time."""
    run = Training(only(rule(when=Schedule(1))))
    run.net.eval()
    assert run.run(2).receipts
