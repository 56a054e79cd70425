"""`grow` and `train` sections are the dataclasses of the Python API."""

import subprocess
import sys

import pytest

from irgrow import growth, training
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
        ("grow { rule r { apply = grow_units when = schedule limit = wdth <= 3 } }", "`limit` knows no `wdth`"),
        ("grow { rule r { apply = grow_units when = schedule limit = width <= 0 } }", "a limit must be at least 1"),
        ("grow { rule r { apply = grow_units when = schedule where = 3 } }", "`where` takes names of axes"),
        ("grow { rule r { apply = grow_units when = schedule every = 0 } }", "`count` must be at least 1"),
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
