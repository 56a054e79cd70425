"""Growth in Lightning: a callback that asks a growth program after every optimizer step.

    trainer = Trainer(callbacks=[GrowthCallback(program)])
    trainer.fit(module)                                  # the module has a network of irgrow somewhere

The optimizers of the trainer are edited in place and never replaced, so their schedulers stay coupled. Checkpoints hold
the program. `Trainer.fit(module, ckpt_path=...)` on the module as it was before growth gives it the program before its
weights are loaded: Lightning asks callbacks only afterwards, so the callback stands in front of the module's own
`on_load_checkpoint` while a trainer runs. Without a trainer, as in `load_from_checkpoint`, call `restore` there.

Tested with lightning 2.6.6, on one device. Strategies that wrap the module are refused; `irgrow.growth.parallel` trains
on several processes in a loop of one's own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.strategies import SingleDeviceStrategy
from torch import Tensor, nn

from irgrow.adapters.base import Latest, dumped, find_network, loaded, rebuild, structure
from irgrow.errors import OptionError, RefusedError
from irgrow.growth.controller import Controller
from irgrow.growth.rules import GrowthProgram
from irgrow.journal import Receipt
from irgrow.network import Tracked

KEY = "irgrow"
"""Where a checkpoint has the program."""


class GrowthCallback(Callback):
    """Grows the network inside a LightningModule while it trains.

    Args:
        program: The rules.
        network: The dotted name of the network in the module; needed if there are several.
        inputs: Returns the inputs of the network for a batch; those of its latest training pass unless given.
        criterion: The loss as a function of the network's outputs and the batch, for passes that look at gradients.
        steps_per_epoch: For rules that count epochs; the trainer's batches over its accumulation unless given.
        carry: How new entries of the optimizer's state start; see `Network.track`.

    Attributes:
        receipts: What was done, in order.
        controller: The controller, while it trains.
    """

    def __init__(
        self,
        program: GrowthProgram,
        network: str | None = None,
        inputs: Callable[[Any], Any] | None = None,
        criterion: Callable[[Any, Any], Tensor] | None = None,
        steps_per_epoch: int | None = None,
        carry: str = "siblings",
    ) -> None:
        self.program, self.network, self.inputs = program, network, inputs
        self.criterion, self.steps_per_epoch, self.carry = criterion, steps_per_epoch, carry
        self.receipts: list[Receipt] = []
        self.controller: Controller | None = None
        self._latest: Latest | None = None
        self._saved: dict[str, Any] | None = None
        self._tracked: list[Tracked] = []
        self._steps = 0

    # taking part ----------------------------------------------------------------------------------------------------

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuse what cannot be handled, and stand in front of the module when a checkpoint is loaded.

        Raises:
            RefusedError: The strategy wraps the module or has several processes.
            OptionError: There is no network, or several and no name.
        """
        find_network(pl_module, self.network)
        if stage == "fit" and (not isinstance(trainer.strategy, SingleDeviceStrategy) or trainer.world_size > 1):
            name = type(trainer.strategy).__name__
            raise RefusedError(
                f"growth in Lightning works on one device, not with {name}, which holds on to the parameters it "
                "wrapped; use `devices=1`, or irgrow.growth.parallel in a loop of your own"
            )
        own = pl_module.on_load_checkpoint

        def on_load_checkpoint(checkpoint: dict[str, Any]) -> None:
            restore(pl_module, checkpoint, self.network)
            own(checkpoint)

        pl_module.__dict__["on_load_checkpoint"] = on_load_checkpoint

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Step aside."""
        pl_module.__dict__.pop("on_load_checkpoint", None)
        self._detach()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Step aside."""
        self.teardown(trainer, pl_module, "")

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Track the optimizers; what was restored is in place by now.

        Raises:
            OptionError: No optimizer holds the network's parameters.
        """
        self._detach()
        net = find_network(pl_module, self.network)
        own = {id(p) for p in net.parameters()}
        for optimizer in trainer.optimizers:
            if any(id(p) in own for group in optimizer.param_groups for p in group["params"]):
                driven = [c.scheduler for c in trainer.lr_scheduler_configs if c.scheduler.optimizer is optimizer]
                scaler = getattr(trainer.precision_plugin, "scaler", None)
                net.track(optimizer, driven[0] if driven else None, scaler, carry=self.carry)
                self._tracked.append(net.tracked[-1])
        if not self._tracked:
            raise OptionError("no optimizer of the trainer holds parameters of the network")
        self.controller = Controller(net, self.program, self.steps_per_epoch or _steps_per_epoch(trainer))
        self._latest = Latest(net)
        self._steps = trainer.global_step
        if self._saved is not None:
            loaded(self.controller, self._saved)
            self._saved = None

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Ask the rules, if the optimizer has stepped."""
        if self.controller is None or self._latest is None or trainer.global_step == self._steps:
            return
        self._steps = trainer.global_step
        seen = self._latest.take()
        inputs = seen if self.inputs is None else self.inputs(batch)
        loss = outputs.get("loss") if isinstance(outputs, Mapping) else outputs
        criterion = self.criterion
        told = None if criterion is None else lambda outputs: criterion(outputs, batch)
        self.receipts += self.controller.step(inputs, loss, told)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Keep what the controller remembers, for a checkpoint that is saved afterwards."""
        if self.controller is not None:
            self._saved = dumped(self.controller)

    def _detach(self) -> None:
        """Let go of the optimizers of the fit that is over."""
        if self._latest is not None:
            self._latest.remove()
        if self.controller is not None:
            self.controller.close()
            self.controller.net.tracked[:] = [t for t in self.controller.net.tracked if t not in self._tracked]
        self._latest = self.controller = None
        self._tracked.clear()

    # saving ---------------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Return what the controller remembers."""
        if self.controller is not None:
            return dumped(self.controller)
        return self._saved or {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keep it until training starts."""
        self._saved = state_dict or None

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Put the program into the checkpoint."""
        checkpoint[KEY] = structure(find_network(pl_module, self.network))


def restore(module: nn.Module, checkpoint: Mapping[str, Any], network: str | None = None) -> None:
    """Give the network inside a module the program of a checkpoint, before weights are loaded.

    For `LightningModule.on_load_checkpoint`, where a module is loaded without a trainer. A checkpoint without a program
    changes nothing.

    Args:
        module: The module.
        checkpoint: What Lightning loaded.
        network: The dotted name of the network in it.

    Raises:
        CheckpointError: The program is damaged, or of a newer version.
    """
    if KEY in checkpoint:
        rebuild(find_network(module, network), checkpoint[KEY])


def _steps_per_epoch(trainer: Trainer) -> int | None:
    batches = trainer.num_training_batches
    return None if batches == float("inf") else -(-int(batches) // trainer.accumulate_grad_batches)
