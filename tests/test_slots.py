"""Optimizer state across rewrites: every optimizer in the table, exact padding, warm starts, refusals."""

import pytest
import torch

from irgrow.axes import NEW
from irgrow.errors import RefusedError
from irgrow.network import build
from irgrow.passes import GrowUnits, PruneUnits
from irgrow.slots import SLOTS, Carry, known_slots
from irgrow.testing.laws import same_snapshot, snapshot

NET = "net n(x: [5]) { return x |> a: dense(6) |> tanh |> b: dense(5) |> tanh |> dense(2) }"
OPTIMIZERS = {
    "sgd": lambda p: torch.optim.SGD(p, lr=1e-2),
    "momentum": lambda p: torch.optim.SGD(p, lr=1e-2, momentum=0.9, weight_decay=0.01),
    "nesterov": lambda p: torch.optim.SGD(p, lr=1e-2, momentum=0.9, nesterov=True),
    "adam": lambda p: torch.optim.Adam(p, lr=1e-3),
    "adam fused": lambda p: torch.optim.Adam(p, lr=1e-3, fused=True),
    "adam foreach": lambda p: torch.optim.Adam(p, lr=1e-3, foreach=True),
    "adamw": lambda p: torch.optim.AdamW(p, lr=1e-3, weight_decay=0.1),
    "amsgrad": lambda p: torch.optim.Adam(p, lr=1e-3, amsgrad=True),
    "nadam": lambda p: torch.optim.NAdam(p, lr=1e-3),
    "radam": lambda p: torch.optim.RAdam(p, lr=1e-3),
    "adamax": lambda p: torch.optim.Adamax(p, lr=1e-3),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=1e-3, centered=True, momentum=0.9),
    "adagrad": lambda p: torch.optim.Adagrad(p, lr=1e-2),
    "adadelta": lambda p: torch.optim.Adadelta(p, lr=1.0),
    "rprop": lambda p: torch.optim.Rprop(p, lr=1e-2),
}


def data(step):
    generator = torch.Generator().manual_seed(step)
    return torch.randn(16, 5, generator=generator, dtype=torch.float64)


def train(net, opt, steps, start=0, after=lambda: None):
    losses = []
    for i in range(start, start + steps):
        opt.zero_grad()
        loss = (net(data(i)) - data(i)[:, :2]).square().mean()
        loss.backward()
        opt.step()
        after()
        losses.append(loss.item())
    return losses


def network(name, carry="zero"):
    net = build(NET, seed=2, dtype=torch.float64)
    opt = OPTIMIZERS[name](net.parameters())
    net.track(opt, carry=carry)
    return net, opt


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_training_on_after_an_inert_rewrite_is_training_on(name):
    """Law 5: over 50 steps the losses agree to 1e-12."""
    plain, plain_opt = network(name)
    grown, grown_opt = network(name)
    train(plain, plain_opt, 5)
    train(grown, grown_opt, 5)
    receipt = grown.rewrite(GrowUnits("a", 3))
    assert receipt.verdict.preserves

    def silence():
        with torch.no_grad():
            grown.params["b.weight"][:, 6:] = 0

    silence()
    a, b = train(plain, plain_opt, 50, 5), train(grown, grown_opt, 50, 5, silence)
    assert max(abs(x - y) for x, y in zip(a, b, strict=True)) <= 1e-12


def test_a_lost_state_is_noticed():
    """Negative control: a fresh state gives another trajectory."""
    plain, plain_opt = network("adam")
    grown, grown_opt = network("adam", "fresh")
    train(plain, plain_opt, 5)
    train(grown, grown_opt, 5)
    grown.rewrite(GrowUnits("a", 3))

    def silence():
        with torch.no_grad():
            grown.params["b.weight"][:, 6:] = 0

    silence()
    a, b = train(plain, plain_opt, 20, 5), train(grown, grown_opt, 20, 5, silence)
    assert max(abs(x - y) for x, y in zip(a, b, strict=True)) > 1e-6


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_slots_are_padded_and_cut_by_the_maps(name):
    net, opt = network(name)
    train(net, opt, 4)
    before = {k: v.clone() for k, v in opt.state.get(net.params["b.weight"], {}).items() if torch.is_tensor(v)}
    net.rewrite(GrowUnits("a", 2))
    state = opt.state.get(net.params["b.weight"], {})
    for key, value in before.items():
        if value.dim() == 0:
            assert torch.equal(state[key], value)
        else:
            assert state[key].shape == (5, 8)
            assert torch.equal(state[key][:, :6], value)
    train(net, opt, 3, 10)
    net.rewrite(PruneUnits("a", (1, 7)))
    train(net, opt, 3, 20)
    for p, slots in opt.state.items():
        assert all(v.shape == p.shape for v in slots.values() if torch.is_tensor(v) and v.dim())


def constant_gradients(net, opt, steps):
    """Step with a gradient of one everywhere; return the largest update of a new entry, in learning rates."""
    worst = 0.0
    for _ in range(steps):
        old = net.params["b.weight"].detach().clone()
        for p in net.parameters():
            p.grad = torch.ones_like(p)
        opt.step()
        moved = (net.params["b.weight"].detach() - old).abs() / opt.param_groups[0]["lr"]
        worst = max(worst, float(moved[:, 6:].max()) if moved.shape[1] > 6 else 0.0)
    return worst


@pytest.mark.parametrize("name", ["adam", "amsgrad", "nadam", "radam", "adamax", "adagrad"])
def test_new_entries_move_no_faster_than_old_ones(name):
    """After thousands of steps updates of new entries stay below 1.1 learning rates for 100 steps."""
    net, opt = network(name, "siblings")
    constant_gradients(net, opt, 3000)
    net.rewrite(GrowUnits("a", 2))
    assert constant_gradients(net, opt, 100) <= 1.1


def test_exact_padding_lets_new_entries_leap():
    """Negative control: with an old step counter and zero moments the first updates are several learning rates."""
    net, opt = network("adam", "zero")
    constant_gradients(net, opt, 3000)
    net.rewrite(GrowUnits("a", 2))
    assert constant_gradients(net, opt, 40) > 5.0


def test_warm_second_moments_are_the_mean_of_the_siblings():
    net, opt = network("adam", "siblings")
    train(net, opt, 4)
    old = opt.state[net.params["b.weight"]]["exp_avg_sq"].clone()
    net.rewrite(GrowUnits("a", 2))
    new = opt.state[net.params["b.weight"]]["exp_avg_sq"]
    torch.testing.assert_close(new[:, 6:], old.mean(1, keepdim=True).expand(5, 2), rtol=1e-14, atol=0)
    assert opt.state[net.params["b.weight"]]["exp_avg"][:, 6:].abs().max() == 0


def test_parameters_without_state_get_none():
    net, opt = network("adam")
    net.rewrite(GrowUnits("a", 2))
    assert not opt.state
    train(net, opt, 2)


class Unheard(torch.optim.AdamW):
    """An optimizer of a user's own, with something more for every entry or every parameter."""

    def __init__(self, params, extra):
        super().__init__(params)
        self.extra = extra

    def step(self, closure=None):
        super().step(closure)
        for p in self.state:
            self.state[p]["trust"] = torch.ones_like(p) if self.extra == "entry" else self.extra


@pytest.mark.parametrize("extra", ["entry", 2.5, torch.tensor(1.0), None])
def test_a_slot_nobody_knows_is_refused_and_nothing_changes(extra):
    net = build(NET, dtype=torch.float64)
    opt = Unheard(net.parameters(), extra)
    net.track(opt)
    train(net, opt, 3)
    before = snapshot(net)
    with pytest.raises(
        RefusedError, match="state `trust` of Unheard cannot be carried across a rewrite; known are exp_"
    ):
        net.rewrite(GrowUnits("a", 2))
    assert same_snapshot(before, snapshot(net)) is None
    train(net, opt, 2, 3)


def test_a_slot_of_another_shape_is_refused_and_nothing_changes():
    net, opt = network("adam")
    train(net, opt, 3)
    opt.state[net.params["b.weight"]]["exp_avg_sq"] = torch.ones(5)
    before = snapshot(net)
    with pytest.raises(RefusedError, match=r"state `exp_avg_sq` of Adam has shape \[5\], its parameter \[5, 6\]"):
        net.rewrite(GrowUnits("a", 2))
    assert same_snapshot(before, snapshot(net)) is None


@pytest.mark.parametrize("unknown", ["Adafactor", "LBFGS", "ASGD", "SparseAdam", "Muon"])
def test_an_optimizer_whose_state_cannot_be_carried_is_not_tracked(unknown):
    net = build(NET)
    opt = getattr(torch.optim, unknown)([p for p in net.parameters() if p.dim() == 2])
    with pytest.raises(RefusedError, match=f"the state of {unknown} cannot be carried across a rewrite; known are SGD"):
        net.track(opt)
    assert not net.tracked
    assert net.rewrite(GrowUnits("a", 1)).applied


def test_subclasses_of_known_optimizers_are_known():
    class Mine(torch.optim.AdamW):
        pass

    assert known_slots(Mine(build(NET).parameters())) == SLOTS["AdamW"]


def test_policies_are_three():
    assert [c.value for c in Carry] == ["siblings", "zero", "fresh"]
    assert NEW == -1
