"""New entries in their first hundred steps: the bound for any gradients, what it leaves alone, where the counts go."""

from copy import deepcopy

import pytest
import torch
from torch import optim

from irgrow import checkpoint, young
from irgrow.network import build
from irgrow.passes import GrowEdges, GrowUnits, InsertLayer, PruneEdges, PruneUnits
from irgrow.young import STEPS, YOUNG

NET = "net n(x: [5]) { return x |> a: dense(6) |> tanh |> b: dense(5) |> tanh |> dense(2) }"
MASKED = "net n(x: [5]) { return x |> a: dense(6, masked = true) |> tanh |> dense(2) }"
NEW = {"a.weight": (slice(6, None),), "a.bias": (slice(6, None),), "b.weight": (slice(None), slice(6, None))}
OPTIMIZERS = {
    "adam": lambda p: optim.Adam(p, lr=1e-3),
    "adam, short memory": lambda p: optim.Adam(p, lr=1e-3, betas=(0.5, 0.9)),
    "adam, decay, maximize": lambda p: optim.Adam(p, lr=1e-3, weight_decay=0.3, maximize=True),
    "adam foreach": lambda p: optim.Adam(p, lr=1e-3, foreach=True),
    "adam fused": lambda p: optim.Adam(p, lr=1e-3, fused=True),
    "amsgrad": lambda p: optim.Adam(p, lr=1e-3, amsgrad=True),
    "adamw": lambda p: optim.AdamW(p, lr=1e-3, weight_decay=1e-9),
    "nadam": lambda p: optim.NAdam(p, lr=1e-3),
    "nadam decoupled": lambda p: optim.NAdam(p, lr=1e-3, weight_decay=1e-9, decoupled_weight_decay=True, foreach=True),
    "radam": lambda p: optim.RAdam(p, lr=1e-3),
    "rmsprop": lambda p: optim.RMSprop(p, lr=1e-3),
    "rmsprop, decay, maximize": lambda p: optim.RMSprop(p, lr=1e-3, weight_decay=0.3, maximize=True),
    "rmsprop centred": lambda p: optim.RMSprop(p, lr=1e-3, centered=True),
    "rmsprop momentum": lambda p: optim.RMSprop(p, lr=1e-3, momentum=0.9),
    "rmsprop centred momentum": lambda p: optim.RMSprop(p, lr=1e-3, centered=True, momentum=0.9, foreach=True),
}


def live(make, carry="siblings", text=NET):
    net = build(text, seed=2, dtype=torch.float64)
    opt = make(net.parameters())
    net.track(opt, carry=carry)
    return net, opt


def feed(net, opt, seed, wild=False):
    """Step with gradients of size one, for new entries of up to thousands, steady for a while and then turned."""
    generator = torch.Generator().manual_seed(seed)
    for name, p in sorted(net.named_parameters()):
        p.grad = torch.randn(p.shape, generator=generator, dtype=p.dtype)
        if wild:
            size = 10.0 ** float(torch.randint(-2, 4, (), generator=torch.Generator().manual_seed(seed // 7)))
            p.grad[NEW.get(name, ())] = size * (-1.0) ** (seed // 23)
        if f"{name[:2]}mask" in net.params and name.endswith("weight"):
            p.grad *= net.params[f"{name[:2]}mask"]
    opt.step()


def rate(opt):
    group = opt.param_groups[0]
    return group["lr"] / (1 - group.get("momentum", 0))


def fastest(net, opt, take, steps=STEPS, names=NEW):
    """Return the largest update of a new entry in so many steps, in learning rates."""
    worst = 0.0
    for i in range(steps):
        was = {name: net.params[name].detach().clone() for name in names}
        take(i)
        for name, place in names.items():
            worst = max(worst, float((net.params[name].detach() - was[name])[place].abs().max()) / rate(opt))
    return worst


def grown(name, before, carry="siblings"):
    net, opt = live(OPTIMIZERS[name], carry)
    for i in range(before):
        feed(net, opt, i)
    assert net.rewrite(GrowUnits("a", 3)).applied
    return net, opt


@pytest.mark.parametrize("before", [10, 400])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_no_gradients_move_a_new_entry_by_more_than_a_learning_rate(name, before):
    net, opt = grown(name, before)
    assert fastest(net, opt, lambda i: feed(net, opt, 1000 + i, wild=True)) <= 1 + 1e-6


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_without_it_they_leap(name, monkeypatch):
    """Negative control."""
    monkeypatch.setattr(young, "_hold", lambda optimizer: None)
    net, opt = grown(name, 400)
    assert fastest(net, opt, lambda i: feed(net, opt, 1000 + i, wild=True)) > 1.2


@pytest.mark.parametrize("wild", [False, True])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_old_entries_and_slow_new_ones_are_left_alone(name, wild, monkeypatch):
    """Bitwise; with gradients of the size of old ones Adam's new entries stay below a learning rate by themselves."""
    held, plain = grown(name, 400), grown(name, 400)
    hold = young._hold
    for i in range(30):
        monkeypatch.setattr(young, "_hold", hold)
        feed(*held, 1000 + i, wild)
        monkeypatch.setattr(young, "_hold", lambda optimizer: None)
        feed(*plain, 1000 + i, wild)
    for key, value in held[0].params.items():
        old = torch.ones(value.shape, dtype=torch.bool)
        if wild or "adam" not in name or name == "radam" or "nadam" in name or "short" in name:
            old[NEW.get(key, ...)] = key not in NEW
        assert torch.equal(value[old], plain[0].params[key][old]), key


def test_counts_follow_the_maps_and_go():
    net, opt = grown("adam", 5)
    bias = lambda: opt.state[net.params["a.bias"]].get(YOUNG)  # noqa: E731
    assert bias().tolist() == [0] * 6 + [STEPS] * 3
    assert opt.state[net.params["b.weight"]][YOUNG].tolist() == [[0] * 6 + [STEPS] * 3] * 5
    assert YOUNG not in opt.state[net.params["b.bias"]]
    for i in range(30):
        feed(net, opt, i)
    net.rewrite(GrowUnits("a", 1))
    assert bias().tolist() == [0] * 6 + [STEPS - 30] * 3 + [STEPS]
    net.rewrite(PruneUnits("a", (0, 7)))
    assert bias().tolist() == [0] * 5 + [STEPS - 30] * 2 + [STEPS]
    for i in range(70):
        feed(net, opt, i)
    assert bias().tolist() == [0] * 7 + [30]
    for i in range(30):
        feed(net, opt, i)
    assert not any(YOUNG in state for state in opt.state.values())


def test_an_optimizer_that_is_handed_over_again_counts_once():
    net, opt = grown("adam", 5)
    net.tracked.clear()
    net.track(opt)
    feed(net, opt, 6)
    assert int(opt.state[net.params["a.bias"]][YOUNG].max()) == STEPS - 1


def test_pruning_what_has_grown_leaves_no_counts():
    net, opt = grown("adam", 5)
    net.rewrite(PruneUnits("a", (6, 7, 8)))
    assert not any(YOUNG in state for state in opt.state.values())


@pytest.mark.parametrize("carry", ["zero", "fresh"])
def test_other_policies_hold_nothing(carry):
    _, opt = grown("adam", 5, carry)
    assert not any(YOUNG in state for state in opt.state.values())


@pytest.mark.parametrize("make", [optim.SGD, optim.Adagrad, optim.Adamax, optim.Adadelta, optim.Rprop])
def test_optimizers_without_need_have_no_counts(make):
    net, opt = live(lambda p: make(p, lr=1e-2))
    feed(net, opt, 0)
    assert net.rewrite(GrowUnits("a", 1)).applied
    assert not any(YOUNG in state for state in opt.state.values())


@pytest.mark.parametrize("make", [optim.Adam, optim.RMSprop])
def test_filters_in_channels_last_order(make):
    text = "net n(x: [2, 4, 4]) { return x |> a: conv(4, kernel = 3) |> relu |> b: conv(3, kernel = 1) }"
    net = build(text, seed=2, dtype=torch.float64).to(memory_format=torch.channels_last)
    opt = make(net.parameters(), lr=1e-3)
    net.track(opt)
    for i in range(20):
        feed(net, opt, i)
    assert net.rewrite(GrowUnits("a", 2)).applied
    assert (
        fastest(net, opt, lambda i: feed(net, opt, 1000 + i, wild=True), names={"a.weight": (slice(4, None),)}) < 1.001
    )
    assert not any(YOUNG in state for state in opt.state.values())


@pytest.mark.parametrize("value", [0.5, -3.0])
def test_a_parameter_without_dimensions_is_held_as_any_other(value):
    p = torch.nn.Parameter(torch.tensor(2.0, dtype=torch.float64))
    opt = optim.RMSprop([p], lr=1e-2)
    p.grad = torch.tensor(value, dtype=torch.float64)
    zero = torch.zeros((), dtype=torch.float64)
    opt.state[p] = {"step": torch.tensor(7.0), "square_avg": zero, YOUNG: torch.tensor(2, dtype=torch.int8)}
    for left in (1, 0):
        was = float(p.detach())
        young.hold(opt, (opt,), {})
        opt.step()
        assert abs(float(p.detach()) - was) == pytest.approx(1e-2, rel=1e-6)
        assert int(opt.state[p].get(YOUNG, 0)) == left


# ways to take a step -------------------------------------------------------------------------------------------------


def test_gradients_of_a_closure_are_looked_at_when_they_are_there():
    plain, other = grown("adam", 400), grown("adam", 400)
    step = other[1].step

    def closing(i):
        net, opt = other
        opt.step = lambda: None
        feed(net, opt, i, wild=True)
        found = {p: p.grad for p in net.parameters()}
        opt.zero_grad()

        def closure():
            for p, gradient in found.items():
                p.grad = gradient
            return 3.5

        assert (step(closure) if i % 2 else step(closure=closure)) == 3.5

    for i in range(1000, 1040):
        feed(*plain, i, wild=True)
        closing(i)
    for name, value in plain[0].params.items():
        assert torch.equal(value, other[0].params[name]), name


@pytest.mark.parametrize("name", ["adam", "adam fused"])
def test_scaled_gradients_are_seen_as_they_are(name):
    """A fused step gets them scaled, any other one does not."""
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    plain, other = grown(name, 400), grown(name, 400)
    for i in range(1000, 1030):
        feed(*plain, i, wild=True)
        net, opt = other
        for p, q in zip(net.parameters(), plain[0].parameters(), strict=True):
            p.grad = q.grad * scaler.scale(torch.ones(()))
        scaler.step(opt)
        scaler.update()
    for key, value in plain[0].params.items():
        torch.testing.assert_close(value, other[0].params[key], rtol=1e-12, atol=1e-15)


def test_the_state_of_a_young_network_is_taken_up(tmp_path):
    """From a checkpoint, and from the state dict of PyTorch, which makes floats of the counts."""
    net, opt = grown("adam", 400)
    for i in range(1000, 1010):
        feed(net, opt, i, wild=True)
    checkpoint.save(net, tmp_path / "ck")
    read = checkpoint.read(tmp_path / "ck")
    others = []
    for i in range(2):
        other = checkpoint.network(read)
        second = OPTIMIZERS["adam"](other.parameters())
        other.track(second)
        checkpoint.restore(other, read)
        if i:
            second.load_state_dict(deepcopy(opt.state_dict()))
            assert any(s[YOUNG].is_floating_point() for s in second.state.values() if YOUNG in s)
        others.append((other, second))
    for i in range(1010, 1120):
        if i == 1050:
            for part in ((net, opt), *others):
                part[0].rewrite(GrowUnits("a", 1))
        for part in ((net, opt), *others):
            feed(*part, i, wild=True)
    for other, second in others:
        for name, value in net.params.items():
            assert torch.equal(value, other.params[name]), name
        assert [YOUNG in s for s in second.state.values()] == [YOUNG in s for s in opt.state.values()]


# entries that start or wake without a warm state ---------------------------------------------------------------------


@pytest.mark.parametrize("name", [n for n in OPTIMIZERS if n.startswith("rmsprop")])
@pytest.mark.parametrize(("carry", "low", "high"), [("siblings", 0.05, 1 + 1e-6), ("zero", 1.5, 11.0)])
def test_parameters_without_predecessor_start_held_back(name, carry, low, high):
    """An inserted layer has no siblings; without bias corrections its first steps are ten learning rates."""
    net, opt = live(OPTIMIZERS[name], carry)
    for i in range(200):
        feed(net, opt, i)
    receipt = net.rewrite(InsertLayer("tanh_1", form="residual"))
    assert receipt.applied
    names = {n: () for n, p in net.named_parameters() if n not in receipt.morphism.before.params}
    assert names
    assert low < fastest(net, opt, lambda i: feed(net, opt, 1000 + i), names=names) < high


def test_before_training_nothing_is_given_a_state():
    net, opt = live(OPTIMIZERS["rmsprop"])
    assert net.rewrite(InsertLayer("tanh_1", form="residual")).applied
    assert not opt.state


@pytest.mark.parametrize("name", ["adam", "amsgrad", "nadam", "radam", "rmsprop", "rmsprop centred momentum"])
@pytest.mark.parametrize(("carry", "held"), [("siblings", True), ("zero", False)])
def test_synapses_that_come_back_after_a_pause_do_not_leap(name, carry, held):
    """What an ephemeral pruning kept has faded: the second moments of Adam to the 20th part in 3000 steps."""
    net, opt = live(OPTIMIZERS[name], carry, MASKED)
    for i in range(100):
        feed(net, opt, i)
    net.rewrite(PruneEdges("a", fraction=0.5, ephemeral=True))
    gone = net.params["a.mask"] == 0
    for i in range(3000):
        feed(net, opt, i)
    objects = {n: id(p) for n, p in net.params.items() if n != "a.mask"}
    net.rewrite(GrowEdges("a", count=7, value="kept"))
    came = gone & (net.params["a.mask"] != 0)
    assert int(came.sum()) == 7
    assert {n: id(p) for n, p in net.params.items() if n != "a.mask"} == objects
    worst = fastest(net, opt, lambda i: feed(net, opt, 9000 + i), names={"a.weight": (came,)})
    assert worst <= 1 + 1e-6 if held else worst > 1.3
