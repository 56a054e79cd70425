"""The latest batches: initializers that look at values get as many samples as they need, whatever the batch size."""

import json

import pytest
import torch
from live import CNN, MLP
from loops import Training, only, rule, same_state

from irgrow.growth import Steps, Where
from irgrow.growth.controller import Controller
from irgrow.growth.recent import Recent, joined
from irgrow.network import build
from irgrow.passes import GradMax, GrowUnits, NorthOpt, NorthPre, NorthSelect, Random, Schedule

FEW = "too few"
NARROW = "net n(x: [30]) { return x |> a: dense(9) |> tanh |> head: dense(3) }"
SOME = [NorthSelect(candidates=40), NorthOpt(candidates=10, steps=2), NorthPre(candidates=40)]


def growing(init, at=12, site="a"):
    return only(rule(apply=GrowUnits(init=init), when=Schedule(1), every=Steps((at,)), where=Where((site,))))


@pytest.mark.parametrize("init", SOME, ids=str)
@pytest.mark.parametrize("size", [1, 4, 7, 40])
def test_batches_smaller_than_the_layer_are_put_together(init, size):
    """The growth is what the pass does by hand with the latest batches beside one another."""
    run = Training(growing(init), NARROW, size=size).run(11)
    count = -(-20 // size)  # twice the nine units and the new one
    batches = [run.batch(i) for i in range(12)][-count:]
    run.step()
    (receipt,) = run.receipts
    assert str(receipt.verdict) == "exact"
    assert not receipt.notes

    other = Training(growing(init, 1000), NARROW, size=size).run(12)
    by_hand = other.net.rewrite(GrowUnits("a", 1, init), statistics=torch.cat(batches), step=12)
    assert str(by_hand.verdict) == "exact"
    assert same_state(run.net, other.net)


def test_one_batch_alone_is_too_few():
    """Negative control: the same growth on the last batch only."""
    run = Training(growing(SOME[0]), NARROW, size=4).run(11)
    receipt = run.net.rewrite(GrowUnits("a", 1, SOME[0]), statistics=run.batch(11))
    assert any(FEW in note for note in receipt.notes)


def test_a_loop_may_fill_the_same_tensor_again():
    one, two = (Training(growing(SOME[0]), NARROW, size=4) for _ in range(2))
    kept = torch.empty(4, 30, dtype=torch.float64)
    draw = two.batch
    two.batch = lambda i: kept.copy_(draw(i))
    assert same_state(one.run(14).net, two.run(14).net)
    assert len(one.receipts) == 1


def test_a_resumed_training_has_them():
    whole = Training(growing(SOME[0]), NARROW, size=4).run(10)
    state, tensors = whole.controller.state()
    resumed = whole.rebuilt(json.loads(json.dumps(state)), tensors)
    assert [len(b[0]) for b in resumed.controller.recent] == [4] * 5
    assert same_state(whole.run(4).net, resumed.run(4).net)
    assert whole.rewrites == resumed.rewrites
    assert len(whole.rewrites) == 1

    forgetful = Training(growing(SOME[0]), NARROW, size=4).run(10)
    forgetful.controller.recent.load({})
    assert not same_state(whole.net, forgetful.run(4).net), "negative control"


@pytest.mark.parametrize(
    ("init", "text", "size", "batches"),
    [
        (Random(), MLP, 2, 0),
        (GradMax(), MLP.replace("relu", "tanh"), 2, 0),
        (NorthSelect(samples=4), MLP, 2, 2),
        (NorthSelect(), MLP, 2, 9),
        (NorthSelect(), MLP, 100, 1),
        (NorthSelect(), CNN, 2, 1),
    ],
    ids=["random", "by gradients", "no more than it looks at", "twice the width", "one is enough", "positions count"],
)
def test_no_more_is_kept_than_is_looked_at(init, text, size, batches):
    site = "stem" if text is CNN else "a"
    run = Training(growing(init, 1000, site), text, size=size).run(12)
    assert len(run.controller.recent) == batches


def test_a_wider_layer_wants_more():
    run = Training(growing(SOME[0]), NARROW, size=4).run(11)
    before = run.controller.recent.samples
    run.step()
    assert run.controller.recent.samples == before + 2


def test_only_what_can_stand_beside_the_last_batch_does():
    recent = Recent()
    recent.samples = 7
    for length, size in ((3, 2), (5, 3), (5, 1), (3, 2), (5, 2)):
        recent.add((torch.full((size, length), float(size)),))
    assert recent.reaching(3) == 2
    assert [b[0].shape for b in recent.last(2)] == [(1, 5), (2, 5)]
    assert joined(recent.last(recent.reaching(7)))[0].shape == (6, 5), "all there are"
    assert recent.last(0) == []
    assert joined([]) == ()


def test_several_inputs_are_kept_together():
    recent = Recent()
    recent.samples = 4
    for i in range(5):
        recent.add((torch.full((2, 3), float(i)), torch.full((2,), i)))
    a, b = joined(recent.last(2))
    assert a.shape == (4, 3)
    assert b.tolist() == [3, 3, 4, 4]
    copy = Recent()
    copy.load(recent.state() | {"other/0": torch.zeros(1)})
    assert all(torch.equal(x, y) for x, y in zip(joined(copy.last(2)), (a, b), strict=True))


def test_a_step_without_a_batch_does_not_look_at_old_ones():
    net = build(NARROW, seed=1)
    controller = Controller(net, growing(SOME[0], 2))
    assert not controller.step(torch.randn(30, 30))
    (receipt,) = controller.step()
    assert "none were recorded" in receipt.verdict.reason


def test_a_rule_that_lacked_a_batch_is_asked_again():
    rules = only(rule(apply=GrowUnits(init=SOME[0]), when=Schedule(1), where=Where(("a",))))
    controller = Controller(build(NARROW, seed=1), rules)
    told = [receipt.applied for i in range(4) for receipt in controller.step(torch.randn(30, 30) if i > 1 else None)]
    assert told == [False, True, True], "the reason is told once"
