"""Growth in the Hugging Face Trainer: a callback that asks a growth program after every optimizer step.

    growth = GrowthCallback(program)
    Trainer(model, args, callbacks=[growth], ...).train()        # the model has a network of irgrow somewhere

The real optimizer, behind the one accelerate hands out, is edited in place, so the schedule stays coupled. The trainer
zeroes gradients before it calls back; what triggers look at is recorded while the passes run, so they need none.

Beside the weights of every checkpoint lies a folder `irgrow` with the program and what the controller remembers. Before
a run is resumed the model must have that program:

    growth.restore(model, "out/checkpoint-500")
    trainer.train(resume_from_checkpoint="out/checkpoint-500")

Tested with transformers 5.23.0 and accelerate 1.15.0, on one device. Several processes are refused;
`irgrow.growth.parallel` trains on them in a loop of one's own.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor, nn
from torch.optim import Optimizer
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.training_args import ParallelMode

from irgrow.adapters.base import Latest, dumped, find_network, loaded, rebuild, structure
from irgrow.errors import CheckpointError, OptionError, RefusedError
from irgrow.growth.controller import Controller
from irgrow.growth.rules import GrowthProgram
from irgrow.journal import Receipt
from irgrow.network import Tracked

FOLDER, STATE, TENSORS = "irgrow", "growth.json", "growth.safetensors"


class GrowthCallback(TrainerCallback):
    """Grows the network inside a model while the Trainer trains it.

    Args:
        program: The rules.
        network: The dotted name of the network in the model; needed if there are several.
        steps_per_epoch: For rules that count epochs.
        carry: How new entries of the optimizer's state start; see `Network.track`.

    Attributes:
        receipts: What was done, in order.
        controller: The controller, while it trains.
    """

    def __init__(
        self,
        program: GrowthProgram,
        network: str | None = None,
        steps_per_epoch: int | None = None,
        carry: str = "siblings",
    ) -> None:
        self.program, self.network = program, network
        self.steps_per_epoch, self.carry = steps_per_epoch, carry
        self.receipts: list[Receipt] = []
        self.controller: Controller | None = None
        self._latest: Latest | None = None
        self._saved: dict[str, Any] | None = None
        self._tracked: Tracked | None = None
        self._loss: Tensor | None = None
        self._hook: Any = None

    # the loop -------------------------------------------------------------------------------------------------------

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Track the optimizer; weights and its state are restored by now.

        Raises:
            RefusedError: There are several processes or devices.
            OptionError: The run was resumed and the program was not restored before, or the best model is to be loaded
                at the end, which may have another program.
        """
        self._detach()
        _check(args)
        if state.global_step and self._saved is None:
            raise OptionError(
                f"training goes on at step {state.global_step}; call `restore(model, checkpoint)` of the growth "
                "callback first, so that model and growth are what they were"
            )
        model = kwargs["model"]
        net = find_network(model, self.network)
        optimizer = real_optimizer(kwargs["optimizer"])
        scheduler = kwargs.get("lr_scheduler")
        driven = getattr(scheduler, "optimizer", None)
        net.track(optimizer, scheduler if driven is optimizer else None, carry=self.carry)
        self._tracked = net.tracked[-1]
        self.controller = Controller(net, self.program, self.steps_per_epoch)
        self._latest = Latest(net)
        self._hook = model.register_forward_hook(self._take_loss)
        if self._saved is not None:
            loaded(self.controller, self._saved)
            self._saved = None

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Ask the rules; the optimizer has stepped."""
        if self.controller is not None and self._latest is not None:
            loss, self._loss = self._loss, None
            self.receipts += self.controller.step(self._latest.take(), loss)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Let go of the optimizer."""
        self._detach()

    def _take_loss(self, module: nn.Module, inputs: Any, output: Any) -> None:
        loss = output.get("loss") if isinstance(output, Mapping) else output[0] if isinstance(output, tuple) else None
        if module.training and isinstance(loss, Tensor) and loss.dim() == 0:
            self._loss = loss.detach()

    def _detach(self) -> None:
        if self._latest is not None:
            self._latest.remove()
        if self._hook is not None:
            self._hook.remove()
        if self.controller is not None:
            self.controller.close()
            self.controller.net.tracked[:] = [t for t in self.controller.net.tracked if t is not self._tracked]
        self._latest = self._hook = self._loss = self.controller = self._tracked = None

    # saving ---------------------------------------------------------------------------------------------------------

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Write the program and what the controller remembers beside the checkpoint."""
        if self.controller is not None and state.is_world_process_zero and args.output_dir is not None:
            write(Path(args.output_dir) / f"checkpoint-{state.global_step}" / FOLDER, self.controller)

    def restore(self, model: nn.Module, checkpoint: str | Path) -> None:
        """Give the model the program of a checkpoint, and take up what the controller remembered.

        Call it before `Trainer.train(resume_from_checkpoint=...)`.

        Args:
            model: The model, as it was before growth or as it is.
            checkpoint: The folder that the Trainer wrote.

        Raises:
            CheckpointError: There is no program, or it is damaged.
        """
        self._saved = restore(model, checkpoint, self.network)


def restore(model: nn.Module, checkpoint: str | Path, network: str | None = None) -> dict[str, Any]:
    """Give the network inside a model the program of a checkpoint, before weights are loaded.

    Args:
        model: The model.
        checkpoint: The folder that the Trainer wrote.
        network: The dotted name of the network in it.

    Returns:
        What the controller remembered.

    Raises:
        CheckpointError: There is no program, or it is damaged.
    """
    saved, controller = read(Path(checkpoint) / FOLDER)
    rebuild(find_network(model, network), saved)
    return controller


def real_optimizer(optimizer: Any) -> Optimizer:
    """Return the optimizer behind what accelerate hands out."""
    while not isinstance(getattr(optimizer, "optimizer", None), type(None)):
        optimizer = optimizer.optimizer
    return optimizer


def _check(args: TrainingArguments) -> None:
    alone = args.parallel_mode is ParallelMode.NOT_PARALLEL and args.world_size == 1 and not args.fsdp
    if not alone or args.deepspeed:
        raise RefusedError(
            "growth in the Trainer works on one device: a wrapper for several holds on to the parameters it wrapped; "
            "show it one device, or use irgrow.growth.parallel in a loop of your own"
        )
    if args.load_best_model_at_end:
        raise OptionError(
            "load_best_model_at_end loads weights into the model as it is then, which may have grown since; "
            "leave it out, and load the best checkpoint with `restore`"
        )


# files ---------------------------------------------------------------------------------------------------------------


def write(folder: Path, controller: Controller) -> None:
    """Write program and controller into a folder, all or nothing.

    Raises:
        CheckpointError: It cannot be written.
    """
    growth = dumped(controller)
    tensors = save_tensors({n: t.detach().cpu().contiguous() for n, t in growth["tensors"].items()})
    data = {"structure": structure(controller.net), "controller": growth["json"]}
    text = json.dumps({**data, "sha256": _seal(data, tensors)}).encode()
    staged = folder.with_name(f".tmp-{folder.name}-{os.getpid()}")
    try:
        shutil.rmtree(staged, ignore_errors=True)
        staged.mkdir(parents=True)
        (staged / STATE).write_bytes(text)
        (staged / TENSORS).write_bytes(tensors)
        shutil.rmtree(folder, ignore_errors=True)
        os.replace(staged, folder)
    except OSError as error:
        shutil.rmtree(staged, ignore_errors=True)
        raise CheckpointError(f"{folder}: cannot be written: {(error.strerror or str(error)).lower()}") from None


def read(folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Read what `write` wrote: the program, and what the controller remembered.

    Raises:
        CheckpointError: It is missing or damaged.
    """
    try:
        raw = (folder / TENSORS).read_bytes()
        data = json.loads((folder / STATE).read_bytes())
        seal = data.pop("sha256")
        if seal != _seal(data, raw):
            raise CheckpointError(f"{folder}: damaged: its SHA-256 is not the one it names")
        return data["structure"], {"json": data["controller"], "tensors": load_tensors(raw)}
    except OSError as error:
        raise CheckpointError(f"{folder}: no growth saved there: {(error.strerror or str(error)).lower()}") from None
    except (SafetensorError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise CheckpointError(f"{folder}: damaged: {error}") from None


def _seal(data: dict[str, Any], tensors: bytes) -> str:
    return hashlib.sha256(json.dumps(data, sort_keys=True).encode() + tensors).hexdigest()
