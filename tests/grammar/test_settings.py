"""`grow` and `train` sections are the dataclasses of the Python API."""

import subprocess
import sys
from dataclasses import dataclass

import pytest

from irgrow import growth, training
from irgrow.attributes import call_text, real, word
from irgrow.errors import OptionError, ProgramError
from irgrow.grammar import parse_pass, parse_program
from irgrow.growth import Epochs, EverySteps, GrowthProgram, Limit, NorthSelectBundle, Plateau, Rule, Steps, Where
from irgrow.passes import EffectiveDimension, GrowUnits, InsertLayer, NorthSelect, PruneUnits, Random, Schedule
from irgrow.training import TrainSettings
from irgrow.training.data import Digits, Npz
from irgrow.training.settings import Cosine, Sgd

NET = "net n(x: [4]) { return x |> h: dense(3) |> relu |> dense(1) }\n"


def test_a_rule_is_what_python_says():
    program = parse_program(
        NET
        + """
        grow {
          rule neurogenesis {
            every = 1
            when = effective_dimension(gamma = 0.9)
            apply = grow_units(init = north_select(candidates = 1000))
            where = hidden
            limit = width <= 512
          }
        }
        """
    ).growth
    rule = Rule(
        "neurogenesis",
        GrowUnits(init=NorthSelect(1000)),
        EffectiveDimension(0.9),
        EverySteps(1),
        Where(("hidden",)),
        (Limit("width", 512),),
    )
    assert program == GrowthProgram((rule,))


def test_sections_print_and_parse_back():
    rules = (
        Rule("a", GrowUnits(zero="fan_in"), Schedule(3, total=12), Steps((10, 20)), Where(("h", "x.*"))),
        Rule("b", GrowUnits(init=Random()), EffectiveDimension(baseline="maximum"), Epochs(2), require="any"),
        Rule("c", InsertLayer("relu_1", "residual", "gelu"), Schedule(), Plateau(2, 0.1, 50), Where(("editable",))),
        Rule("d", GrowUnits(), Schedule(), limit=(Limit("width", 9), Limit("parameters", 10**6), Limit("macs", 10**7))),
    )
    program = GrowthProgram(rules)
    assert parse_program(NET + str(program)).growth == program
    settings = TrainSettings(
        Digits(28, 0.3), "mse", Sgd(0.1, 0.9, nesterov=True), Cosine(0.01), 3, 64, 7, "xavier_uniform", "bf16", "zero"
    )
    assert parse_program(NET + str(settings)).training == settings
    assert parse_program(NET + str(TrainSettings())).training == TrainSettings()
    assert parse_program(NET + 'train { data = npz("my data.npz") }').training.data == Npz("my data.npz")
    assert parse_program(NET + str(TrainSettings(Npz("a b.npz")))).training.data == Npz("a b.npz")


def test_bundles_are_rules():
    program = parse_program(NET + "grow { use north_select(gamma = 0.9, every = 5, most = 64) }").growth
    assert program == NorthSelectBundle(gamma=0.9, every=5, most=64).program()
    (rule,) = program.rules
    assert rule.when == EffectiveDimension(0.9)
    assert rule.apply == GrowUnits(init=NorthSelect())
    assert rule.limit == (Limit("width", 64),)


@pytest.mark.parametrize(
    "pass_",
    [
        GrowUnits("f1", 8),
        GrowUnits("stage1.0.conv_1", 2, NorthSelect(100, "rank", greedy=True), "fan_in"),
        GrowUnits("up[0]", 2),
        PruneUnits("f1", (0, 3, 5)),
        PruneUnits("f1", (2,)),
        InsertLayer("relu_1"),
        InsertLayer("relu_1", "dirac", "gelu", 5),
    ],
    ids=str,
)
def test_passes_as_text(pass_):
    assert parse_pass(str(pass_)) == pass_


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ("grow { rule r { when = schedule } }", "rule `r` needs `apply`"),
        ("grow { rule r { apply = grow_units } }", "rule `r` needs `when`"),
        ("grow { rule r { apply = grow_units when = schedule howoften = 3 } }", "a rule has no `howoften`"),
        ("grow { rule r { apply = grow_units when = schedule when = schedule } }", "`when` is given twice"),
        ("grow { rule r { apply = grow_units when = schedul } }", "unknown trigger `schedul`"),
        ("grow { rule r { apply = os.system when = schedule } }", "unknown pass `os.system`"),
        ("grow { rule r { apply = grow_units when = schedule limit = width < 3 } }", "a limit is written"),
        ("grow { rule r { apply = grow_units when = schedule limit = wdth <= 3 } }", "`limit` has no quantity `wdth`"),
        ("grow { rule r { apply = grow_units when = schedule limit = width <= 0 } }", "a limit must be at least 1"),
        ("grow { rule r { apply = grow_units when = schedule where = 3 } }", "`where` takes names of axes"),
        ("grow { rule r { apply = grow_units when = schedule every = 0 } }", "`every` must be at least 1, found 0"),
        ("grow { rule r { apply = grow_units when = schedule every = epochs(0) } }", "`count` must be at least 1"),
        ("grow { rule r { apply = grow_units when = schedule order = sights } }", "`order` takes rules or sites"),
        ("grow { rule r { apply = grow_units when = schedule require = maybe } }", "`require` takes exact or any"),
        ("grow { use nort_select }", "unknown bundle `nort_select`"),
        ("grow { use north_select(gama = 1) }", "north_select has no argument `gama`"),
        ("grow { use north_select use north_select }", "two rules are called"),
        ("train { epohcs = 3 }", "`train` has no `epohcs`"),
        ("train { epochs = 3 epochs = 4 }", "`epochs` is given twice"),
        ("train { loss = crossentropy }", "`loss` takes one of cross_entropy, mse"),
        ("train { optimizer = adam(lr = 0) }", "`lr` must be above 0.0"),
        ("train { optimizer = adam(learning_rate = 1) }", "adam has no argument `learning_rate`"),
        ("train { data = digitz }", "unknown data `digitz`"),
        ("train { data = 3 }", "expected a data"),
        ("train { data = npz(3) }", "`path` takes a string, found 3"),
        ("train { data = npz }", "npz needs `path`"),
        ("train { epochs = many }", "`epochs` takes an integer, found `many`"),
        ("train { epochs = grow_units(f1) }", "`epochs` takes an integer"),
    ],
)
def test_mistakes_are_located(section, message):
    program = parse_program(NET + section)
    with pytest.raises((ProgramError, OptionError)) as caught:
        _ = [program.growth, program.training]
    assert message in str(caught.value)
    if isinstance(caught.value, ProgramError):
        assert str(caught.value.diagnostics[0].span).startswith("<text>:2:")


def messages(section):
    program = parse_program(NET + section)
    found = []
    for name in ("growth", "training"):
        try:
            getattr(program, name)
        except ProgramError as error:
            found += [d.message for d in error.diagnostics]
    return found


def test_every_entry_that_is_wrong_is_told():
    section = """
    grow {
      use nort
      rule a { every = 0  when = schedul(1)  apply = grow_units(ini = random, count = 0)  limit = [width < 3, depth <= 3] }
      rule b { every = plateau(patience = 0, intervall = 2)  when = schedule  apply = grow_units(init = nest(beta = 2)) }
      rule c { evry = 2  wen = schedule  apply = grow_units  require = maybe  order = 3  where = 3 }
      rates = auto_rgn
      rates = auto_rgn(evry = 3)
      rate = auto_rgn
    }
    train { epochs = -1  optimiser = adam  optimizer = adam(lr = -1, beta3 = 2, eps = 0)  epochs = 3 }
    """
    assert messages(section) == [
        "unknown bundle `nort`",
        "`every` must be at least 1, found 0",
        "unknown trigger `schedul`",
        "grow_units has no argument `ini`",
        "`count` must be at least 1, found 0",
        "a limit is written `width <= 512`",
        "`limit` has no quantity `depth`; did you mean `width`?",
        "`patience` must be at least 1, found 0",
        "plateau has no argument `intervall`",
        "`beta` must be at most 1.0, found 2.0",
        "a rule has no `evry`",
        "a rule has no `wen`",
        "`require` takes exact or any, found maybe",
        "`order` takes rules or sites, found 3",
        "`where` takes names of axes, patterns in quotes, or a list of them",
        "auto_rgn has no argument `evry`",
        "`grow` has no `rate`",
        "`epochs` must be at least 1, found -1",
        "`train` has no `optimiser`",
        "`lr` must be above 0.0, found -1.0",
        "adam has no argument `beta3`",
        "`eps` must be above 0.0, found 0.0",
        "`epochs` is given twice",
    ]


def test_what_is_misspelt_is_not_missing_too():
    rule = "grow {{ rule r {{ {} = schedule  apply = grow_units }} }}"
    assert messages(rule.format("wen")) == ["a rule has no `wen`"]
    assert messages("grow { rule r { } }") == ["rule `r` needs `when`", "rule `r` needs `apply`"]
    assert messages(rule.format("when")) == []


def test_names_of_rules_that_are_wrong_are_taken_all_the_same():
    text = (
        "grow { rule r { every = 0 when = schedule apply = grow_units } rule r { when = schedule apply = grow_units } }"
    )
    assert messages(text) == ["`every` must be at least 1, found 0", "two rules are called `r`"]


def test_what_cannot_be_combined_is_told_only_of_rules_that_are_else_right():
    rule = "grow {{ rule r {{ when = dyno_prune  apply = grow_units  {} }} }}"
    assert messages(rule.format("every = 0")) == ["`every` must be at least 1, found 0"]
    assert "does not take units away" in messages(rule.format("every = 2"))[0]


def test_options_of_passes_may_have_to_be_named(monkeypatch):
    @dataclass(frozen=True)
    class Shaky:
        rate: float = real(0.5, low=0.0, named="the units come first in other libraries")
        sites: str = word("all", "some", default="all")

    monkeypatch.setattr("irgrow.registry.group", lambda name: {"shaky": Shaky})
    assert call_text(Shaky(2.0, "some")) == "shaky(rate = 2.0, sites = some)"
    assert parse_pass(call_text(Shaky(2.0, "some"))) == Shaky(2.0, "some")
    for written, help in [("2", "; write `rate = 2.0` if you mean it"), ("-1", ""), ("some", "")]:
        with pytest.raises(ProgramError) as caught:
            parse_pass(f"shaky({written})")
        (d,) = caught.value.diagnostics
        assert d.message.startswith("`rate` of shaky is given by its name, found ")
        assert d.help == "the units come first in other libraries" + help


def test_nothing_here_needs_torch():
    code = (
        "import sys\n"
        "from irgrow.grammar import parse_program, format_text\n"
        f"p = parse_program({NET!r} + 'grow {{ use north_select }} train {{ optimizer = adamw }}')\n"
        "p.graph(); p.growth; p.training; format_text('net n(x: [1]) { return x }')\n"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_every_registered_name_is_its_class():
    for group in (growth.CADENCES, growth.BUNDLES, training.DATA, training.OPTIMIZERS, training.SCHEDULES):
        assert len({cls.__name__ for cls in group}) == len(group)
