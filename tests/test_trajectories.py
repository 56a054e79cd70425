"""Figures of training across a rewrite: the trajectory of what was there, the first steps of what is new.

Inert means that the new units are kept silent: whatever reads them is set to zero after every step. All that is left of
the rewrite is then what it did to the state of the optimizer.
"""

import pytest
import torch
from torch import optim

from irgrow import transfer
from irgrow.axes import NEW
from irgrow.fills import ZERO
from irgrow.morphism import Gather, Select
from irgrow.network import build
from irgrow.passes import DuplicateUnits, GrowEdges, GrowUnits, PruneUnits, SplitUnits
from irgrow.slots import SLOTS
from irgrow.transfer import Kind, carried_params, move

DENSE = "net n(x: [5]) { return x |> a: dense(6) |> tanh |> b: dense(5) |> tanh |> dense(2) }"
CONV = """net n(x: [2, 5, 5]) {
  return x |> a: conv(4, kernel = 3, bias = false) |> batchnorm |> relu
    |> b: conv(3, kernel = 3, bias = false) |> batchnorm |> relu |> flatten |> dense(2)
}"""
RESIDUAL = """net n(x: [5]) {
  return x |> dense(6) |> residual { layernorm |> a: dense(7) |> gelu |> b: dense(6) } |> layernorm |> dense(2)
}"""
# Without biases: that of a key has no gradient but rounding, which adaptive optimizers blow up.
ATTENTION = """net n(x: ids(7)[4]) {
  return x |> embedding(6) |> layernorm |> attn: attention(2, 3, causal = true, bias = false) |> dense(2)
}"""

CASES = {
    "dense": (DENSE, GrowUnits("a", 3), ("b.weight",)),
    "conv and batch norm": (CONV, GrowUnits("a", 3), ("b.weight",)),
    "residual and layer norm": (RESIDUAL, GrowUnits("a", 3), ("b.weight",)),
    "heads": (ATTENTION, GrowUnits("attn.heads", 1), ("attn.out.weight",)),
    "head dim": (ATTENTION, GrowUnits("attn.head_dim", 2), ("attn.query.weight", "attn.out.weight")),
}
"""A program, its growth, and the weights whose new entries are to be zero for the growth to be inert."""

OPTIMIZERS = {
    "sgd": lambda p: optim.SGD(p, lr=1e-2, weight_decay=0.01),
    "momentum": lambda p: optim.SGD(p, lr=1e-2, momentum=0.9, dampening=0.1, weight_decay=0.01),
    "nesterov": lambda p: optim.SGD(p, lr=1e-2, momentum=0.9, nesterov=True),
    "adam": lambda p: optim.Adam(p, lr=1e-3),
    "adamw": lambda p: optim.AdamW(p, lr=1e-3, weight_decay=0.1),
    "amsgrad": lambda p: optim.Adam(p, lr=1e-3, amsgrad=True),
    "nadam": lambda p: optim.NAdam(p, lr=1e-3),
    "rmsprop": lambda p: optim.RMSprop(p, lr=1e-3, centered=True, momentum=0.9),
    "adagrad": lambda p: optim.Adagrad(p, lr=1e-2),
}
VARIANTS = {
    "momentum foreach": lambda p: optim.SGD(p, lr=1e-2, momentum=0.9, foreach=True),
    "momentum fused": lambda p: optim.SGD(p, lr=1e-2, momentum=0.9, fused=True),
    "adamw foreach": lambda p: optim.AdamW(p, lr=1e-3, foreach=True),
    "adamw fused": lambda p: optim.AdamW(p, lr=1e-3, fused=True, amsgrad=True),
    "adagrad fused": lambda p: optim.Adagrad(p, lr=1e-2, fused=True),
    "rmsprop foreach": lambda p: optim.RMSprop(p, lr=1e-3, foreach=True, maximize=True),
    "adam decoupled": lambda p: optim.Adam(p, lr=1e-3, weight_decay=0.1, decoupled_weight_decay=True),
    "nadam decoupled": lambda p: optim.NAdam(p, lr=1e-3, weight_decay=0.1, decoupled_weight_decay=True, foreach=True),
}


@pytest.fixture(autouse=True)
def _one_thread():
    """Threads that share tensors as small as these mostly wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def live(text, make, carry):
    net = build(text, seed=2, dtype=torch.float64)
    net.track(make(net.parameters()), carry=carry)
    return net


def train(net, steps, start=0, after=lambda: None):
    """Train, every step on a batch of its own; return the losses."""
    opt, entry = net.tracked[0].optimizer, net.graph["x"].op
    losses = []
    for i in range(start, start + steps):
        generator = torch.Generator().manual_seed(i)
        x = torch.randn(16, *entry.shape, generator=generator, dtype=torch.float64)
        if entry.vocabulary:
            x = torch.randint(entry.vocabulary, (16, *entry.shape), generator=generator)
        opt.zero_grad()
        y = net(x).flatten(1)
        wanted = torch.sin(3.0 * x.flatten(1).double()).repeat(1, 2)[:, : y.shape[1]]
        loss = (y - wanted).square().mean()
        loss.backward()
        opt.step()
        after()
        losses.append(loss.item())
    return losses


def new_entries(net, morphism):
    """Return where the entries of trainable parameters are new."""
    found = {}
    for name, t in morphism.transfers.items():
        new = torch.zeros(net.params[name].shape, dtype=torch.bool)
        if isinstance(t, Gather):
            new.view(-1)[torch.from_numpy(t.index == NEW)] = True
        for dim, m in enumerate(t.maps) if isinstance(t, Select) else ():
            if m is not None:
                new.index_fill_(dim, torch.from_numpy((m == NEW).nonzero()[0]), True)
        if net.params[name].requires_grad and new.any():
            found[name] = new
    return found


def grown_inert(net, grow, weights):
    """Grow, silence what is new, and return the morphism and what silences it again."""
    receipt = net.rewrite(grow)
    assert receipt.verdict.preserves
    new = new_entries(net, receipt.morphism)

    def silence():
        with torch.no_grad():
            for name in weights:
                net.params[name][new[name]] = 0.0

    silence()
    return receipt.morphism, silence


# the trajectory of what was there ------------------------------------------------------------------------------------


def deviation(case, make, carry="zero", spoil=lambda net: None):
    """Return how far 50 steps after an inert growth lie from the same without it, in losses and in parameters."""
    text, grow, weights = CASES[case]
    plain, grown = live(text, make, carry), live(text, make, carry)
    train(plain, 5)
    train(grown, 5)
    morphism, silence = grown_inert(grown, grow, weights)
    spoil(grown)
    losses = zip(train(plain, 50, 5), train(grown, 50, 5, silence), strict=True)
    worst = max(abs(a - b) for a, b in losses)
    back = carried_params(morphism.inverse(), {n: p.detach() for n, p in grown.params.items()})
    return max(worst, *(float((back[n] - p.detach()).abs().max()) for n, p in plain.params.items()))


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("case", CASES)
def test_the_trajectory_after_an_inert_growth_is_the_one_without_it(case, optimizer):
    assert deviation(case, OPTIMIZERS[optimizer]) <= 1e-12


@pytest.mark.parametrize("optimizer", VARIANTS)
def test_so_it_is_for_every_implementation_of_an_optimizer(optimizer):
    assert deviation("dense", VARIANTS[optimizer]) <= 1e-12


WITH_STATE = [name for name in OPTIMIZERS if name != "sgd"]


@pytest.mark.parametrize("optimizer", WITH_STATE)
def test_a_lost_state_is_another_trajectory(optimizer):
    """Negative control."""
    assert deviation("dense", OPTIMIZERS[optimizer], "fresh") > 1e-6


@pytest.mark.parametrize("optimizer", WITH_STATE)
def test_a_shuffled_slot_is_another_trajectory(optimizer):
    """Negative control: every slot by itself, its rows moved on by one."""
    slots = SLOTS[type(OPTIMIZERS[optimizer]([torch.zeros(1)])).__name__]

    def shuffle(net):
        state = net.tracked[0].optimizer.state[net.params["b.weight"]]
        assert state[slot].abs().max() > 0
        state[slot].copy_(state[slot].roll(1, 0))

    held = live(DENSE, OPTIMIZERS[optimizer], "zero")
    train(held, 1)
    for slot in slots.keys() & held.tracked[0].optimizer.state[held.params["b.weight"]].keys():
        if slot == "max_exp_avg_sq":  # where it is below the current mean it is overwritten
            continue
        assert deviation("dense", OPTIMIZERS[optimizer], spoil=shuffle) > 1e-9, slot


# what scaled gradients do to slots -----------------------------------------------------------------------------------

STREAM = "net n(x: [5]) { return x |> s: dense(6) |> rmsnorm |> dense(2) }"
SCALING = [
    (DENSE, DuplicateUnits("a", (0, 3), copies=2)),
    (DENSE, SplitUnits("a", (1,))),
    (DENSE, PruneUnits("a", (1, 4))),
    (DENSE, GrowUnits("a", 3)),
    (STREAM, GrowUnits("s", 3, zero="fan_in")),
]


def feed(net, gradients):
    for step in gradients:
        for name, p in net.named_parameters():
            p.grad = step[name].clone()
        net.tracked[0].optimizer.step()


def slots_differ(text, rewrite, make):
    """Return how far carried slots are from those of an optimizer that saw the carried gradients all along."""
    net = live(text, make, "zero")
    generator = torch.Generator().manual_seed(7)
    draws = [
        {n: torch.randn(p.shape, generator=generator, dtype=p.dtype) for n, p in net.named_parameters()}
        for _ in range(6)
    ]
    feed(net, draws)
    morphism = net.rewrite(rewrite).morphism
    other = build(morphism.after, seed=3, dtype=torch.float64)
    other.track(make(other.parameters()))

    def moved(step):
        return {
            name: move(morphism.transfers[name], step, tuple(p.shape), name, 0, Kind.GRADIENT, ZERO)
            for name, p in other.named_parameters()
        }

    feed(other, [moved(step) for step in draws])
    worst = 0.0
    for name, p in net.named_parameters():
        state = net.tracked[0].optimizer.state[p]
        for key, value in other.tracked[0].optimizer.state[other.params[name]].items():
            if torch.is_tensor(value):
                worst = max(worst, float((state[key] - value).abs().max()))
    return worst


HOMOGENEOUS = {  # no decay, and no eps in the momentum of normalised steps: nothing but gradients sets the size
    **{n: OPTIMIZERS[n] for n in ("nesterov", "adam", "amsgrad", "nadam", "adagrad")},
    "rmsprop": lambda p: optim.RMSprop(p, lr=1e-3, centered=True, momentum=0.9, eps=1e-20),
}


@pytest.mark.parametrize("optimizer", HOMOGENEOUS)
@pytest.mark.parametrize(("text", "rewrite"), SCALING, ids=lambda v: str(v)[:24])
def test_carried_slots_are_those_of_the_carried_gradients(text, rewrite, optimizer):
    """First moments follow as the gradients, second ones by the squares of the shares."""
    assert slots_differ(text, rewrite, HOMOGENEOUS[optimizer]) <= 1e-12


def test_shares_that_are_not_squared_are_noticed(monkeypatch):
    """Negative control."""
    monkeypatch.setattr(transfer, "_powered", lambda factor, kind: factor)
    assert slots_differ(*SCALING[0], OPTIMIZERS["adam"]) > 1e-6


# the first steps of what is new --------------------------------------------------------------------------------------


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


def in_training(case, optimizer, carry):
    """Return the speeds over 100 steps after a growth in the middle of training."""
    net = live(CASES[case][0], OPTIMIZERS[optimizer], carry)
    train(net, 300)
    receipt = net.rewrite(CASES[case][1])
    return speeds(net, receipt.morphism, [lambda i=i: train(net, 1, 300 + i) for i in range(100)])


FASTEST = {"dense": 1.1, "conv and batch norm": 1.1, "residual and layer norm": 1.1, "heads": 1.1, "head dim": 1.5}


@pytest.mark.parametrize("optimizer", ["adam", "adamw", "amsgrad", "rmsprop", "adagrad"])
@pytest.mark.parametrize("case", CASES)
def test_new_entries_move_by_a_learning_rate_at_most(case, optimizer):
    """At most 1.1 of them, weight decay included; for RMSprop of lr / (1 - momentum), which is what it steps by.

    Warm moments say how large a gradient is among siblings. On the head dim new rows of the query read random keys, and
    their gradients are larger than that: measured 1.23 learning rates (Adam; old entries 1.97) and 1.25 (RMSprop).
    """
    assert in_training(case, optimizer, "siblings")[0] <= FASTEST[case]


@pytest.mark.parametrize("case", CASES)
def test_under_nadam_new_entries_are_not_faster_than_old_ones(case):
    """The latest gradient alone weighs up to a half there, so that old entries too step by two learning rates."""
    new, old = in_training(case, "nadam", "siblings")
    assert new <= 1.1 * max(old, 1.0)


@pytest.mark.parametrize("optimizer", ["adam", "adamw", "amsgrad", "nadam"])
def test_zeros_under_an_old_step_counter_leap(optimizer):
    """Negative control: it is the warm second moments that hold new entries back."""
    assert in_training("dense", optimizer, "zero")[0] > 2.0


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
