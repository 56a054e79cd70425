"""Copies of networks are what copies of other modules are."""

import copy

import pytest
import torch
from live import CNN, MLP, batch, step, trained
from torch import nn
from torch.optim.swa_utils import AveragedModel

from irgrow.adapters.base import Latest
from irgrow.errors import RefusedError
from irgrow.growth.controller import Controller
from irgrow.growth.rules import GrowthProgram, Rule, Where
from irgrow.network import build
from irgrow.passes import EffectiveDimension, GrowUnits

TIED = """
net g(x: ids(7)[4]) {
  return x |> e: embedding(6) |> residual { layernorm |> t: attention(2, 3) } |> layernorm |> dense(7, tied = e)
}
"""
NESTED = "net n(x: [4]) { return x |> a: dense(5) |> relu |> a.b: dense(6) |> batchnorm |> relu |> dense(2) }"
MASKED = "net n(x: [4]) { return x |> a: dense(5, masked = true) |> relu |> s: scale |> head: dense(2) }"
DROPPED = "net n(x: [6]) { return x |> a: dense(8) |> bn: batchnorm |> relu |> drop: dropout |> head: dense(3) }"


def run(net, seed=0):
    entry = net.graph[net.graph.inputs[0]].op
    if entry.vocabulary:
        return net(torch.randint(entry.vocabulary, (3, *entry.shape), generator=torch.Generator().manual_seed(seed)))
    return net(batch(net, seed))


@pytest.mark.parametrize("text", [MLP, CNN, TIED, NESTED, MASKED, DROPPED])
def test_a_copy_computes_the_same_and_shares_nothing(text):
    net = build(text, seed=1, dtype=torch.float64)
    twin = copy.deepcopy(net)
    assert (twin.graph, twin.seed, list(twin.params)) == (net.graph, net.seed, list(net.params))
    assert [n for n, _ in twin.named_modules()] == [n for n, _ in net.named_modules()]
    assert torch.equal(run(net.eval()), run(twin.eval()))
    for name, value in net.params.items():
        assert torch.equal(twin.params[name], value)
        assert type(twin.params[name]) is type(value)
        assert twin.params[name].data_ptr() != value.data_ptr()
    before = run(net).detach()
    with torch.no_grad():
        for p in twin.parameters():
            p.add_(0.1)
    site = next(iter(net.graph.widths)) if text is TIED else "a" if "a:" in text else "stem"
    assert twin.rewrite(GrowUnits(site, 2)).applied
    run(twin.train()).square().mean().backward()
    assert all(p.grad is not None for p in twin.parameters())
    assert torch.equal(run(net), before)


def test_a_copied_optimizer_holds_the_copied_parameters():
    net, opt = trained()
    twin, other = copy.deepcopy((net, opt))
    assert all(a is b for a, b in zip(other.param_groups[0]["params"], twin.parameters(), strict=True))
    twin.track(other)
    for i in range(5, 8):
        assert step(net, opt, i) == step(twin, other, i)
        if i == 6:
            assert net.rewrite(GrowUnits("a", 1)).applied
            assert twin.rewrite(GrowUnits("a", 1)).applied
    assert all(torch.equal(p, q) for p, q in zip(net.parameters(), twin.parameters(), strict=True))


def test_names_of_one_tensor_stay_names_of_one_tensor():
    class Outer(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = build(MLP)
            self.tied = self.net.params["head.weight"]
            self.leaf = self.net.module.meta["leaves"]["a"]
            self.again = self.net

    twin = copy.deepcopy(Outer())
    assert twin.tied is twin.net.params["head.weight"]
    assert twin.leaf is twin.net.module.meta["leaves"]["a"]
    assert twin.again is twin.net


def test_modes_of_leaves_are_copied():
    net = build(DROPPED, dtype=torch.float64)
    net.module.meta["leaves"]["bn"].eval()
    net.module.meta["leaves"]["drop"].eval()
    twin = copy.deepcopy(net)
    assert [m.training for m in twin.modules()] == [m.training for m in net.modules()]
    assert twin.training
    assert torch.equal(run(net), run(twin))
    assert torch.equal(net.params["bn.running_mean"], twin.params["bn.running_mean"])
    net.eval().module.meta["leaves"]["bn"].train()
    twin = copy.deepcopy(net)
    assert [name for name, m in twin.named_modules() if m.training] == ["bn"]


def test_hooks_are_copied_and_are_each_their_own():
    net = build(MLP, dtype=torch.float64)
    seen = []
    leaf = net.module.meta["leaves"]["a"]
    handles = [
        net.register_forward_hook(lambda m, i, o: 2 * o),
        leaf.register_forward_hook(lambda m, i, k, o: seen.append(m), with_kwargs=True),
        net.module.register_forward_pre_hook(lambda m, i: (3 * i[0],)),
    ]
    twin = copy.deepcopy(net)
    assert torch.equal(run(net), run(twin))
    assert seen == [leaf, twin.module.meta["leaves"]["a"]]
    for handle in handles:
        handle.remove()
    assert not torch.equal(run(net), run(twin)), "those of the copy are still there"
    assert len(seen) == 3


def test_attributes_are_copied_gradients_are_not():
    """As of any module: `copy.deepcopy(nn.Linear(2, 2))` has none either."""
    net, _ = trained()
    net.tag, net.note = 5, ["mine"]
    net.params["a.weight"].scale = {"lr": 3}
    net.params["b.bias"].requires_grad_(False)
    assert net.params["a.weight"].grad is not None
    twin = copy.deepcopy(net)
    assert (twin.tag, twin.note) == (5, ["mine"])
    assert twin.note is not net.note
    assert twin.params["a.weight"].scale == {"lr": 3}
    assert twin.params["a.weight"].scale is not net.params["a.weight"].scale
    assert [n for n, p in twin.named_parameters() if not p.requires_grad] == ["b.bias"]
    linear = nn.Linear(2, 2)
    linear(torch.ones(1, 2)).sum().backward()
    assert copy.deepcopy(linear).weight.grad is None
    assert all(p.grad is None for p in twin.parameters())


def test_a_copy_has_its_journal_and_nothing_that_trains_the_original():
    net, _ = trained()
    net.rewrite(GrowUnits("a", 2))
    outputs = net(batch(net))
    twin = copy.deepcopy(net)
    assert net.has_pending_backward
    assert not twin.has_pending_backward
    assert twin.tracked == []
    assert twin.undo().applied
    assert net.graph.widths["a"] == 10
    assert len(net.journal) == 1
    with pytest.raises(RefusedError, match="nothing to undo"):
        twin.undo()
    del outputs


def test_a_compiled_network_makes_compiled_copies():
    net = build(MLP, dtype=torch.float64).compile_with(backend="eager")
    names = [n for n, _ in net.named_modules()]
    wanted = run(net)
    assert [n for n, _ in net.named_modules()] == names, "what was compiled is no part of it"
    twin = copy.deepcopy(net)
    assert torch.equal(run(twin), wanted)
    assert twin._compile == net._compile
    assert twin._compiled is not net._compiled
    twin.rewrite(GrowUnits("a", 1))
    torch.testing.assert_close(run(twin), run(net), rtol=1e-12, atol=1e-12)


def test_copies_can_be_copied_and_averaged():
    net = build(DROPPED, dtype=torch.float64)
    net.module.meta["leaves"]["bn"].eval()
    average = AveragedModel(copy.deepcopy(net))
    assert not average.module.module.meta["leaves"]["bn"].training
    assert average.module.graph == net.graph


def test_a_controller_records_nothing_of_copies():
    net = build(MLP, seed=1, dtype=torch.float64)
    rule = Rule("r", GrowUnits(), EffectiveDimension(), where=Where(("a",)), require="any")
    controller = Controller(net, GrowthProgram((rule,)))
    own = build(MLP, seed=1, dtype=torch.float64)
    alone = Controller(own, GrowthProgram((rule,)))
    run(net)
    run(own)
    net.module.meta["leaves"]["relu_1"].register_forward_hook(mine := lambda m, i, o: None)
    Latest(net)
    assert len(net.module.meta["leaves"]["relu_1"]._forward_hooks) == 2
    twin = copy.deepcopy(net)
    hooks = {n: list(m._forward_hooks.values()) for n, m in twin.named_modules()}
    assert hooks == {n: [mine] if n == "relu_1" else [] for n in hooks}, "what records stays with the original"
    assert not twin._forward_pre_hooks
    assert len(net.module.meta["leaves"]["relu_1"]._forward_hooks) == 2
    for i in range(3):
        run(twin, 5 + i)
    assert twin.rewrite(GrowUnits("b", 2)).applied
    run(twin, 9)
    wanted, found = alone.state()[1], controller.state()[1]
    assert wanted
    assert wanted.keys() == found.keys()
    assert all(torch.equal(wanted[name], found[name]) for name in wanted)
    assert Controller(twin, GrowthProgram((rule,))).recorded.keys() == controller.recorded.keys()
