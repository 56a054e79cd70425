"""A small program to train, and what its runs leave behind."""

import json

NET = "net spiral(x: [2], w = 4) { return x |> h1: dense(w) |> tanh |> h2: dense(3) |> tanh |> head: dense(2) }\n"
GROW = """
grow {
  rule more {
    every = 4
    when = schedule
    apply = grow_units
    where = hidden
    limit = width <= 6
  }
}
"""
TRAIN = "train { data = spirals(points = 40)  epochs = 2  batch = 16  seed = 1 }\n"
KEYS = {
    "network",
    "data",
    "finished",
    "steps",
    "rewrites",
    "test_loss",
    "test_accuracy",
    "parameters",
    "macs",
    "widths",
    "seconds",
    "picture",
    "program",
    "warnings",
}


def last(run):
    return sorted((run / "checkpoints").iterdir())[-1]


def weights(run):
    return (last(run) / "model.safetensors").read_bytes()


def history(run):
    return [json.loads(line) for line in (run / "history.jsonl").read_text().splitlines()]


def summary(run):
    found = json.loads((run / "summary.json").read_text())
    found.pop("seconds")
    return found
