"""The auxiliary gradient from the pass that trains, where units run through attention, groups, filters and gates."""

import pytest
import torch
from bridges import WAYS

from irgrow.backends.torch_fx import lower
from irgrow.growth import GrowthProgram, Rule, Where
from irgrow.growth.controller import Controller
from irgrow.network import build
from irgrow.passes import GradientRank, GradMax, GrowUnits
from irgrow.passes.analyses.auxiliary import auxiliary
from irgrow.passes.analyses.bridge import bridge, needed
from irgrow.passes.records.bridge import Bridging
from irgrow.probing import probe


class Run:
    """A network in training and the record of one of its axes."""

    def __init__(self, name, factor=1.0, sketch=8):
        text, self.axis = WAYS[name]
        self.net = build(text, seed=1, dtype=torch.float64)
        rule = Rule("r", GrowUnits(init=GradMax()), GradientRank(factor, sketch=sketch), where=Where((self.axis,)))
        self.controller = Controller(self.net, GrowthProgram((rule,)))
        self.record = self.controller.recorded[Bridging(axis=self.axis).key]

    def batch(self, seed=0):
        shape = self.net.graph.shape("x")
        return torch.randn(7, *shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)

    def backward(self, seed=0):
        loss(self.net(self.batch(seed))).backward()

    def wanted(self, seed=0):
        return {r.sites[0]: r.rewrite for r in self.controller.step(self.batch(seed), criterion=loss)}


def loss(y):
    return ((y - 0.3).square() * torch.tensor([1.0, -2.0], dtype=y.dtype)).sum(1).mean()


def by_probe(run, seed=0):
    """The blocks from a pass of its own, in which the values and signals are asked for."""
    graph, params = run.net.graph, run.net.params
    tensors = {name: value.detach().clone().requires_grad_(value.requires_grad) for name, value in params.items()}
    tensors = {n: torch.nn.Parameter(v.detach()) if v.requires_grad else v for n, v in tensors.items()}
    found = probe(graph, lower(graph, tensors), tensors, (run.batch(seed),), needed(graph, run.axis), loss)
    return auxiliary(graph, run.axis, found.values, found.signals, params=tensors).blocks


@pytest.mark.parametrize("name", WAYS)
def test_it_is_what_a_pass_of_its_own_finds(name):
    run = Run(name)
    wanted = by_probe(run)
    run.backward()
    torch.testing.assert_close(run.record.blocks(), wanted, rtol=1e-11, atol=1e-14)
    assert wanted.norm() > 1e-6
    assert torch.equal(run.record.matrix(), torch.block_diag(*run.record.blocks()))


@pytest.mark.parametrize("name", WAYS)
def test_passes_are_summed_each_with_its_own_attention(name):
    run = Run(name)
    wanted = by_probe(run, 1) + by_probe(run, 2)
    run.backward(1)
    run.backward(2)
    torch.testing.assert_close(run.record.blocks(), wanted, rtol=1e-11, atol=1e-14)


@pytest.mark.parametrize("name", WAYS)
def test_the_estimate_is_right_on_average(name):
    run = Run(name)
    run.backward()
    rough = run.record.estimate(4000)
    norm = float(run.record.blocks().norm()) / len(run.record.blocks()) ** 0.5
    assert rough == pytest.approx(norm, rel=0.05)  # of 4000 normal fan-outs, at worst a deviation of 1.1 %
    if bridge(run.net.graph, run.axis).routes[0].shape[0] > 8:
        assert run.record._combined(run.record.heard[0], 4).shape[1] < run.record.blocks().shape[1]


def test_combinations_of_outputs_stay_in_their_groups():
    """The mean of many sketches is the norm; combined across groups it would be another."""
    run = Run("groups")
    run.backward()
    heard, routes = run.record.heard[0], run.record.found.routes
    assert routes[0].groups == 2
    from irgrow.passes.records import bridge as module

    squares = []
    for seed in range(300):
        generator = torch.Generator().manual_seed(seed)
        drawn = torch.randn(9, 4, generator=generator, dtype=torch.float64) / 2
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(module, "_normal", lambda of, count, drawn=drawn: drawn)
            squares.append(float(run.record._combined(heard, 4).square().sum()))
    wanted = float(run.record.blocks().square().sum())
    assert sum(squares) / 300 == pytest.approx(wanted, rel=0.1)  # of 1200 squares, at worst a deviation of 4.1 %


@pytest.mark.parametrize("name", WAYS)
def test_directions_are_counted_over_all_lanes(name):
    run = Run(name)
    run.backward()
    values = torch.linalg.svdvals(run.record.blocks()).square().mean(0).sqrt()
    for threshold in (0.3, 0.1, 0.03, 0.003):
        bound = threshold * float(values[0])
        assert run.record.directions_above(bound) == int((values >= bound).sum())
    assert run.record.directions_above(float(values[0]) * 1.001) == 0
    assert float(values[0]) <= float(run.record.blocks().norm()) / len(run.record.blocks()) ** 0.5 * (1 + 1e-12)


@pytest.mark.parametrize("name", WAYS)
def test_the_axis_grows_in_training_and_training_goes_on(name):
    counted = Run(name, 1e-9)
    counted.backward()
    assert counted.record.directions_above(0.0) > 0
    run, seen = Run(name, 0.02), 0
    optimizer = torch.optim.SGD(run.net.parameters(), lr=1e-2)
    run.net.track(optimizer)
    old = run.net.graph.widths[run.axis]
    for seed in range(4):
        optimizer.zero_grad()
        run.backward(seed)
        optimizer.step()
        seen += len(run.wanted(seed))
    assert seen
    assert run.net.graph.widths[run.axis] > old
    assert bridge(run.net.graph, run.axis).lanes == bridge(build(WAYS[name][0]).graph, run.axis).lanes


@pytest.mark.parametrize("name", ["head_dim", "rotary", "groups"])
def test_looking_cheaply_first_changes_nothing(name):
    for factor in (0.001, 0.05, 0.5):
        one, two = Run(name, factor), Run(name, factor, sketch=0)
        for run in (one, two):
            run.backward()
        assert one.wanted() == two.wanted()


@pytest.mark.parametrize("name", WAYS)
def test_processes_are_summed_block_by_block(name, together):
    one, two, nothing = (Run(name) for _ in range(3))
    for seed, run in enumerate((one, two)):
        run.record.shared = True
        run.backward(seed)
    found = together(one.record, nothing.record, two.record)
    wanted = by_probe(one, 0) + by_probe(one, 1)
    torch.testing.assert_close(found.blocks(), wanted, rtol=1e-11, atol=1e-14)
    alone = together(one.record, nothing.record)
    assert torch.equal(alone.blocks(), one.record.blocks())
    assert alone.gradients() == pytest.approx(one.record.gradients(), rel=1e-14)
    assert (alone.blocks() - wanted).norm() > 1e-3 * wanted.norm(), "negative control: one alone is something else"
    assert found.gradients() != pytest.approx(alone.gradients(), rel=1e-3)
