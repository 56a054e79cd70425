"""What the experiments share: options, runs in folders of their own, stopping and going on, and what is written.

An experiment is a list of cases, each one line of its table; every case is run once for each seed. Finished runs are
kept in `runs/` under the folder of the experiment and skipped the next time, a stopped one goes on from its checkpoint.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from figures import draw_accuracy, draw_widths
from outcomes import Outcome
from tables import write_tables

from irgrow.errors import IrgrowError, OptionError
from irgrow.grammar import parse_program
from irgrow.graph import Graph
from irgrow.growth import GrowthProgram
from irgrow.network import Network, build
from irgrow.training.derived import HeldOut
from irgrow.training.folder import saved_steps
from irgrow.training.loop import Job, Run, checked_device
from irgrow.training.settings import loss_function
from irgrow.training.watching import Watcher

TIMED = 5
DYNAMIC = 1.5
"""How much longer than a static run of the same size one that grows is taken to last, before any is done."""


@dataclass(frozen=True)
class Strategy:
    """How a network changes: the entries of a `grow` section and the compile-time sizes to start from.

    Args:
        grow: What stands between the braces; empty for a static network. `{names}` in braces are filled in.
        start: The name of the sizes to start from.
    """

    grow: str = ""
    start: str = "small"

    def program(self, **values: Any) -> GrowthProgram | None:
        """Return the growth program, with values for the names in braces."""
        return parse_program(f"grow {{ {self.grow.format(**values)} }}").growth if self.grow else None


@dataclass(frozen=True)
class Case:
    """One line of the table.

    Args:
        name: The strategy.
        panel: What it is compared within: a network, a task.
        job: What to run for a seed.
        like: A network whose steps take about as long, for the estimate; that of the job unless given.
        start: The network to go on from; a fresh one unless given.
    """

    name: str
    panel: str
    job: Callable[[int], Job]
    like: Graph | None = None
    start: Callable[[int], Network] | None = None

    def file(self, seed: int) -> str:
        """Return what its run for a seed is called."""
        return re.sub(r"[^\w.]+", "-", f"{self.panel} {self.name} {seed}")


@dataclass(frozen=True)
class Options:
    """What the command line says; see `arguments`."""

    seeds: int
    epochs: int | None
    strategies: tuple[str, ...]
    data: str | None
    device: str
    out: Path
    validate: bool

    def job(self, job: Job, seed: int) -> Job:
        """Return a job as asked for: with a seed, with other epochs, measured on held-out training data."""
        settings = replace(job.settings, seed=seed)
        if self.validate:
            settings = replace(settings, data=HeldOut(settings.data))
        return replace(job, settings=settings)


def arguments(
    about: str,
    out: str,
    strategies: Sequence[str],
    seeds: int,
    argv: Sequence[str] | None,
    data: str = "",
    usual: Sequence[str] = (),
) -> Options:
    """Read the command line.

    Args:
        about: What the experiment is.
        out: The folder it writes to unless told otherwise.
        strategies: All there are.
        seeds: How many seeds are run unless told otherwise.
        argv: The arguments; those of the process unless given.
        data: What `--data` takes; empty if it takes none.
        usual: The strategies that are run unless others are named; all unless given.
    """
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=_positive, default=seeds, help=f"seeds 1 to this; {seeds} unless given")
    parser.add_argument("--epochs", type=_positive, help="epochs of each run")
    known = f"some of {', '.join(strategies)}"
    parser.add_argument(
        "--strategies", nargs="+", help=known, default=list(usual or strategies), choices=strategies, metavar="NAME"
    )
    parser.add_argument("--data", help=data or argparse.SUPPRESS)
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--out", type=Path, default=Path(out), help=f"where to write; {out} unless given")
    parser.add_argument("--validate", action="store_true", help="measure on a quarter of the training data instead")
    given = parser.parse_args(argv)
    if given.data and not data:
        parser.error("this experiment generates its data; it takes no --data")
    return Options(
        given.seeds, given.epochs, tuple(given.strategies), given.data, given.device, given.out, given.validate
    )


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"takes a number from 1 on, found {text}")
    return int(text)


class Stopper(Watcher):
    """Stops a run, saved, after the step at which the first Ctrl-C came; a second one interrupts at once."""

    def __init__(self) -> None:
        self.asked = False

    def stopping(self) -> bool:
        """Return whether Ctrl-C came."""
        return self.asked

    @contextmanager
    def listening(self) -> Iterator[Stopper]:
        """Take the first Ctrl-C as the wish to stop."""

        def ask(number: int, frame: Any) -> None:
            self.asked = True
            signal.signal(signal.SIGINT, before)

        before = signal.signal(signal.SIGINT, ask)
        try:
            yield self
        finally:
            signal.signal(signal.SIGINT, before)


# runs ----------------------------------------------------------------------------------------------------------------


def conduct(
    title: str,
    cases: Callable[[Options], list[Case]],
    options: Options,
    reference: str = "",
    finish: Callable[[list[Outcome], Path], None] | None = None,
) -> list[Outcome]:
    """Run every case for every seed, write tables and pictures, and return what came out.

    Ends the process with status 2 if something is wrong with the options, with 130 if it was stopped.

    Args:
        title: What it is called.
        cases: Makes the cases.
        options: The command line.
        reference: The case others are compared with, within their panel.
        finish: Draws or writes what only this experiment has.
    """
    try:
        checked_device(options.device)
        outcomes, stopped = _carried_out(title, cases(options), options)
    except IrgrowError as error:
        sys.exit(f"error: {error}")
    if options.validate:
        title += ", on held-out training data"
    if outcomes:
        write_tables(title, outcomes, options.out, reference)
        draw_accuracy(title, outcomes, options.out / "accuracy.png")
        draw_widths(title, outcomes, options.out / "widths.png")
        if finish is not None:
            finish(outcomes, options.out)
        print(f"\n{(options.out / 'results.md').read_text()}\nwritten to {options.out}")
    if stopped:
        print("stopped; the same command goes on where this one was")
        sys.exit(130)
    return outcomes


def _carried_out(title: str, cases: list[Case], options: Options) -> tuple[list[Outcome], bool]:
    folder = options.out / "runs"
    folder.mkdir(parents=True, exist_ok=True)
    plan = [(case, seed) for seed in range(1, options.seeds + 1) for case in cases]
    left = [(case, seed) for case, seed in plan if Outcome.read(folder / case.file(seed)) is None]
    guess = _guess(left, options.device)
    print(f"{title}: {len(plan)} runs, {len(plan) - len(left)} of them done before; about {_spoken(sum(guess))} to go")
    outcomes: list[Outcome] = []
    begun, done = time.perf_counter(), 0.0
    with Stopper().listening() as stopper:
        for case, seed in plan:
            before = (case, seed) not in left
            outcome = _run(case, seed, folder, options.device, stopper)
            if outcome is None:
                return outcomes, True
            outcomes.append(outcome)
            if before:
                continue
            done += guess[left.index((case, seed))]
            rest = (time.perf_counter() - begun) / done * (sum(guess) - done) if done else 0.0
            print(f"[{len(outcomes)}/{len(plan)}] {outcome.line}; about {_spoken(rest)} left", flush=True)
            if stopper.asked:
                return outcomes, True
    return outcomes, False


def _run(case: Case, seed: int, folder: Path, device: str, stopper: Stopper) -> Outcome | None:
    """Run one case to its end, from where it was; `None` if it was stopped."""
    place = folder / case.file(seed)
    job = case.job(seed)
    text = f"{job.graph}\n{job.sections}"
    note = place.with_name(f"{place.name}.json")
    known: dict[str, Any] = json.loads(note.read_text()) if note.exists() else {"program": text, "seconds": 0.0}
    if known["program"] != text:
        raise OptionError(f"{place} was made with other settings; use another --out, or remove it")
    if (found := Outcome.read(place)) is not None:
        return found
    note.write_text(json.dumps(known))
    if saved_steps(place):
        run = Run.resume(place, stopper, device)
    else:
        shutil.rmtree(place, ignore_errors=True)
        run = Run(job, place, device, watcher=stopper, net=None if case.start is None else case.start(seed))
    begun = time.perf_counter()
    summary = run.run()
    known["seconds"] += time.perf_counter() - begun
    note.write_text(json.dumps(known))
    if summary is None:
        return None
    Outcome(case.panel, case.name, seed, known["seconds"], summary, run.history).write(place)
    return Outcome.read(place)


# time ----------------------------------------------------------------------------------------------------------------


def _guess(runs: list[tuple[Case, int]], device: str) -> list[float]:
    """Return about how many seconds each run takes: its steps, times what a few steps of its network take here."""
    steps: dict[str, int] = {}
    step: dict[Graph, float] = {}
    found = []
    for case, seed in runs:
        job = case.job(seed)
        settings = job.settings
        if (name := f"{settings.data} {settings.batch}") not in steps:
            steps[name] = -(-len(settings.data.load(seed).train[0]) // settings.batch)
        like = case.like or job.graph
        if like not in step:
            step[like] = _step_seconds(like, job, device)
        found.append(settings.epochs * steps[name] * step[like] * (DYNAMIC if job.growth else 1.0))
    return found


def _step_seconds(graph: Graph, job: Job, device: str) -> float:
    """Return how long a training step takes on random inputs; the fastest of a few, the first not counted."""
    settings = job.settings
    net = build(graph, 0, device=device)
    optimizer = settings.optimizer.make(net.parameters())
    x = torch.rand(settings.batch, *graph.shape(graph.inputs[0]), device=device)
    y = torch.zeros(settings.batch, dtype=torch.int64, device=device)
    times = []
    for _ in range(TIMED):
        begun = time.perf_counter()
        optimizer.zero_grad()
        loss_function(settings.loss, net(x), y).backward()
        optimizer.step()
        if x.is_cuda:
            torch.cuda.synchronize()
        times.append(time.perf_counter() - begun)
    return min(times[1:])


def _spoken(seconds: float) -> str:
    """Return a time as people say it.

    >>> _spoken(12.3), _spoken(200.0), _spoken(9000.0)
    ('12 seconds', '3 minutes', '2.5 hours')
    """
    if seconds < 100:
        return f"{seconds:.0f} seconds"
    return f"{seconds / 60:.0f} minutes" if seconds < 6000 else f"{seconds / 3600:.1f} hours"
