"""What the processes of a data-parallel test do; `alone` does the same on the joined batch in one process."""

import copy
import time
from dataclasses import dataclass
from typing import ClassVar

import torch
from live import CNN, MLP

from irgrow.errors import DataError, OptionError
from irgrow.growth import EverySteps, GrowthProgram, Limit, Plateau, Rule, Steps, Where
from irgrow.growth.controller import Controller
from irgrow.growth.parallel import DataParallel, ParallelController, ParallelError
from irgrow.network import build
from irgrow.passes import (
    Apoz,
    Context,
    Dormancy,
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
    Trigger,
    Variance,
)
from irgrow.passes.saliency.base import known, scored

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


def scenario(name, text=MLP, **options):
    def call(rank, size, place):
        return Training(name, rank, size, text, **options).run().found()

    return call


random = scenario("random")
north_select = scenario("north_select")
pruning = scenario("pruning")
recorded = scenario("recorded")
deeper = scenario("deeper")
gradients = scenario("gradients", MASKED)
gradmax = scenario("gradmax", TANH)
nest = scenario("nest", PLAIN)
firefly = scenario("firefly", TANH)
bridged = scenario("bridged", TANH)
watched = scenario("watched")
last = scenario("last")
plateau = scenario("plateau")


def normed(rank, size, place, text):
    """Batch norms in evaluation mode, so that shares and the whole batch are normalised alike."""
    rules = (rule("one", GrowUnits(init=NorthSelect()), (4,), "c1"),)
    run = Training(rules, rank if size > 1 else None, 2, text)
    average = torch.optim.swa_utils.AveragedModel(run.net)
    run.net.tracked.clear()
    run.net.track(run.optimizer, average=average)
    run.net.eval()
    if rank == 1:  # statistics of its own, as every process has between two passes
        run.net.params["bn.running_mean"].add_(1)
    run.model.train(False)
    x = [run.batch(i) for i in range(8)]
    for i in range(8):
        with torch.enable_grad():
            loss = square(run.net(x[i]), x[i])
        loss.backward()
        run.optimizer.zero_grad()
        run.receipts += run.controller.step(x[i], loss.item())
        average.update_parameters(run.net)
    averages = {n: t.detach().clone() for n, t in average.module.params.items()}
    return run.found() | {"averages": averages, "notes": [note for r in run.receipts for note in r.notes]}


def convolutions(rank, size, place):
    return normed(rank, size, place, CNN)


def wide(rank, size, place):
    """A layer that takes three batches to look at."""
    return normed(rank, size, place, WIDE)


SALIENCIES = [Fisher(), Taylor("samples"), Taylor("fan_out"), Taylor("fan_in"), Dormancy(), Apoz(), Variance()]
SALIENCIES += [Redundancy("largest"), Redundancy("norm")]


def scores(rank, size, place):
    """What saliencies say by the records of one training step of two passes, summed over the processes."""
    found = {}
    for saliency in SALIENCIES:
        rules = (rule("r", PruneUnits(by=saliency), (1,), "a", 1, "any"),)
        run = Training(rules, rank if size > 1 else None, 2)
        x = torch.cat([run.batch(i) for i in range(3)])
        for part in (x[:3], x[3:]):
            (square(run.model(part), part) * (len(part) / len(x))).backward()
        records = {key: record.reduced() if size > 1 else record for key, record in run.controller.recorded.items()}
        own = known(saliency, run.net.graph, ("a",), run.controller.recorded)
        told = known(saliency, run.net.graph, ("a",), records)
        found[str(saliency)] = torch.from_numpy(scored(told, run.net.graph, "a", Context()))
        found[f"own {saliency}"] = torch.from_numpy(scored(own, run.net.graph, "a", Context()))
    return found


def ungrown(rank, size, place):
    return Training((), rank, size).run().found()


# divergence ----------------------------------------------------------------------------------------------------------


def planted(plant, at=9, steps=12, **options):
    """Train, change something on process 1 only before step 10, and return what every process raised, and when."""

    def call(rank, size, place):
        run = Training("random", rank, size, **options).run(at)
        if rank == 1:
            plant(run)
        before = {n: (id(t), t.detach().clone()) for n, t in run.net.params.items()}
        started = time.monotonic()
        try:
            run.run(steps - at)
        except Exception as error:
            same = all(id(t) == before[n][0] for n, t in run.net.params.items())
            return {
                "error": f"{type(error).__name__}: {error}",
                "seconds": time.monotonic() - started,
                "kept": same and len(run.net.journal) == 0,
                "width": run.net.graph.widths["a"],
            }
        return {"error": "", "seconds": time.monotonic() - started, "kept": False, "width": run.net.graph.widths["a"]}

    return call


def _values(run):
    with torch.no_grad():
        run.net.params["head.weight"][0, 0] += 1e-12


def _rates(run):
    run.optimizer.param_groups[0]["lr"] *= 1 + 1e-9


def _slots(run):
    run.optimizer.state[run.net.params["a.weight"]]["exp_avg"][0, 0] += 1e-12


def _order(run):
    params = run.optimizer.param_groups[0]["params"]
    params[0], params[1] = params[1], params[0]


def _frozen(run):
    run.net.params["head.bias"].requires_grad_(False)


def _width(run):
    run.net.rewrite(GrowUnits("a", 1))


def _count(run):
    run.controller.count += 1


def _pending(run):
    run.held = run.net(run.batch(0))


def _seed(run):
    run.net.seed = 99  # the edit comes with its seed


def _trigger(run):
    """Its own triggers would want something else; they are never asked."""
    run.controller.program = GrowthProgram((rule("other", GrowUnits(init=NorthSelect()), (10,), units=5),))


diverged_values, diverged_rates, diverged_slots = planted(_values), planted(_rates), planted(_slots)
diverged_order, diverged_width, diverged_count = planted(_order), planted(_width), planted(_count)
diverged_frozen, pending = planted(_frozen), planted(_pending)
own_seed, own_trigger, nothing_planted = planted(_seed), planted(_trigger), planted(lambda run: None)


@dataclass(frozen=True)
class Broken(Trigger):
    """Fails on the process that asks it."""

    def wanted(self, view, site, memory):
        raise OptionError(f"nothing can be said about `{site}`")


def trigger_fails(rank, size, place):
    run = Training((Rule("broken", GrowUnits(), Broken(), EverySteps(3), where=Where(("a",))),), rank, size)
    said = []
    for _ in range(7):
        try:
            run.step()
        except OptionError as error:
            said.append([run.done, str(error)])
    return said


def loss_is_not_finite(rank, size, place):
    run = Training("random", rank, size).run(3)
    said = []
    for loss in (float("nan") if rank == 1 else 1.0, 1.0):
        try:
            run.controller.step(run.batch(0), loss)
        except DataError as error:
            said.append(str(error))
    return said


def criterion_fails(rank, size, place):
    run = Training("gradients", rank, size, MASKED).run(9)

    def criterion(outputs):
        if rank == 1:
            raise ValueError("no labels here")
        return outputs.square().mean()

    try:
        run.controller.step(run.batch(0), 1.0, criterion)
    except DataError as error:
        return str(error)
    return ""


def loss_on_one_only(rank, size, place):
    run = Training("random", rank, size).run(3)
    try:
        run.controller.step(run.batch(0), 1.0 if rank else None)
    except ParallelError as error:
        return str(error)
    return ""


def other_programs(rank, size, place):
    try:
        Training("random" if rank else "north_select", rank, size)
    except ParallelError as error:
        return str(error)
    return ""


def one_never_asks(rank, size, place):
    run = Training("random", rank, size, timeout=3.0).run(3)
    if rank == 1:
        time.sleep(8)
        return {"error": "", "seconds": 0.0}
    started = time.monotonic()
    try:
        run.controller.step(run.batch(0), 1.0)
    except ParallelError as error:
        return {"error": str(error), "seconds": time.monotonic() - started}
    return {"error": "", "seconds": 0.0}


def without_the_wrapper(rank, size, place):
    """What `DataParallel` is for: one wrapper kept across a rewrite cannot train any more."""
    net = build(MLP, seed=1, dtype=torch.float64)
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-2)
    net.track(optimizer)
    model = torch.nn.parallel.DistributedDataParallel(net)
    for i in range(6):
        x = share(rank, i)
        try:
            loss = square(model(x), x)
        except RuntimeError as error:
            return str(error)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if i == 2:
            net.rewrite("grow_units(a, 2)", step=i)
    return ""


# state ---------------------------------------------------------------------------------------------------------------


class Resumed(Training):
    """A training taken up again from what another one saved."""

    PROGRAM: ClassVar[str] = "watched"

    def __init__(self, other, state, tensors):
        super().__init__(self.PROGRAM, other.rank, other.size, str(other.net.graph))
        self.net.load_state_dict(other.net.state_dict())
        self.net.journal = other.net.journal.copy()
        self.optimizer.load_state_dict(copy.deepcopy(other.optimizer.state_dict()))
        self.scheduler.load_state_dict(other.scheduler.state_dict())
        self.controller.load(state, tensors)
        self.done = other.done


def saved(rank, size, place):
    run = Training("watched", rank, size).run(15)
    state, tensors = run.controller.state()
    other = Resumed(run, state, tensors).run(25)
    kept = {k: v.clone() for k, v in tensors.items()}
    return {"tensors": kept, "whole": run.run(25).found(), "resumed": other.found()}
