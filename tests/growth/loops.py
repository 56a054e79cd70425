"""A plain training loop, and triggers that watch, for the tests of the growth loop."""

import copy
import json
from dataclasses import dataclass, field

import torch
from live import MLP

from irgrow.growth import (
    GrowthProgram,
    NorthRandomBundle,
    NorthSelectBundle,
    Rule,
)
from irgrow.growth.controller import Controller
from irgrow.journal import Journal
from irgrow.network import build
from irgrow.passes import GrowUnits, Schedule, Trigger
from irgrow.passes.records.activity import Activity

NORMED = "net normed(x: [6]) { return x |> a: dense(8) |> layernorm |> relu |> head: dense(3) }"
SHARED = "net shared(x: [6]) { return x |> a: dense(8) |> relu |> residual { b: dense(8) |> relu } |> head: dense(3) }"
NORTH = {"select": NorthSelectBundle, "random": NorthRandomBundle}


def rule(name="r", apply=None, when=None, **options):
    return Rule(name, apply or GrowUnits(), when or Schedule(), **options)


def only(*rules):
    return GrowthProgram(rules)


class Training:
    """A network, its optimizer, its controller and the numbers of the next step."""

    def __init__(self, program, text=MLP, seed=1, dtype=torch.float64, steps_per_epoch=None, size=8):
        self.net = build(text, seed=seed, dtype=dtype)
        self.optimizer = torch.optim.Adam(self.net.parameters(), lr=1e-2)
        self.net.track(self.optimizer)
        self.controller = Controller(self.net, program, steps_per_epoch)
        self.dtype, self.size = dtype, size
        self.done, self.receipts, self.losses = 0, [], []

    def batch(self, i):
        shape = self.net.graph.shape(self.net.graph.inputs[0])
        return torch.randn(self.size, *shape, generator=torch.Generator().manual_seed(i), dtype=self.dtype)

    def step(self):
        x = self.batch(self.done)
        loss = (self.net(x) - x.flatten(1)[:, :3].sin()).square().mean()
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        self.done += 1
        self.losses.append(loss.item())
        found = self.controller.step(x, self.losses[-1])
        self.receipts += found
        return found

    def run(self, steps):
        for _ in range(steps):
            self.step()
        return self

    def rebuilt(self, state, tensors):
        """Return the same training, taken up again from texts and tensors only."""
        other = copy.copy(self)
        other.net = build(str(self.net.graph), seed=self.net.seed, dtype=self.dtype)
        other.net.load_state_dict(self.net.state_dict())
        other.net.journal = Journal.from_json(json.loads(json.dumps(self.net.journal.to_json())))
        other.optimizer = torch.optim.Adam(other.net.parameters(), lr=9.0)
        other.optimizer.load_state_dict(copy.deepcopy(self.optimizer.state_dict()))
        other.net.track(other.optimizer)
        other.controller = Controller(other.net, self.controller.program, self.controller.steps_per_epoch)
        other.controller.load(state, tensors)
        other.receipts, other.losses = [], []
        return other

    @property
    def widths(self):
        return {name: self.net.graph.widths[name] for name in ("a", "b", "stem", "c1") if name in self.net.graph.widths}

    @property
    def rewrites(self):
        return [(r.rewrite, r.verdict) for r in self.receipts]


def hooks(net):
    return sum(len(leaf._forward_hooks) for leaf in net.module.meta["leaves"].values())


def same_state(one, two):
    a, b = one.state_dict(), two.state_dict()
    return a.keys() == b.keys() and all(a[n].shape == b[n].shape and torch.equal(a[n], b[n]) for n in a)


@dataclass(frozen=True)
class Spy(Trigger):
    """Notes what it is shown and wants nothing, or one unit."""

    seen: list[object] = field(default_factory=list, hash=False, compare=False)
    units: int = 0
    watched: tuple[object, ...] = ()

    def watches(self, graph, site):
        return tuple(Activity(n, node) for node, n in self.watched)

    def observe(self, loss, memory):
        memory["losses"] = [*memory.get("losses", ()), loss]

    def wanted(self, view, site, memory):
        self.seen.append((site, view.step, view.loss, dict(view.graph.widths), dict(view.recorded), dict(memory)))
        return self.units
