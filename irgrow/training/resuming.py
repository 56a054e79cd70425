"""Taking a run up again: from its checkpoint, with the data and the program it began with."""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from irgrow import checkpoint
from irgrow.errors import CheckpointError, DataError
from irgrow.training.data import Dataset
from irgrow.training.folder import HISTORY, PROGRAM, history_rows, history_text, latest, read_summary, write_text
from irgrow.training.summary import widths

if TYPE_CHECKING:
    from irgrow.training.loop import Run

_EXTRA = {"step", "epoch_loss", "epoch_count", "accuracy", "history", "growth", "program", "options"}


def read_run(folder: Path) -> tuple[checkpoint.Saved, list[dict[str, Any]]]:
    """Read the latest checkpoint of a run and its history up to it.

    Raises:
        CheckpointError: There is none, or it is not of a run.
    """
    saved = latest(folder)
    extra = saved.run["extra"]
    if not extra.keys() >= _EXTRA:
        raise CheckpointError(f"{folder}: its latest checkpoint is not of a run")
    return saved, history_rows(folder / HISTORY, extra["history"])


def data_read(data: Dataset) -> dict[str, Any]:
    """Return what tells data from other data: how many samples there are, and the SHA-256 of what was read."""
    return {"train": len(data.train[0]), "test": len(data.test[0]), "sha256": data.digest}


def check_data(folder: Path, source: str, kept: dict[str, Any] | None, data: Dataset) -> None:
    """Refuse other data than a run began with; checkpoints of older versions do not say, and pass.

    Args:
        folder: The folder of the run.
        source: What its data is called.
        kept: What its checkpoint says of the data.
        data: What was read now.

    Raises:
        DataError: It is other data.
    """
    found = data_read(data)
    if kept is None or kept == found:
        return
    then, now = (f"{d['train']} training and {d['test']} test samples" for d in (kept, found))
    change = f"{then} then, {now} now" if then != now else f"{then} as before, with other values"
    raise DataError(
        f"{folder}: {source} is not the data the run began with: {change}; put that back, or begin a new run"
    )


def digest_of_text(text: str) -> str:
    """Return the SHA-256 of a text as it is written to a file."""
    return sha256(text.encode()).hexdigest()


def _check_program(folder: Path, summary: dict[str, Any], text: str) -> None:
    """Refuse a program that is neither what the run last wrote nor what it would write now.

    Summaries of older versions do not say what was written, and pass.
    """
    path = folder / PROGRAM
    if "program" not in summary or not path.exists():
        return
    if sha256(path.read_bytes()).hexdigest() not in (summary["program"], digest_of_text(text)):
        raise CheckpointError(
            f"{path} was edited, and a resumed run goes on with the program it began with; to train the edited one, "
            f"move it out of {folder} and begin a new run with it: irgrow train PROGRAM; to go on without it, remove it"
        )


def take_up(run: Run, saved: checkpoint.Saved, rows: list[dict[str, Any]]) -> None:
    """Give a run that has the network of a checkpoint everything else it had then, and cut its history there.

    Raises:
        CheckpointError: Its program was edited, or the checkpoint is of another optimizer.
        OptionError: The history cannot be written.
    """
    extra, summary = saved.run["extra"], read_summary(run.folder)
    checkpoint.restore(run.net, saved)
    _check_program(run.folder, summary, run.program)
    run.written = summary.get("program")
    run.begun_at, run.seconds_before = extra["step"], summary.get("seconds", 0.0)
    run.report.step, run.report.accuracy = extra["step"], extra["accuracy"]
    run.epoch_loss, run.epoch_count = extra["epoch_loss"], extra["epoch_count"]
    run.history = rows
    for row in rows:
        run.axes |= row["widths"]
    run.report.widths = widths(run.net.graph, run.axes)
    write_text(run.folder / HISTORY, history_text(rows))
    if run.controller is not None:
        prefix = "run/grow/"
        recorded = {k[len(prefix) :]: v for k, v in saved.tensors.items() if k.startswith(prefix)}
        run.controller.load(extra["growth"], {k: v.to(run.device) for k, v in recorded.items()})
    torch.set_rng_state(saved.tensors["run/rng"])
    if "run/cuda_rng" in saved.tensors and run.device.type == "cuda":
        torch.cuda.set_rng_state(saved.tensors["run/cuda_rng"], run.device)
