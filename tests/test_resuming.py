"""Optimizers, schedulers, modes and averages after a checkpoint: the same bits, all of them or none."""

import copy
import json
from functools import partial

import numpy as np
import pytest
import torch
from live import MLP, batch, step
from torch import nn
from torch.optim import lr_scheduler as schedulers
from torch.optim.swa_utils import SWALR, AveragedModel

from irgrow import checkpoint
from irgrow.errors import CheckpointError
from irgrow.network import build
from irgrow.passes import GrowUnits, InsertLayer
from irgrow.resuming import _mend_milestones, written


def make(text=MLP):
    return build(text, seed=1, dtype=torch.float64)


def reloaded(net, folder):
    checkpoint.save(net, folder)
    saved = checkpoint.read(folder)
    return checkpoint.network(saved), saved


# schedulers ----------------------------------------------------------------------------------------------------------


class Halving:
    """A callable with a state of its own, as LambdaLR keeps them."""

    def __init__(self):
        self.seen = {}

    def __call__(self, epoch):
        self.seen[epoch] = self.seen.get(epoch, 0) + 1
        return 0.5 ** len(self.seen)


class Listed(schedulers.LRScheduler):
    """One of a user's own, with code, a set and numbers of NumPy among its attributes."""

    def __init__(self, optimizer):
        self.how = lambda epoch: 0.9**epoch
        self.at, self.by = {np.int64(3), np.int64(6)}, np.float32(0.3)
        super().__init__(optimizer)

    def get_lr(self):
        factor = float(self.by) if self.last_epoch in self.at else 1.0
        return [group["lr"] * factor * self.how(1) for group in self.optimizer.param_groups]


MAKERS = {
    "constant": lambda o: schedulers.ConstantLR(o, 0.5, 6),
    "cosine": lambda o: schedulers.CosineAnnealingLR(o, 8),
    "cyclic": lambda o: schedulers.CyclicLR(o, 1e-4, 1e-2, step_size_up=3, cycle_momentum=False),
    "cyclic of one's own": lambda o: schedulers.CyclicLR(o, 1e-4, 1e-2, 3, scale_fn=Halving(), cycle_momentum=False),
    "exponential": lambda o: schedulers.ExponentialLR(o, 0.9),
    "lambda": lambda o: schedulers.LambdaLR(o, lambda epoch: 0.9**epoch),
    "lambda with a state": lambda o: schedulers.LambdaLR(o, Halving()),
    "linear": lambda o: schedulers.LinearLR(o, 0.1, 1.0, 7),
    "multiplicative": lambda o: schedulers.MultiplicativeLR(o, lambda epoch: 0.9),
    "multiplicative with a state": lambda o: schedulers.MultiplicativeLR(o, Halving()),
    "one cycle": lambda o: schedulers.OneCycleLR(o, 1e-2, total_steps=30),
    "plateau": lambda o: schedulers.ReduceLROnPlateau(o, patience=1, factor=0.5, threshold=0.5),
    "polynomial": lambda o: schedulers.PolynomialLR(o, 20),
    "restarts": lambda o: schedulers.CosineAnnealingWarmRestarts(o, 4),
    "step": lambda o: schedulers.StepLR(o, 2),
    "several steps": lambda o: schedulers.MultiStepLR(o, [2, 4, 4, 8]),
    "several steps of NumPy": lambda o: schedulers.MultiStepLR(o, np.array([2, 4, 8])),
    "averaging": lambda o: SWALR(o, 1e-3, anneal_epochs=6),
    "sequence": lambda o: schedulers.SequentialLR(
        o, [schedulers.LinearLR(o, 0.1, 1.0, 3), schedulers.MultiStepLR(o, [2, 4])], milestones=[3]
    ),
    "nested": lambda o: schedulers.ChainedScheduler(
        [schedulers.ConstantLR(o, 0.5, 4), schedulers.MultiStepLR(o, [4, 6])], optimizer=o
    ),
    "of one's own": Listed,
}


def trained_on(net, opt, scheduler, start, end):
    found = []
    for i in range(start, end):
        loss = step(net, opt, i)
        scheduler.step(*([loss] if isinstance(scheduler, schedulers.ReduceLROnPlateau) else []))
        found.append((loss, [float(group["lr"]) for group in opt.param_groups]))
    return found


def options(lr):
    return {"lr": torch.tensor(lr), "foreach": False} if lr == 1e-2 else {"lr": lr}


@pytest.mark.parametrize("lr", [1e-2, 0.03], ids=["tensor", "number"])
@pytest.mark.parametrize("name", MAKERS)
def test_schedulers_go_on_as_they_would_have(tmp_path, name, lr):
    net = make()
    opt = torch.optim.AdamW(net.parameters(), **options(lr))
    net.track(opt, scheduler := MAKERS[name](opt))
    trained_on(net, opt, scheduler, 0, 3)
    other, saved = reloaded(net, tmp_path / "ck")
    other_opt = torch.optim.AdamW(other.parameters(), **options(lr))
    other.track(other_opt, other_scheduler := MAKERS[name](other_opt))
    checkpoint.restore(other, saved)
    wanted = trained_on(net, opt, scheduler, 3, 12)
    assert trained_on(other, other_opt, other_scheduler, 3, 12) == wanted
    if name != "one cycle" or lr == 1e-2:
        assert len({str(rates) for _, rates in wanted}) > 1, "the rates must change for this to say anything"


def test_a_scheduler_of_another_kind_is_refused(tmp_path):
    net = make()
    opt = torch.optim.SGD(net.parameters(), lr=0.1)
    first, second = schedulers.LinearLR(opt), schedulers.StepLR(opt, 3)
    net.track(opt, schedulers.SequentialLR(opt, [first, second], milestones=[2]))
    other, saved = reloaded(net, tmp_path / "ck")
    for made, shown in (
        (lambda o: schedulers.StepLR(o, 3), "StepLR"),
        (lambda o: schedulers.SequentialLR(o, [schedulers.LinearLR(o)], milestones=[]), r"SequentialLR\(LinearLR\)"),
    ):
        again = torch.optim.SGD(other.parameters(), lr=0.7)
        other.track(again, made(again))
        with pytest.raises(CheckpointError, match=rf"has a SequentialLR\(LinearLR, StepLR\), the network .* {shown}"):
            checkpoint.restore(other, saved)
        other.untrack(again)


# the state of optimizers ---------------------------------------------------------------------------------------------


def test_options_come_back_with_their_types_and_bits(tmp_path):
    net = make()
    opt = torch.optim.AdamW(net.parameters(), lr=torch.tensor(0.1, dtype=torch.float32), foreach=False)
    opt.param_groups[0] |= {"mine": {1: (2, [3])}, "rates": [torch.tensor([0.1, 0.2], dtype=torch.bfloat16)]}
    net.track(opt)
    step(net, opt)
    other, saved = reloaded(net, tmp_path / "ck")
    again = torch.optim.AdamW(other.parameters(), lr=5.0)
    checkpoint.restore(other.track(again), saved)
    group = again.param_groups[0]
    assert torch.equal(group["lr"], torch.tensor(0.1))
    assert group["lr"].dtype == torch.float32
    assert group["betas"] == (0.9, 0.999)
    assert group["mine"] == {1: (2, [3])}
    assert torch.equal(group["rates"][0], torch.tensor([0.1, 0.2], dtype=torch.bfloat16))
    assert step(net, opt, 1) == step(other, again, 1)
    assert step(net, opt, 2) == step(other, again, 2)


@pytest.mark.parametrize("where", ["options", "state", "scheduler"])
def test_what_cannot_be_kept_is_refused_and_nothing_is_written(tmp_path, where):
    net = make()
    opt = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    scheduler = schedulers.StepLR(opt, 3)
    net.track(opt, scheduler)
    step(net, opt)
    checkpoint.save(net, tmp_path / "ck")
    before = {p.name: p.read_bytes() for p in (tmp_path / "ck").iterdir()}
    held = {
        "options": opt.param_groups[0],
        "state": opt.state[net.params["a.bias"]],
        "scheduler": vars(scheduler),
    }
    held[where]["strange"] = object()
    named = {"options": "SGD: `strange`", "state": "SGD: `strange` of `a.bias`", "scheduler": "StepLR: `strange`"}
    with pytest.raises(CheckpointError, match=f"{named[where]}: a `object` cannot be kept"):
        checkpoint.save(net, tmp_path / "ck")
    assert {p.name: p.read_bytes() for p in (tmp_path / "ck").iterdir()} == before


@pytest.mark.parametrize("capturable", [False, True])
def test_step_counts_go_where_the_optimizer_reads_them(tmp_path, capturable):
    """Those of a capturable or fused optimizer stand on the device of the parameters, others on the host."""
    net = make()
    opt = torch.optim.Adam(net.parameters(), lr=1e-2)
    step(net.track(opt), opt)
    opt.param_groups[0]["capturable"] = capturable
    _, saved = reloaded(net, tmp_path / "ck")
    other = checkpoint.network(saved, "meta")
    again = torch.optim.Adam(other.parameters(), lr=1e-2)
    checkpoint.restore(other.track(again), saved)
    for state in again.state.values():
        assert state["exp_avg"].device.type == "meta"
        assert state["step"].device.type == ("meta" if capturable else "cpu")


def test_names_of_parameters_stay_with_them(tmp_path):
    net = make()
    opt = torch.optim.AdamW(net.named_parameters(), lr=1e-2)
    net.track(opt)
    step(net, opt)
    assert net.rewrite(InsertLayer("relu_1")).applied
    other, saved = reloaded(net, tmp_path / "ck")
    again = torch.optim.AdamW(other.named_parameters(), lr=1e-2)
    checkpoint.restore(other.track(again), saved)
    names = {id(p): n for n, p in other.params.items()}
    group = again.param_groups[0]
    assert [names[id(p)] for p in group["params"]] == group["param_names"] == opt.param_groups[0]["param_names"]
    unnamed = torch.optim.AdamW(other.parameters(), lr=1e-2)
    checkpoint.restore(other.untrack(again).track(unnamed), saved)
    assert "param_names" not in unnamed.param_groups[0]
    outer = nn.ModuleDict({"net": other})
    prefixed = torch.optim.AdamW(outer.named_parameters(), lr=1e-2)
    checkpoint.restore(other.untrack(unnamed).track(prefixed), saved)
    assert prefixed.param_groups[0]["param_names"] == [f"net.{n}" for n in group["param_names"]]


def test_the_share_of_the_network_is_saved_and_given_back(tmp_path):
    def made(net):
        torch.manual_seed(0)
        head = nn.Linear(3, 2).double()
        return head, torch.optim.AdamW([*net.named_parameters(), *head.named_parameters("head2")], lr=1e-2)

    def train(net, head, opt, i):
        opt.zero_grad()
        loss = head(net(batch(net, i))).square().mean()
        loss.backward()
        opt.step()
        return loss.item()

    net = make()
    head, opt = made(net)
    net.track(opt)
    train(net, head, opt, 0)
    assert net.rewrite(InsertLayer("relu_1")).applied
    train(net, head, opt, 1)
    other, saved = reloaded(net, tmp_path / "ck")
    other_head, again = made(other)
    other_head.load_state_dict(head.state_dict())
    for mine, theirs in zip(other_head.parameters(), head.parameters(), strict=True):
        again.state[mine] = copy.deepcopy(opt.state[theirs])
    kept = {id(p): id(again.state[p]) for p in other_head.parameters()}
    checkpoint.restore(other.track(again), saved)
    assert {id(p): id(again.state[p]) for p in other_head.parameters()} == kept, "what is of others is left as it is"
    assert again.param_groups[0]["param_names"] == opt.param_groups[0]["param_names"], "at the same places"
    for i in range(2, 5):
        assert train(net, head, opt, i) == train(other, other_head, again, i)
    assert other.rewrite(GrowUnits("a", 1)).applied

    only = torch.optim.AdamW(other.parameters(), lr=1.0)
    checkpoint.save(net, tmp_path / "ck")
    other = checkpoint.network(saved := checkpoint.read(tmp_path / "ck"))
    only = torch.optim.AdamW(other.parameters(), lr=1.0)
    checkpoint.restore(other.track(only), saved)
    assert len(only.param_groups[0]["params"]) == len(list(other.parameters())), "places of others stay empty"
    more = torch.optim.AdamW([nn.Parameter(torch.ones(i)) for i in range(1, 4)] + list(other.parameters()), lr=1.0)
    checkpoint.restore(other.untrack(only).track(more), saved)
    params = more.param_groups[0]["params"]
    names = {id(p): n for n, p in other.params.items()}
    assert [names.get(id(p), len(p)) for p in params] == [
        *("a.weight", "a.bias", "b.weight", "b.bias", "head.weight", "head.bias", 1, 2),
        *("relu_1_deep1.layer.weight", "relu_1_deep1.layer.bias", 3),
    ]


# all or nothing ------------------------------------------------------------------------------------------------------


def told(net):
    """Everything that restoring could change, with the identity of what is held."""
    found = []
    for tracked in net.tracked:
        for group in tracked.optimizer.param_groups:
            found.append({k: list(map(id, v)) if k == "params" else copy.deepcopy(v) for k, v in group.items()})
        found.append({id(p): {k: v.tolist() for k, v in s.items()} for p, s in tracked.optimizer.state.items()})
        if tracked.scheduler is not None:
            found.append(copy.deepcopy(tracked.scheduler.state_dict()))
        if tracked.averaged is not None:
            found.append({n: v.tolist() for n, v in tracked.averaged.params.items()})
    return found


def two(net, second=lambda head: [{"params": head}], lr=1e-2, scheduler=None, average=False):
    params = dict(net.named_parameters())
    first = torch.optim.AdamW([p for n, p in params.items() if not n.startswith("head")], lr=lr)
    head = torch.optim.AdamW(second([params["head.weight"], params["head.bias"]]), lr=lr)
    net.track(first, schedulers.MultiStepLR(first, [2]))
    return net.track(head, scheduler and scheduler(head), average=AveragedModel(net) if average else None)


class Failing(schedulers.StepLR):
    def load_state_dict(self, state):
        super().load_state_dict(state)
        self.optimizer.param_groups[0]["lr"] = -1.0
        raise KeyError("no")


def test_a_failure_leaves_everything_as_it_was(tmp_path):
    net = two(make(), scheduler=lambda o: schedulers.StepLR(o, 3))
    for tracked in net.tracked:
        step(net, tracked.optimizer)
        tracked.scheduler.step()
    _, saved = reloaded(net, tmp_path / "ck")
    Failing.__name__ = "StepLR"
    for options_, message in (
        ({"second": lambda head: [{"params": [p]} for p in head]}, "has 1 parameter groups, the optimizer 2"),
        ({"average": True}, "has no average for optimizer 1"),
        ({"scheduler": lambda o: schedulers.ExponentialLR(o, 0.9)}, "has a StepLR, the network tracks a ExponentialLR"),
        ({"scheduler": lambda o: Failing(o, 5)}, "StepLR does not take the state .*KeyError"),
    ):
        other = two(checkpoint.network(saved), lr=0.7, **options_)
        for tracked in other.tracked:
            step(other, tracked.optimizer, 7)
        before = told(other)
        with pytest.raises(CheckpointError, match=message):
            checkpoint.restore(other, saved)
        assert told(other) == before
    other = two(checkpoint.network(saved))
    checkpoint.restore(other, saved)
    assert other.tracked[0].scheduler.last_epoch == 1
    assert step(net, net.tracked[0].optimizer, 3) == step(other, other.tracked[0].optimizer, 3)


def changed(saved, change):
    run, tensors = copy.deepcopy(saved.run), dict(saved.tensors)
    change(run["optimizers"][0], tensors)
    return checkpoint.Saved(saved.graph, saved.params, tensors, run)


def test_entries_that_cannot_be_are_refused_before_anything_is_touched(tmp_path):
    net = make()
    opt = torch.optim.AdamW(net.parameters(), lr=1e-2)
    net.track(opt, schedulers.MultiStepLR(opt, [3]), average=AveragedModel(net))
    step(net, opt)
    other, saved = reloaded(net, tmp_path / "ck")
    again = torch.optim.AdamW(other.parameters(), lr=0.5)
    other.track(again, schedulers.MultiStepLR(again, [7]), average=AveragedModel(other))
    before = told(other)
    wrong = torch.zeros(3, 3)
    for change, message in (
        (lambda entry, tensors: entry["groups"][0]["params"].append("nobody"), "damaged.*nobody"),
        (lambda entry, tensors: entry["groups"][0].pop("options"), "damaged.*options"),
        (lambda entry, tensors: entry["groups"][0]["options"].update(lr={"$tensor": "gone"}), "damaged"),
        (lambda entry, tensors: entry["scalars"].update(nobody={"step": 1}), "damaged.*nobody"),
        (lambda entry, tensors: entry.update(scheduler={"milestones": {"$Counter": 3}}), "damaged"),
        (lambda entry, tensors: tensors.update({"0/a.weight/exp_avg": wrong}), r"`exp_avg` of `a.weight`: expected"),
        (lambda entry, tensors: tensors.pop("0/average/a.weight"), "no average for optimizer 0"),
        (lambda entry, tensors: tensors.update({"0/average/a.weight": wrong}), "average of `a.weight`: expected"),
    ):
        with pytest.raises(CheckpointError, match=message):
            checkpoint.restore(other, changed(saved, change))
        assert told(other) == before
    checkpoint.restore(other, saved)
    assert told(other) != before


def test_checkpoints_of_the_first_format_are_read(tmp_path):
    """There options were plain JSON: tuples had become lists, and schedulers had no name."""
    net = make()
    opt = torch.optim.AdamW(net.parameters(), lr=1e-2)
    net.track(opt, scheduler := schedulers.CosineAnnealingLR(opt, 9))
    trained_on(net, opt, scheduler, 0, 2)
    other, saved = reloaded(net, tmp_path / "ck")
    again = torch.optim.AdamW(other.parameters(), lr=0.5)
    other.track(again, other_scheduler := schedulers.CosineAnnealingLR(again, 9))

    def aged(entry, tensors):
        options_ = entry["groups"][0]["options"]
        options_["betas"] = options_["betas"]["$tuple"]
        del entry["schedules"]
        json.dumps(entry)

    old = changed(saved, aged)
    del old.run["modes"]
    assert checkpoint.network(old).training
    checkpoint.restore(other, old)
    assert again.param_groups[0]["betas"] == (0.9, 0.999)
    assert trained_on(other, again, other_scheduler, 2, 6) == trained_on(net, opt, scheduler, 2, 6)


# modes ---------------------------------------------------------------------------------------------------------------

NORMED = "net n(x: [6]) { return x |> a: dense(8) |> bn: batchnorm |> relu |> drop: dropout |> head: dense(3) }"


def test_modes_of_leaves_are_kept(tmp_path):
    net = make(NORMED)
    leaves = net.module.meta["leaves"]
    leaves["bn"].eval()
    leaves["drop"].eval()
    other, _ = reloaded(net, tmp_path / "ck")
    assert {n: m.training for n, m in other.named_modules()} == {n: m.training for n, m in net.named_modules()}
    assert torch.equal(net(batch(net)), other(batch(net)))
    assert torch.equal(other.params["bn.running_mean"], net.params["bn.running_mean"])
    net.eval()
    leaves["bn"].train()
    other, _ = reloaded(net, tmp_path / "ck")
    assert [n for n, m in other.named_modules() if m.training] == ["bn"]


def test_modes_of_nothing_are_damaged(tmp_path):
    _, saved = reloaded(make(NORMED), tmp_path / "ck")
    saved.run["modes"]["nobody"] = False
    with pytest.raises(CheckpointError, match="damaged: `nobody`"):
        checkpoint.network(saved)


def test_milestones_that_the_first_format_wrote_as_text_are_numbers_again():
    net = build(MLP, seed=1)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    multi = schedulers.MultiStepLR(optimizer, [3, 3, 6])
    within = schedulers.SequentialLR(optimizer, [schedulers.ConstantLR(optimizer), multi], [2])
    for scheduler, state in (
        (multi, {"milestones": {"3": 2, "6": 1}}),
        (within, {"_schedulers": [{}, {"milestones": {"3": 2, "6": 1}}]}),
    ):
        _mend_milestones(scheduler, state)
        assert (state if scheduler is multi else state["_schedulers"][1])["milestones"] == multi.milestones
    _mend_milestones(None, None)


def test_code_is_not_kept():
    net = build(MLP, seed=1)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    scheduler = schedulers.StepLR(optimizer, 2)
    scheduler.hooks, scheduler.late = [print, partial(print, 1)], partial(print)
    net.track(optimizer, scheduler=scheduler)
    assert not {"hooks", "late"} & written(net, 0, {})["scheduler"].keys()
