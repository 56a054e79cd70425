"""Rewiring synapses: as many come as go, in one rewrite."""

from math import cos, pi

import numpy as np
import pytest
import torch
from masked import MASKED, MLP, all_masked, come, criterion, inputs, live, off, worked_out  # type: ignore[import-not-found]

from irgrow.grammar import parse_pass
from irgrow.passes import PruneEdges, RewireEdges
from irgrow.passes.analyses.density import density
from irgrow.testing import check_pass, graphs
from irgrow.testing.numbers import carried
from irgrow.verdict import Changes, Exact, Refused

MASKS = {"a__mask": np.arange(20).reshape(5, 4) % 2, "b__mask": np.arange(15).reshape(3, 5) % 3 > 0}
GRADIENT = {"a.weight": np.linspace(-3, 2, 20).reshape(5, 4), "b.weight": np.linspace(-1, 1, 15).reshape(3, 5)}


def test_the_smallest_go_and_the_largest_gradients_come():
    result, _, params = worked_out(
        RewireEdges("a", grow="gradient", fraction=0.3, regrow=False), MASKED, GRADIENT, **MASKS
    )
    after = carried(result.morphism, params)
    on = MASKS["a__mask"] != 0
    weight = np.where(on, np.abs(params["a.weight"]), np.inf)
    slope = np.where(on, -1, np.abs(GRADIENT["a.weight"]))
    assert off(params, after) == {tuple(np.unravel_index(i, on.shape)) for i in np.argsort(weight, axis=None)[:3]}
    assert come(params, after) == {tuple(np.unravel_index(i, on.shape)) for i in np.argsort(-slope, axis=None)[:3]}
    assert all(after["a.weight"][i] == 0 for i in off(params, after) | come(params, after))
    assert result.verdict == Changes("3 synapses of `a` have other weights")


def test_what_is_pruned_may_come_back_and_is_then_not_touched():
    gradient = {"a.weight": np.zeros((5, 4))}
    weight = np.random.default_rng(0).normal(size=(5, 4))
    on = MASKS["a__mask"] != 0
    first, second = (
        tuple(np.unravel_index(i, on.shape)) for i in np.argsort(np.where(on, abs(weight), 9), axis=None)[:2]
    )
    gradient["a.weight"][first], gradient["a.weight"][0, 0] = 5.0, 4.0
    values = {**MASKS, "a__weight": weight}
    result, _, params = worked_out(RewireEdges("a", grow="gradient", fraction=0.2), MASKED, gradient, **values)
    after = carried(result.morphism, params)
    assert off(params, after) == {second}
    assert come(params, after) == {(0, 0)}
    assert after["a.weight"][first] == weight[first]
    other, _, params = worked_out(
        RewireEdges("a", grow="gradient", fraction=0.2, regrow=False), MASKED, gradient, **values
    )
    after = carried(other.morphism, params)
    assert off(params, after) == {first, second}
    assert len(come(params, after)) == 2


def test_all_that_is_pruned_coming_back_is_no_change():
    gradient = {"a.weight": MASKS["a__mask"] * 1.0}
    result, graph, _ = worked_out(RewireEdges("a", grow="gradient", fraction=0.9999), MASKED, gradient, **MASKS)
    everything, _, _ = worked_out(RewireEdges("a", grow="gradient", fraction=1.0), MASKED, gradient, **MASKS)
    assert everything.verdict == Exact()
    assert everything.morphism.touched == ()
    assert result.morphism.after == graph


@pytest.mark.parametrize("prune", ["magnitude", "random", "snip", "movement"])
@pytest.mark.parametrize("grow", ["random", "gradient"])
@pytest.mark.parametrize("regrow", [True, False])
def test_every_weight_keeps_its_density_exactly(prune, grow, regrow):
    net, opt, step = live(MLP)
    net.rewrite(PruneEdges(density=0.4, by="random", allocation="erk"))
    counts = {n: c.on for n, c in density(net.graph, net.params).weights.items()}
    for i in range(4):
        step(i)
        old = {n: net.params[n].clone() for n in net.params if n.endswith("mask")}
        receipt = net.rewrite(
            RewireEdges(prune=prune, grow=grow, fraction=0.4, regrow=regrow), batch=inputs(net), loss=criterion
        )
        assert receipt.applied
        assert {n: c.on for n, c in density(net.graph, net.params).weights.items()} == counts
        for name, mask in old.items():
            weight, new = net.params[name.replace("mask", "weight")], net.params[name]
            moved = (mask != new) | (new == 0)
            assert (weight[moved] == 0).all()
            assert all((v[new == 0] == 0).all() for v in opt.state[weight].values() if v.shape == weight.shape)
            assert (opt.state[weight]["exp_avg"][mask != new] == 0).all()


def test_new_synapses_are_warmed_and_pruned_ones_are_not():
    net, opt, step = live(MLP)
    net.rewrite(PruneEdges("a", density=0.5, by="random"))
    for i in range(3):
        step(i)
    old = net.params["a.mask"].clone()
    net.rewrite(RewireEdges("a", regrow=False))
    new, square = net.params["a.mask"], opt.state[net.params["a.weight"]]["exp_avg_sq"]
    assert (square[(old == 0) & (new == 1)] > 0).all()
    assert (square[(old == 1) & (new == 0)] == 0).all()


def test_the_parameter_keeps_its_place_and_its_gradient():
    net, opt, step = live(MLP)
    net.rewrite(PruneEdges("a", density=0.5, by="random"))
    step()
    place = next(i for i, p in enumerate(opt.param_groups[0]["params"]) if p is net.params["a.weight"])
    gradient, old = net.params["a.weight"].grad.clone(), net.params["a.mask"].clone()
    net.rewrite(RewireEdges("a", regrow=False))
    weight, new = net.params["a.weight"], net.params["a.mask"]
    assert opt.param_groups[0]["params"][place] is weight
    stayed = (old == 1) & (new == 1)
    assert torch.equal(weight.grad[stayed], gradient[stayed])
    assert (weight.grad[~stayed] == 0).all()


def test_full_and_frozen_weights_are_left_out_of_all():
    net, _, _ = live(MLP)
    net.rewrite(PruneEdges(density=0.5, by="random", spare="last"))
    net.params["b.weight"].requires_grad_(False)
    receipt = net.rewrite(RewireEdges(regrow=False))
    assert set(receipt.morphism.touched) == {"a.weight", "a.mask"}


def test_the_share_falls_as_a_cosine():
    rule = RewireEdges(fraction=0.3, until=100)
    assert rule.during(0) == RewireEdges(fraction=0.3)
    assert rule.during(50).fraction == pytest.approx(0.15)
    assert rule.during(80).fraction == pytest.approx(0.15 * (1 + cos(0.8 * pi)))
    assert rule.during(100) == rule, "nothing is left; it is refused"
    assert RewireEdges(fraction=0.3).during(80) == RewireEdges(fraction=0.3)


@pytest.mark.parametrize(
    ("rewrite", "reason"),
    [
        (RewireEdges("gelu_1"), "`gelu_1` has no weight"),
        (RewireEdges("head"), "nothing to rewire: every synapse is on"),
        (RewireEdges("a", fraction=0.05), "a share of 0.05 is less than one synapse of any weight"),
        (RewireEdges("a", fraction=0.0), "`fraction` must be above 0"),
        (RewireEdges("a", fraction=1.5), "`fraction` must be at most 1"),
        (RewireEdges("a", until=10), "the share falls to nothing at step 10"),
        (RewireEdges("a", grow="gradient"), "growing by gradient needs gradients: give a batch and a loss"),
        (RewireEdges("a", prune="snip"), "pruning by snip needs gradients"),
    ],
)
def test_refusals(rewrite, reason):
    result, _, _ = worked_out(rewrite, MASKED, **MASKS)
    assert isinstance(result.verdict, Refused)
    assert reason in result.verdict.reason


def test_more_refusals():
    assert "every synapse is on" in worked_out(RewireEdges(), MLP)[0].verdict.reason
    full = {"a__mask": np.ones((5, 4)), "b__mask": np.ones((3, 5))}
    assert "every synapse is on, or its weight is frozen" in worked_out(RewireEdges(), MASKED, **full)[0].verdict.reason
    mask = np.ones((5, 4))
    mask[0, 0] = 0
    few, _, _ = worked_out(RewireEdges("a", fraction=0.5, regrow=False), MASKED, a__mask=mask)
    assert few.verdict.reason == "`a.weight` has 1 synapses that are off, 9 are to come"
    wild = {"a.weight": np.full((5, 4), np.inf)}
    infinite, _, _ = worked_out(RewireEdges("a", grow="gradient"), MASKED, wild, **MASKS)
    assert "the gradient of `a.weight` has entries that are not finite" in infinite.verdict.reason


@pytest.mark.parametrize(
    "rewrite",
    [
        RewireEdges(),
        RewireEdges("a", "movement", "gradient", 0.125, regrow=False),
        RewireEdges(fraction=0.1 + 0.2, until=75, spare="ends"),
        RewireEdges(fraction=0.3, until=1000).during(333),
    ],
    ids=str,
)
def test_the_text_is_read_back(rewrite):
    assert parse_pass(str(rewrite)) == rewrite


def test_laws():
    check_pass(RewireEdges, programs=graphs().map(all_masked))
