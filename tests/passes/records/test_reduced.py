"""What several processes recorded, summed; the group is a pretence, and one real process."""

import pytest
import torch
from live import MLP

from irgrow.edits import Impossible
from irgrow.growth import GrowthProgram, Rule
from irgrow.growth.controller import Controller
from irgrow.network import build
from irgrow.passes import GradientRank, GradMax, GrowFirefly, GrowUnits, Schedule
from irgrow.passes.analyses.spectrum import Gram, effective_rank
from irgrow.passes.records.bridge import Bridging
from irgrow.passes.records.crossed import Crossings


def test_gram_matrices_and_counts_are_summed(pretended):
    x = torch.randn(90, 6, dtype=torch.float64)
    one, two, both = Gram(0, 90), Gram(0, 90), Gram(0, 90)
    one.add(x[:50])
    two.add(x[50:])
    both.add(x)
    found = pretended.both(one, two)
    torch.testing.assert_close(found.total, both.total, rtol=1e-13, atol=1e-13)
    assert found.count == 90
    assert effective_rank(found, 0.5) == effective_rank(both, 0.5)
    assert (one.count, two.count) == (50, 40), "the processes keep their own"


def test_a_process_that_recorded_nothing_takes_part(pretended):
    one, two = Gram(0, 50, width=6), Gram(0, 50, width=6)
    two.add(torch.randn(40, 6))
    found = pretended.both(one, two)
    assert found.count == 40
    torch.testing.assert_close(found.total, two.total)


def recorded(batches):
    net = build(MLP, seed=1, dtype=torch.float64)
    controller = Controller(net, GrowthProgram((Rule("r", GrowUnits(), GradientRank()),)))
    for x in batches:
        net(x).square().sum().backward()
    return controller.recorded[Bridging(axis="a").key]


def test_bridges_are_summed_and_norms_are_those_of_the_sums(pretended):
    x = torch.randn(20, 6, dtype=torch.float64)
    one, two, both = recorded([x[:8]]), recorded([x[8:]]), recorded([x])
    found = pretended.both(one, two)
    torch.testing.assert_close(found.matrix(), both.matrix(), rtol=1e-12, atol=1e-12)
    assert found.gradients() == pytest.approx(both.gradients(), rel=1e-12)
    assert found.gradients() < 0.999 * (one.gradients() + two.gradients()), "negative control: norms do not add up"
    assert found.ready
    assert found.estimate(8) == pytest.approx(float(both.matrix().norm()), rel=1e-12)


def test_one_process_of_a_real_group_keeps_its_numbers(tmp_path):
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        gram = Gram(0, 40)
        gram.add(torch.randn(30, 4))
        assert torch.equal(gram.reduced().total, gram.total)
        record = recorded([torch.randn(9, 6, dtype=torch.float64)])
        assert torch.equal(record.reduced().matrix(), record.matrix())
        assert record.reduced().gradients() == pytest.approx(record.gradients(), rel=1e-14)
    finally:
        torch.distributed.destroy_process_group()


def test_a_process_without_a_backward_pass_and_one_with_a_bad_number_take_part(pretended):
    x = torch.randn(8, 6, dtype=torch.float64)
    found = pretended.both(recorded([]), recorded([x]))
    torch.testing.assert_close(found.matrix(), recorded([x]).matrix())
    bad = x.clone()
    bad[0, 0] = float("inf")
    with pytest.raises(Impossible, match="not finite"):
        pretended.both(recorded([bad]), recorded([x])).matrix()


@pytest.mark.parametrize("weights", [False, True])
def test_one_process_of_a_real_group_keeps_what_was_said(weights, tmp_path):
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        net = build(MLP.replace("relu", "tanh"), seed=1, dtype=torch.float64)
        rule = Rule("r", GrowFirefly() if weights else GrowUnits(init=GradMax()), Schedule(), require="any")
        controller = Controller(net, GrowthProgram((rule,)))
        net(torch.randn(9, 6, dtype=torch.float64)).square().sum().backward()
        record = controller.recorded[Crossings(axis="a", weights=weights).key]
        one, all_ = record.said(net.graph), record.reduced().said(net.graph)
        for own, whole in ((one.values, all_.values), (one.signals, all_.signals)):
            assert own.keys() == whole.keys()
            assert all(torch.equal(own[n], whole[n]) for n in own)
        assert (all_.gradients is not None) == weights
    finally:
        torch.distributed.destroy_process_group()
