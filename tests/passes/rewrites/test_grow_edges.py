"""Growing synapses: which come, what they start from, what they do to the function and to the optimizer."""

import numpy as np
import pytest
import torch
from masked import CNN, MASKED, MLP, all_masked, come, criterion, inputs, live, worked_out  # type: ignore[import-not-found]

from irgrow.grammar import parse_pass
from irgrow.morphism import Gather, Keep
from irgrow.passes import GrowEdges, PruneEdges
from irgrow.probing import probe
from irgrow.testing import check_pass, graphs
from irgrow.testing.laws import Case, verdict_is_sound
from irgrow.testing.numbers import carried, output_error, random_inputs
from irgrow.verdict import Changes, Exact, Refused

HALF = {"a__mask": np.arange(20).reshape(5, 4) % 2, "b__mask": np.arange(15).reshape(3, 5) % 3 > 0}
GRADIENT = {"a.weight": np.linspace(-3, 2, 20).reshape(5, 4), "b.weight": np.linspace(-1, 1, 15).reshape(3, 5)}


def test_synapses_of_weight_zero_leave_the_function_as_it_is():
    result, graph, params = worked_out(GrowEdges("a", count=4), MASKED, **HALF)
    assert result.verdict == Exact()
    after = carried(result.morphism, params)
    assert len(come(params, after)) == 4
    assert np.array_equal(after["a.weight"], params["a.weight"])
    assert output_error(result.morphism, params, random_inputs(graph, 0)) == 0.0
    assert isinstance(result.morphism.transfers["a.weight"], Gather)


def test_the_largest_gradients_of_those_that_are_off():
    result, _, params = worked_out(GrowEdges("a", "gradient", count=3), MASKED, GRADIENT, **HALF)
    score = np.where(HALF["a__mask"] == 0, np.abs(GRADIENT["a.weight"]), -1)
    largest = {tuple(np.unravel_index(i, score.shape)) for i in np.argsort(-score, axis=None)[:3]}
    assert come(params, carried(result.morphism, params)) == largest


def test_nest_takes_those_that_are_off_among_the_largest_of_all():
    result, _, params = worked_out(GrowEdges("a", "nest", fraction=0.3), MASKED, GRADIENT, **HALF)
    score = np.abs(GRADIENT["a.weight"])
    top = {tuple(np.unravel_index(i, score.shape)) for i in np.argsort(-score, axis=None)[:6]}
    was_off = {i for i in top if not HALF["a__mask"][i]}
    assert 0 < len(was_off) < 6, "some of the largest are on already"
    assert come(params, carried(result.morphism, params)) == was_off
    plain, _, params = worked_out(GrowEdges("a", "gradient", fraction=0.3), MASKED, GRADIENT, **HALF)
    assert len(come(params, carried(plain.morphism, params))) == 3, "a share of those that are off"


def test_nest_over_all_weights_together():
    result, _, params = worked_out(GrowEdges(by="nest", fraction=0.2, allocation="global"), MASKED, GRADIENT, **HALF)
    head = {"head.weight": np.zeros((2, 3))}
    assert result.verdict.reason == "growing by nest needs the gradient of `head.weight`, and there is none"
    result, _, params = worked_out(
        GrowEdges(by="nest", fraction=0.2, allocation="global"), MASKED, GRADIENT | head, **HALF
    )
    after = carried(result.morphism, params)
    every = np.sort(np.concatenate([np.abs(g).ravel() for g in (GRADIENT | head).values()]))
    for name in ("a", "b"):
        expected = (np.abs(GRADIENT[f"{name}.weight"]) >= every[-8]) & (HALF[f"{name}__mask"] == 0)
        assert np.array_equal(after[f"{name}.mask"] - params[f"{name}.mask"], expected)


def test_the_dense_gradient_is_the_mean_of_inputs_times_deltas():
    """NeST's x_j delta_i, by hand, at synapses that are off."""
    net, _, step = live(MASKED)
    net.rewrite(PruneEdges(fraction=0.5))
    step()
    x = inputs(net)
    seen = probe(net.graph, net.module, net.params, (x,), ("x", "a"), criterion)
    pairs = torch.einsum("si,sj->ij", seen.signals["a"], x)
    torch.testing.assert_close(pairs, seen.gradients["a.weight"], rtol=1e-10, atol=1e-14)
    receipt = net.rewrite(GrowEdges("a", "gradient", count=2), batch=x, loss=criterion)
    off = receipt.morphism.transfers["a.mask"].fill.values == 0
    new = receipt.morphism.transfers["a.weight"].index.reshape(5, 4) == -1
    assert pairs.abs()[torch.from_numpy(new)].min() >= pairs.abs()[torch.from_numpy(off)].max()


def test_new_synapses_receive_gradient_at_once_and_move():
    net, _, step = live(MASKED)
    net.rewrite(PruneEdges("a", fraction=0.5))
    step()
    receipt = net.rewrite(GrowEdges("a", "gradient", count=4), batch=inputs(net), loss=criterion)
    assert receipt.verdict == Exact()
    assert receipt.error == 0.0
    new = torch.from_numpy(receipt.morphism.transfers["a.weight"].index.reshape(5, 4) == -1)
    assert (net.params["a.weight"][new] == 0).all()
    step(0)
    assert (net.params["a.weight"].grad[new] != 0).all()
    assert (net.params["a.weight"][new] != 0).all()


def test_descent_is_one_step_from_zero():
    result, graph, params = worked_out(
        GrowEdges("a", "gradient", count=3, value="descent", rate=0.5), MASKED, GRADIENT, **HALF
    )
    after = carried(result.morphism, params)
    for place in come(params, after):
        assert after["a.weight"][place] == -0.5 * GRADIENT["a.weight"][place]
    assert result.verdict == Changes("3 synapses of `a` have other weights")
    assert output_error(result.morphism, params, random_inputs(graph, 0)) > 1e-3


def test_descent_lowers_the_loss():
    net, _, step = live(MASKED)
    net.rewrite(PruneEdges(fraction=0.5))
    step()
    receipt = net.rewrite(GrowEdges("a", "gradient", count=4, value="descent"), batch=inputs(net), loss=criterion)
    assert receipt.loss[1] < receipt.loss[0]


def test_ephemeral_synapses_come_back_with_their_weights_and_moments():
    net, opt, step = live(MLP)
    step()
    weight = net.params["a.weight"]
    values, moments = weight.detach().clone(), opt.state[weight]["exp_avg"].clone()
    outputs = net(inputs(net)).detach()
    net.rewrite(PruneEdges("a", fraction=0.5, ephemeral=True))
    receipt = net.rewrite(GrowEdges("a", fraction=1.0, value="kept"))
    assert isinstance(receipt.morphism.transfers["a.weight"], Keep)
    assert isinstance(receipt.verdict, Changes)
    assert torch.equal(net.params["a.weight"], values)
    assert torch.equal(opt.state[net.params["a.weight"]]["exp_avg"], moments)
    assert torch.equal(net(inputs(net)), outputs)


def test_the_default_forgets_what_an_ephemeral_pruning_kept():
    """Negative control of `kept`: with value zero the old weight is not taken up."""
    net, opt, step = live(MLP)
    step()
    net.rewrite(PruneEdges("a", fraction=0.5, ephemeral=True))
    receipt = net.rewrite(GrowEdges("a", fraction=1.0))
    new = torch.from_numpy(receipt.morphism.transfers["a.weight"].index.reshape(5, 4) == -1)
    assert receipt.verdict == Exact()
    assert (net.params["a.weight"][new] == 0).all()
    assert (opt.state[net.params["a.weight"]]["exp_avg"][new] == 0).all()


@pytest.mark.parametrize(("carry", "warm"), [("siblings", True), ("zero", False)])
def test_second_moments_of_new_synapses_follow_the_policy(carry, warm):
    net, opt, step = live(MASKED)
    net.tracked[0].carry = type(net.tracked[0].carry)(carry)
    net.rewrite(PruneEdges("a", fraction=0.5))
    for i in range(3):
        step(i)
    on = net.params["a.mask"] != 0
    mean = opt.state[net.params["a.weight"]]["exp_avg_sq"][on].mean()
    receipt = net.rewrite(GrowEdges("a", count=2))
    new = torch.from_numpy(receipt.morphism.transfers["a.weight"].index.reshape(5, 4) == -1)
    state = opt.state[net.params["a.weight"]]
    assert (state["exp_avg"][new] == 0).all()
    torch.testing.assert_close(state["exp_avg_sq"][new], mean.expand(2) if warm else torch.zeros(2).double())
    assert (state["exp_avg_sq"][net.params["a.mask"] == 0] == 0).all()


def test_amounts():
    def grown(**amount):
        result, _, params = worked_out(GrowEdges("a", **amount), MASKED, **HALF)
        return int(carried(result.morphism, params)["a.mask"].sum()) - 10

    assert [grown(fraction=0.39), grown(count=7), grown(density=0.75), grown(density=1.0)] == [3, 7, 5, 10]
    refused, _, _ = worked_out(GrowEdges("a", density=0.5), MASKED, **HALF)
    assert refused.verdict.reason == "nothing to grow with density = 0.5"


def test_allocations():
    def grown(**options):
        result, _, params = worked_out(
            GrowEdges(**options), MASKED, GRADIENT | {"head.weight": np.ones((2, 3))}, **HALF
        )
        after = carried(result.morphism, params)
        return [len(come(params, after, f"{n}.mask")) for n in ("a", "b")]

    assert grown(fraction=0.4) == [4, 2]
    assert grown(count=6) == [4, 2], "in proportion to what is off"
    assert grown(count=5, by="gradient", allocation="global") == [5, 0], "the largest gradients are in `a`"
    # The head is full; e = (0.8 * 41 - 6) / (9 + 8), so `a` gets 0.709 of 20, `b` 0.841 of 15, both rounded up.
    assert grown(density=0.8, allocation="erk") == [15 - 10, 13 - 10]


def test_kernels_come_whole():
    mask = np.ones((4, 2, 3, 3))
    mask[0, 0] = 0
    mask[2, 1, 0] = 0
    mask[3] = 0
    gradient = {"c.weight": np.random.default_rng(0).normal(size=(4, 2, 3, 3)) * np.where(mask[..., :1, :1], 1, 9)}
    gradient["c.weight"][2, 1] = 100.0
    result, _, params = worked_out(
        GrowEdges("c", "gradient", count=2, kernels=True), CNN, gradient, c__mask=mask, d__mask=np.ones((4, 1, 2, 2))
    )
    after = carried(result.morphism, params)["c.mask"]
    assert (after[2, 1] == 1).all(), "what is off of a kernel counts, and it is completed"
    sums = {k: np.abs(gradient["c.weight"][k]).sum() for k in [(0, 0), (3, 0), (3, 1)]}
    best = max(sums, key=sums.get)
    assert (after[best] == 1).all()
    assert after.sum() == mask.sum() + 3 + 9


def test_a_frozen_weight_grows_nothing():
    net, _, _ = live(MASKED)
    net.rewrite(PruneEdges(fraction=0.5, spare="last"))
    net.params["a.weight"].requires_grad_(False)
    refused = net.rewrite(GrowEdges("a", count=1))
    assert "`a.weight` is frozen" in refused.verdict.reason
    receipt = net.rewrite(GrowEdges(fraction=0.5))
    assert set(receipt.morphism.touched) == {"b.weight", "b.mask"}
    assert not net.params["a.weight"].requires_grad


@pytest.mark.parametrize(
    ("rewrite", "reason"),
    [
        (GrowEdges("gelu_1", count=1), "`gelu_1` has no weight"),
        (GrowEdges("head", count=1), "nothing to grow: every synapse is on"),
        (GrowEdges("a"), "exactly one of fraction, count or density must be given, found none"),
        (GrowEdges("a", count=1, fraction=0.5), "found fraction = 0.5 and count = 1"),
        (GrowEdges("a", density=2.0), "`density` must be at most 1"),
        (GrowEdges("a", count=0), "`count` must be at least 1"),
        (GrowEdges("a", count=11), "10 synapses are off, asked for 11"),
        (GrowEdges("a", fraction=0.01), "nothing to grow with fraction = 0.01"),
        (GrowEdges("a", "nest", count=3), "nest takes a fraction"),
        (GrowEdges("a", "nest", fraction=0.3, allocation="erk"), "use uniform or global"),
        (GrowEdges("a", "gradient", count=1), "growing by gradient needs gradients: give a batch and a loss"),
        (GrowEdges("a", count=1, value="descent"), "the value `descent` needs gradients"),
        (GrowEdges("a", count=1, kernels=True), "`a` has no kernels"),
    ],
)
def test_refusals(rewrite, reason):
    result, _, _ = worked_out(rewrite, MASKED, **HALF)
    assert isinstance(result.verdict, Refused)
    assert reason in result.verdict.reason


def test_more_refusals():
    full = {"a__mask": np.ones((5, 4)), "b__mask": np.ones((3, 5))}
    assert "every synapse is on" in worked_out(GrowEdges("a", count=1), MASKED, **full)[0].verdict.reason
    wild = {"a.weight": np.full((5, 4), np.nan)}
    found = worked_out(GrowEdges("a", "gradient", count=1), MASKED, wild, **HALF)[0].verdict.reason
    assert found == "the gradient of `a.weight` has entries that are not finite"


@pytest.mark.parametrize(
    "rewrite",
    [
        GrowEdges(),
        GrowEdges("a", "gradient", count=10),
        GrowEdges(by="nest", fraction=0.4, value="descent", rate=0.1, allocation="global"),
        GrowEdges("c", density=0.5, kernels=True, value="kept", spare="first"),
    ],
    ids=str,
)
def test_the_text_is_read_back(rewrite):
    assert parse_pass(str(rewrite)) == rewrite


def test_laws():
    check_pass(GrowEdges, programs=graphs().map(all_masked))


def test_an_exact_verdict_is_measured_in_both_modes():
    graph = worked_out(GrowEdges("c", count=1), CNN)[1]
    for seed in range(3):
        verdict_is_sound(Case(graph, GrowEdges(fraction=0.5), seed))
