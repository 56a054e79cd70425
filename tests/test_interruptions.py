"""A rewrite that is interrupted anywhere has happened, journal and all, or has not."""

import sys

import pytest
import torch
from live import CNN, MLP, batch, step, trained
from torch.optim.swa_utils import AveragedModel

from irgrow import journal, swap, transaction
from irgrow.passes import GrowUnits, InsertLayer, Pipeline, PruneUnits, Taylor
from irgrow.testing.laws import same_snapshot, snapshot

FILES = {module.__file__ for module in (transaction, swap, journal)}


class Interrupted:
    """Raises an exception in front of one line of the files that put a rewrite in place, counted from 0."""

    def __init__(self, at):
        self.left = at

    def __enter__(self):
        sys.settrace(self._calls)

    def __exit__(self, *exc):
        sys.settrace(None)
        torch.set_grad_enabled(True)  # an exception right at the end of a `with` keeps it from being left

    def _calls(self, frame, event, arg):
        return self._lines if frame.f_code.co_filename in FILES else None

    def _lines(self, frame, event, arg):
        if event == "line":
            self.left -= 1
            if self.left == -1:
                raise KeyboardInterrupt
        return self._lines


def grow(net):
    net.rewrite(GrowUnits("a", 1), batch=batch(net), loss=lambda y: y.square().mean())


def several(net):
    Pipeline((GrowUnits("a", 1), InsertLayer("relu_1"))).apply(net, atomic=True)


def taken_back(net):
    net.undo()


@pytest.mark.parametrize(("change", "entries"), [(grow, {1, 2}), (several, {1, 3}), (taken_back, {1, 0})])
def test_an_interruption_leaves_all_or_nothing(change, entries):
    seen, at = set(), 0
    while True:
        net, optimizer = trained()
        net.rewrite(GrowUnits("b", 1))
        before = snapshot(net)
        try:
            with Interrupted(at):
                change(net)
        except KeyboardInterrupt:
            pass
        else:
            break
        seen.add(len(net.journal))
        assert len(net.journal) in entries, at
        if len(net.journal) == 1:
            assert same_snapshot(before, snapshot(net)) is None, at
        else:
            assert not net.journal.entries or net.journal.entries[-1].after == net.graph.digest
        step(net, optimizer)
        at += 1
    assert at > 40
    assert 1 in seen


def test_the_snapshot_would_notice():
    """Negative control: without the way back, an interrupted rewrite is half done."""
    net, _ = trained()
    before = snapshot(net)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(transaction, "put_back", lambda undo: None)
        patch.setattr(journal.Journal, "add", None)
        with pytest.raises(TypeError):
            net.rewrite(GrowUnits("a", 1))
    assert same_snapshot(before, snapshot(net)) is not None


def test_a_journal_that_cannot_be_written_takes_the_rewrite_back(monkeypatch):
    net, optimizer = trained()
    optimizer_state = snapshot(net)
    monkeypatch.setattr(journal.Journal, "add", lambda self, entry, morphism: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        several(net)
    assert same_snapshot(optimizer_state, snapshot(net)) is None
    step(net, optimizer)


@pytest.mark.parametrize("mode", [torch.inference_mode, torch.no_grad])
def test_growing_after_a_validation_pass_leaves_a_network_that_trains(mode):
    net, optimizer = trained(CNN)
    net.tracked[0].average = AveragedModel(net)
    with mode():
        net(batch(net))
        assert net.rewrite(GrowUnits("c1", 2), batch=batch(net), loss=lambda y: y.square().mean()).applied
        assert net.rewrite(InsertLayer("relu_1")).applied
        net.undo()
    step(net, optimizer)
    assert all(p.grad is not None and not p.is_inference() for p in net.parameters())
    assert not any(v.is_inference() for s in optimizer.state.values() for v in s.values() if torch.is_tensor(v))


def test_gradients_can_be_looked_at_in_inference_mode():
    net, _ = trained()
    with torch.inference_mode():
        images = torch.randn(4, 6, dtype=torch.float64)
        rewrite = PruneUnits("a", by=Taylor(), count=1)
        assert net.rewrite(rewrite, batch=images, loss=lambda y: y.square().mean()).applied


def test_a_rewrite_of_another_network_is_not_undone():
    net, _ = trained(MLP)
    net.rewrite(GrowUnits("a", 1))
    other, _ = trained(MLP)
    other.journal = net.journal.copy()
    with pytest.raises(Exception, match="the network is not what it made"):
        other.undo()
