"""Random sequences of rewrites, training steps, prints, parses, saves and undos keep every invariant (law 12)."""

import tempfile
from pathlib import Path

import torch
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from irgrow import checkpoint
from irgrow.errors import CompilerBug
from irgrow.grammar import parse
from irgrow.invariants import check_invariants
from irgrow.network import Network
from irgrow.passes.analyses.places import editable_axes
from irgrow.testing import graphs, rewrites
from irgrow.testing.laws import Case
from irgrow.testing.numbers import as_tensors, difference, is_stochastic
from irgrow.verdict import Exact

LARGEST = 3000


class NetworkMachine(RuleBasedStateMachine):
    """A live network with an optimizer, and everything people do to one."""

    @initialize(
        graph=graphs(steps=3, dropout=False),
        seed=st.integers(0, 1000),
        optimizer=st.sampled_from(["SGD", "Adam", "RMSprop"]),
    )
    def start(self, graph, seed, optimizer):
        self.case = Case(graph, None, seed)
        self.optimizer = optimizer
        self.net = Network(graph, as_tensors(graph, self.case.params), seed).eval()
        self.inputs = tuple(torch.as_tensor(self.case.inputs[n]) for n in graph.inputs)
        self.rewrites = 0
        self.track()

    def track(self):
        options = {"momentum": 0.9} if self.optimizer == "SGD" else {}
        made = getattr(torch.optim, self.optimizer)(self.net.parameters(), lr=1e-4, **options)
        self.net.track(made)

    def outputs(self):
        with torch.no_grad():
            found = self.net.module(*self.inputs)
        return tuple(y.numpy() for y in (found if isinstance(found, tuple) else (found,)))

    @rule(data=st.data())
    def rewrite(self, data):
        if self.net.graph.count() > LARGEST:
            return
        pass_ = data.draw(rewrites(self.net.graph))
        before, module, entries = self.outputs(), self.net.module, len(self.net.journal)
        receipt = self.net.rewrite(pass_, statistics=self.inputs, step=self.rewrites)
        if not receipt.applied:
            assert self.net.module is module
            assert len(self.net.journal) == entries
            return
        self.rewrites += 1
        assert len(self.net.journal) == entries + 1
        if isinstance(receipt.verdict, Exact):
            assert difference(self.outputs(), before) <= 1e-9, f"{pass_}\n{receipt.morphism.before}"

    @rule()
    def train(self):
        total = sum(((y - 0.5) ** 2).mean() for y in self.forward())
        optimizer = self.net.tracked[0].optimizer
        optimizer.zero_grad()
        if total.requires_grad:
            total.backward()
            torch.nn.utils.clip_grad_norm_(self.net.parameters(), 1.0)
        optimizer.step()

    def forward(self):
        found = self.net(*self.inputs)
        return found if isinstance(found, tuple) else (found,)

    @rule()
    def print_and_parse(self):
        assert parse(str(self.net.graph)) == self.net.graph

    @precondition(lambda self: len(self.net.journal) > 0 and self.net.journal[-1].number in self.net.journal.morphisms)
    @rule()
    def undo(self):
        morphism = self.net.journal.morphisms[self.net.journal[-1].number]
        if morphism.inverse() is None:
            return
        self.net.undo()
        assert self.net.graph == morphism.before

    @rule()
    def save_and_load(self):
        before = self.outputs()
        with tempfile.TemporaryDirectory() as folder:
            checkpoint.save(self.net, Path(folder) / "ck")
            saved = checkpoint.read(Path(folder) / "ck")
        self.net = checkpoint.network(saved)
        self.track()
        checkpoint.restore(self.net, saved)
        assert difference(self.outputs(), before) == 0.0

    @invariant()
    def everything_fits(self):
        if not hasattr(self, "net"):
            return
        check_invariants(self.net, set())
        assert set(self.net.state_dict()) == set(self.net.graph.params)
        assert all(torch.isfinite(p).all() for p in self.net.params.values())
        assert not is_stochastic(self.net.graph)
        assert set(editable_axes(self.net.graph)) <= set(self.net.graph.leaves)


def test_the_machine():
    run_state_machine_as_test(
        NetworkMachine,
        settings=settings(
            settings.default,
            max_examples=max(40, settings.default.max_examples // 2),
            stateful_step_count=20,
            suppress_health_check=list(HealthCheck),
        ),
    )


def test_the_machine_notices_a_planted_fault(monkeypatch):
    """Negative control: a transaction that forgets the optimizer is caught by an invariant."""
    from irgrow import swap

    monkeypatch.setattr(swap, "_replace_in_optimizer", lambda *args, **kwargs: None)
    try:
        run_state_machine_as_test(
            NetworkMachine,
            settings=settings(
                max_examples=60,
                stateful_step_count=10,
                database=None,
                deadline=None,
                suppress_health_check=list(HealthCheck),
                phases=[Phase.generate],
            ),
        )
    except (CompilerBug, AssertionError, BaseExceptionGroup):
        return
    raise AssertionError("a forgotten optimizer went unnoticed")
