"""Activity of a given rank, and asking a trigger about one after the other, for the tests of DYNO's triggers."""

import json

import numpy as np
import torch

from irgrow.grammar import parse
from irgrow.passes import View
from irgrow.passes.analyses.spectrum import Gram


def view(rank, width=8, samples=300):
    rng = np.random.default_rng(rank)
    q, _ = np.linalg.qr(rng.normal(size=(samples, max(rank, 1))))
    basis, _ = np.linalg.qr(rng.normal(size=(width, max(rank, 1))))
    gram = Gram(0, window=samples)
    gram.add(torch.as_tensor((rank > 0) * np.sqrt(samples) * q @ basis.T))
    graph = parse(f"net n(x: [9]) {{ return x |> h: dense({width}) |> r: relu |> dense(3) }}")
    return View(graph, recorded={"r": gram})


def run(trigger, ranks, width=8, memory=None):
    memory = {} if memory is None else memory
    found = [trigger.wanted(view(r, width), "h", memory) for r in ranks]
    assert json.loads(json.dumps(memory)) == memory
    return found
