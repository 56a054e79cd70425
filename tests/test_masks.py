"""What is switched off stays off: through every optimizer, resizing, saving, copying, casting and compiling."""

import copy
import io

import numpy as np
import pytest
import torch
from masked import criterion, inputs, live  # type: ignore[import-not-found]

from irgrow import checkpoint
from irgrow.backends import interpret
from irgrow.morphism import Keep
from irgrow.network import build
from irgrow.passes import GrowEdges, GrowUnits, PruneEdges, PruneUnits, RewireEdges
from irgrow.passes.analyses.density import density, maskable
from irgrow.probing import effective, probe

NET = """
net n(x: [2, 5, 5]) {
  return x |> c: conv(4, kernel = 3) |> gelu |> d: depthwise(2) |> gelu |> flatten |> h: dense(5) |> gelu |> dense(3)
}
"""
OPTIMIZERS = {
    "sgd": (torch.optim.SGD, {"momentum": 0.9, "weight_decay": 0.1}),
    "nesterov": (torch.optim.SGD, {"momentum": 0.9, "weight_decay": 0.1, "nesterov": True}),
    "adam": (torch.optim.Adam, {"weight_decay": 0.1}),
    "adamw": (torch.optim.AdamW, {"weight_decay": 0.1}),
    "amsgrad": (torch.optim.AdamW, {"weight_decay": 0.1, "amsgrad": True}),
    "nadam": (torch.optim.NAdam, {"weight_decay": 0.1}),
    "radam": (torch.optim.RAdam, {"weight_decay": 0.1}),
    "rmsprop": (torch.optim.RMSprop, {"momentum": 0.9, "centered": True, "weight_decay": 0.1}),
    "adagrad": (torch.optim.Adagrad, {"weight_decay": 0.1, "initial_accumulator_value": 0.1}),
    "adadelta": (torch.optim.Adadelta, {"weight_decay": 0.1}),
}


def revived(net, opt=None, gradients=False):
    """Return what is not zero where a mask is off: the names of weights, gradients and slots."""
    found = []
    for synapses in maskable(net.graph):
        if synapses.mask is None:
            continue
        weight, off = net.params[synapses.weight], net.params[synapses.mask] == 0
        assert off.any()
        assert not off.all()
        values = {"value": weight.detach()} | ({"grad": weight.grad} if gradients else {})
        slots = {} if opt is None else opt.state[weight]
        values |= {k: v for k, v in slots.items() if isinstance(v, torch.Tensor) and v.shape == weight.shape}
        assert opt is None or len(values) > 1 + gradients, "there are slots"
        found += [f"{synapses.weight}: {k}" for k, v in values.items() if bool((v[off] != 0).any())]
    return found


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_nothing_revives_what_was_pruned(name):
    cls, options = OPTIMIZERS[name]
    net, opt, step = live(NET, cls, **options)
    for i in range(5):
        step(i)
    for weight in (net.params[s.weight] for s in maskable(net.graph)):
        slots = [v for v in opt.state[weight].values() if isinstance(v, torch.Tensor) and v.dim()]
        assert slots
        assert all((v != 0).all() for v in slots), "every slot is alive before"
    net.rewrite(PruneEdges(fraction=0.5))
    assert revived(net, opt) == []
    on = {s.weight: net.params[s.weight].detach().clone() for s in maskable(net.graph)}
    for i in range(50):
        step(i)
        assert revived(net, opt, gradients=True) == [], f"step {i}"
    assert all(not torch.equal(net.params[n], v) for n, v in on.items()), "what is on learns"


@pytest.mark.parametrize(("cls", "own"), [(torch.optim.Adamax, "exp_inf"), (torch.optim.Rprop, "step_size")])
def test_slots_that_are_never_zero_move_nothing(cls, own):
    """Adamax adds its eps to |g|, and Rprop bounds its steps from below; both multiply a gradient that is zero."""
    net, opt, step = live(NET, cls)
    for i in range(5):
        step(i)
    net.rewrite(PruneEdges(fraction=0.5))
    assert revived(net, opt) == []
    for i in range(20):
        step(i)
    assert {f.split(": ")[1] for f in revived(net, opt, gradients=True)} == {own}


@pytest.mark.parametrize("name", ["sgd", "adam", "rmsprop"])
def test_without_the_cut_momentum_revives_it(name, monkeypatch):
    """Negative control: with `Keep` instead of `Cut` the checks above fail."""
    from irgrow.passes import edges

    monkeypatch.setattr(edges, "Cut", lambda name, kept: Keep(name))
    cls, options = OPTIMIZERS[name]
    net, opt, step = live(NET, cls, **options)
    for i in range(5):
        step(i)
    net.rewrite(PruneEdges(fraction=0.5))
    for weight in [net.params[s.weight] for s in maskable(net.graph)]:
        with torch.no_grad():
            weight.mul_(next(net.params[s.mask] for s in maskable(net.graph) if net.params[s.weight] is weight))
    assert [f for f in revived(net) if "value" in f] == []
    step()
    assert "h.weight: value" in revived(net, opt), "the weight was zero and the momentum moved it"


def test_pending_gradients_are_cut_as_well():
    net, _, step = live(NET)
    step()
    net.rewrite(PruneEdges(fraction=0.5))
    assert revived(net, gradients=True) == []
    step_of_the_old_gradient = torch.optim.SGD(net.parameters(), lr=0.1)
    step_of_the_old_gradient.step()
    assert revived(net) == []


def test_masks_follow_units_that_come_and_go():
    net, opt, step = live(NET)
    net.rewrite(PruneEdges(fraction=0.5))
    step()
    old = {n: net.params[n].clone() for n in ("c.mask", "d.mask", "h.mask", "dense_1.mask")}
    assert net.rewrite(GrowUnits("h", 3)).verdict.preserves
    assert net.rewrite(GrowUnits("c", 2)).verdict.preserves
    masks = {n: net.params[n] for n in old}
    assert (masks["h.mask"][5:] == 1).all()
    assert (masks["dense_1.mask"][:, 5:] == 1).all()
    assert torch.equal(masks["h.mask"][:5, :16], old["h.mask"])
    assert (masks["c.mask"][4:] == 1).all()
    assert torch.equal(masks["c.mask"][:4], old["c.mask"])
    assert (masks["d.mask"][4:] == 1).all()
    assert torch.equal(masks["d.mask"][:4], old["d.mask"])
    for i in range(10):
        step(i)
    assert revived(net, opt, gradients=True) == []
    net.rewrite(PruneUnits("h", (1, 6)))
    assert torch.equal(net.params["h.mask"][:4, :16], old["h.mask"][[0, 2, 3, 4]])
    step()
    assert revived(net, opt, gradients=True) == []


def test_a_long_life(tmp_path):
    """Pruning, growing, rewiring, resizing and training in turn; the reference interpreter agrees at the end."""
    net, opt, step = live(NET, torch.optim.AdamW, weight_decay=0.1)
    net.rewrite(PruneEdges(density=0.4, by="random", allocation="erk"))
    done = [
        GrowEdges(count=7, by="gradient"),
        RewireEdges(grow="gradient"),
        GrowUnits("h", 2),
        PruneEdges("h", fraction=0.2, by="movement"),
        RewireEdges("h", prune="random", regrow=False),
        PruneUnits("c", (0,)),
        PruneEdges("d", count=2, kernels=True),
        GrowEdges("d", count=1, kernels=True),
    ]
    for i, rewrite in enumerate(done):
        step(i)
        x = inputs(net, i)
        assert net.rewrite(rewrite, batch=x, loss=criterion).applied, str(rewrite)
        step(i)
        assert revived(net, opt, gradients=True) == []
    x = inputs(net)
    wanted = interpret(net.graph, net.params, [x]).outputs[0]
    np.testing.assert_allclose(net(x).detach().numpy(), wanted, rtol=1e-10, atol=1e-12)


def test_checkpoints_keep_masks_and_slots(tmp_path):
    net, opt, step = live(NET, torch.optim.SGD, momentum=0.9, weight_decay=0.1)
    step()
    net.rewrite(PruneEdges(density=0.4, allocation="erk"))
    step()
    checkpoint.save(net, tmp_path / "ck")
    saved = checkpoint.read(tmp_path / "ck")
    other = checkpoint.network(saved)
    again = torch.optim.SGD(other.parameters(), lr=1e-2, momentum=0.9, weight_decay=0.1)
    other.track(again)
    checkpoint.restore(other, saved)
    assert density(other.graph, other.params) == density(net.graph, net.params)
    for i in range(10):
        for n, o in ((net, opt), (other, again)):
            o.zero_grad()
            criterion(n(inputs(n, i))).backward()
            o.step()
    assert revived(other, again, gradients=True) == []
    assert all(torch.equal(net.params[n], other.params[n]) for n in net.params)


def test_copies_casts_and_state_dicts():
    net, _, step = live(NET)
    net.rewrite(PruneEdges(fraction=0.5))
    step()
    twin = copy.deepcopy(net)
    assert twin.params["h.mask"] is not net.params["h.mask"]
    assert torch.equal(twin(inputs(net)), net(inputs(net)))
    single = copy.deepcopy(net).to(torch.float32)
    assert single.params["h.mask"].dtype == torch.float32
    assert revived(single) == []
    double = single.to(torch.float64)
    assert double.params["c.mask"].dtype == torch.float64
    assert revived(double) == []
    buffer = io.BytesIO()
    torch.save(net.state_dict(), buffer)
    buffer.seek(0)
    other = build(str(net.graph), seed=9, dtype=torch.float64)
    other.load_state_dict(torch.load(buffer, weights_only=True))
    assert torch.equal(other(inputs(net)), net(inputs(net)))
    with torch.no_grad():
        twin.params["h.weight"].add_(1.0)
    assert not torch.equal(twin(inputs(net)), net(inputs(net)))
    assert revived(net) == []


def test_autocast_computes_with_the_mask():
    net, _, _ = live(NET)
    net.rewrite(PruneEdges(fraction=0.5))
    net = net.to(torch.float32)
    x = inputs(net).float()
    with torch.autocast("cpu", torch.bfloat16):
        found = net(x)
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.float(), net(x), rtol=5e-2, atol=5e-2)
    with torch.no_grad():
        net.params["dense_1.mask"].zero_()
    with torch.autocast("cpu", torch.bfloat16):
        alone = net.params["dense_1.bias"].bfloat16().expand(6, 3)
        assert torch.equal(net(x), alone)
        assert not torch.equal(found, alone)


def test_compiled_networks_see_every_new_mask():
    net, opt, step = live(NET)
    net.compile_with(backend="eager")
    plain = net.module
    for rewrite in (PruneEdges(fraction=0.5), RewireEdges(), GrowEdges(count=3)):
        assert net.rewrite(rewrite).applied
        step()
        torch.testing.assert_close(net(inputs(net)), net.module(inputs(net)), rtol=1e-12, atol=1e-12)
        assert revived(net, opt) == []
    assert net.module is not plain


def test_averages_lose_what_was_pruned_and_keep_the_rest():
    net = build(NET, seed=1, dtype=torch.float64)
    opt = torch.optim.SGD(net.parameters(), lr=0.1)
    average = torch.optim.swa_utils.AveragedModel(net)
    net.track(opt, average=average)
    for i in range(3):
        opt.zero_grad()
        criterion(net(inputs(net, i))).backward()
        opt.step()
        average.update_parameters(net)
    before = average.module.params["h.weight"].detach().clone()
    assert not torch.equal(before, net.params["h.weight"])
    net.rewrite(PruneEdges("h", fraction=0.5))
    mask = net.params["h.mask"]
    assert torch.equal(average.module.params["h.mask"], mask)
    assert torch.equal(average.module.params["h.weight"], before * mask)
    net.rewrite(RewireEdges("h", regrow=False))
    stayed = (mask == 1) & (net.params["h.mask"] == 1)
    found = average.module.params["h.weight"]
    assert torch.equal(found[stayed], before[stayed])
    assert (found[~stayed] == 0).all()


def test_a_cut_clears_what_is_not_finite():
    net, opt, step = live(NET)
    step()
    with torch.no_grad():
        net.params["h.weight"][0, 0] = float("inf")
        opt.state[net.params["h.weight"]]["exp_avg"][0, 0] = float("nan")
    while net.rewrite(PruneEdges("h", "random", fraction=0.5)).morphism.transfers["h.mask"].fill.values[0, 0] != 0:
        pass
    assert revived(net, opt) == []
    assert torch.isfinite(net(inputs(net))).all()


def test_the_record_of_what_cannot_be_undone_is_let_go():
    """A mask and two indices for every event would fill the memory of a long training."""
    net, _, _ = live(NET)
    net.rewrite(GrowUnits("h", 1))
    net.rewrite(PruneEdges(density=0.5, by="random"))
    for _ in range(5):
        net.rewrite(RewireEdges(regrow=False))
    assert sorted(net.journal.morphisms) == [0, 6]
    assert len(net.journal) == 7


def test_a_tied_weight_with_a_mask_of_its_own_is_probed_with_it():
    """Negative control of `effective`: a mask whose weight stands elsewhere is not multiplied in, so it must stay."""
    net = build("net n(x: ids(7)[3]) { return x |> e: embedding(4) |> head: dense(7, masked = true, tied = e) }")
    with torch.no_grad():
        net.params["head.mask"][::2] = 0
    assert torch.equal(effective(net.params)["head.mask"], net.params["head.mask"])
    x = torch.tensor([[1, 2, 3], [4, 5, 6]])
    seen = probe(net.graph, net.module, net.params, (x,), ("head",), criterion)
    torch.testing.assert_close(seen.values["head"], net(x))
