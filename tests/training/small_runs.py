"""Small runs, and what they leave behind, for the tests of the training loop."""

import json
import shutil
from pathlib import Path

from irgrow.grammar import parse_program
from irgrow.training.folder import saved_steps
from irgrow.training.loop import Job, Run
from irgrow.training.watching import Watcher

NET = "net n(x: [2]) { return x |> h: dense(3) |> tanh |> k: dense(3) |> tanh |> dense(2) }"
NOISY = """net n(x: [2]) {
  return x |> h: dense(4) |> batchnorm |> relu |> dropout(p = 0.3) |> k: dense(3) |> relu |> dropout |> dense(2)
}"""
STEADY = "grow { rule steady { every = 4  when = schedule(1)  apply = grow_units  where = h } }"
NORTH = """grow {
  rule north {
    every = 2
    when = effective_dimension(gamma = 0.7, epsilon = 1e-3, samples = 16)
    apply = grow_units(init = north_select(candidates = 20))
    limit = width <= 9
  }
}"""
DEEPER = """grow {
  rule deeper { every = steps([4])  when = schedule  apply = insert_layer(form = residual)  where = k }
  rule wider { every = epochs  when = schedule(2, total = 4)  apply = grow_units  where = h }
}"""
STALLED = """grow {
  rule stalled { every = 1  when = plateau(patience = 1, threshold = 0.2, units = 1)  apply = grow_units }
}"""
DATA = "data = spirals(24, noise = 0.1)  batch = 8  epochs = 3"  # 36 samples to train on: 5 steps an epoch, 15 in all


def job(net=NET, growth=STEADY, options=""):
    program = parse_program(f"{net}\n{growth}\ntrain {{ {DATA if 'data =' not in options else ''} {options} }}")
    return Job(program.graph(), program.training, program.growth)


class Stop(Watcher):
    """Asks to stop after a step."""

    def __init__(self, after):
        self.after, self.done = after, 0

    def step(self, report):
        self.done = report.step

    def stopping(self):
        return self.done == self.after


class Act(Watcher):
    """Calls a function after every step."""

    def __init__(self, act):
        self.act, self.run = act, None

    def step(self, report):
        self.act(self.run, report)


def trained(folder, *args, save_every=0, watcher=None, **options):
    run = Run(job(*args, **options), folder, save_every=save_every, watcher=watcher)
    if isinstance(watcher, Act):
        watcher.run = run
    return run, run.run()


def history(folder):
    return [json.loads(line) for line in (Path(folder) / "history.jsonl").read_text().splitlines()]


def events(folder, kind):
    return [row for row in history(folder) if row["event"] == kind]


def files(folder):
    """Return the bytes of what a run leaves behind: no times, and of its checkpoints the latest."""
    places = [p for p in Path(folder).iterdir() if p.is_file()] + list(saved_steps(Path(folder))[-1].iterdir())
    found = {str(p.relative_to(folder)): p.read_bytes() for p in places}
    summary = json.loads(found.pop("summary.json"))
    summary.pop("seconds")
    return {**found, "summary.json": summary}


def differing(a, b):
    """Return the names of files that two runs left behind and that are not the same."""
    a, b = files(a), files(b)
    return sorted(n for n in a.keys() | b.keys() if a.get(n) != b.get(n))


VARIANTS = {
    "adam": (NET, STEADY, ""),
    "static": (NET, "", "optimizer = sgd(momentum = 0.9, nesterov = true)"),
    "north": (NET, NORTH, "optimizer = adam(lr = 0.01)  carry = zero"),
    "noisy": (NOISY, STEADY, "optimizer = adamw(lr = 0.01)  schedule = cosine(floor = 0.1)"),
    "sgd": (NOISY, STEADY, "optimizer = sgd(momentum = 0.9, weight_decay = 1e-3)  schedule = step_decay(4, 0.5)"),
    "deeper": (NET, DEEPER, "optimizer = adamw(lr = 0.02)  schedule = cosine"),
    "fresh": (NET, STEADY, "optimizer = rmsprop(momentum = 0.5)  carry = fresh  init = xavier_uniform"),
    "stalled": (NET, STALLED, "optimizer = adam(lr = 0.05)  precision = float64"),
    "bf16": (NOISY, STEADY, "precision = bf16"),
}


class Keep(Watcher):
    """Saves after every step, where a stop would, and keeps a copy of the run's folder as it is then."""

    def __init__(self, store):
        self.store, self.run = store, None

    def stopping(self):
        self.run.save()
        shutil.copytree(self.run.folder, self.store / str(self.run.report.step))
        return False
