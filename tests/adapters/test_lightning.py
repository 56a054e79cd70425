"""Growth under the real Lightning trainer: nothing orphaned, schedules coupled, checkpoints taken up again."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

pytest.importorskip("lightning.pytorch")

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.strategies import DDPStrategy
from live import CNN, MLP
from torch.utils.data import DataLoader, TensorDataset

import irgrow
from irgrow.adapters.lightning import KEY, GrowthCallback, restore
from irgrow.errors import CheckpointError, OptionError, RefusedError
from irgrow.growth import EverySteps, GrowthProgram, Limit, Plateau, Rule, Steps, Where
from irgrow.passes import EffectiveDimension, GrowUnits, NorthSelect, RewireEdges, Schedule

pytestmark = pytest.mark.filterwarnings(  # Lightning's advice on the machine, not on what was done
    "ignore:.*does not have many workers:UserWarning",
    "ignore:The number of training batches:UserWarning",
    "ignore:Checkpoint directory:UserWarning",
    "ignore:Be aware that when using `ckpt_path`:UserWarning",
    "ignore:.*isinstance.treespec, LeafSpec:FutureWarning",
)


def grow(*steps, init=None, **options):
    rule = Rule("widen", GrowUnits(init=init or NorthSelect()), Schedule(2), Steps(steps), **options)
    return GrowthProgram((rule,))


def north(gamma, *limit):
    when = EffectiveDimension(gamma=gamma, baseline="maximum")
    return (Rule("north", GrowUnits(init=NorthSelect()), when, limit=limit),)


def data(size=96, shape=(6,)):
    x = torch.randn(size, *shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    return TensorDataset(x, x.flatten(1)[:, :3].sin())


class Module(LightningModule):
    """Six features, a schedule that moves every step, and a second layer of its own beside the network."""

    def __init__(self, text=MLP, interval="step"):
        super().__init__()
        self.net = irgrow.build(text, seed=1, dtype=torch.float64)
        self.scale = nn.Linear(3, 3, dtype=torch.float64)
        with torch.no_grad():
            self.scale.weight.copy_(torch.eye(3))
            self.scale.bias.zero_()
        self.interval = interval
        self.rates, self.losses = [], []

    def training_step(self, batch, index):
        loss = (self.scale(self.net(batch[0])) - batch[1]).square().mean()
        self.losses.append(loss.item())
        return loss

    def on_train_batch_start(self, batch, index):
        self.rates.append(self.trainer.optimizers[0].param_groups[0]["lr"])

    def configure_optimizers(self):
        optimizer = torch.optim.Adam(self.parameters(), lr=1e-2)
        scheduler = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.1, 20)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": self.interval}}


def trainer(*callbacks, epochs=2, root=None, **options):
    plain = {
        "accelerator": "cpu",
        "devices": 1,
        "logger": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "enable_checkpointing": any(isinstance(c, ModelCheckpoint) for c in callbacks),
    }
    return Trainer(max_epochs=epochs, callbacks=list(callbacks), default_root_dir=root, **(plain | options))


def fit(module, callback, *more, epochs=2, ckpt=None, batch=8, dataset=None, root=None, **options):
    run = trainer(callback, *more, epochs=epochs, root=root, **options)
    run.fit(module, DataLoader(dataset or data(), batch, shuffle=False), ckpt_path=ckpt)
    return run


class Spy(GrowthCallback):
    """Keeps the optimizer's parameters and the values of all as they are after every growth."""

    def on_train_batch_end(self, trainer, module, *rest):
        before = len(self.receipts)
        super().on_train_batch_end(trainer, module, *rest)
        if len(self.receipts) > before:
            self.after = {n: p.detach().clone() for n, p in module.named_parameters()}


# training ------------------------------------------------------------------------------------------------------------


def test_growth_in_the_trainer_leaves_nothing_orphaned(tmp_path):
    module, callback = Module(), Spy(grow(4, 9))
    run = fit(module, callback, root=tmp_path)
    assert [r.applied for r in callback.receipts] == [True] * 4
    assert module.net.graph.widths["a"] == 12
    held = {id(p) for g in run.optimizers[0].param_groups for p in g["params"]}
    assert held == {id(p) for p in module.parameters()}
    for name, parameter in module.named_parameters():
        assert not torch.equal(parameter, callback.after[name]), f"{name} stands still"
        assert run.optimizers[0].state[parameter]["exp_avg"].shape == parameter.shape
    assert (module.net.params["a.weight"][-4:] != callback.after["net.a.weight"][-4:]).any(1).all()


def test_without_the_callback_nothing_grows(tmp_path):
    module = Module()
    trainer(epochs=2, root=tmp_path).fit(module, DataLoader(data(), 8))
    assert module.net.graph.widths["a"] == 8
    assert len(module.net.journal) == 0


def test_the_schedule_stays_coupled(tmp_path):
    grown, plain = Module(), Module()
    fit(grown, GrowthCallback(grow(3, 7)), root=tmp_path)
    fit(plain, GrowthCallback(grow(999)), root=tmp_path)
    assert grown.rates == plain.rates
    assert len(set(grown.rates)) > 20, "the rate moves"
    assert len(grown.net.journal) == 4


def test_growth_itself_changes_nothing_that_is_computed(tmp_path):
    grown, plain = Module(), Module()
    fit(grown, GrowthCallback(grow(23, init=None)), epochs=2, root=tmp_path)
    fit(plain, GrowthCallback(grow(999)), epochs=2, root=tmp_path)
    assert grown.losses[:23] == plain.losses[:23]
    torch.testing.assert_close(grown.losses[23:], plain.losses[23:], rtol=1e-12, atol=0)


def test_rules_are_asked_once_for_every_step_of_the_optimizer(tmp_path):
    module, callback = Module(), GrowthCallback(grow(4))
    counts = []
    original = callback.on_train_batch_end

    def spied(*args):
        original(*args)
        counts.append(callback.controller.count)

    callback.on_train_batch_end = spied
    fit(module, callback, accumulate_grad_batches=3, epochs=1, root=tmp_path)
    assert counts == [0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3, 4]
    assert module.net.graph.widths["a"] == 10


def test_epochs_are_the_steps_of_the_trainer(tmp_path):
    rule = Rule("widen", GrowUnits(), Schedule(1), irgrow.growth.Epochs(1), where=Where(("a",)))
    module, callback = Module(), GrowthCallback(GrowthProgram((rule,)))
    fit(module, callback, epochs=2, accumulate_grad_batches=2, root=tmp_path)
    assert [e.step for e in module.net.journal] == [6, 12]


def test_the_loss_is_that_of_the_step(tmp_path):
    rule = Rule("widen", GrowUnits(), irgrow.passes.Schedule(1), Plateau(1, 0.5, 2), where=Where(("a",)))
    module, callback = Module(), GrowthCallback(GrowthProgram((rule,)))
    fit(module, callback, epochs=1, root=tmp_path)
    assert len(callback.receipts) > 0


def test_triggers_watch_the_passes_that_train_and_norms_are_measured(tmp_path):
    module, callback = Module(CNN), GrowthCallback(GrowthProgram(north(0.9, Limit("width", 7))))
    fit(module, callback, dataset=data(96, (2, 6, 6)), epochs=1, root=tmp_path)
    assert module.net.graph.widths["c1"] == 7
    assert {e.used for e in module.net.journal} == {"statistics"}


def test_inputs_and_criterion_may_be_functions_of_the_batch(tmp_path):
    seen = []

    def inputs(batch):
        seen.append(batch[0])
        return batch[0]

    text = MLP.replace("a: dense(8)", "a: dense(8, masked = true)")
    rewire = Rule("rewire", RewireEdges(prune="magnitude", grow="gradient"), Schedule(1), EverySteps(3), require="any")
    module = Module(text)
    with torch.no_grad():
        module.net.params["a.mask"].copy_(torch.arange(48).reshape(8, 6) % 2)
        module.net.params["a.weight"].mul_(module.net.params["a.mask"])
    callback = GrowthCallback(
        GrowthProgram((rewire,)),
        network="net",
        inputs=inputs,
        criterion=lambda outputs, batch: (outputs - batch[1]).square().mean(),
    )
    fit(module, callback, epochs=1, root=tmp_path)
    assert [r.applied for r in callback.receipts] == [True] * 4
    assert {e.used for e in module.net.journal} == {"gradients"}
    assert len(seen) == 12


def test_a_second_fit_starts_with_the_new_optimizers(tmp_path):
    module, callback = Module(), GrowthCallback(grow(4))
    fit(module, callback, epochs=1, root=tmp_path)
    assert module.net.tracked == []
    assert sum(len(leaf._forward_hooks) for leaf in module.net.module.meta["leaves"].values()) == 0
    other = GrowthCallback(grow(4))
    run = fit(module, other, epochs=1, root=tmp_path)
    held = {id(p) for g in run.optimizers[0].param_groups for p in g["params"]}
    assert held == {id(p) for p in module.parameters()}
    assert module.net.graph.widths["a"] == 12


# refusals ------------------------------------------------------------------------------------------------------------


def test_what_wraps_the_module_is_refused(tmp_path):
    module = Module()
    several = trainer(strategy=DDPStrategy(process_group_backend="gloo"), root=tmp_path)
    with pytest.raises(RefusedError, match="one device, not with DDPStrategy"):
        GrowthCallback(grow(4)).setup(several, module, "fit")


def test_a_module_without_network_is_refused(tmp_path):
    module = Module()
    module.net = nn.Linear(6, 3, dtype=torch.float64)
    with pytest.raises(OptionError, match="has no network of irgrow"):
        fit(module, GrowthCallback(grow(4)), root=tmp_path)


def test_several_networks_need_a_name(tmp_path):
    module = Module()
    module.other = irgrow.build(MLP, dtype=torch.float64).requires_grad_(False)
    with pytest.raises(OptionError, match="several networks of irgrow, `net`, `other`"):
        fit(module, GrowthCallback(grow(4)), root=tmp_path)
    for name, why in (("scale", "is a Linear"), ("nothing", "no submodule")):
        with pytest.raises(OptionError, match=why):
            fit(module, GrowthCallback(grow(4), network=name), root=tmp_path)
    fit(module, GrowthCallback(grow(4), network="net"), epochs=1, root=tmp_path)
    assert module.net.graph.widths["a"] == 10
    assert module.other.graph.widths["a"] == 8


def test_an_optimizer_without_the_network_is_refused(tmp_path):
    module = Module()
    module.configure_optimizers = lambda: torch.optim.SGD(module.scale.parameters(), lr=0.1)
    with pytest.raises(OptionError, match="no optimizer of the trainer"):
        fit(module, GrowthCallback(grow(4)), root=tmp_path)


# checkpoints ---------------------------------------------------------------------------------------------------------

PROGRAM = GrowthProgram((*north(0.95), *grow(10, 30).rules))


def checkpointed(folder, epochs=4, program=None):
    module, callback = Module(), GrowthCallback(program or PROGRAM)
    saver = ModelCheckpoint(folder, filename="{epoch}", save_top_k=-1, every_n_epochs=1)
    run = fit(module, callback, saver, epochs=epochs, root=folder)
    return module, callback, run


def same(one, two):
    assert one.keys() == two.keys()
    for name in one:
        assert torch.equal(one[name], two[name]), name


RESUME = """
import sys, torch
sys.path[:0] = [{tests!r}, {here!r}]
from test_lightning import *
module, callback = Module(), GrowthCallback(PROGRAM)
run = fit(module, callback, epochs=4, ckpt={ckpt!r}, root={root!r})
torch.save({{"weights": module.state_dict(), "optimizer": run.optimizers[0].state_dict(), "losses": module.losses,
    "journal": str(module.net.journal), "program": str(module.net.graph), "count": callback._saved["json"]}}, {out!r})
"""


def test_a_checkpoint_after_growth_goes_on_in_a_fresh_process_bit_for_bit(tmp_path):
    module, callback, run = checkpointed(tmp_path)
    steps = [e.step for e in module.net.journal]
    assert any(s <= 24 for s in steps), "grown before the checkpoint"
    assert any(s > 24 for s in steps), "and afterwards"
    here = Path(__file__).parent
    code = RESUME.format(
        tests=str(here.parent),
        here=str(here),
        ckpt=str(tmp_path / "epoch=1.ckpt"),
        root=str(tmp_path),
        out=str(tmp_path / "out.pt"),
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120, capture_output=True)
    other = torch.load(tmp_path / "out.pt", weights_only=True)
    assert other["program"] == str(module.net.graph)
    assert other["journal"] == str(module.net.journal)
    assert other["losses"] == module.losses[24:]
    assert other["count"] == callback._saved["json"]
    same(other["weights"], module.state_dict())
    mine = run.optimizers[0].state_dict()
    assert mine["param_groups"] == other["optimizer"]["param_groups"]
    for index, state in mine["state"].items():
        for key in ("step", "exp_avg", "exp_avg_sq"):
            assert torch.equal(state[key], other["optimizer"]["state"][index][key])


def test_validation_from_a_checkpoint_rebuilds_the_network(tmp_path):
    module, _, _ = checkpointed(tmp_path, epochs=2)
    other, found = Module(), []
    other.validation_step = lambda batch: found.append(other.net(batch[0]))
    trainer(GrowthCallback(PROGRAM), root=tmp_path).validate(
        other, DataLoader(data(), 8), ckpt_path=str(tmp_path / "epoch=1.ckpt"), verbose=False
    )
    assert other.net.graph == module.net.graph
    assert "on_load_checkpoint" not in vars(other)
    same(other.state_dict(), module.state_dict())


def test_a_checkpoint_is_loaded_without_a_trainer(tmp_path):
    module, _, _ = checkpointed(tmp_path, epochs=2)

    class Loading(Module):
        def on_load_checkpoint(self, checkpoint):
            restore(self, checkpoint)

    found = Loading.load_from_checkpoint(tmp_path / "epoch=1.ckpt", weights_only=True)
    same(found.state_dict(), module.state_dict())
    with pytest.raises(Exception, match="size mismatch"):
        Module.load_from_checkpoint(tmp_path / "epoch=1.ckpt", weights_only=True)


def test_a_checkpoint_with_another_program_text_is_refused(tmp_path):
    checkpointed(tmp_path, epochs=1, program=grow(4))
    path = tmp_path / "epoch=0.ckpt"
    saved = torch.load(path, weights_only=True)
    for broken, why in (
        ({"program": "net x("}, "the saved program"),
        ({"version": 99}, "version 99"),
        ({"journal": 3}, "expected a journal"),
    ):
        torch.save({**saved, KEY: saved[KEY] | broken}, path)
        module = Module()
        before = {n: v.clone() for n, v in module.state_dict().items()}
        with pytest.raises(CheckpointError, match=why):
            fit(module, GrowthCallback(grow(4)), ckpt=str(path), root=tmp_path)
        same(module.state_dict(), before)
