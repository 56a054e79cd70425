"""Live networks: names, the transaction, what must follow, and that a failure leaves nothing behind."""

import copy

import pytest
import torch
from live import CNN, MLP, batch, step, trained
from torch import nn
from torch.optim.swa_utils import AveragedModel

from irgrow.errors import DataError, OptionError, RefusedError
from irgrow.network import build
from irgrow.passes import GrowUnits, InsertLayer, PruneUnits
from irgrow.verdict import Exact

# names ---------------------------------------------------------------------------------------------------------------


def test_one_name_for_everything():
    net = build(CNN)
    assert set(net.state_dict()) == set(net.graph.params)
    assert {n for n, _ in net.named_parameters()} | {n for n, _ in net.named_buffers()} == set(net.graph.params)
    assert [n for n, _ in net.named_modules()][1:4] == ["stem", "bn", "relu_1"]
    assert {n for n, _ in nn.Sequential(net).named_parameters()} == {f"0.{n}" for n, _ in net.named_parameters()}
    assert set(nn.Sequential(net).state_dict()) == {f"0.{n}" for n in net.graph.params}


def test_initial_values_depend_on_seed_and_name_only():
    torch.manual_seed(0)
    before = torch.get_rng_state()
    a, b, c = build(MLP, seed=3), build(MLP, seed=3), build(MLP, seed=4)
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(x, y) for x, y in zip(a.parameters(), b.parameters(), strict=True))
    assert not torch.equal(a.params["a.weight"], c.params["a.weight"])
    wider = build(MLP.replace("b: dense(7)", "b: dense(9)"), seed=3)
    assert torch.equal(a.params["a.weight"], wider.params["a.weight"])
    xavier = build(MLP, init="xavier_uniform")
    assert xavier.params["a.bias"].abs().max() == 0
    with pytest.raises(OptionError, match="unknown initialisation"):
        build(MLP, init="he")


def test_loading_checks_names_and_shapes_first():
    net, other = build(MLP, seed=1), build(MLP, seed=2)
    before = {n: v.clone() for n, v in net.state_dict().items()}
    state = dict(other.state_dict())
    for wrong, message in (
        ({k: v for k, v in state.items() if k != "a.bias"}, "`a.bias` is missing"),
        ({**state, "c.weight": torch.zeros(1)}, "no parameter `c.weight`"),
        ({**state, "a.bias": torch.zeros(9)}, r"`a.bias`: expected shape \[8\], found \[9\]"),
    ):
        with pytest.raises(DataError, match=message):
            net.load_state_dict(wrong)
        assert all(torch.equal(before[n], v) for n, v in net.state_dict().items())
    net.load_state_dict(state)
    assert all(torch.equal(state[n], v) for n, v in net.state_dict().items())
    holder, source = nn.Sequential(build(MLP)), nn.Sequential(other)
    holder.load_state_dict(source.state_dict())
    assert torch.equal(holder[0].params["b.weight"], other.params["b.weight"])


def test_moving_to_another_precision_keeps_everything_together():
    net = build(CNN).double()
    assert all(t.dtype in (torch.float64, torch.int64) for t in net.params.values())
    assert net.rewrite("grow_units(stem, 2)").applied
    assert net(batch(net)).dtype == torch.float64
    assert net.params["stem.weight"].dtype == torch.float64


def test_copies_are_independent_and_pickling_is_refused():
    net, _ = trained(CNN)
    twin = copy.deepcopy(net)
    assert twin.rewrite("grow_units(stem, 2)").applied
    assert net.graph.shape("stem") == (4, 6, 6)
    assert torch.equal(net.eval()(batch(net)), build_like(net)(batch(net)))
    with pytest.raises(TypeError, match=r"irgrow\.save"):
        net.__reduce_ex__(4)


def build_like(net):
    other = build(str(net.graph), dtype=torch.float64)
    other.load_state_dict(net.state_dict())
    return other.eval()


def test_summary_and_repr():
    net = build(MLP)
    assert "a       dense  8               56    48" in net.summary()
    assert "mlp: 6 nodes, 143 parameters" in repr(net)


# rewriting -----------------------------------------------------------------------------------------------------------


def test_a_receipt_says_what_happened():
    net, _ = trained()
    receipt = net.rewrite(GrowUnits("a", 2), batch=batch(net), loss=lambda y: y.square().mean())
    assert receipt.verdict == Exact()
    assert receipt.error <= 1e-14
    assert receipt.parameters == 2 * 7 + 2 * 7
    assert receipt.macs == 2 * 6 + 2 * 7
    assert receipt.loss[0] == pytest.approx(receipt.loss[1], rel=1e-12)
    assert "grow_units(a, 2): exact" in str(receipt)
    assert receipt.sites == ("a",)
    assert net.journal[0].rewrite == "grow_units(a, 2)"
    assert "grow_units(a, 2): exact" in str(net.journal)


def test_untouched_parameters_stay_the_same_objects_with_their_storage():
    net, opt = trained()
    before = {n: (id(p), p.data_ptr()) for n, p in net.params.items()}
    slots = {n: opt.state[p]["exp_avg"].data_ptr() for n, p in net.params.items()}
    receipt = net.rewrite(GrowUnits("b", 2))
    assert receipt.morphism.touched == ("b.weight", "b.bias", "head.weight")
    for name, p in net.params.items():
        if name not in receipt.morphism.touched:
            assert (id(p), p.data_ptr()) == before[name]
            assert opt.state[p]["exp_avg"].data_ptr() == slots[name]


def test_leaves_of_untouched_nodes_are_kept():
    net, _ = trained(CNN)
    before = dict(net.module.meta["leaves"])
    net.rewrite(GrowUnits("c1", 2))
    after = net.module.meta["leaves"]
    assert after["stem"] is before["stem"]
    assert after["head"] is before["head"]
    assert after["c1"] is not before["c1"]


def test_training_goes_on_after_every_kind_of_rewrite():
    net, opt = trained(CNN)
    for rewrite in (GrowUnits("stem", 2), GrowUnits("c1", 1), InsertLayer("relu_1", "dirac"), PruneUnits("c1", (0,))):
        assert net.rewrite(rewrite).applied, rewrite
        moved = {n: p.detach().clone() for n, p in net.named_parameters()}
        for i in range(3):
            step(net, opt, i)
        for name, p in net.named_parameters():
            assert not torch.equal(moved[name], p), f"{name} does not train after {rewrite}"


def test_groups_keep_their_options_and_order():
    def groups(net):
        decay = [p for n, p in net.named_parameters() if n.endswith("weight")]
        plain = [p for n, p in net.named_parameters() if n.endswith("bias")]
        return [{"params": decay, "weight_decay": 0.1}, {"params": plain, "weight_decay": 0.0, "lr": 0.5}]

    net, opt = trained(groups=groups, optimizer=torch.optim.AdamW)
    net.rewrite(GrowUnits("a", 2))
    names = {id(p): n for n, p in net.params.items()}
    assert [[names[id(p)] for p in g["params"]] for g in opt.param_groups] == [
        ["a.weight", "b.weight", "head.weight"],
        ["a.bias", "b.bias", "head.bias"],
    ]
    net.rewrite(InsertLayer("relu_1"))
    names = {id(p): n for n, p in net.params.items()}
    assert [names[id(p)] for p in opt.param_groups[0]["params"]][-1] == "relu_1_deep1.layer.weight"
    assert [names[id(p)] for p in opt.param_groups[1]["params"]][-1] == "relu_1_deep1.layer.bias"
    assert [g["weight_decay"] for g in opt.param_groups] == [0.1, 0.0]
    assert opt.param_groups[1]["lr"] == 0.5


def test_named_parameter_groups_follow():
    net = build(MLP, dtype=torch.float64)
    opt = torch.optim.Adam(net.named_parameters(), lr=1e-2)
    net.track(opt)
    step(net, opt)
    net.rewrite(InsertLayer("relu_1"))
    group = opt.param_groups[0]
    names = {id(p): n for n, p in net.params.items()}
    assert group["param_names"] == [names[id(p)] for p in group["params"]]
    net.undo()
    assert len(group["param_names"]) == len(group["params"]) == 6


def test_frozen_parameters_stay_frozen_and_out_of_the_optimizer():
    net = build(MLP, dtype=torch.float64)
    net.params["a.weight"].requires_grad_(False)
    opt = torch.optim.Adam([p for p in net.parameters() if p.requires_grad], lr=1e-2)
    net.track(opt)
    step(net, opt)
    assert net.rewrite(GrowUnits("a", 2)).applied
    assert not net.params["a.weight"].requires_grad
    assert net.params["a.bias"].requires_grad
    assert id(net.params["a.weight"]) not in {id(p) for p in opt.param_groups[0]["params"]}
    step(net, opt)


def test_a_partial_optimizer_stays_partial():
    net = build(MLP, dtype=torch.float64)
    opt = torch.optim.SGD([net.params["head.weight"], net.params["head.bias"]], lr=0.1, momentum=0.9)
    net.track(opt)
    step(net, opt)
    assert net.rewrite(GrowUnits("b", 2)).applied
    assert len(opt.param_groups[0]["params"]) == 2
    step(net, opt)


def test_two_optimizers_each_keep_their_own():
    net = build(MLP, dtype=torch.float64)
    first = torch.optim.Adam([p for n, p in net.named_parameters() if n.startswith("a")], lr=1e-2)
    second = torch.optim.SGD([p for n, p in net.named_parameters() if not n.startswith("a")], lr=1e-2, momentum=0.9)
    net.track(first)
    net.track(second)
    for opt in (first, second):
        step(net, opt)
    assert net.rewrite(GrowUnits("a", 2)).applied
    assert net.rewrite(InsertLayer("relu_2")).applied
    assert len(first.param_groups[0]["params"]) == 4
    assert len(second.param_groups[0]["params"]) == 4
    assert first.state[net.params["a.weight"]]["exp_avg"].shape == (10, 6)
    assert second.state[net.params["b.weight"]]["momentum_buffer"].shape == (7, 10)


def test_schedulers_stay_coupled():
    net = build(MLP, dtype=torch.float64)
    opt = torch.optim.SGD(net.parameters(), lr=1.0)
    schedulers = [
        torch.optim.lr_scheduler.LambdaLR(opt, lambda i: 0.5**i),
        torch.optim.lr_scheduler.OneCycleLR(opt, 1.0, total_steps=50),
    ]
    net.track(opt, scheduler=schedulers[0])
    for i in range(4):
        step(net, opt, i)
        schedulers[0].step()
        if i == 1:
            assert net.rewrite(GrowUnits("a", 2)).applied
            assert net.rewrite(InsertLayer("relu_1")).applied
    assert opt.param_groups[0]["lr"] == pytest.approx(schedulers[0].get_last_lr()[0])
    with pytest.raises(OptionError, match="drives another optimizer"):
        net.track(torch.optim.SGD(net.parameters(), lr=1.0), scheduler=schedulers[0])


def test_averages_follow_by_the_same_maps():
    net = build(CNN, dtype=torch.float64)
    opt = torch.optim.Adam(net.parameters(), lr=1e-2)
    average = AveragedModel(net)
    net.track(opt, average=average)
    for i in range(3):
        step(net, opt, i)
        average.update_parameters(net)
    old = {n: p.detach().clone() for n, p in average.module.params.items()}
    x = batch(net)
    before = average.module.eval()(x).detach()
    assert net.rewrite(GrowUnits("stem", 2)).applied
    assert average.module.graph == net.graph
    torch.testing.assert_close(average.module.eval()(x), before, rtol=1e-12, atol=1e-12)
    assert torch.equal(average.module.params["stem.weight"][:4], old["stem.weight"])
    assert torch.equal(average.module.params["stem.weight"][4:], net.params["stem.weight"][4:])
    step(net, opt)
    average.update_parameters(net)
    assert net.rewrite(InsertLayer("relu_1", "dirac")).applied
    assert torch.equal(average.module.params["relu_1_deep1.layer.weight"], net.params["relu_1_deep1.layer.weight"])
    average.update_parameters(net)
    with pytest.raises(OptionError, match="AveragedModel"):
        net.track(torch.optim.SGD(net.parameters(), lr=1), average=nn.Linear(2, 2))


def test_a_grad_scaler_stays_valid():
    net = build(MLP)
    opt = torch.optim.SGD(net.parameters(), lr=1e-2)
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    net.track(opt, scaler=scaler)
    x = batch(net).float()
    for i in range(4):
        opt.zero_grad()
        scaler.scale(net(x).square().mean()).backward()
        scaler.step(opt)
        scaler.update()
        assert net.rewrite(GrowUnits("a" if i % 2 else "b", 1)).applied
    assert scaler.get_scale() == 8.0


def test_gradients_are_carried_too():
    net, opt = trained()
    opt.zero_grad()
    net(batch(net)).square().mean().backward()
    old = {n: p.grad.clone() for n, p in net.named_parameters()}
    net.rewrite(GrowUnits("a", 2))
    assert torch.equal(net.params["a.weight"].grad[:8], old["a.weight"])
    assert net.params["a.weight"].grad[8:].abs().max() == 0
    assert torch.equal(net.params["b.weight"].grad[:, :8], old["b.weight"])
    net.rewrite(PruneUnits("a", (8, 9)))
    assert all(torch.equal(p.grad, old[n]) for n, p in net.named_parameters())


def test_hooks_and_modes_of_leaves_follow():
    net, _ = trained(CNN)
    seen = []
    net.module.meta["leaves"]["bn"].register_forward_hook(lambda *a: seen.append(1))
    net.module.meta["leaves"]["bn"].eval()
    net.rewrite(GrowUnits("stem", 2))
    net(batch(net))
    assert seen
    leaves = net.module.meta["leaves"]
    assert not leaves["bn"].training
    assert leaves["stem"].training
    net.eval()
    net.rewrite(GrowUnits("stem", 1))
    assert not any(m.training for m in net.modules())


SHARED = {
    MLP: ("a", True),
    CNN: ("stem", True),
    "net n(x: ids(9)[4]) { return x |> e: embedding(6) |> positions |> h: dense(5) |> relu |> dense(6) |> "
    "dense(9, bias = false, tied = e) }": ("h", True),
    "net n(x: [4]) { return x |> a: dense(5) |> relu |> a.b: dense(6) |> relu |> dense(2) }": ("a.b", False),
    "net n(x: ids(9)[4]) { return x |> embedding(6) |> t: attention(heads = 2, head_dim = 3) |> dense(2) }": (
        "t.heads",
        True,
    ),
}


@pytest.mark.parametrize(("text", "site", "shared"), [(t, *how) for t, how in SHARED.items()])
def test_code_is_shared_where_only_sizes_differ(text, site, shared):
    net = build(text, seed=3)
    before, code = net.module, type(net.module).forward
    with torch.no_grad():
        for p in net.parameters():
            p.add_(torch.randn(p.shape, generator=torch.Generator().manual_seed(5)))
    assert net.rewrite(GrowUnits(site, 2)).applied
    assert net.module is not before
    assert (type(net.module).forward is code) is shared
    fresh = build(net.graph, seed=8)
    fresh.load_state_dict(net.state_dict())
    (name,) = net.graph.inputs
    ids = net.graph.types[name].ids
    shape = (3, *net.graph.shape(name))
    x = torch.randint(ids, shape) if ids else torch.randn(shape)
    assert torch.equal(net(x), fresh(x))
    loss = net(x).square().mean()
    loss.backward()
    assert all(p.grad is not None for p in net.parameters())
    assert net.rewrite(InsertLayer("relu_1") if "relu" in text else PruneUnits(site, (0,))).applied


def test_new_layers_and_compiled_networks_have_code_of_their_own():
    net = build(MLP)
    code = type(net.module).forward
    net.rewrite(InsertLayer("relu_1"))
    assert type(net.module).forward is not code
    net = build(MLP).compile_with(backend="eager")
    code = type(net.module).forward
    net.rewrite(GrowUnits("a", 2))
    assert type(net.module).forward is not code


def test_a_copy_has_a_journal_of_its_own():
    net, _ = trained()
    twin = copy.deepcopy(net)
    twin.rewrite(GrowUnits("a", 2))
    assert len(net.journal) == 0
    with pytest.raises(RefusedError, match="nothing to undo"):
        net.undo()


def test_handles_of_hooks_work_after_a_rewrite():
    net, _ = trained(CNN)
    seen = []

    def hook(module, args, options, output):
        seen.append(output)

    handle = net.module.meta["leaves"]["stem"].register_forward_hook(hook, with_kwargs=True)
    for _ in range(3):
        net.rewrite(GrowUnits("stem", 1))
    net(batch(net))
    assert len(seen) == 1
    handle.remove()
    net(batch(net))
    assert len(seen) == 1


def test_new_batch_norm_units_start_neutral():
    net, _ = trained(CNN)
    net.rewrite(GrowUnits("stem", 2))
    state = net.state_dict()
    for name, value in (("weight", 1), ("bias", 0), ("running_mean", 0), ("running_var", 1)):
        assert state[f"bn.{name}"][4:].tolist() == [value] * 2
    assert state["bn.num_batches_tracked"] == 3
