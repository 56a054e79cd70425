"""Settings: the torch objects they make, how they print and parse back, and the values that are refused."""

import math

import pytest
import torch

from irgrow.errors import OptionError, ProgramError
from irgrow.grammar import parse_program
from irgrow.training import DATA, OPTIMIZERS, SCHEDULES, TrainSettings
from irgrow.training.data import Cifar, Digits, Mnist, Npz, Spirals, ToyFeatures
from irgrow.training.derived import HeldOut, Only, Shifted
from irgrow.training.settings import Adam, AdamW, Cosine, RmsProp, Sgd, StepDecay, loss_function

NET = "net n(x: [4]) { return x |> h: dense(3) |> relu |> dense(1) }\n"


def training(section):
    return parse_program(NET + section).training


def param():
    return torch.nn.Parameter(torch.tensor([1.0, -2.0]))


MADE = [
    (Adam(), "Adam", {"lr": 1e-3, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.0}),
    (
        Adam(3e-3, 0.1, 0.8, 0.95, 1e-6),
        "Adam",
        {"lr": 3e-3, "betas": (0.8, 0.95), "eps": 1e-6, "weight_decay": 0.1},
    ),
    (AdamW(), "AdamW", {"lr": 1e-3, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.01}),
    (AdamW(0.5, 0.0, 0.0, 0.5, 1e-3), "AdamW", {"lr": 0.5, "betas": (0.0, 0.5), "eps": 1e-3, "weight_decay": 0.0}),
    (Sgd(), "SGD", {"lr": 0.01, "momentum": 0.0, "weight_decay": 0.0, "nesterov": False}),
    (Sgd(0.2, 0.9, 1e-4, True), "SGD", {"lr": 0.2, "momentum": 0.9, "weight_decay": 1e-4, "nesterov": True}),
    (RmsProp(), "RMSprop", {"lr": 0.01, "momentum": 0.0, "weight_decay": 0.0}),
    (RmsProp(0.2, 0.5, 1e-4), "RMSprop", {"lr": 0.2, "momentum": 0.5, "weight_decay": 1e-4}),
]


@pytest.mark.parametrize(("settings", "name", "values"), MADE, ids=lambda v: str(v) if not isinstance(v, dict) else "")
def test_an_optimizer_is_torch_s_with_the_values_given(settings, name, values):
    held = param()
    optimizer = settings.make([held])
    assert type(optimizer) is getattr(torch.optim, name)
    (group,) = optimizer.param_groups
    assert {k: group[k] for k in values} == values
    assert group["params"][0] is held
    by_name = settings.make([("w", held)])
    assert by_name.param_groups[0]["param_names"] == ["w"]


def test_every_optimizer_and_schedule_was_tested_here():
    assert {type(s) for s, _, _ in MADE} == set(OPTIMIZERS)
    assert set(SCHEDULES) == {Cosine, StepDecay}


def rates(schedule, steps, lr=0.4):
    optimizer = torch.optim.SGD([param()], lr)
    scheduler = schedule.make(optimizer, steps)
    found = [optimizer.param_groups[0]["lr"]]
    for _ in range(steps):
        optimizer.step()
        scheduler.step()
        found.append(optimizer.param_groups[0]["lr"])
    return found


@pytest.mark.parametrize("floor", [0.0, 0.1, 1.0])
def test_cosine_goes_from_the_rate_to_the_floor(floor):
    wanted = [0.4 * (floor + (1 - floor) * (1 + math.cos(math.pi * i / 20)) / 2) for i in range(21)]
    found = rates(Cosine(floor), 20)
    assert found == pytest.approx(wanted, rel=1e-9, abs=1e-12)
    assert found[-1] == pytest.approx(floor * 0.4, abs=1e-12)


def test_step_decay_multiplies_every_so_many_steps():
    assert rates(StepDecay(3, 0.5), 7) == pytest.approx([0.4] * 3 + [0.2] * 3 + [0.1] * 2)
    assert rates(StepDecay(), 3) == [0.4] * 4
    assert rates(StepDecay(2, 0.0), 3) == [0.4, 0.4, 0.0, 0.0]
    assert StepDecay() == StepDecay(1000, 0.1)


SETTINGS = [
    TrainSettings(),
    *[TrainSettings(optimizer=s) for s, _, _ in MADE],
    *[
        TrainSettings(schedule=s)
        for s in (Cosine(), Cosine(0.05), StepDecay(), StepDecay(7, 0.3), StepDecay(1000, 0.5))
    ],
    *[
        TrainSettings(data=d)
        for d in (
            Digits(28),
            Digits(test=0.5),
            Spirals(20, 0.75, 0.1, 0.4),
            Spirals(noise=1e-7),
            ToyFeatures(3, 9, 100, 0.2),
            Npz("some folder/d.npz", 0.3),
            Npz("back\\slash.npz"),
            Mnist("~/mnist"),
            Cifar("cifar", 100),
            ToyFeatures(3, noise=0.0, noise_of="feature"),
            Only(Digits(), (5, 6)),
            Shifted(Only(Digits(16), (3, 1, 4)), -12.5, invert=False, noise=0.0),
            HeldOut(Mnist("~/mnist"), 0.5),
        )
    ],
    *[TrainSettings(precision=p) for p in ("float32", "float64", "bf16")],
    *[TrainSettings(carry=c) for c in ("siblings", "zero", "fresh")],
    TrainSettings(loss="mse", epochs=3, batch=7, seed=11, init="xavier_uniform"),
]


@pytest.mark.parametrize("settings", SETTINGS, ids=lambda s: "".join(str(s).split("\n")[1:-2]))
def test_settings_print_and_parse_back(settings):
    assert training(str(settings)) == settings
    assert str(training(str(settings))) == str(settings)


def test_every_data_source_was_printed():
    assert {type(s.data) for s in SETTINGS} == set(DATA)


def test_what_is_not_said_is_the_default():
    assert training("train { }") == TrainSettings()
    assert TrainSettings() == TrainSettings(
        Digits(), "cross_entropy", Adam(), None, 10, 128, 0, "default", "float32", "siblings"
    )
    assert training("train { optimizer = adamw  schedule = cosine }").optimizer == AdamW()
    assert training("train { schedule = step_decay(every = 5) }").schedule == StepDecay(5)
    assert training("train { optimizer = rmsprop(0.5) }").optimizer == RmsProp(0.5)


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("epochs = 0", "`epochs` must be at least 1, found 0"),
        ("batch = 0", "`batch` must be at least 1, found 0"),
        ("batch = 1.5", "`batch` takes an integer"),
        ("seed = -1", "`seed` must be at least 0, found -1"),
        ("init = he", "`init` takes one of default, xavier_uniform, found he"),
        ("precision = float16", "`precision` takes one of float32, float64, bf16, found float16"),
        ("carry = none", "`carry` takes one of siblings, zero, fresh, found none"),
        ("loss = hinge", "`loss` takes one of cross_entropy, mse"),
        ("optimizer = adam(lr = -1)", "`lr` must be above 0.0, found -1"),
        ("optimizer = adam(lr = 1e999)", "`lr` takes a finite number"),
        ("optimizer = adam(weight_decay = -1e-9)", "`weight_decay` must be at least 0.0"),
        ("optimizer = adam(beta1 = -0.1)", "`beta1` must be at least 0.0"),
        ("optimizer = adam(beta2 = 1.1)", "`beta2` must be"),
        ("optimizer = adamw(eps = 0)", "`eps` must be above 0.0"),
        ("optimizer = sgd(lr = 0)", "`lr` must be above 0.0"),
        ("optimizer = sgd(momentum = 1.5)", "`momentum` must be at most 1.0, found 1.5"),
        ("optimizer = sgd(nesterov = 1)", "`nesterov` takes true or false, found 1"),
        ("optimizer = rmsprop(lr = 0.0)", "`lr` must be above 0.0"),
        ("optimizer = adagrad", "unknown optimizer `adagrad`"),
        ("optimizer = cosine", "unknown optimizer `cosine`"),
        ("schedule = cosine(floor = 2)", "`floor` must be at most 1.0"),
        ("schedule = cosine(floor = -0.5)", "`floor` must be at least 0.0"),
        ("schedule = step_decay(every = 0)", "`every` must be at least 1"),
        ("schedule = step_decay(factor = 1.5)", "`factor` must be at most 1.0"),
        ("schedule = linear", "unknown schedule `linear`"),
        ("data = digits(size = 4)", "`size` must be at least 8, found 4"),
        ("data = digits(test = 0)", "`test` must be above 0.0"),
        ("data = digits(test = 0.95)", "`test` must be at most 0.9"),
        ("data = spirals(points = 3)", "`points` must be at least 4"),
        ("data = spirals(turns = 0.0)", "`turns` must be above 0.0"),
        ("data = spirals(noise = -1)", "`noise` must be at least 0.0"),
        ("data = toy_features(samples = 9)", "`samples` must be at least 10"),
        ("data = mnist", "mnist needs `path`"),
        ("data = cifar(10)", "`path` takes a string, found 10"),
    ],
)
def test_values_out_of_range_are_refused(option, message):
    with pytest.raises((ProgramError, OptionError)) as caught:
        training(f"train {{ {option} }}")
    assert message in str(caught.value)


@pytest.mark.parametrize("cls", ["adam", "adamw"])
@pytest.mark.parametrize("beta", ["beta1", "beta2"])
def test_what_torch_refuses_is_refused_in_the_program(cls, beta):
    with pytest.raises((ProgramError, OptionError), match=beta):
        training(f"train {{ optimizer = {cls}({beta} = 1.0) }}").optimizer.make([param()])
    training(f"train {{ optimizer = {cls}({beta} = 0.99999) }}").optimizer.make([param()])


def test_nesterov_needs_momentum():
    with pytest.raises((ProgramError, OptionError), match="momentum"):
        training("train { optimizer = sgd(nesterov = true) }").optimizer.make([param()])
    training("train { optimizer = sgd(momentum = 0.1, nesterov = true) }").optimizer.make([param()])


# losses --------------------------------------------------------------------------------------------------------------


def test_cross_entropy_is_the_mean_over_the_batch():
    outputs = torch.tensor([[0.0, 1.0, 2.0], [3.0, 0.0, 0.0]], dtype=torch.float64)
    wanted = [math.log(sum(map(math.exp, row))) - row[y] for row, y in zip(outputs.tolist(), (2, 1), strict=True)]
    assert loss_function("cross_entropy", outputs, torch.tensor([2, 1])).item() == pytest.approx(sum(wanted) / 2)


def test_mse_is_the_mean_over_all_entries():
    outputs, targets = torch.tensor([[1.0], [3.0]]), torch.tensor([0.0, 1.0])
    assert loss_function("mse", outputs, targets).item() == 2.5, "a column is not spread over a row"


@pytest.mark.parametrize("loss", ["cross_entropy", "mse"])
def test_losses_of_bf16_outputs_are_computed_in_single_precision(loss):
    outputs = torch.tensor([[1.0, 2.0], [0.5, -1.0]], dtype=torch.bfloat16, requires_grad=True)
    targets = torch.tensor([0, 1]) if loss == "cross_entropy" else torch.tensor([[0.1, 0.2], [0.3, 0.4]])
    value = loss_function(loss, outputs, targets)
    assert value.dtype == torch.float32
    assert value.item() == loss_function(loss, outputs.float(), targets).item()
    value.backward()
    assert outputs.grad.dtype == torch.bfloat16


def test_an_unknown_loss_names_the_known_ones():
    with pytest.raises(OptionError, match="unknown loss `hinge`; known are cross_entropy, mse"):
        loss_function("hinge", torch.zeros(2), torch.zeros(2))
