"""Growth under the real Hugging Face Trainer: nothing orphaned, schedules coupled, checkpoints taken up again."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

pytest.importorskip("transformers")
pytest.importorskip("accelerate")

from live import CNN, MLP
from safetensors.torch import load_file
from torch.utils.data import Dataset
from transformers import Trainer, TrainerCallback, TrainingArguments

import irgrow
from irgrow.adapters import transformers as adapter
from irgrow.adapters.transformers import GrowthCallback, real_optimizer, restore
from irgrow.errors import CheckpointError, OptionError, RefusedError
from irgrow.growth import GrowthProgram, Limit, Plateau, Rule, Steps, Where
from irgrow.passes import EffectiveDimension, GrowUnits, NorthSelect, Schedule


def grow(*steps, **options):
    return GrowthProgram((Rule("widen", GrowUnits(init=NorthSelect()), Schedule(2), Steps(steps), **options),))


def north(gamma, *limit):
    when = EffectiveDimension(gamma=gamma, baseline="maximum")
    return (Rule("north", GrowUnits(init=NorthSelect()), when, limit=limit),)


PROGRAM = GrowthProgram((*north(0.95), *grow(10, 30).rules))


class Model(nn.Module):
    """A plain module that returns a dict or a tuple with the loss, as the Trainer wants it."""

    def __init__(self, text=MLP, form=dict):
        super().__init__()
        self.net = irgrow.build(text, seed=1)
        self.scale = nn.Linear(3, 3)
        with torch.no_grad():
            self.scale.weight.copy_(torch.eye(3))
            self.scale.bias.zero_()
        self.form = form
        self.losses = []

    def forward(self, x, labels):
        outputs = self.scale(self.net(x))
        loss = (outputs - labels).square().mean()
        if self.training:
            self.losses.append(loss.item())
        return {"loss": loss, "logits": outputs} if self.form is dict else (loss, outputs)


class Data(Dataset[Any]):
    def __init__(self, size=96, shape=(6,)):
        self.x = torch.randn(size, *shape, generator=torch.Generator().manual_seed(3))

    def __len__(self):
        return len(self.x)

    def __getitem__(self, i):
        return {"x": self.x[i], "labels": self.x[i].flatten()[:3].sin()}


class Spy(TrainerCallback):
    """Notes learning rates, and all values as they are after the last growth."""

    def __init__(self, growth):
        self.growth, self.rates, self.seen = growth, [], 0

    def on_step_end(self, args, state, control, model, optimizer, **kwargs):
        self.rates.append([g["lr"] for g in optimizer.param_groups])
        self.optimizer = optimizer
        if len(self.growth.receipts) > self.seen:
            self.seen = len(self.growth.receipts)
            self.after = {n: p.detach().clone() for n, p in model.named_parameters()}


def train(folder, model, growth, *more, epochs=2, resume=None, dataset=None, trainer=Trainer, **options):
    plain = {
        "output_dir": str(folder),
        "per_device_train_batch_size": 8,
        "num_train_epochs": epochs,
        "learning_rate": 1e-2,
        "weight_decay": 0.1,
        "report_to": [],
        "save_strategy": "no",
        "use_cpu": True,
        "disable_tqdm": True,
        "logging_strategy": "no",
        "seed": 5,
        "dataloader_pin_memory": False,
    }
    args = TrainingArguments(**(plain | options))
    data = dataset or Data()
    run = trainer(model, args, train_dataset=data, eval_dataset=data, callbacks=[growth, *more])
    run.train(resume_from_checkpoint=resume)
    return run


# training ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", [dict, tuple], ids=lambda f: f.__name__)
def test_growth_in_the_trainer_leaves_nothing_orphaned(tmp_path, form):
    model, growth = Model(form=form), GrowthCallback(grow(4, 9))
    spy = Spy(growth)
    run = train(tmp_path, model, growth, spy)
    assert [r.applied for r in growth.receipts] == [True] * 4
    assert model.net.graph.widths["a"] == 12
    real = real_optimizer(run.optimizer)
    assert isinstance(real, torch.optim.AdamW)
    assert real is spy.optimizer.optimizer
    held = [id(p) for g in real.param_groups for p in g["params"]]
    assert sorted(held) == sorted(id(p) for p in model.parameters())
    decayed = {id(p) for g in real.param_groups for p in g["params"] if g["weight_decay"]}
    assert decayed == {id(p) for n, p in model.named_parameters() if n.endswith("weight")}
    for name, parameter in model.named_parameters():
        assert not torch.equal(parameter, spy.after[name]), f"{name} stands still"
        assert real.state[parameter]["exp_avg"].shape == parameter.shape
    assert (model.net.params["a.weight"][-4:] != spy.after["net.a.weight"][-4:]).any(1).all()
    assert model.net.tracked == []
    assert sum(len(leaf._forward_hooks) for leaf in model.net.module.meta["leaves"].values()) == 0


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_the_schedule_stays_coupled(tmp_path, schedule):
    rates, models = [], []
    for program in (grow(3, 7), grow(999)):
        growth = GrowthCallback(program)
        spy = Spy(growth)
        models.append(Model())
        train(tmp_path, models[-1], growth, spy, lr_scheduler_type=schedule, warmup_steps=3)
        rates.append(spy.rates)
    assert rates[0] == rates[1]
    assert len({r[0] for r in rates[0]}) > 20, "the rate moves"
    assert [len(m.net.journal) for m in models] == [4, 0]


def test_rules_are_asked_once_for_every_step_of_the_optimizer(tmp_path):
    model, growth = Model(), GrowthCallback(grow(2))
    counts = []
    original = growth.on_step_end

    def spied(*args, **kwargs):
        original(*args, **kwargs)
        counts.append(growth.controller.count)

    growth.on_step_end = spied
    train(tmp_path, model, growth, epochs=1, gradient_accumulation_steps=3)
    assert counts == [1, 2, 3, 4]
    assert model.net.graph.widths["a"] == 10


@pytest.mark.parametrize("form", [dict, tuple], ids=lambda f: f.__name__)
def test_the_loss_is_that_of_the_step(tmp_path, form):
    rule = Rule("widen", GrowUnits(), Schedule(1), Plateau(1, 0.5, 2), where=Where(("a",)))
    growth = GrowthCallback(GrowthProgram((rule,)))
    train(tmp_path, Model(form=form), growth, epochs=1)
    assert len(growth.receipts) > 0


def test_triggers_watch_the_passes_that_train_and_norms_are_measured(tmp_path):
    growth = GrowthCallback(GrowthProgram(north(0.9, Limit("width", 7))))
    model = Model(CNN)
    train(tmp_path, model, growth, dataset=Data(96, (2, 6, 6)), epochs=1)
    assert model.net.graph.widths["c1"] == 7
    assert {e.used for e in model.net.journal} == {"statistics"}


def test_mixed_precision_of_the_trainer_is_no_obstacle(tmp_path):
    model, growth = Model(), GrowthCallback(grow(4))
    train(tmp_path, model, growth, epochs=1, bf16=True)
    assert model.net.graph.widths["a"] == 10
    assert {p.dtype for p in model.parameters()} == {torch.float32}


# refusals ------------------------------------------------------------------------------------------------------------


def test_the_best_model_is_not_loaded_into_another_shape(tmp_path):
    options = {"load_best_model_at_end": True, "save_strategy": "steps", "eval_strategy": "steps", "save_steps": 500}
    with pytest.raises(OptionError, match="load_best_model_at_end"):
        train(tmp_path, Model(), GrowthCallback(grow(4)), eval_steps=500, **options)


def test_several_devices_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(TrainingArguments, "world_size", property(lambda self: 2))
    with pytest.raises(RefusedError, match="one device"):
        GrowthCallback(grow(4)).on_train_begin(TrainingArguments(str(tmp_path), use_cpu=True), None, None)


def test_a_model_without_network_is_refused(tmp_path):
    model = Model()
    model.net = nn.Linear(6, 3)
    with pytest.raises(OptionError, match="has no network of irgrow"):
        train(tmp_path, model, GrowthCallback(grow(4)))


# checkpoints ---------------------------------------------------------------------------------------------------------


def same(one, two):
    assert one.keys() == two.keys()
    for name in one:
        assert torch.equal(one[name], two[name]), name


def checkpointed(folder, epochs=4, **options):
    model, growth = Model(), GrowthCallback(PROGRAM)
    run = train(folder, model, growth, epochs=epochs, save_strategy="steps", save_steps=17, **options)
    return model, growth, run


RESUME = """
import sys, torch
sys.path[:0] = [{tests!r}, {here!r}]
from test_transformers import *
model, growth = Model(), GrowthCallback(PROGRAM)
growth.restore(model, {checkpoint!r})
run = train({out!r}, model, growth, epochs=4, resume={checkpoint!r})
torch.save({{"weights": model.state_dict(), "optimizer": run.optimizer.state_dict(), "losses": model.losses,
    "journal": str(model.net.journal), "program": str(model.net.graph)}}, {out!r} + "/out.pt")
"""


def test_a_checkpoint_after_growth_goes_on_in_a_fresh_process_bit_for_bit(tmp_path):
    model, _, run = checkpointed(tmp_path / "one")
    steps = [e.step for e in model.net.journal]
    assert any(s <= 17 for s in steps), "grown before the checkpoint"
    assert any(s > 17 for s in steps), "and afterwards"
    here, out = Path(__file__).parent, tmp_path / "two"
    code = RESUME.format(
        tests=str(here.parent), here=str(here), checkpoint=str(tmp_path / "one" / "checkpoint-17"), out=str(out)
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120, capture_output=True)
    other = torch.load(out / "out.pt", weights_only=True)
    assert other["program"] == str(model.net.graph)
    assert other["journal"] == str(model.net.journal)
    assert other["losses"] == model.losses[17:]
    same(other["weights"], model.state_dict())
    mine = run.optimizer.state_dict()
    for index, state in mine["state"].items():
        for key in ("step", "exp_avg", "exp_avg_sq"):
            assert torch.equal(state[key], other["optimizer"]["state"][index][key])


def test_the_model_of_a_checkpoint_is_loaded_without_training(tmp_path):
    checkpointed(tmp_path, epochs=2)
    model = Model()
    restore(model, tmp_path / "checkpoint-17")
    weights = load_file(tmp_path / "checkpoint-17" / "model.safetensors")
    model.load_state_dict(weights)
    same(model.state_dict(), weights)
    with pytest.raises(RuntimeError, match="size mismatch"):
        Model().load_state_dict(weights)


def test_a_run_that_goes_on_without_its_program_is_refused(tmp_path):
    checkpointed(tmp_path, epochs=2, max_steps=17)
    growth, model = GrowthCallback(PROGRAM), Model()
    restore(model, tmp_path / "checkpoint-17")  # the program only, not what the controller remembers
    with pytest.raises(OptionError, match="goes on at step 17; call `restore"):
        train(tmp_path, model, growth, resume=str(tmp_path / "checkpoint-17"))


def test_damaged_growth_is_refused_and_changes_nothing(tmp_path):
    checkpointed(tmp_path, epochs=2)
    folder = tmp_path / "checkpoint-17" / adapter.FOLDER
    model, growth = Model(), GrowthCallback(PROGRAM)
    before = {n: v.clone() for n, v in model.state_dict().items()}
    state, tensors = folder / adapter.STATE, folder / adapter.TENSORS
    good, raw = state.read_bytes(), tensors.read_bytes()
    data = json.loads(good)
    data["structure"]["seed"] = 7
    for file, bad in (
        (state, good[:-20]),
        (state, b"[]"),
        (state, json.dumps(data).encode()),
        (tensors, raw[:-1]),
        (tensors, raw[:-1] + bytes([raw[-1] ^ 1])),
    ):
        file.write_bytes(bad)
        with pytest.raises(CheckpointError, match="damaged"):
            growth.restore(model, tmp_path / "checkpoint-17")
        state.write_bytes(good)
        tensors.write_bytes(raw)
    with pytest.raises(CheckpointError, match="no growth saved there"):
        growth.restore(model, tmp_path / "nothing")
    same(model.state_dict(), before)
