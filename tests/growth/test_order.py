"""Rules taken one after the other, or together site by site, as in Algorithm 5 of Maile (2023)."""

from dataclasses import dataclass, field

import pytest
import torch
from loops import Training, same_state

from irgrow.errors import OptionError, ProgramError
from irgrow.grammar import parse_program
from irgrow.growth import DynoBundle, EverySteps, GrowthProgram, Limit, Rule, Where
from irgrow.passes import GrowUnits, InsertLayer, Magnitude, PruneUnits, RewireEdges, Schedule, Trigger

SMALL = "net n(x: [2]) { return x |> a: dense(3) |> tanh |> b: dense(3) |> tanh |> head: dense(1) }"
TWO = "net n(x: [6]) { return x |> a: dense(12) |> tanh |> b: dense(10) |> tanh |> head: dense(3) }"
ONE = "net n(x: [6]) { return x |> a: dense(12) |> tanh |> head: dense(3) }"


def turnover(order, most):
    """Every layer loses one unit and may gain four, within so many parameters."""
    prune = Rule("less", PruneUnits(by=Magnitude()), Schedule(1), require="any", order=order)
    grow = Rule("more", GrowUnits(), Schedule(4), limit=(Limit("parameters", most),), order=order)
    return GrowthProgram((prune, grow))


def stepped(program, text=SMALL):
    run = Training(program, text)
    shape = run.net.graph.shape("x")
    run.receipts += run.controller.step(torch.randn(8, *shape, generator=torch.Generator().manual_seed(0)).double())
    return run


def done(receipts):
    return [(receipt.rewrite.split("(")[0], *receipt.sites) for receipt in receipts]


# what happens --------------------------------------------------------------------------------------------------------


def test_site_by_site_and_rule_by_rule_differ_as_counted_by_hand():
    """Two inputs, layers of 3 and 3 and an output have 9 + 12 + 4 = 25 parameters, and may have no more.

    By sites: a loses a unit, 6 + 9 + 4 = 19; one more costs 2 + 1 + 3 = 6, so one comes back. Then b loses one,
    9 + 8 + 3 = 20; one more costs 3 + 1 + 1 = 5, so one comes back. By rules: both lose one first, 6 + 6 + 3 = 15; then a
    unit of a costs 2 + 1 + 2 = 5, so two come, and b finds no room.
    """
    sites, rules = stepped(turnover("sites", 25)), stepped(turnover("rules", 25))
    assert done(sites.receipts) == [
        ("prune_units", "a"),
        ("grow_units", "a"),
        ("prune_units", "b"),
        ("grow_units", "b"),
    ]
    assert done(rules.receipts) == [("prune_units", "a"), ("prune_units", "b"), ("grow_units", "a")]
    assert (sites.widths, rules.widths) == ({"a": 3, "b": 3}, {"a": 4, "b": 2})
    assert sites.net.graph.count() == rules.net.graph.count() == 25


@pytest.mark.parametrize(
    "program", [lambda order: turnover(order, 99), lambda order: DynoBundle(0.05, every=3, order=order).program()]
)
def test_with_one_layer_both_orders_are_the_same(program):
    sites, rules = (Training(program(order), ONE, size=64).run(12) for order in ("sites", "rules"))
    assert sites.receipts
    assert sites.rewrites == rules.rewrites
    assert sites.losses == rules.losses
    assert same_state(sites.net, rules.net)


@pytest.mark.parametrize("order", ["sites", "rules"])
def test_dyno_is_done_with_a_layer_before_it_looks_at_the_next(order):
    run = Training(DynoBundle(0.05, 1e-4, every=5, saturated=False, order=order).program(), TWO, size=64).run(5)
    assert not run.receipts
    run.optimizer.param_groups[0]["lr"] = 0.0  # so that copies are still copies when the latest batches are run again
    for record in run.controller.recorded.values():
        record.clear()
    with torch.no_grad():
        for name in ("b.weight", "b.bias"):  # the second layer has lost dimensions
            run.net.params[name][1:5] = run.net.params[name][0]
    for what in ("prune", "grow"):  # the first one has gained some
        run.controller.memory[f"dyno_{what}: a"]["phi"] *= 0.8
    run.run(5)
    wanted = [("grow_units", "a"), ("prune_units", "b")]
    assert done(run.receipts) == (wanted if order == "sites" else wanted[::-1])
    for site in ("a", "b"):
        memories = [run.controller.memory[f"dyno_{what}: {site}"] for what in ("prune", "grow")]
        assert memories[0] == memories[1], "measured anew after each change"


# who is asked where --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Noting(Trigger):
    """Notes which rule is asked where, in a list that several share, and wants nothing."""

    name: str
    told: list[tuple[str, str]] = field(hash=False, compare=False)

    def wanted(self, view, site, memory):
        self.told.append((self.name, site))
        return 0


def asked(*rules, steps=1, text=TWO):
    """Return where rules are asked, each given as its name, sites, cadence and order."""
    told = []
    made = (
        Rule(name, GrowUnits(), Noting(name, told), EverySteps(every), Where(where), order=order)
        for name, where, every, order in rules
    )
    run = Training(GrowthProgram(tuple(made)), text)
    for _ in range(steps):
        told.append("step")
        run.step()
    return " ".join(t if t == "step" else "".join(t) for t in told)


def test_sites_are_taken_in_program_order_whatever_the_rules_name():
    rules = ("p", ("b",), 1, "sites"), ("q", ("b", "a"), 1, "sites"), ("r", ("a",), 1, "sites")
    assert asked(*rules) == "step qa ra pb qb"


def test_rules_that_are_not_due_are_left_out():
    assert asked(("p", ("a", "b"), 2, "sites"), ("q", ("a", "b"), 1, "sites"), steps=2) == "step qa qb step pa qa pb qb"


def test_only_rules_that_follow_one_another_are_taken_together():
    both = ("a", "b")
    rules = ("p", both, 1, "sites"), ("q", both, 1, "rules"), ("r", both, 1, "sites"), ("s", both, 1, "sites")
    assert asked(*rules) == "step pa pb qa qb ra sa rb sb"
    alone = [(name, sites, every, "rules") for name, sites, every, _ in rules]
    assert asked(*alone) == "step pa pb qa qb ra rb sa sb"


def test_a_site_that_a_rule_takes_away_is_not_asked_about_any_more():
    """The second rule sees the axes there are when the rules are asked."""
    told = []
    deeper = Rule("deeper", InsertLayer(), Schedule(1), require="any", order="sites")
    look = Rule("look", GrowUnits(), Noting("look", told), order="sites")
    run = stepped(GrowthProgram((deeper, look)), TWO)
    assert len([r for r in run.receipts if r.applied]) == 2
    assert told == [("look", "a"), ("look", "b")]


# as text -------------------------------------------------------------------------------------------------------------


def test_it_is_written_as_a_setting_of_the_rule():
    program = turnover("sites", 99)
    assert str(program).count("    order = sites\n") == 2
    assert parse_program(TWO + str(program)).growth == program
    assert "order" not in str(turnover("rules", 99))
    assert parse_program(TWO + str(turnover("rules", 99))).growth != program
    assert (str(DynoBundle(order="rules")), str(DynoBundle())) == ("dyno(order = rules)", "dyno")
    text = "grow { use dyno(order = rules) rule r { when = schedule apply = grow_units order = sites } }"
    assert [rule.order for rule in parse_program(TWO + text).growth.rules] == ["rules", "rules", "sites"]


def test_other_orders_are_refused():
    with pytest.raises(OptionError, match="`order` takes rules or sites, found random"):
        Rule("r", GrowUnits(), Schedule(), order="random")
    with pytest.raises(ProgramError, match=r"<.*>:1:\d+: error: `order` takes rules or sites, found layers"):
        _ = parse_program(TWO + "grow { rule r { when = schedule apply = grow_units order = layers } }").growth
    with pytest.raises(OptionError, match="`rewire_edges` chooses its own sites, so it cannot be taken site by site"):
        Rule("r", RewireEdges(), Schedule(), order="sites")
    with pytest.raises(OptionError, match="order"):
        DynoBundle(order="layers")
