"""One party of a data-parallel training: its share of every batch, its network, and what it does step by step."""

import torch
from live import MLP

from irgrow.growth import EverySteps, GrowthProgram, Limit, Plateau, Rule, Steps, Where
from irgrow.growth.controller import Controller
from irgrow.growth.parallel import DataParallel, ParallelController
from irgrow.network import build
from irgrow.passes import (
    EffectiveDimension,
    Fisher,
    GradientRank,
    GradMax,
    GrowFirefly,
    GrowUnits,
    InsertLayer,
    Magnitude,
    Nest,
    NorthSelect,
    PruneGlobally,
    PruneUnits,
    Random,
    Redundancy,
    RewireEdges,
    Schedule,
    Taylor,
    Variance,
)

TANH = MLP.replace("relu", "tanh")
PLAIN = """
net plain(x: [2, 6, 6]) {
  return x |> a: conv(5, kernel = 3, padding = 1) |> tanh |> b: conv(4, kernel = 3, padding = 1) |> tanh
    |> flatten |> head: dense(3)
}
"""
MASKED = MLP.replace("a: dense(8)", "a: dense(8, masked = true)")
WIDE = "net wide(x: [6]) { return x |> c1: dense(20) |> bn: batchnorm |> relu |> head: dense(3) }"
LATE = 8  # samples in a process's share


def rule(name, apply, at, site="a", units=2, require="exact", **options):
    when = Schedule(units)
    return Rule(name, apply, when, Steps(at), where=Where((site,)), require=require, **options)


PROGRAMS = {
    "random": (rule("one", GrowUnits(init=Random()), (10, 20)), rule("two", GrowUnits(init=Random()), (20,), "b")),
    "north_select": (
        rule("one", GrowUnits(init=NorthSelect()), (10, 20)),
        rule("two", GrowUnits(init=NorthSelect(score="rank", candidates=20)), (20,), "b"),
    ),
    "pruning": (
        rule("one", GrowUnits(init=NorthSelect()), (10,)),
        rule("less", PruneUnits(by=Magnitude()), (20,), "b", require="any"),
    ),
    "deeper": (
        Rule("deep", InsertLayer(), Schedule(1), Steps((10,)), where=Where(("b",)), require="any"),
        rule("one", GrowUnits(init=NorthSelect()), (20,)),
    ),
    "gradients": (
        Rule("rewire", RewireEdges(prune="magnitude", grow="gradient"), Schedule(1), Steps((10, 20)), require="any"),
    ),
    "gradmax": (rule("one", GrowUnits(init=GradMax()), (10, 20), require="any"),),
    "nest": (rule("one", GrowUnits(init=Nest(candidates=4)), (10, 20), require="any"),),
    "firefly": (
        rule("one", GrowFirefly(candidates=8, by="both"), (10,), require="any"),
        rule("two", GrowUnits(init=Nest()), (20,), require="any"),
    ),
    "bridged": (
        Rule(
            "auxiliary",
            GrowUnits(init=GradMax()),
            GradientRank(0.1),
            EverySteps(10),
            limit=(Limit("width", 12),),
            require="any",
        ),
    ),
    "watched": (
        Rule(
            "north",
            GrowUnits(init=NorthSelect()),
            EffectiveDimension(gamma=0.9, baseline="maximum"),
            EverySteps(10),
            limit=(Limit("width", 12),),
        ),
    ),
    "last": (
        Rule(
            "north",
            GrowUnits(init=Random()),
            EffectiveDimension(gamma=0.9, baseline="last"),
            EverySteps(10),
            limit=(Limit("width", 12),),
        ),
    ),
    "recorded": (
        rule("fisher", PruneUnits(by=Fisher()), (4,), "a", 1, "any"),
        rule("variance", PruneUnits(by=Variance()), (8,), "b", 1, "any"),
        rule("taylor", PruneUnits(by=Taylor()), (12,), "a", 1, "any"),
        rule("alike", PruneUnits(by=Redundancy("norm")), (24,), "a", 1, "any"),
        Rule("everywhere", PruneGlobally(by=Taylor("samples")), Schedule(2), Steps((30,)), require="any"),
    ),
    "plateau": (Rule("stuck", GrowUnits(init=Random()), Schedule(1), Plateau(1, 0.9, 5), where=Where(("a",))),),
}


def share(rank, i, shape=(6,)):
    """The part of step i's batch that a process trains on."""
    seed = torch.Generator().manual_seed(1000 * i + rank)
    return torch.randn(LATE, *shape, generator=seed, dtype=torch.float64)


def square(outputs, x):
    return (outputs - x.flatten(1)[:, :3].sin()).square().mean()


class Training:
    """One process's training, or the whole one if it has no rank."""

    def __init__(self, program, rank=None, size=2, text=MLP, seed=1, optimizer=torch.optim.Adam, **options):
        self.rank, self.size = rank, size
        self.net = build(text, seed=seed, dtype=torch.float64)
        if text == MASKED:
            with torch.no_grad():
                self.net.params["a.mask"].copy_(torch.arange(48).reshape(8, 6) % 2)
                self.net.params["a.weight"].mul_(self.net.params["a.mask"])
        self.optimizer = optimizer(self.net.parameters(), lr=1e-2)
        self.scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(self.optimizer, 40)
        self.net.track(self.optimizer, self.scheduler)
        rules = GrowthProgram(PROGRAMS[program] if isinstance(program, str) else program)
        if rank is None:
            self.model, self.controller = self.net, Controller(self.net, rules)
        else:
            self.model, self.controller = DataParallel(self.net), ParallelController(self.net, rules, **options)
        self.done, self.receipts = 0, []

    def batch(self, i):
        shape = self.net.graph.shape(self.net.graph.inputs[0])
        if self.rank is not None:
            return share(self.rank, i, shape)
        return torch.cat([share(r, i, shape) for r in range(self.size)])

    def step(self):
        x = self.batch(self.done)
        loss = square(self.model(x), x)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        self.scheduler.step()
        self.done += 1
        self.receipts += self.controller.step(x, loss, lambda outputs: square(outputs, x))

    def run(self, steps=40):
        for _ in range(steps):
            self.step()
        return self

    def found(self):
        state = {
            f"{n}/{k}": v for n, p in self.net.named_parameters() for k, v in self.optimizer.state.get(p, {}).items()
        }
        return {
            "program": str(self.net.graph),
            "params": {n: t.detach().clone() for n, t in self.net.params.items()},
            "slots": {k: v.detach().clone() for k, v in state.items()},
            "rates": [g["lr"] for g in self.optimizer.param_groups],
            "journal": str(self.net.journal),
            "used": [e.used for e in self.net.journal],
            "receipts": [f"{r.rewrite} {r.verdict} {r.sites}" for r in self.receipts],
            "parameters": [r.parameters for r in self.receipts],
        }
