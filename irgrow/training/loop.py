"""The loop of `irgrow train`: one run in one folder, deterministic for a seed, resumable bit for bit.

program.irg       the network as it is now, with the sections it was trained by
checkpoints/      step-00001234/, the latest two
history.jsonl     one line per epoch and per rewrite
history.png       widths and accuracy over time (needs matplotlib)
summary.json      the result so far, written with every checkpoint
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from math import isfinite
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from irgrow import checkpoint
from irgrow.cost import cost
from irgrow.errors import DataError, OptionError
from irgrow.graph import Graph
from irgrow.growth import GrowthProgram
from irgrow.growth.controller import Controller
from irgrow.journal import Receipt
from irgrow.network import Network, build
from irgrow.training.fitting import check_batches, fitted
from irgrow.training.folder import (
    CHECKPOINTS,
    HISTORY,
    PROGRAM,
    SUMMARY,
    append_text,
    begun,
    history_text,
    named,
    saved_steps,
    write_text,
)
from irgrow.training.resuming import check_data, data_read, digest_of_text, read_run, take_up
from irgrow.training.settings import TrainSettings, loss_function
from irgrow.training.summary import scored, summarised, widths
from irgrow.training.watching import Report, Watcher

KEPT = 2


@dataclass(frozen=True)
class Job:
    """What a run is asked to do.

    Args:
        graph: The network to start from.
        settings: How to train it.
        growth: How it grows; `None` for a static network.
    """

    graph: Graph
    settings: TrainSettings
    growth: GrowthProgram | None = None

    @property
    def sections(self) -> str:
        """The sections as text."""
        return ("" if self.growth is None else f"{self.growth}\n") + str(self.settings)


class Run:
    """One training run.

    Args:
        job: What to do; a relative path of its data is taken from the working folder, and kept in full.
        folder: Where its files go.
        device: Where it computes.
        compile: Whether to compile every lowered module.
        watcher: Who is told.
        save_every: Steps between checkpoints beside those at the end of each epoch; 0 for none.
        net: The network to go on from, with the job's graph, such as one that was trained on other data; it is trained
            in place. A fresh one unless given.

    Raises:
        DataError: The data cannot be read or does not fit the network.
        OptionError: A device or precision is not available, a rule cannot work, or `net` is of another graph.
    """

    def __init__(
        self,
        job: Job,
        folder: str | Path,
        device: str = "cpu",
        compile: bool = False,
        watcher: Watcher | None = None,
        save_every: int = 0,
        net: Network | None = None,
    ) -> None:
        if net is not None and net.graph != job.graph:
            raise OptionError(f"the network to go on from, `{net.graph.name}`, is not of the graph of the job")
        settings, self.folder = job.settings, Path(folder)
        self.job = replace(job, settings=replace(settings, data=settings.data.beside(Path.cwd())))
        self.device = checked_device(device)
        self.compile, self.watcher, self.save_every = compile, watcher or Watcher(), save_every
        self.dtype = torch.float64 if settings.precision == "float64" else torch.float32
        self.data = fitted(job.graph, settings.data.load(settings.seed), settings.loss)
        check_batches(job.graph, len(self.data.train[0]), settings.batch)
        self.per_epoch = -(-len(self.data.train[0]) // settings.batch)
        self.report = Report(steps=self.per_epoch * settings.epochs)
        self.epoch_loss, self.epoch_count = 0.0, 0
        self.history: list[dict[str, Any]] = []
        self.axes: dict[str, int] = {}
        self.written: str | None = None
        self.started, self.begun_at, self.seconds_before = time.perf_counter(), 0, 0.0
        if net is None:
            init = None if settings.init == "default" else settings.init
            net = build(job.graph, settings.seed, self.dtype, init)
        self._adopt(net.to(self.device, self.dtype))
        torch.manual_seed(settings.seed)

    def _adopt(self, net: Network) -> None:
        """Take a network, with a fresh optimizer, schedule and controller."""
        settings = self.job.settings
        self.net = net.train()
        self.report.widths = widths(net.graph, self.axes)
        if self.compile:
            net.compile_with()
        for tracked in tuple(net.tracked):
            net.untrack(tracked.optimizer)  # of the run that the network comes from
        self.optimizer = settings.optimizer.make(net.parameters())
        schedule = settings.schedule
        self.scheduler = None if schedule is None else schedule.make(self.optimizer, self.report.steps)
        net.track(self.optimizer, self.scheduler, carry=settings.carry)
        growth = self.job.growth
        self.controller = None if growth is None else Controller(net, growth, self.per_epoch)

    # the loop -------------------------------------------------------------------------------------------------------

    def run(self) -> dict[str, Any] | None:
        """Train to the end and return the summary; `None` if it was stopped, with everything saved.

        Raises:
            DataError: The loss is not finite.
            OptionError: The folder is not free, or a file of it cannot be written.
        """
        if self.report.step:
            return self._run()
        with begun(self.folder):
            write_text(self.folder / HISTORY, "")
            self._record({"event": "start", "step": 0, **self._size()})
            return self._run()

    def _run(self) -> dict[str, Any] | None:
        """Train from where the run is."""
        inputs, targets = (self._tensor(a) for a in self.data.train)
        while self.report.step < self.report.steps:
            self.report.epoch = self.report.step // self.per_epoch
            order = self._order(self.report.epoch)
            for chosen in self._batches(order):
                self._step(inputs[chosen], targets[chosen])
                if self.report.step % self.per_epoch == 0:
                    self._end_epoch()
                elif self.save_every and self.report.step % self.save_every == 0:
                    self.save()
                if self.watcher.stopping():
                    self.save()
                    self._write_results(finished=False)
                    return None
        return self._write_results(finished=True)

    def _order(self, epoch: int) -> Tensor:
        order = np.random.default_rng([self.job.settings.seed, 0x0DE, epoch]).permutation(len(self.data.train[0]))
        return torch.from_numpy(order).to(self.device)

    def _batches(self, order: Tensor) -> Iterator[Tensor]:
        """Yield what is left of an epoch."""
        size = self.job.settings.batch
        for i in range(self.report.step % self.per_epoch, self.per_epoch):
            yield order[i * size : (i + 1) * size]

    def _tensor(self, array: Any) -> Tensor:
        tensor = torch.from_numpy(array).to(self.device)
        return tensor.to(self.dtype) if tensor.is_floating_point() else tensor

    def _precision(self) -> AbstractContextManager[Any]:
        if self.job.settings.precision != "bf16":
            return nullcontext()
        return torch.autocast(self.device.type, torch.bfloat16)

    def _step(self, x: Tensor, y: Tensor) -> None:
        """Do one training step, then ask the growth program."""
        with self._precision():
            outputs = self.net(x)
        loss = loss_function(self.job.settings.loss, outputs, y)
        self.optimizer.zero_grad()
        loss.backward()
        value = float(loss.detach())
        if not isfinite(value):
            kept = "; the last checkpoint is kept" if saved_steps(self.folder) else ""
            raise DataError(f"the loss of step {self.report.step + 1} is {value}{kept}")
        self.optimizer.step()
        if self.scheduler is not None:
            self.scheduler.step()
        self.report.step += 1
        self.report.loss = value
        self.epoch_loss += value * len(x)
        self.epoch_count += len(x)
        del outputs, loss

        def criterion(outputs: Tensor) -> Tensor:
            return loss_function(self.job.settings.loss, outputs, y)

        for receipt in self.controller.step(x, value, criterion) if self.controller is not None else ():
            self._rewritten(receipt)
        self.watcher.step(self.report)

    def _rewritten(self, receipt: Receipt) -> None:
        row = {
            "event": "rewrite" if receipt.applied else "refused",
            "step": self.report.step,
            "rewrite": receipt.rewrite,
            "verdict": str(receipt.verdict),
            **({"notes": list(receipt.notes)} if receipt.notes else {}),
            **self._size(),
        }
        self._record(row)
        self.watcher.rewrite(receipt, self.report.step)

    def _end_epoch(self) -> None:
        loss, accuracy = self.evaluate()
        self.report.accuracy = accuracy
        row = {
            "event": "epoch",
            "epoch": self.report.step // self.per_epoch,
            "step": self.report.step,
            "train_loss": self.epoch_loss / max(self.epoch_count, 1),
            **scored(loss, accuracy),
            **self._size(),
        }
        self.epoch_loss, self.epoch_count = 0.0, 0
        self._record(row)
        self.save()
        self.watcher.epoch(row)

    def _size(self) -> dict[str, Any]:
        total = cost(self.net.graph)
        self.report.widths = widths(self.net.graph, self.axes)
        self.axes |= self.report.widths
        return {"parameters": total.parameters, "macs": total.macs, "widths": dict(self.report.widths)}

    def evaluate(self, batch: int = 1024) -> tuple[float, float | None]:
        """Return the mean loss and, for labels, the accuracy on the test data."""
        inputs, targets = self.data.test
        total, right = 0.0, 0
        self.net.eval()
        with torch.no_grad():
            for i in range(0, len(inputs), batch):
                x, y = self._tensor(inputs[i : i + batch]), self._tensor(targets[i : i + batch])
                with self._precision():
                    outputs = self.net(x)
                total += float(loss_function(self.job.settings.loss, outputs, y)) * len(x)
                right += int((outputs.argmax(-1) == y).sum()) if self.job.settings.loss == "cross_entropy" else 0
        self.net.train()
        accuracy = right / len(inputs) if self.job.settings.loss == "cross_entropy" else None
        return total / len(inputs), accuracy

    # files ----------------------------------------------------------------------------------------------------------

    def _record(self, row: dict[str, Any]) -> None:
        self.history.append(row)
        append_text(self.folder / HISTORY, history_text([row]))

    @property
    def program(self) -> str:
        """The network as it is now, with the sections it is trained by."""
        return f"{self.net.graph}\n{self.job.sections}"

    def save(self) -> Path:
        """Write a checkpoint from which the run goes on bit for bit, and the summary so far."""
        tensors = {"rng": torch.get_rng_state()}
        if self.device.type == "cuda":
            tensors["cuda_rng"] = torch.cuda.get_rng_state(self.device)
        growth: dict[str, Any] | None = None
        if self.controller is not None:
            growth, recorded = self.controller.state()
            tensors |= {f"grow/{k}": v for k, v in recorded.items()}
        extra = {
            "step": self.report.step,
            "epoch_loss": self.epoch_loss,
            "epoch_count": self.epoch_count,
            "accuracy": self.report.accuracy,
            "history": len(self.history),
            "growth": growth,
            "data": data_read(self.data),
            "program": f"{self.job.graph}\n{self.job.sections}",
            "options": {"device": str(self.device), "compile": self.compile, "save_every": self.save_every},
        }
        place = self.folder / CHECKPOINTS / f"step-{self.report.step:08d}"
        if place.exists() and not (place / checkpoint.MANIFEST).exists():
            shutil.rmtree(place)  # the rest of a damaged one, from which nothing can be read
        checkpoint.save(self.net, place, extra, tensors)
        for old in saved_steps(self.folder)[:-KEPT]:
            shutil.rmtree(old, ignore_errors=True)
        self._write_summary(False, (self.folder / "history.png").exists())
        return place

    def _write_results(self, finished: bool) -> dict[str, Any]:
        """Write the grown program, the picture and the summary."""
        from irgrow.training.picture import draw_history

        write_text(self.folder / PROGRAM, self.program)
        self.written = digest_of_text(self.program)
        with named(self.folder / "history.png"):
            drawn = draw_history(self.history, self.folder / "history.png")
        return self._write_summary(finished, drawn)

    def _write_summary(self, finished: bool, drawn: bool) -> dict[str, Any]:
        sitting = time.perf_counter() - self.started if self.report.step > self.begun_at else 0.0
        summary = summarised(
            self.job.graph,
            self.net.graph,
            self.history,
            self.axes,
            data=str(self.job.settings.data),
            finished=finished,
            steps=self.report.step,
            seconds=round(self.seconds_before + sitting, 3),
            picture="history.png" if drawn else None,
            program=self.written,
        )
        write_text(self.folder / SUMMARY, json.dumps(summary, indent=1, allow_nan=False) + "\n")
        return summary

    @classmethod
    def resume(cls, folder: str | Path, watcher: Watcher | None = None, device: str | None = None) -> Run:
        """Take a run up again from its latest complete checkpoint.

        Raises:
            CheckpointError: There is none, or the run's program was edited.
            DataError: The data is not what the run began with.
        """
        from irgrow.grammar import parse_program

        folder = Path(folder)
        saved, rows = read_run(folder)
        extra = saved.run["extra"]
        program, options = parse_program(extra["program"], f"{folder}: its program"), extra["options"]
        job = Job(program.graph(), program.training, program.growth)
        try:
            run = cls(job, folder, device or options["device"], options["compile"], watcher, options["save_every"])
        except DataError as error:
            why = "a resumed run takes its data from where it was: put what it began with there"
            raise DataError(f"{error}; {why}") from None
        check_data(folder, str(run.job.settings.data), extra.get("data"), run.data)
        run._adopt(checkpoint.network(saved, run.device))
        take_up(run, saved, rows)
        return run


def checked_device(name: str) -> torch.device:
    """Return a device that is there.

    Raises:
        OptionError: It is unknown or not available.
    """
    try:
        device = torch.device(name)
    except RuntimeError:
        device = torch.device("meta")
    if device.type not in ("cpu", "cuda"):
        raise OptionError(f"unknown device `{name}`; use cpu or cuda")
    if device.type == "cuda" and not torch.cuda.is_available():
        raise OptionError("the device cuda was asked for and none is available; use --device cpu")
    return device
