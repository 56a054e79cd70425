"""Figures of training across a rewrite: the trajectory of what was there.

Inert means that the new units are kept silent: whatever reads them is set to zero after every step. All that is left of
the rewrite is then what it did to the state of the optimizer.
"""

import pytest
import torch
from courses import CASES, DENSE, OPTIMIZERS, live, new_entries, train  # type: ignore[import-not-found]
from torch import optim

from irgrow import transfer
from irgrow.fills import ZERO
from irgrow.network import build
from irgrow.passes import DuplicateUnits, GrowUnits, PruneUnits, SplitUnits
from irgrow.slots import SLOTS
from irgrow.transfer import Kind, carried_params, move

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
