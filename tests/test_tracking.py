"""What may be tracked, and how an optimizer is let go."""

import copy

import pytest
import torch
from live import MLP, batch, step, trained
from torch import nn
from torch.nn.utils import prune
from torch.optim.swa_utils import AveragedModel

from irgrow.errors import OptionError, RefusedError
from irgrow.network import build
from irgrow.passes import GrowUnits, InsertLayer


def test_an_average_of_something_else_is_refused():
    net = build(MLP, dtype=torch.float64)
    opt = torch.optim.Adam(net.parameters(), lr=1e-2)
    other = AveragedModel(build("net m(x: [6]) { return x |> q: dense(3) |> head: dense(3) }"))
    with pytest.raises(OptionError, match=r"`average` is of another program.*AveragedModel\(net\)"):
        net.track(opt, average=other)
    early = AveragedModel(net)
    assert net.rewrite(GrowUnits("a", 1)).applied
    with pytest.raises(OptionError, match="`average` is of another program"):
        net.track(opt := torch.optim.Adam(net.parameters()), average=early)
    assert net.tracked == []
    net.track(opt, average=AveragedModel(net))
    assert net.rewrite(GrowUnits("a", 1)).applied


def test_a_parameter_is_held_by_one_optimizer():
    net, first = trained(optimizer=torch.optim.SGD, momentum=0.9)
    second = torch.optim.Adam(net.parameters(), lr=1e-2)
    with pytest.raises(OptionError, match=r"`a.weight` is held by the SGD that is tracked.*`net.untrack\(optimizer\)`"):
        net.track(second)
    part = torch.optim.Adam([net.params["head.bias"]], lr=1e-2)
    with pytest.raises(OptionError, match=r"`head.bias` is held by"):
        net.track(part)
    assert [t.optimizer for t in net.tracked] == [first]
    assert net.rewrite(GrowUnits("a", 2)).applied


@pytest.mark.filterwarnings("ignore:optimizer contains a parameter group with duplicate parameters")
def test_a_parameter_is_held_once():
    net = build(MLP)
    opt = torch.optim.SGD([*net.parameters(), net.params["a.bias"]], lr=0.1)
    with pytest.raises(OptionError, match=r"`a.bias` is twice in the optimizer"):
        net.track(opt)


def test_parameters_of_others_are_held_once_as_well():
    net, head = build(MLP), nn.Linear(3, 2)
    a = torch.optim.SGD([*net.module.meta["leaves"]["a"].parameters(), *head.parameters()], lr=0.1)
    b = torch.optim.SGD([*net.module.meta["leaves"]["b"].parameters(), head.bias], lr=0.1)
    net.track(a)
    with pytest.raises(OptionError, match=r"a parameter of another module is held by"):
        net.track(b)


def test_the_optimizer_of_the_next_phase_takes_the_place_of_the_first():
    net, first = trained(optimizer=torch.optim.SGD, momentum=0.9)
    before = {n: s["momentum_buffer"].clone() for n, p in net.named_parameters() if (s := first.state[p])}
    second = torch.optim.Adam(net.parameters(), lr=1e-2)
    average = AveragedModel(net)
    assert net.untrack(first) is net
    assert net.track(second, average=average).tracked[0].optimizer is second
    step(net, second)
    for rewrite in (GrowUnits("a", 2), InsertLayer("relu_1")):
        assert net.rewrite(rewrite).applied
        step(net, second)
    assert {id(p) for g in second.param_groups for p in g["params"]} == {id(p) for p in net.parameters()}
    assert second.state[net.params["a.weight"]]["exp_avg"].shape == (10, 6)
    assert average.module.graph == net.graph
    assert [s["momentum_buffer"].shape for s in first.state.values()] == [v.shape for v in before.values()]
    assert first.param_groups[0]["params"][0].shape == (8, 6), "nothing of it follows any more"


def test_only_what_is_tracked_can_be_let_go():
    net, opt = trained()
    with pytest.raises(OptionError, match="this optimizer is not tracked"):
        net.untrack(torch.optim.SGD(net.parameters(), lr=1))
    net.untrack(opt)
    with pytest.raises(OptionError, match="this optimizer is not tracked"):
        net.untrack(opt)
    assert net.track(opt).rewrite(GrowUnits("a", 1)).applied


# what is no part of a network ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "add",
    [
        lambda net: setattr(net, "extra", nn.Linear(2, 2)),
        lambda net: setattr(net, "stem", nn.Linear(2, 2)),
        lambda net: setattr(net, "a", nn.Linear(6, 8)),
        lambda net: net.add_module("extra", nn.Linear(2, 2)),
        lambda net: net.register_module("extra", nn.Linear(2, 2)),
        lambda net: setattr(net, "extra", nn.Parameter(torch.ones(2))),
        lambda net: net.register_parameter("extra", nn.Parameter(torch.ones(2))),
        lambda net: setattr(net, "extra", nn.Buffer(torch.ones(2))),
        lambda net: net.register_buffer("extra", torch.ones(2)),
    ],
)
def test_nothing_can_be_put_into_a_network_that_its_program_does_not_have(add):
    net = build(MLP)
    before = [n for n, _ in net.named_modules()], list(net.state_dict())
    with pytest.raises(OptionError, match=r"cannot be put into the network.*beside it"):
        add(net)
    assert ([n for n, _ in net.named_modules()], list(net.state_dict())) == before
    assert not hasattr(net, "extra")
    net.extra = [nn.Linear(2, 2)]
    net.rewrite(GrowUnits("a", 1))
    assert len(copy.deepcopy(net).extra) == 1, "what is no module is an attribute like any other"


@pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")
@pytest.mark.parametrize(
    "change",
    [
        nn.utils.parametrizations.weight_norm,
        nn.utils.parametrizations.spectral_norm,
        nn.utils.weight_norm,
        lambda leaf: prune.random_unstructured(leaf, "weight", 0.5),
    ],
    ids=["parametrizations.weight_norm", "spectral_norm", "weight_norm", "prune"],
)
def test_a_leaf_whose_weight_was_taken_away_is_named(change):
    net, _ = trained()
    change(net.module.meta["leaves"]["b"])
    for use in (
        lambda: list(net.parameters()),
        net.state_dict,
        lambda: net.rewrite(GrowUnits("a", 2)),
        lambda: copy.deepcopy(net),
    ):
        with pytest.raises(RefusedError, match=r"the module of `b` has no `weight` of its own.*take it off"):
            use()
    assert net.graph.widths["a"] == 8
    assert net(batch(net)).shape == (5, 3)


def test_a_parametrization_that_is_taken_off_leaves_a_network_that_grows():
    net, _ = trained()
    leaf = net.module.meta["leaves"]["b"]
    nn.utils.parametrizations.weight_norm(leaf)
    nn.utils.parametrize.remove_parametrizations(leaf, "weight")
    opt = torch.optim.Adam(net.parameters(), lr=1e-2)
    net.untrack(net.tracked[0].optimizer).track(opt)
    step(net, opt)
    assert net.rewrite(GrowUnits("b", 2)).applied
    step(net, opt)


def test_an_optimizer_made_before_a_rewrite_is_refused():
    """It would train tensors that are no longer used."""
    net = build("net n(x: [4]) { return x |> h: dense(3) |> relu |> dense(2) }")
    early = torch.optim.SGD(net.parameters(), lr=0.1)
    net.rewrite("grow_units(h, 1)")
    with pytest.raises(OptionError, match="a rewrite has replaced; make it anew"):
        net.track(early)
    net.track(torch.optim.SGD(net.parameters(), lr=0.1))
    net.rewrite("grow_units(h, 1)")
    net.undo()
    assert len(net.tracked) == 1
