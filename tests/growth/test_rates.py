"""Learning rates per tensor: the same steps as with parameter groups, state kept, and Auto-RGN by hand."""

import copy
import json

import pytest
import torch

from irgrow.errors import DataError, OptionError, ProgramError
from irgrow.grammar import parse_program
from irgrow.growth import AutoRGN, GrowthProgram
from irgrow.growth.controller import Controller
from irgrow.growth.rates import Tuner, tuned
from irgrow.network import build

TEXT = "net n(x: [6]) { return x |> a: dense(8) |> layernorm |> relu |> b: dense(8) |> relu |> head: dense(3) }"
FACTORS = {"a.weight": 0.25, "b.bias": 0.0, "head.weight": 3.0}
OPTIMIZERS = {
    "sgd": lambda groups: torch.optim.SGD(groups, lr=0.05, momentum=0.9, weight_decay=0.01),
    "nesterov": lambda groups: torch.optim.SGD(groups, lr=0.05, momentum=0.9, nesterov=True),
    "adam": lambda groups: torch.optim.Adam(groups, lr=1e-2),
    "adamw": lambda groups: torch.optim.AdamW(groups, lr=1e-2, weight_decay=0.1),
    "rmsprop": lambda groups: torch.optim.RMSprop(groups, lr=1e-2, momentum=0.5),
    "adagrad": lambda groups: torch.optim.Adagrad(groups, lr=1e-2),
}


class Fixed(AutoRGN):
    """Factors that are given."""

    def factors(self, measured):
        return {n: FACTORS[n] for n in measured if n in FACTORS}


def batch(i, net):
    return torch.randn(16, 6, generator=torch.Generator().manual_seed(i), dtype=net.params["a.weight"].dtype)


def train(net, optimizer, first, last, after=lambda x, loss: None):
    for i in range(first, last):
        x = batch(i, net)
        loss = (net(x) - x[:, :3].sin()).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        after(x, loss)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_updates_are_those_of_groups_with_these_rates(name):
    net, reference = (build(TEXT, seed=1, dtype=torch.float64) for _ in range(2))
    groups = [{"params": [p], "n": n} for n, p in reference.named_parameters()]
    twin = OPTIMIZERS[name](groups)
    optimizer = OPTIMIZERS[name](list(net.parameters()))
    net.track(optimizer)
    tuner = Tuner(net, Fixed(every=1, batches=1))
    train(net, optimizer, 0, 1, lambda x, loss: tuner.end_step())
    train(reference, twin, 0, 1)
    assert tuner.factors == FACTORS
    base = twin.param_groups[0]["lr"]
    for group in twin.param_groups:
        group["lr"] = base * FACTORS.get(group["n"], 1.0)
    train(net, optimizer, 1, 20, lambda x, loss: tuner.end_step())
    train(reference, twin, 1, 20)
    for key, value in reference.state_dict().items():
        torch.testing.assert_close(net.state_dict()[key], value, rtol=1e-12, atol=1e-13)
    tuner.close()
    before = net.params["b.bias"].detach().clone()
    train(net, optimizer, 20, 21)
    assert not torch.equal(before, net.params["b.bias"]), "let go, everything has its base rate again"


def test_auto_rgn_by_hand():
    net = build(TEXT, seed=2, dtype=torch.float64)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.0)
    net.track(optimizer)
    tuner = Tuner(net, AutoRGN(every=4, batches=2, guard=0.0))
    seen = {}

    def after(x, loss):
        for name in tuned(net.graph):
            p = net.params[name]
            seen.setdefault(name, []).append(float(p.grad.norm() / p.detach().norm()))
        tuner.end_step()

    train(net, optimizer, 0, 2, after)
    rgn = {n: sum(v) / 2 for n, v in seen.items()}
    assert tuner.factors == pytest.approx({n: v / max(rgn.values()) for n, v in rgn.items()}, rel=1e-12)
    seen.clear()
    train(net, optimizer, 2, 4, after)
    rgn = {n: sum(v) / 2 for n, v in seen.items()}
    assert tuner.factors == pytest.approx({n: v / max(rgn.values()) for n, v in rgn.items()}, rel=1e-12)


def test_norms_keep_the_base_rate():
    graph = build(TEXT).graph
    assert tuned(graph) == {n for n in graph.params if not n.startswith("layernorm")} != set(graph.params)


def test_a_tensor_at_zero_does_not_silence_the_others():
    for guard, silent in ((0.1, False), (1e-9, True)):
        net = build(TEXT, seed=1, dtype=torch.float64)
        with torch.no_grad():
            net.params["head.bias"].zero_()
        optimizer = torch.optim.SGD(net.parameters(), lr=0.0)
        net.track(optimizer)
        tuner = Tuner(net, AutoRGN(every=2, batches=2, guard=guard))
        train(net, optimizer, 0, 2, lambda x, loss, tuner=tuner: tuner.end_step())
        assert all(f < 1e-6 for n, f in tuner.factors.items() if n != "head.bias") == silent


def test_numbers_that_are_not_finite_are_named():
    for spoil in ("value", "gradient"):
        net = build(TEXT, seed=1, dtype=torch.float64)
        optimizer = torch.optim.SGD(net.parameters(), lr=0.0)
        net.track(optimizer)
        Tuner(net, AutoRGN())
        for p in net.parameters():
            p.grad = torch.ones_like(p)
        bad = net.params["head.bias"]
        with torch.no_grad():
            (bad if spoil == "value" else bad.grad).fill_(float("nan"))
        with pytest.raises(DataError, match=r"`head.bias` or its gradient is not finite"):
            optimizer.step()


def grown(rates):
    net = build(TEXT, seed=3, dtype=torch.float64)
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-2)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 5, 0.5)
    net.track(optimizer, scheduler)
    return net, optimizer, scheduler, Controller(net, GrowthProgram((), rates))


def test_rates_follow_growth_and_spare_new_tensors():
    net, optimizer, scheduler, controller = grown(AutoRGN(every=6, batches=2))
    train(net, optimizer, 0, 7, controller.step)
    moments = {n: optimizer.state[p]["step"].item() for n, p in net.named_parameters()}
    assert net.rewrite("grow_units(a, 2)").applied
    assert net.rewrite("insert_layer(relu_2)").applied
    young = [n for n in net.graph.params if n not in moments]
    assert young
    train(net, optimizer, 7, 11, controller.step)
    assert controller._tuner.factors, "they go on"
    assert not set(young) & controller._tuner.factors.keys()
    train(net, optimizer, 11, 18, controller.step)
    assert set(young) & tuned(net.graph) <= controller._tuner.factors.keys()
    assert optimizer.state[net.params["b.weight"]]["step"].item() == 18, "state was never dropped"
    scheduler.step()
    assert len(optimizer.param_groups) == 1


def test_what_it_remembers_goes_through_json():
    net, optimizer, _, controller = grown(AutoRGN(every=6, batches=2))
    train(net, optimizer, 0, 5, controller.step)
    state, tensors = controller.state()
    other, twin, _, resumed = grown(AutoRGN(every=6, batches=2))
    other.load_state_dict(net.state_dict())
    twin.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    resumed.load(json.loads(json.dumps(state)), tensors)
    train(net, optimizer, 5, 15, controller.step)
    train(other, twin, 5, 15, resumed.step)
    assert all(torch.equal(a, b) for a, b in zip(net.parameters(), other.parameters(), strict=True))


def test_text():
    program = parse_program(TEXT + "\ngrow { rates = auto_rgn(20, 3) }").growth
    assert program == GrowthProgram((), AutoRGN(20, 3))
    assert parse_program(f"{TEXT}\n{program}").growth == program


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("rates = auto_rgm", "auto_rgn"),
        ("rate = auto_rgn", "did you mean `rates`"),
        ("rates = auto_rgn rates = auto_rgn", "`rates` is given twice"),
        ("rates = auto_rgn(2, 5)", "must be at most `every`"),
        ("rates = auto_rgn(guard = -1)", "guard"),
    ],
)
def test_mistakes_in_text(text, message):
    with pytest.raises(ProgramError, match=message):
        _ = parse_program(f"{TEXT}\ngrow {{ {text} }}").growth


def test_optimizers_it_cannot_follow():
    net = build(TEXT)
    with pytest.raises(OptionError, match="track it"):
        Tuner(net, AutoRGN())
    net.track(torch.optim.Rprop(net.parameters()))
    with pytest.raises(OptionError, match="Rprop"):
        Tuner(net, AutoRGN())


def test_rates_go_over_to_the_optimizer_that_is_tracked_next():
    net = build(TEXT, seed=1)
    first = torch.optim.SGD(net.parameters(), lr=0.05)
    net.track(first)
    tuner = Tuner(net, Fixed(every=1, batches=1))
    train(net, first, 0, 2, lambda x, loss: tuner.end_step())
    second = torch.optim.Adam(net.parameters(), lr=1e-2)
    net.untrack(first).track(second)
    tuner.end_step()
    before = net.params["b.bias"].clone(), net.params["a.bias"].clone()
    train(net, second, 2, 3, lambda x, loss: tuner.end_step())
    assert torch.equal(net.params["b.bias"], before[0]), "its factor is zero"
    assert not torch.equal(net.params["a.bias"], before[1])
    train(net, first, 3, 4)
    assert not torch.equal(net.params["b.bias"], before[0]), "the first one was let go"
    net.untrack(second).track(torch.optim.Rprop(net.parameters()))
    with pytest.raises(OptionError, match="Rprop"):
        tuner.end_step()
