"""`irgrow train`: run the `train` and `grow` sections of a program."""

from __future__ import annotations

import signal
import sys
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Annotated, Any

import typer

from irgrow.cli.common import JsonOption, NetOption, SetOption, print_json, program, values
from irgrow.errors import OptionError
from irgrow.training.watching import Watcher


def train(
    file: Annotated[Path | None, typer.Argument(help="A program with a `train` section.", show_default=False)] = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="The run's folder; runs/NAME-N unless given.")] = None,
    resume: Annotated[Path | None, typer.Option("--resume", help="A run's folder to go on with.")] = None,
    device: Annotated[str | None, typer.Option("--device", help="cpu or cuda.")] = None,
    precision: Annotated[str | None, typer.Option("--precision", help="float32, float64 or bf16.")] = None,
    compile: Annotated[bool, typer.Option("--compile", help="Compile every lowered module.")] = False,
    epochs: Annotated[int | None, typer.Option("--epochs", min=1, help="Instead of the program's.")] = None,
    seed: Annotated[int | None, typer.Option("--seed", min=0, help="Instead of the program's.")] = None,
    save_every: Annotated[int | None, typer.Option("--save-every", min=0, help="Save after so many steps too.")] = None,
    net: NetOption = None,
    set_: SetOption = None,
    json: JsonOption = False,
) -> None:
    """Train and grow a network; write the grown program, checkpoints, history, a picture and a summary.

    A relative path of data is taken from the folder of the program. Ctrl-C saves and stops; `--resume FOLDER` goes on,
    bit for bit.
    """
    from irgrow.training.folder import check_free
    from irgrow.training.loop import Run

    watcher = _Terminal(quiet=json)
    if resume is not None:
        if file is not None:
            raise OptionError("--resume goes on with the run's own program; give no other")
        given = {
            "--out": out,
            "--precision": precision,
            "--compile": compile or None,
            "--save-every": save_every,
            "--epochs": epochs,
            "--seed": seed,
            "--net": net,
            "--set": set_,
        }
        if fixed := [name for name, value in given.items() if value not in (None, [])]:
            raise OptionError(f"--resume goes on as the run began; {', '.join(fixed)} cannot be changed")
        run = Run.resume(resume, watcher, device)
    else:
        if file is None:
            raise OptionError("a program to train is needed, or --resume FOLDER")
        changes = {"epochs": epochs, "seed": seed, "precision": precision}
        job = _job(file, net, set_, {k: v for k, v in changes.items() if v is not None})
        folder = out or _fresh_folder(job.graph.name)
        check_free(folder)
        run = Run(job, folder, device or "cpu", compile, watcher, save_every or 0)
    with watcher.running(run):
        summary = run.run()
    if summary is None:
        typer.echo(f"stopped after {run.report.step} steps; go on with: irgrow train --resume {run.folder}", err=True)
        raise typer.Exit(130)
    if json:
        print_json(summary)
    else:
        typer.echo(_result(summary, run.folder))


def _job(file: Path, net: str | None, set_: list[str] | None, changes: dict[str, Any]) -> Any:
    from irgrow.attributes import attributes
    from irgrow.training.loop import Job

    parsed = program(file)
    if net is not None or len(parsed.nets) == 1:
        parsed.check(net, values(set_))  # all that is wrong with it, in one run
    settings = parsed.training
    if settings is None:
        raise OptionError(f"{file} has no `train` section; add one such as `train {{ data = digits  epochs = 5 }}`")
    for attribute in attributes(type(settings)):
        if attribute.name in changes and (problem := attribute.problem(changes[attribute.name])):
            raise OptionError(problem)
    graph = parsed.graph(net, values(set_))
    settings = replace(settings, **changes, data=settings.data.beside(file.parent))
    return Job(graph, settings, parsed.growth_on(graph))


def _fresh_folder(name: str) -> Path:
    number = 1
    while (Path("runs") / f"{name}-{number}").exists():
        number += 1
    return Path("runs") / f"{name}-{number}"


def _result(summary: dict[str, Any], folder: Path) -> str:
    counts = summary["parameters"]
    lines = [f"{summary['network']}: {_scored(summary)}, {counts['before']:,} -> {counts['after']:,} parameters"]
    before, after, gone = (summary["widths"][when] for when in ("before", "after", "gone"))
    changed = [f"{n} {before.get(n, 0)} -> {after.get(n, 0)}" for n in before | after if before.get(n) != after.get(n)]
    changed += [f"{n} {width} -> 0" for n, width in gone.items() if n not in before]
    if changed:
        lines.append("widths: " + ", ".join(changed[:12]) + (" ..." if len(changed) > 12 else ""))
    if warnings := summary["warnings"]:
        lines.append(f"warning: {warnings[0]}" + (f" (and {len(warnings) - 1} more)" if len(warnings) > 1 else ""))
    lines.append(f"{summary['steps']} steps, {summary['rewrites']} rewrites, {summary['seconds']:.1f} s, in {folder}")
    return "\n".join(lines)


def _scored(row: dict[str, Any]) -> str:
    """Write what was measured on the test data, the accuracy if there is one."""
    accuracy, loss = row["test_accuracy"], row["test_loss"]
    if accuracy is not None:
        return f"test accuracy {accuracy:.2%}"
    return "test loss not finite" if loss is None else f"test loss {loss:.6g}"


class _Terminal(Watcher):
    """Shows a run on the terminal, and turns the first Ctrl-C into a request to save and stop."""

    def __init__(self, quiet: bool) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        self.console = Console(stderr=True, quiet=quiet, highlight=False)
        columns = (BarColumn(None), MofNCompleteColumn(), TextColumn("{task.description}"), TimeRemainingColumn())
        live = sys.stderr.isatty() and not quiet
        self.progress = Progress(*columns, console=self.console, transient=True, disable=not live)
        self.task = self.progress.add_task("starting", total=None)
        self._stop = False

    def running(self, run: Any) -> _Running:
        """Show a run while it goes."""
        self.progress.update(self.task, total=run.report.steps, completed=run.report.step)
        return _Running(self)

    def interrupt(self, number: int, frame: FrameType | None) -> None:
        """Ask the run to stop; the second time, stop at once."""
        if self._stop:
            raise KeyboardInterrupt
        self._stop = True
        self._line("saving after this step; Ctrl-C again stops at once")

    def stopping(self) -> bool:
        """Return whether Ctrl-C was pressed."""
        return self._stop

    def step(self, report: Any) -> None:
        """Move the bar."""
        if self.progress.disable:
            return
        sizes = " ".join(f"{name}:{size}" for name, size in list(report.widths.items())[:6])
        accuracy = "" if report.accuracy is None else f" acc {report.accuracy:.1%}"
        self.progress.update(self.task, completed=report.step, description=f"loss {report.loss:.4f}{accuracy} {sizes}")

    def rewrite(self, receipt: Any, step: int) -> None:
        """Print one line for a rewrite, and one for each of its notes."""
        self._line(f"step {step}: {receipt.rewrite}: {receipt.verdict}")
        for note in receipt.notes:
            self._line(f"  note: {note}")

    def epoch(self, row: dict[str, Any]) -> None:
        """Print one line for an epoch, and one for what is wrong with it."""
        loss = f"loss {row['train_loss']:.4f}"
        self._line(f"epoch {row['epoch']}: {loss}, {_scored(row)}, {row['parameters']:,} parameters")
        if "warning" in row:
            self._line(f"warning: {row['warning']}")

    def _line(self, text: str) -> None:
        """Print a line as it is, however long."""
        self.console.print(text, markup=False, soft_wrap=True)


class _Running:
    """The time a run is shown: the bar is up and Ctrl-C is ours."""

    def __init__(self, terminal: _Terminal) -> None:
        self.terminal = terminal

    def __enter__(self) -> None:
        self.before = signal.signal(signal.SIGINT, self.terminal.interrupt)
        self.terminal.progress.start()

    def __exit__(self, *error: object) -> None:
        self.terminal.progress.stop()
        signal.signal(signal.SIGINT, self.before)
