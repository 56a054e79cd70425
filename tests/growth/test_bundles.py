"""Published strategies as rules: NORTH-Select and NORTH-Random."""

from dataclasses import fields

import pytest

from irgrow.attributes import attributes, textual_name
from irgrow.errors import OptionError, ProgramError
from irgrow.grammar import parse_program
from irgrow.growth import (
    BUNDLES,
    AutoRGN,
    Bundle,
    DynoBundle,
    DynoSftBundle,
    EverySteps,
    FireflyBundle,
    GradMaxBundle,
    GrowthProgram,
    Limit,
    NestBundle,
    NorthPreBundle,
    NorthRandomBundle,
    NorthSelectBundle,
    NorthWeightBundle,
    Rule,
    Where,
)
from irgrow.passes import (
    DynoGrow,
    DynoPrune,
    EffectiveDimension,
    GradientRank,
    GradMax,
    GrowFirefly,
    GrowUnits,
    Nest,
    NorthPre,
    NorthSelect,
    NorthWeight,
    PruneUnits,
    Random,
    Redundancy,
    WeightRank,
)

NET = "net n(x: [4]) { return x |> h: dense(3) |> relu |> dense(1) }\n"
VARIANTS = [
    NorthSelectBundle(),
    NorthSelectBundle(0.9, 0.02, "maximum", 5, 64, 300),
    NorthSelectBundle(epsilon=1e-5),
    NorthSelectBundle(candidates=7),
    NorthRandomBundle(),
    NorthRandomBundle(gamma=1.25, baseline="last", most=1),
    NorthRandomBundle(every=3),
    NorthPreBundle(),
    NorthPreBundle(0.9, bias="zero"),
    NorthWeightBundle(),
    NorthWeightBundle(0.95, baseline="maximum", most=9),
    GradMaxBundle(),
    GradMaxBundle(0.5, 10, borders="kernel"),
    FireflyBundle(),
    FireflyBundle(0.5, 3, 99, 1e-3, 50),
    NestBundle(),
    NestBundle(beta=0.1),
    DynoBundle(),
    DynoBundle(0.1, 0.05, 20, 10, 100, False, 7),
    DynoSftBundle(every=30, batches=5),
]


def test_north_select_is_the_papers_rule():
    trigger = EffectiveDimension(gamma=0.97, epsilon=0.01, baseline="initial")
    grow = GrowUnits(init=NorthSelect(0, epsilon=0.01))
    rule = Rule("north_select", grow, trigger, EverySteps(1), Where(("hidden",)), (Limit("width", 512),), "exact")
    assert NorthSelectBundle().program() == GrowthProgram((rule,))


def test_north_random_differs_in_the_initializer_only():
    (select,), (random,) = NorthSelectBundle().program().rules, NorthRandomBundle().program().rules
    assert random == Rule(
        "north_random", GrowUnits(init=Random()), *(getattr(select, f.name) for f in fields(select)[2:])
    )


def test_the_others_of_the_thesis():
    (pre,), (weight,), (gradmax,) = (b().program().rules for b in (NorthPreBundle, NorthWeightBundle, GradMaxBundle))
    assert (pre.when, pre.apply, pre.require) == (EffectiveDimension(), GrowUnits(init=NorthPre()), "exact")
    assert (weight.when, weight.apply) == (WeightRank(0.99), GrowUnits(init=NorthWeight()))
    assert (gradmax.when, gradmax.apply) == (GradientRank(), GrowUnits(init=GradMax()))
    (firefly,), (nest,) = FireflyBundle().program().rules, NestBundle().program().rules
    assert (firefly.when, firefly.apply, firefly.require) == (GradientRank(), GrowFirefly(), "any")
    assert (nest.when, nest.apply, nest.require) == (GradientRank(), GrowUnits(init=Nest()), "any")
    assert weight.limit == gradmax.limit == (Limit("width", 512),)


def test_dyno_prunes_what_is_alike_and_then_grows():
    prune, grow = DynoBundle(least=3, most=40).program().rules
    assert prune.apply == PruneUnits(by=Redundancy("norm"), least=3)
    assert (prune.when, prune.require) == (DynoPrune(0.03, 0.01, least_dense=0), "any")
    assert (grow.when, grow.apply.init) == (DynoGrow(0.03, 0.01), NorthSelect(epsilon=0.01, per_unit=100))
    assert grow.limit == (Limit("width", 40),)
    assert DynoBundle(saturated=False).program().rules[1].when.cap == "none"
    with_rates = DynoSftBundle().program()
    assert with_rates == GrowthProgram(DynoBundle().program().rules, AutoRGN(50, 3))
    with pytest.raises(OptionError, match="`least` must be at most `most`"):
        DynoBundle(least=9, most=8)


def test_options_reach_the_rule():
    (rule,) = NorthSelectBundle(0.9, 0.02, "maximum", 5, 64, 300).program().rules
    assert rule.when == EffectiveDimension(0.9, 0.02, "maximum")
    assert rule.apply == GrowUnits(init=NorthSelect(300, epsilon=0.02))
    assert rule.every == EverySteps(5)
    assert rule.limit == (Limit("width", 64),)


@pytest.mark.parametrize("bundle", VARIANTS, ids=str)
def test_a_printed_bundle_parses_to_its_rules(bundle):
    assert parse_program(f"{NET}grow {{ use {bundle} }}").growth == bundle.program()


@pytest.mark.parametrize("bundle", VARIANTS, ids=str)
def test_the_printed_rules_parse_back(bundle):
    assert parse_program(NET + str(bundle.program())).growth == bundle.program()


def test_only_what_differs_from_the_paper_is_printed():
    assert [str(b) for b in VARIANTS] == [
        "north_select",
        "north_select(gamma = 0.9, epsilon = 0.02, baseline = maximum, every = 5, most = 64, candidates = 300)",
        "north_select(epsilon = 1e-05)",
        "north_select(candidates = 7)",
        "north_random",
        "north_random(gamma = 1.25, baseline = last, most = 1)",
        "north_random(every = 3)",
        "north_pre",
        "north_pre(gamma = 0.9, bias = zero)",
        "north_weight",
        "north_weight(gamma = 0.95, baseline = maximum, most = 9)",
        "gradmax",
        "gradmax(factor = 0.5, every = 10, borders = kernel)",
        "firefly",
        "firefly(factor = 0.5, every = 3, most = 99, epsilon = 0.001, candidates = 50)",
        "nest",
        "nest(beta = 0.1)",
        "dyno",
        "dyno(delta = 0.1, epsilon = 0.05, every = 20, least = 10, most = 100, saturated = false, candidates = 7)",
        "dyno_sft(every = 30, batches = 5)",
    ]


@pytest.mark.parametrize("cls", BUNDLES, ids=textual_name)
def test_every_option_is_declared_and_documented(cls):
    assert issubclass(cls, Bundle)
    assert [f.name for f in fields(cls)] == [a.name for a in attributes(cls)]
    assert cls.__doc__


@pytest.mark.parametrize(
    "option", ["gamma = 0", "epsilon = -1", "baseline = mean", "every = 0", "most = 0", "seed = 1"]
)
@pytest.mark.parametrize("name", [textual_name(cls) for cls in BUNDLES])
def test_options_out_of_range(name, option):
    with pytest.raises(ProgramError, match=option.split(" ", maxsplit=1)[0]):
        _ = parse_program(f"{NET}grow {{ use {name}({option}) }}").growth


def test_candidates_are_an_option_of_north_select_alone():
    with pytest.raises(ProgramError, match="north_random has no argument `candidates`"):
        _ = parse_program(f"{NET}grow {{ use north_random(candidates = 9) }}").growth


def test_both_may_be_used_together():
    program = parse_program(f"{NET}grow {{ use north_random use north_select }}").growth
    assert [r.name for r in program.rules] == ["north_random", "north_select"]


def test_a_bundle_of_no_rules_says_so():
    with pytest.raises(NotImplementedError):
        Bundle().program()
