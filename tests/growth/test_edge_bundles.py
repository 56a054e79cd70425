"""Rules that rewire synapses: SET and RigL, once per event, with gradients from the loop's loss."""

from itertools import pairwise
from math import cos, pi

import pytest
import torch
from live import MLP
from loops import Training, only, rule
from masked import criterion, inputs, live  # type: ignore[import-not-found]

from irgrow.errors import OptionError, ProgramError
from irgrow.grammar import parse_program
from irgrow.growth import Epochs, EverySteps, RigLBundle, Rule, SetBundle, Steps, Where
from irgrow.growth.controller import Controller
from irgrow.passes import (
    EffectiveDimension,
    GrowEdges,
    GrowUnits,
    Plateau,
    PruneEdges,
    RewireEdges,
    Schedule,
)
from irgrow.passes.analyses.density import density
from irgrow.training.loop import Job, Run
from irgrow.verdict import Refused

VARIANTS = [
    SetBundle(),
    SetBundle(0.05, 0.25, 2, "uniform", "last"),
    RigLBundle(),
    RigLBundle(density=0.1, every=10, until=75, spare="first"),
]


class Sparse(Training):  # type: ignore[misc]
    """The plain loop, handing its loss to the controller as a function."""

    hands_over = True

    def step(self):
        x = self.batch(self.done)

        def loss_of(outputs):
            return (outputs - x.flatten(1)[:, :3].sin()).square().mean()

        loss = loss_of(self.net(x))
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        self.done += 1
        self.losses.append(loss.item())
        found = self.controller.step(x, self.losses[-1], loss_of if self.hands_over else None)
        self.receipts += found
        return found


def on(net):
    return {n: c.on for n, c in density(net.graph, net.params).weights.items()}


# once per event -------------------------------------------------------------------------------------------------------


def test_a_pass_that_names_its_place_is_asked_once_and_not_at_every_axis():
    units = Sparse(only(rule(apply=GrowUnits())), MLP).run(1)
    assert len(units.receipts) == 2, "negative control: units grow at both hidden axes"
    edges = Sparse(only(rule(apply=PruneEdges(count=3), require="any")), MLP).run(2)
    assert [r.sites for r in edges.receipts] == [("all",), ("all",)]
    assert (
        sum(on(edges.net).values())
        == sum(s.size for s in density(edges.net.graph, edges.net.params).weights.values()) - 6
    )


def test_a_rule_may_name_one_weight():
    done = Sparse(only(rule(apply=PruneEdges("b", count=3), require="any")), MLP).run(2)
    assert [r.sites for r in done.receipts] == [("b",), ("b",)]
    assert on(done.net)["b.weight"] == 56 - 6


def test_the_trigger_says_how_many_where_the_pass_does_not():
    start = rule("start", PruneEdges(density=0.5), when=Schedule(1, total=1), require="any")
    grow = rule("more", GrowEdges(), when=Schedule(2))
    done = Sparse(only(start, grow), MLP).run(3)
    assert done.receipts[1].rewrite == "grow_edges(count = 2)"
    assert sum(on(done.net).values()) == 24 + 28 + 11 + 3 * 2
    plateau = Sparse(only(rule(apply=PruneEdges(), when=Plateau(1, 1e9, units=4), require="any")), MLP).run(3)
    assert {r.rewrite for r in plateau.receipts} == {"prune_edges(count = 4)"}


def test_exact_rules_refuse_to_prune_what_is_not_zero():
    (receipt,) = Sparse(only(rule(apply=PruneEdges(count=3))), MLP).run(4).receipts
    assert isinstance(receipt.verdict, Refused)
    assert "an exact rewrite is required" in receipt.verdict.reason


def test_a_place_is_named_once():
    with pytest.raises(OptionError, match="`rewire_edges` chooses its own sites; leave `where` out"):
        Rule("r", RewireEdges(), Schedule(), where=Where(("a",)))
    text = f"{MLP}\ngrow {{ rule r {{ when = schedule apply = prune_edges(count = 1) where = a }} }}"
    with pytest.raises(ProgramError, match="`prune_edges` chooses its own sites"):
        _ = parse_program(text).growth


def test_triggers_that_watch_units_have_nothing_to_watch():
    with pytest.raises(OptionError, match="`all` has none"):
        Controller(live(MLP)[0], only(rule(apply=RewireEdges(), when=EffectiveDimension())))


# bundles -------------------------------------------------------------------------------------------------------------


def test_the_papers_rules():
    start, rewire = SetBundle().program().rules
    random = PruneEdges(by="random", density=0.2, allocation="erk")
    assert start == Rule("set_start", random, Schedule(1, total=1), Steps((1,)), require="any")
    assert rewire == Rule("set", RewireEdges(fraction=0.3), Schedule(1), Epochs(1), require="any")
    start, rewire = RigLBundle().program().rules
    assert start.apply == random
    wanted = RewireEdges(grow="gradient", fraction=0.3, until=25000)
    assert rewire == Rule("rigl", wanted, Schedule(1, total=249), EverySteps(100), require="any")


@pytest.mark.parametrize("bundle", VARIANTS, ids=str)
def test_bundles_and_their_rules_are_read_back(bundle):
    net = MLP + "\n"
    assert parse_program(f"{net}grow {{ use {bundle} }}").growth == bundle.program()
    assert parse_program(net + str(bundle.program())).growth == bundle.program()
    assert "where" not in str(bundle.program())


@pytest.mark.parametrize(
    "option", ["density = 1.0", "density = 0", "fraction = 0", "allocation = global", "until = 100"]
)
def test_options_out_of_range(option):
    with pytest.raises(ProgramError, match=option.split(" ", maxsplit=1)[0]):
        _ = parse_program(f"{MLP}\ngrow {{ use rigl({option}) }}").growth


def test_set_exchanges_a_share_every_epoch_and_keeps_the_density():
    training = Sparse(SetBundle(density=0.4).program(), MLP, steps_per_epoch=5)
    training.run(1)
    counts = on(training.net)
    assert sum(counts.values()) == 51
    seen = [training.net.params["a.mask"].clone()]
    for _ in range(4):
        training.run(5)
        assert on(training.net) == counts
        seen.append(training.net.params["a.mask"].clone())
    assert all(not torch.equal(a, b) for a, b in pairwise(seen))
    assert [e.step for e in training.net.journal] == [1, 5, 10, 15, 20]
    assert {r.rewrite for r in training.receipts[1:]} == {"rewire_edges"}


def test_rigl_grows_by_gradient_with_a_falling_share_until_its_end():
    training = Sparse(RigLBundle(density=0.5, every=4, until=22).program(), MLP)
    training.run(1)
    counts = on(training.net)
    training.run(40)
    assert on(training.net) == counts
    steps = [4, 8, 12, 16, 20]
    assert [e.step for e in training.net.journal][1:] == [s for s in steps if 0.15 * (1 + cos(pi * s / 22)) * 31 >= 1]
    for entry in list(training.net.journal)[1:]:
        share = 0.15 * (1 + cos(pi * entry.step / 22))
        assert entry.rewrite == f"rewire_edges(grow = gradient, fraction = {share!r})"


def test_the_gradient_is_that_of_the_loss_the_loop_hands_over():
    """What comes is what the dense gradient of this batch says, not that of another loss."""
    net, _, step = live(MLP)
    net.rewrite(PruneEdges(density=0.5, by="random"))
    step()
    x = inputs(net)
    mask = net.params["a.mask"].clone()
    grow = rule(apply=GrowEdges("a", "gradient", count=2), require="any")
    weight = torch.nn.Parameter((net.params["a.weight"] * mask).detach())
    hidden = torch.relu(x @ weight.T + net.params["a.bias"])
    rest = [(net.params[f"{n}.weight"] * net.params[f"{n}.mask"], net.params[f"{n}.bias"]) for n in ("b", "head")]
    outputs = torch.relu(hidden @ rest[0][0].T + rest[0][1]) @ rest[1][0].T + rest[1][1]
    (dense,) = torch.autograd.grad(criterion(outputs), weight)
    (receipt,) = Controller(net, only(grow)).step(x, 0.0, criterion)
    assert receipt.applied
    new = net.params["a.mask"] != mask
    assert new.sum() == 2
    assert dense.abs()[new].min() >= dense.abs()[~new & (mask == 0)].max()


def test_without_a_loss_it_is_refused_once_and_says_what_to_give():
    class Silent(Sparse):
        hands_over = False

    training = Silent(RigLBundle(density=0.5, every=4, until=22).program(), MLP).run(12)
    (refused,) = [r for r in training.receipts if not r.applied]
    assert "controller.step(x, value, criterion=function)" in refused.verdict.reason
    assert len(training.net.journal) == 1


def test_a_run_is_saved_and_taken_up_again_bit_for_bit():
    one = Sparse(RigLBundle(density=0.5, every=3, until=30).program(), MLP).run(7)
    two = one.rebuilt(*one.controller.state())
    one.run(8), two.run(8)
    assert one.losses[7:] == two.losses
    assert [e.rewrite for e in one.net.journal] == [e.rewrite for e in two.net.journal]
    assert all(torch.equal(one.net.params[n], two.net.params[n]) for n in one.net.params)


@pytest.mark.parametrize("use", ["set(density = 0.5)", "rigl(density = 0.5, every = 5, until = 40)"])
def test_the_training_loop_of_irgrow_runs_them(use, tmp_path):
    text = (
        "net n(x: [2]) { return x |> a: dense(12) |> relu |> b: dense(12) |> relu |> head: dense(2) }\n"
        f"train {{ data = spirals loss = cross_entropy epochs = 2 batch = 64 optimizer = adam(lr = 0.01) }}\n"
        f"grow {{ use {use} }}\n"
    )
    program = parse_program(text)
    run = Run(Job(program.graph(), program.training, program.growth), tmp_path / "run")
    summary = run.run()
    assert summary["rewrites"] >= 2
    found = density(run.net.graph, run.net.params)
    assert 0.5 <= found.density < 0.53
