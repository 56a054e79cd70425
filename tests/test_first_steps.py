"""Figures of training across a rewrite: the first steps of what is new."""

from dataclasses import dataclass

import pytest
import torch
from courses import CASES, DENSE, OPTIMIZERS, live, new_entries, train  # type: ignore[import-not-found]
from torch import optim

from irgrow import young
from irgrow.passes import GrowEdges, GrowUnits


def rate(net):
    """Return the learning rate, what a steady gradient makes of it under momentum included."""
    group = net.tracked[0].optimizer.param_groups[0]
    return float(group["lr"]) / (1 - group.get("momentum", 0))


def speeds(net, morphism, steps):
    """Return the largest update of new and of old entries over so many calls of `steps`, in learning rates."""
    new, fastest = new_entries(net, morphism), [0.0, 0.0]
    for step in steps:
        was = {name: net.params[name].detach().clone() for name in new}
        step()
        for name, entries in new.items():
            moved = (net.params[name].detach() - was[name]).abs() / rate(net)
            for i, part in enumerate((moved[entries], moved[~entries])):
                fastest[i] = max(fastest[i], float(part.max())) if part.numel() else fastest[i]
    return fastest


RMS = """net n(x: [5]) {
  return x |> s: dense(6) |> residual { rmsnorm |> dense(7) |> gelu |> dense(6) } |> rmsnorm |> dense(2)
}"""
LAYER = RMS.replace("rmsnorm", "layernorm")
IDS = "net n(x: ids(7)[4]) { return x |> e: embedding(6) |> dense(7) |> tanh |> dense(2) }"
TOKENS = """net n(x: ids(7)[4]) {
  return x |> e: embedding(6) |> positions |> residual { layernorm |> attention(2, 3, causal = true, bias = false) }
    |> layernorm |> dense(2)
}"""
GROWTHS = {
    **{name: (text, grow) for name, (text, grow, _) in CASES.items()},
    "dense, zero fan-in": (DENSE, GrowUnits("a", 3, zero="fan_in")),
    "root-mean-square stream": (RMS, GrowUnits("s", 3, zero="fan_in")),
    "layer norm stream": (LAYER, GrowUnits("s", 3, zero="mean")),
    "embeddings": (IDS, GrowUnits("e", 3)),
    "embeddings, zero fan-in": (IDS, GrowUnits("e", 3, zero="fan_in")),
    "token stream": (TOKENS, GrowUnits("e", 3, zero="mean")),
}
SEEDS = {name: 1 + i % 3 for i, name in enumerate(GROWTHS)}
ADAPTIVE = ["adam", "adamw", "amsgrad", "nadam", "rmsprop", "adagrad"]


@dataclass(frozen=True)
class Course:
    """What 100 steps after a growth came to, in learning rates: of new entries, of old ones, and the losses."""

    new: float  # the largest update
    old: float
    went: float  # the median of the way gone, for new entries with a gradient at once
    siblings: float  # the same for old ones of the same parameters
    losses: list[float]


def in_training(case, optimizer, carry):
    """Grow in the middle of training and train for 100 steps."""
    text, grow = GROWTHS[case]
    net = live(text, OPTIMIZERS[optimizer], carry, SEEDS[case])
    train(net, 300)
    receipt = net.rewrite(grow)
    new = new_entries(net, receipt.morphism)
    start = {name: net.params[name].detach().clone() for name in new}
    losses, at_once = [], {}

    def step(i):
        losses.extend(train(net, 1, 300 + i))
        for name, entries in new.items() if not i else ():
            at_once[name] = entries & (net.params[name].grad.abs() > 1e-14)

    fastest = speeds(net, receipt.morphism, [lambda i=i: step(i) for i in range(100)])

    def went(entries):
        return float(torch.cat([(net.params[n].detach() - was)[entries[n]].abs() for n, was in start.items()]).median())

    return Course(*fastest, went(at_once), went({n: ~e for n, e in new.items()}), losses)


@pytest.mark.parametrize("optimizer", ADAPTIVE)
@pytest.mark.parametrize("case", GROWTHS)
def test_new_entries_move_by_a_learning_rate_at_most_and_do_move(case, optimizer):
    """At most 1.1 of them, weight decay included; for RMSprop of lr / (1 - momentum), which is what it steps by."""
    course = in_training(case, optimizer, "siblings")
    assert course.new <= 1.1
    assert course.went >= 0.1 * course.siblings


@pytest.mark.parametrize("optimizer", ["adam", "nadam", "rmsprop"])
@pytest.mark.parametrize("case", ["layer norm stream", "token stream"])
def test_new_entries_that_are_not_held_leap_and_learn_no_faster(case, optimizer, monkeypatch):
    """Negative control: warm moments alone do not do, for gradients of new entries are larger; the loss is the same."""
    held = in_training(case, optimizer, "siblings")
    monkeypatch.setattr(young, "_hold", lambda optimizer: None)
    plain = in_training(case, optimizer, "siblings")
    assert plain.new > 1.1 >= held.new
    assert sum(held.losses[-20:]) <= 1.03 * sum(plain.losses[-20:])


@pytest.mark.parametrize("optimizer", ["adam", "adamw", "amsgrad", "nadam"])
def test_zeros_under_an_old_step_counter_leap(optimizer):
    """Negative control: it is the warm second moments that hold new entries back."""
    assert in_training("dense", optimizer, "zero").new > 2.0


@pytest.mark.parametrize("optimizer", ["sgd", "momentum", "nesterov"])
def test_without_second_moments_new_entries_follow_their_own_gradients_alone(optimizer):
    """The size of a step follows the gradient: at most lr / (1 - momentum) times the largest gradient seen so far."""
    net = live(DENSE, OPTIMIZERS[optimizer], "siblings")
    train(net, 50)
    receipt = net.rewrite(GrowUnits("a", 3))
    new = new_entries(net, receipt.morphism)
    largest = dict.fromkeys(new, 0.0)
    for i in range(50, 150):
        was = {name: net.params[name].detach().clone() for name in new}
        train(net, 1, i)
        for name, entries in new.items():
            decayed = net.params[name].grad + net.tracked[0].optimizer.param_groups[0]["weight_decay"] * was[name]
            largest[name] = max(largest[name], float(decayed[entries].abs().max()))
            moved = float((net.params[name].detach() - was[name])[entries].abs().max())
            assert moved <= 1.0001 * rate(net) * largest[name]


TWO_WAYS = "net n(x: [5]) { return x |> s: dense(6) |> residual { d: dense(6) } |> norm: layernorm |> dense(2) }"
MASKED = "net n(x: [5]) { return x |> a: dense(20) |> relu |> b: dense(20, masked = true) |> relu |> dense(2) }"
PLACES = {
    "new in two dimensions, biases, gains": (TWO_WAYS, GrowUnits("s", 3), {}),
    "rows that never had a gradient": (DENSE, GrowUnits("a", 3), {"b.weight": slice(0, 2)}),
    "one of three rows alive": (TWO_WAYS, GrowUnits("s", 3), {"d.weight": slice(0, 4), "s.bias": slice(0, 4)}),
    "masked weights": (MASKED, GrowUnits("a", 3), {}),
    "masked entries switched on": (MASKED, GrowEdges("b", count=100), {}),
}
STEADY = {
    **{n: OPTIMIZERS[n] for n in ("adam", "adamw", "amsgrad", "nadam", "adagrad")},
    "rmsprop": lambda p: optim.RMSprop(p, lr=1e-3),
}


def under_steady_gradients(place, make, carry):
    """Return the speeds under gradients that are one throughout, the worst there is for gradients of one size."""
    text, rewrite, idle = PLACES[place]
    net = live(text, make, carry)
    if "b.mask" in net.params:
        net.params["b.mask"].copy_((torch.arange(400) % 10 == 3).reshape(20, 20))

    def step(before):
        for name, p in net.named_parameters():
            p.grad = torch.ones_like(p)
            if before and name in idle:
                p.grad[idle[name]] = 0
            if name == "b.weight" and "b.mask" in net.params:
                p.grad *= net.params["b.mask"]
        net.tracked[0].optimizer.step()

    for _ in range(600):
        step(before=True)
    receipt = net.rewrite(rewrite)
    assert receipt.applied
    return speeds(net, receipt.morphism, [lambda: step(before=False)] * 100)[0]


@pytest.mark.parametrize("optimizer", STEADY)
@pytest.mark.parametrize("place", PLACES)
def test_new_entries_start_at_the_pace_of_their_siblings_wherever_they_stand(place, optimizer):
    assert under_steady_gradients(place, STEADY[optimizer], "siblings") <= 1.1


@pytest.mark.parametrize("place", PLACES)
def test_zeros_leap_wherever_they_stand(place):
    """Negative control."""
    assert under_steady_gradients(place, STEADY["adamw"], "zero") > 3.0
