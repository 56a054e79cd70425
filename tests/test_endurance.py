"""A hundred rewrites in a row on a network in training: nothing grows with their number but the network itself.

Each run is a process of its own, so that its resident memory is its own too; `python tests/test_endurance.py mlp`.
Without oneDNN: it keeps the code it makes for every new shape of a convolution, in a plain module as in ours.
"""

import gc
import json
import random
import subprocess
import sys
import weakref
from pathlib import Path

import pytest
import torch
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from irgrow.errors import RefusedError
from irgrow.invariants import check_invariants
from irgrow.journal import DEPTH
from irgrow.network import build
from irgrow.passes import GrowUnits, PruneUnits

PROGRAMS = {
    "mlp": "net mlp(x: [16]) { return x |> a: dense(16) |> relu |> b: dense(12) |> relu |> dense(3) }",
    "cnn": """net cnn(x: [2, 8, 8]) {
  return x |> a: conv(6, kernel = 3, padding = 1) |> batchnorm |> relu |> b: conv(8, kernel = 3) |> relu
    |> flatten |> dense(3)
}""",
}
WARM_UP, EVENTS, MEGABYTE = 30, 100, 2**20


def resident():
    """Return the resident memory of this process in bytes."""
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


class Run:
    """A network in training, with all that follows it."""

    def __init__(self, text):
        self.net = build(text, seed=1)
        self.optimizer = torch.optim.AdamW(self.net.parameters(), lr=1e-3)
        self.schedule = torch.optim.lr_scheduler.CosineAnnealingLR(self.optimizer, 1000)
        self.average = AveragedModel(self.net, multi_avg_fn=get_ema_multi_avg_fn(0.99), use_buffers=True)
        self.net.track(self.optimizer, self.schedule, average=self.average)
        self.draw, self.steps = random.Random(0), 0
        self.gone = []

    def train(self):
        generator = torch.Generator().manual_seed(self.steps)
        x = torch.randn(8, *self.net.graph.shape("x"), generator=generator)
        self.optimizer.zero_grad()
        loss = (self.net(x) - 0.5).square().mean()
        loss.backward()
        self.optimizer.step()
        self.schedule.step()
        self.average.update_parameters(self.net)
        self.steps += 1
        assert torch.isfinite(loss)

    def event(self):
        """Grow or prune an axis, keep its width between 4 and 24, and check everything."""
        for _ in range(2):
            self.train()
        axis = self.draw.choice("ab")
        width = self.net.graph.widths[axis]
        grows = width <= 7 or (width < 20 and self.draw.random() < 0.5)
        units = self.draw.randint(1, 4)
        rewrite = (
            GrowUnits(axis, units) if grows else PruneUnits(axis, tuple(self.draw.sample(range(width), units - 1 or 1)))
        )
        held = self.net, self.average.module
        before = [weakref.ref(value) for net in held for value in (net.module, *net.params.values())]
        receipt = self.net.rewrite(rewrite)
        assert receipt.applied
        kept = {id(value) for net in held for value in (net.module, *net.params.values())}
        self.gone += [ref for ref in before if id(ref()) not in kept]
        del before, kept, receipt
        self.check()

    def check(self):
        net, average = self.net, self.average.module
        for live in (net, average):
            check_invariants(live)
            assert not live.has_pending_backward
            assert len(live._pending) <= 1
            assert not any(p._backward_hooks for p in live.parameters())
        assert average.graph is net.graph
        trained = list(net.parameters())
        assert {id(p) for p in self.optimizer.state} == {id(p) for p in trained}
        assert [id(p) for g in self.optimizer.param_groups for p in g["params"]] == [id(p) for p in trained]
        assert self.schedule.last_epoch == self.steps
        assert self.optimizer.param_groups[0]["lr"] == self.schedule.get_last_lr()[0]

    def alive(self):
        """Return how many modules and tensors that were replaced are still there."""
        gc.collect()
        return sum(ref() is not None for ref in self.gone)


def figures(name, leaks):
    """Run warm-up and events; return what grew. With `leaks` somebody holds on to all that is replaced."""
    torch.set_num_threads(1)
    torch.backends.mkldnn.enabled = False
    run, held = Run(PROGRAMS[name]), []
    for _ in range(WARM_UP):
        run.event()
    start = resident()
    for _ in range(EVENTS):
        if leaks:
            held.append((run.net.module, bytearray(MEGABYTE // 4)))
        run.event()
    alive = run.alive()
    return {
        "drift": resident() - start,
        "alive": alive,
        "replaced": len(run.gone),
        "kept": len(run.net.journal.morphisms),
    }


def in_a_process(*arguments):
    command = [sys.executable, __file__, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=280)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.slow
@pytest.mark.parametrize("name", PROGRAMS)
def test_a_hundred_rewrites_leave_nothing_behind(name):
    found = in_a_process(name)
    assert found["drift"] < 10 * MEGABYTE
    assert found["alive"] == 0
    assert found["replaced"] > 3 * EVENTS
    assert found["kept"] == DEPTH


@pytest.mark.slow
def test_who_holds_on_to_what_is_replaced_is_noticed():
    """Negative control."""
    found = in_a_process("mlp", "leaks")
    assert found["drift"] > 10 * MEGABYTE
    assert found["alive"] >= EVENTS


def test_as_many_rewrites_are_taken_back_as_are_kept():
    net = build(PROGRAMS["mlp"], seed=1)
    for _ in range(3):
        net.rewrite(GrowUnits("a", 1))
    there = {name: p.detach().clone() for name, p in net.params.items()}
    for _ in range(DEPTH):
        net.rewrite(GrowUnits("b", 1))
    assert len(net.journal) == DEPTH + 3
    assert len(net.journal.morphisms) == DEPTH
    for _ in range(DEPTH):
        net.undo()
    assert net.graph.widths["b"] == 12
    assert all(torch.equal(p, there[name]) for name, p in net.params.items())
    graph = net.graph
    with pytest.raises(
        RefusedError, match=rf"grow_units\(a\)` cannot be undone: its record is gone; kept are .* {DEPTH}"
    ):
        net.undo()
    assert net.graph is graph
    assert len(net.journal) == 3
    net.rewrite(GrowUnits("a", 1))
    net.undo()


if __name__ == "__main__":
    print(json.dumps(figures(sys.argv[1], "leaks" in sys.argv)))
