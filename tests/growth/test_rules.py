"""Growth programs as data: sites, limits, and that what is printed parses back."""

import numpy as np
import pytest
from live import CNN
from loops import SHARED

from irgrow.axes import NEW
from irgrow.cost import cost
from irgrow.errors import OptionError, ProgramError
from irgrow.grammar import parse, parse_program
from irgrow.growth import Epochs, EverySteps, GrowthProgram, Limit, Plateau, Rule, Steps, Where
from irgrow.growth.controller import Controller
from irgrow.network import build
from irgrow.passes import (
    DuplicateUnits,
    DynoPrune,
    EffectiveDimension,
    GradMax,
    GrowUnits,
    InsertLayer,
    Magnitude,
    NorthSelect,
    PruneEdges,
    PruneGlobally,
    PruneUnits,
    Random,
    Schedule,
    SplitUnits,
    plan,
)
from irgrow.passes import Plateau as PlateauTrigger

MLP = "net mlp(x: [6]) { return x |> fc1: dense(8) |> relu |> fc2: dense(7) |> relu |> fc3: dense(5) |> head: dense(3) }\n"
CAT = "net cat(x: [4]) { return x |> h: dense(6) |> relu |> both: concat { identity ; g: dense(3) } |> dense(2) }"


def sites(*items, text=MLP):
    return Where(items).sites(parse(text))


def wider(graph, site, units):
    return graph.resized({site: np.append(np.arange(graph.widths[site]), np.full(units, NEW))})


def rule(apply, where=None, when=None, **more):
    return Rule("r", apply, when or Schedule(2), where=where or Where(), require="any", **more)


# where ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("items", "found"),
    [
        (("hidden",), ("fc1", "fc2")),
        (("editable",), ("fc1", "fc2", "fc3")),
        (("fc3",), ("fc3",)),
        (("relu_2",), ("fc2",)),
        (("fc*",), ("fc1", "fc2", "fc3")),
        (("fc[12]",), ("fc1", "fc2")),
        (("fc?",), ("fc1", "fc2", "fc3")),
        (("*",), ("fc1", "fc2", "fc3")),
        (("fc3", "relu_1"), ("fc1", "fc3")),
        (("fc2", "fc1", "fc2", "relu_1", "hidden", "fc1*"), ("fc1", "fc2")),
    ],
    ids=str,
)
def test_sites_are_axes_each_once_in_program_order(items, found):
    assert sites(*items) == found


def test_axes_of_a_residual_group_are_one():
    assert sites("hidden", text=CNN) == ("c1",)
    assert sites("editable", text=CNN) == ("stem", "c1")
    assert sites("c2", text=CNN) == sites("bn", text=CNN) == sites("maxpool_1", text=CNN) == ("stem",)


def test_a_locked_axis_can_be_named_but_no_pattern_means_it():
    assert sites("head") == ("head",)
    assert sites("x") == ("x",)
    with pytest.raises(OptionError, match=r"`where = hea\*` matches no axis"):
        sites("hea*")


def test_dotted_names_and_patterns():
    text = "block b(x) { return x |> fc: dense(4) |> relu }\nnet n(x: [3]) { return x |> s1: b |> s2: b |> dense(1) }"
    assert sites("s1.*", text=text) == sites("s1.fc", text=text) == ("s1.fc",)
    assert sites("*.fc", text=text) == ("s1.fc", "s2.fc")


@pytest.mark.parametrize("word", ["hidden", "editable"])
def test_a_word_may_mean_nothing(word):
    assert sites(word, text="net n(x: [3]) { return x |> dense(2) }") == ()


@pytest.mark.parametrize("items", [("nowhere",), ("fc1", "nowhere"), ("FC1*",), ("relu_*",), ("",)], ids=str)
def test_what_matches_nothing_is_an_error(items):
    with pytest.raises(OptionError, match="matches no axis"):
        sites(*items)


@pytest.mark.parametrize(
    ("item", "meant"),
    [("haed", "head"), ("hiden", "hidden"), ("editble", "editable"), ("relu2", "relu_2")],
)
def test_unknown_names_say_what_may_be_meant(item, meant):
    with pytest.raises(OptionError, match=f"`where = {item}` matches no axis; did you mean `{meant}`"):
        sites(item)


def test_a_node_of_several_axes_is_none():
    with pytest.raises(OptionError, match="`where = both` matches no axis; the units of `both` are those of h, both.g"):
        sites("both", text=CAT)
    assert sites("h", "both.g", text=CAT) == ("h", "both.g")


def test_sites_follow_the_graph_they_are_asked_of():
    where = Where(("hidden",))
    assert where.sites(parse(MLP)) == ("fc1", "fc2")
    assert where.sites(parse(MLP.replace("|> head", "|> relu |> head"))) == ("fc1", "fc2", "fc3")


# limits --------------------------------------------------------------------------------------------------------------


def test_a_width_is_allowed_up_to_the_bound():
    graph = parse(MLP)
    assert [Limit("width", most).allows(graph, "fc1", 5) for most in (1, 7, 8, 9, 12, 13, 14)] == [0, 0, 0, 1, 4, 5, 5]
    assert Limit("width", 9).allows(graph, "fc2", 5) == 2, "each axis for itself"


@pytest.mark.parametrize("quantity", ["parameters", "macs"])
@pytest.mark.parametrize(
    ("text", "site"), [(MLP, "fc1"), (MLP, "fc3"), (CNN, "stem"), (CNN, "c1"), (CAT, "h"), (SHARED, "a")]
)
def test_a_total_is_allowed_up_to_the_bound(quantity, text, site):
    graph = parse(text)
    totals = [getattr(cost(wider(graph, site, units)), quantity) for units in range(6)]
    assert totals == sorted(set(totals))
    for units, total in enumerate(totals):
        assert Limit(quantity, total).allows(graph, site, 5) == units, "exactly at the bound"
        assert Limit(quantity, total - 1).allows(graph, site, 5) == max(units - 1, 0), "just below it"
    assert Limit(quantity, 1).allows(graph, site, 5) == 0
    assert Limit(quantity, 10**9).allows(graph, site, 5) == 5
    assert Limit(quantity, totals[2]).allows(graph, site, 0) == 0


@pytest.mark.parametrize("apply", [SplitUnits(), DuplicateUnits(copies=2)], ids=str)
@pytest.mark.parametrize("limit", [Limit("width", 15), Limit("parameters", 500)], ids=str)
def test_what_is_not_counted_stays_within_limits(apply, limit):
    net = build(MLP)
    controller = Controller(net, GrowthProgram((rule(apply, Where(("fc1",)), limit=(limit,)),)))
    free = Controller(build(MLP), GrowthProgram((rule(apply, Where(("fc1",))),)))
    for _ in range(4):
        controller.step()
        free.step()
    assert limit.permits(net.graph, net.graph)
    assert net.graph.widths["fc1"] <= 15 or limit.quantity != "width"
    assert limit.quantity != "parameters" or net.graph.count() <= 500
    assert free.net.graph.widths["fc1"] > 100, "without a limit it doubles every time"


def test_an_axis_beyond_the_bound_may_stay_as_it_is():
    graph = parse(MLP)
    assert Limit("width", 3).permits(graph, graph)
    assert not Limit("width", 3).permits(graph, wider(graph, "fc1", 1))
    assert not Limit("width", 3).permits(graph, plan(InsertLayer("relu_1"), graph).morphism.after), "a new axis of 8"


def test_totals_count_what_the_summary_counts():
    graph = parse(MLP)
    assert cost(wider(graph, "fc1", 1)).parameters - cost(graph).parameters == 6 + 1 + 7
    assert Limit("parameters", graph.count() + 27).allows(graph, "fc1", 9) == 1
    assert Limit("parameters", graph.count() + 28).allows(graph, "fc1", 9) == 2


@pytest.mark.parametrize(
    ("quantity", "help"),
    [("widht", "did you mean `width`"), ("flops", "known are: width, parameters, macs"), ("", "known are")],
)
def test_unknown_quantities(quantity, help):
    with pytest.raises(OptionError, match=f"`limit` has no quantity `{quantity}`; {help}"):
        Limit(quantity, 9)


@pytest.mark.parametrize("most", [0, -1])
def test_a_limit_below_one(most):
    with pytest.raises(OptionError, match=f"a limit must be at least 1, found {most}"):
        Limit("width", most)


# rules and programs --------------------------------------------------------------------------------------------------


def test_a_rule_prints_what_it_says():
    rule = Rule(
        "late",
        GrowUnits(init=NorthSelect(50)),
        Schedule(2),
        Steps((10, 20)),
        Where(("s1.*", "fc")),
        (Limit("width", 9), Limit("macs", 1000)),
        "any",
    )
    assert str(GrowthProgram((rule,))) == (
        "grow {\n"
        "  rule late {\n"
        "    every = steps([10, 20])\n"
        "    when = schedule(2)\n"
        "    apply = grow_units(init = north_select(50))\n"
        '    where = ["s1.*", fc]\n'
        "    limit = [width <= 9, macs <= 1000]\n"
        "    require = any\n"
        "  }\n"
        "}\n"
    )


def test_defaults_are_every_step_hidden_exact_and_unlimited():
    rule = Rule("r", GrowUnits(), Schedule())
    assert (rule.every, rule.where, rule.limit, rule.require) == (EverySteps(1), Where(("hidden",)), (), "exact")
    text = MLP + "grow { rule r { when = schedule apply = grow_units } }"
    assert parse_program(text).growth == GrowthProgram((rule,))
    assert "limit" not in str(rule)
    assert "require" not in str(rule)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"every": EverySteps(7)},
        {"every": Epochs(2)},
        {"every": Steps((3,))},
        {"every": Plateau(2, 1e-05, 50)},
        {"when": PlateauTrigger(units=4, threshold=0.0)},
        {"when": EffectiveDimension(1.5, 1e-7, "maximum", "floor", 64)},
        {"when": Schedule(3, 12)},
        {"apply": GrowUnits(init=NorthSelect(5, "rank", greedy=True, samples=9), zero="fan_in")},
        {"apply": GrowUnits(init=Random())},
        {"apply": InsertLayer("relu_1", "plus_minus", "gelu")},
        {"apply": InsertLayer("s.0.up[1]", kernel=3)},
        {"apply": PruneUnits(units=(0, 2))},
        {"where": Where(("editable",))},
        {"where": Where(("a.*",))},
        {"where": Where(("x?", "[ab]", "c", "s1.0.conv_1", "hidden"))},
        {"where": Where(("up[0]",))},
        {"limit": (Limit("width", 1),)},
        {"limit": (Limit("parameters", 10**9), Limit("macs", 10**12), Limit("width", 2))},
        {"require": "any"},
    ],
    ids=str,
)
def test_what_is_printed_parses_back(options):
    program = GrowthProgram((Rule("r", **{"apply": GrowUnits(), "when": Schedule(), **options}),))
    again = parse_program(MLP + str(program)).growth
    assert again == program
    assert str(again) == str(program)


@pytest.mark.parametrize("name", ["two words", "", "1st", "a-b", "r {"])
def test_a_name_that_cannot_be_written_is_refused(name):
    with pytest.raises(OptionError, match="name"):
        Rule(name, GrowUnits(), Schedule())


def test_a_where_without_items_is_refused():
    with pytest.raises(OptionError, match="where"):
        Where(())


def test_the_order_of_rules_is_kept():
    rules = tuple(Rule(name, GrowUnits(), Schedule()) for name in ("z", "a", "m"))
    assert [r.name for r in parse_program(MLP + str(GrowthProgram(rules))).growth.rules] == ["z", "a", "m"]
    assert GrowthProgram(rules) != GrowthProgram(rules[::-1])


def test_a_program_without_rules_prints_and_parses():
    assert parse_program(MLP + str(GrowthProgram(()))).growth == GrowthProgram(())


def test_two_rules_of_one_name():
    rule = Rule("twice", GrowUnits(), Schedule())
    with pytest.raises(OptionError, match="two rules are called `twice`"):
        GrowthProgram((rule, Rule("once", GrowUnits(), Schedule()), rule))
    with pytest.raises(ProgramError, match="two rules are called `twice`"):
        _ = parse_program(MLP + "grow {\n" + f"{rule}\n{rule}\n" + "}").growth


@pytest.mark.parametrize("require", ["Exact", "maybe", ""])
def test_require_takes_two_words(require):
    with pytest.raises(OptionError, match=f"`require` takes exact or any, found {require}"):
        Rule("r", GrowUnits(), Schedule(), require=require)


def test_rules_are_values():
    make = lambda: GrowthProgram((Rule("r", GrowUnits(init=NorthSelect()), Schedule(), limit=(Limit("width", 3),)),))  # noqa: E731
    assert make() == make()
    assert len({make(), make()}) == 1


@pytest.mark.parametrize(
    ("apply", "problem"),
    [
        (PruneUnits(by=Magnitude(), count=1, fraction=0.5), "`count` and `fraction` both say how many units go"),
        (PruneUnits(), "no units were named"),
        (PruneGlobally(by=Magnitude(), count=1, fraction=0.5), "either `count` or `fraction`"),
        (GrowUnits(absorb=True), "`absorb` makes up for units with zero fan-in"),
        (GrowUnits(init=GradMax(), zero="neither"), "says itself which side of new units is zero"),
        (PruneEdges(density=2.0), "`density`"),
    ],
)
def test_a_rule_whose_pass_contradicts_itself_is_no_rule(apply, problem):
    with pytest.raises(OptionError, match=problem):
        Rule("r", apply, Schedule())


def test_a_trigger_that_takes_away_needs_a_pass_that_does():
    Rule("r", PruneUnits(by=Magnitude()), DynoPrune(), require="any")
    with pytest.raises(
        OptionError, match="`dyno_prune` says how many units should go; `grow_units` does not take units"
    ):
        Rule("r", GrowUnits(), DynoPrune())


def test_a_rule_may_leave_the_amount_to_its_trigger():
    Rule("r", PruneUnits(by=Magnitude()), Schedule())
