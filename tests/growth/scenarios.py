"""What the processes of a data-parallel test do; `alone` does the same on the joined batch in one process."""

import copy
import time
from dataclasses import dataclass
from typing import ClassVar

import torch
from live import CNN, MLP
from parties import MASKED, PLAIN, TANH, WIDE, Training, rule, share, square

from irgrow.errors import DataError, OptionError
from irgrow.growth import EverySteps, GrowthProgram, Rule, Steps, Where
from irgrow.growth.parallel import ParallelError
from irgrow.network import build
from irgrow.passes import (
    Apoz,
    Context,
    Dormancy,
    Fisher,
    GrowUnits,
    NorthSelect,
    PruneUnits,
    Redundancy,
    Taylor,
    Trigger,
    Variance,
)
from irgrow.passes.saliency.base import Known, Saliency, known, scored


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


@dataclass(frozen=True)
class Sees(Trigger):
    """Keeps what saliencies say by what triggers are shown, on the process that is asked; wants nothing."""

    SEEN: ClassVar[list[torch.Tensor | None]] = []

    by: Saliency = Fisher()

    def wanted(self, view, site, memory):
        self.SEEN.append(said(self.by, view.graph, view.recorded))
        return 0


def said(saliency, graph, records):
    """Return the scores by records, if they say something."""
    found = known(saliency, graph, ("a",), records)
    return torch.from_numpy(scored(found, graph, "a", Context())) if isinstance(found, Known) else None


def seen(rank, size, saliency, silent=()):
    """Train a step of two passes; return what the trigger is shown and what this process would say alone.

    Processes that are `silent` run no backward pass, for which no wrapper may wait.
    """
    rules = (Rule("r", PruneUnits(by=saliency), Sees(saliency), Steps((1,)), where=Where(("a",)), require="any"),)
    run = Training(rules, rank if size > 1 else None, 2)
    x = torch.cat([run.batch(i) for i in range(3)])
    for part in (x[:3], x[3:]):
        model = run.net if silent else run.model
        loss = square(model(part), part) * (len(part) / len(x))
        if rank not in silent:
            loss.backward()
    Sees.SEEN.clear()
    alone = said(saliency, run.net.graph, run.controller.recorded)
    assert run.controller.step() == []
    return list(Sees.SEEN), alone


def scores(rank, size, place):
    """What saliencies say by the records of one training step of two passes, of all processes."""
    found = {}
    for saliency in SALIENCIES:
        found[str(saliency)], found[f"own {saliency}"] = seen(rank, size, saliency)
    return found


def one_without_gradients(rank, size, place):
    """The second process runs no backward pass."""
    return [seen(rank, size, saliency, silent=(1,)) for saliency in (Fisher(), Taylor("fan_in"), Dormancy())]


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


class Resumed(Training):  # type: ignore[misc]
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
