"""Pruning synapses: which go, what stays zero, what may not be done."""

import numpy as np
import pytest
import torch
from masked import CNN, MASKED, MLP, criterion, inputs, live, off, worked_out  # type: ignore[import-not-found]

from irgrow.grammar import parse, parse_pass
from irgrow.morphism import Cut, Keep
from irgrow.network import build
from irgrow.passes import Context, Prover, PruneEdges, plan
from irgrow.passes.analyses.density import density
from irgrow.passes.preservation import prover
from irgrow.testing import check_pass
from irgrow.testing.laws import Broken, Case, verdict_is_sound
from irgrow.testing.numbers import carried, output_error, random_inputs
from irgrow.verdict import Changes, Exact, Refused

TIED = "net n(x: [4]) { return x |> a: dense(4) |> tanh |> b: dense(4, tied = a) |> dense(2) }"


def test_the_smallest_weights_go_and_the_layer_gets_a_mask():
    result, graph, params = worked_out(PruneEdges("a", count=6))
    after = carried(result.morphism, params)
    weight = params["a.weight"]
    smallest = {tuple(np.unravel_index(i, weight.shape)) for i in np.argsort(np.abs(weight), axis=None)[:6]}
    assert off(params, after) == smallest
    assert np.array_equal(after["a.weight"], np.where(after["a.mask"] != 0, weight, 0))
    assert result.morphism.after["a"].op.masked
    assert {n for n, t in result.morphism.transfers.items() if t != Keep(n)} == {"a.weight", "a.mask"}
    assert result.verdict == Changes("6 synapses of `a` have other weights")
    assert parse(str(result.morphism.after)) == result.morphism.after
    assert output_error(result.morphism, params, random_inputs(graph, 0)) > 1e-3


def test_what_is_off_already_is_no_candidate():
    """Negative control of the choice: zeros behind the mask are smaller than anything that is on."""
    mask = np.ones((5, 4))
    mask[0] = 0
    result, _, params = worked_out(PruneEdges("a", fraction=0.25), MASKED, a__mask=mask)
    gone = off(params, carried(result.morphism, params))
    assert len(gone) == 4
    assert all(row != 0 for row, _ in gone)


@pytest.mark.parametrize(
    ("amount", "left"),
    [
        ({"fraction": 0.29}, 20 - 5),
        ({"count": 7}, 13),
        ({"density": 0.5}, 10),
        ({"density": 0.01}, 1),
        ({"fraction": 0.95}, 1),
    ],
)
def test_amounts(amount, left):
    result, _, params = worked_out(PruneEdges("a", **amount))
    assert carried(result.morphism, params)["a.mask"].sum() == left


def test_the_density_is_that_afterwards():
    mask = np.ones((5, 4))
    mask[:2] = 0
    result, _, params = worked_out(PruneEdges("a", density=0.5), MASKED, a__mask=mask)
    assert carried(result.morphism, params)["a.mask"].sum() == 10
    assert off(params, carried(result.morphism, params))
    assert result.verdict.applies
    refused, _, _ = worked_out(PruneEdges("a", density=0.7), MASKED, a__mask=mask)
    assert "no synapse of `a` goes with density = 0.7" in refused.verdict.reason


def test_a_threshold_takes_what_is_not_above_it():
    weight = np.arange(1.0, 21.0).reshape(5, 4) * np.where(np.arange(20).reshape(5, 4) % 2, -1, 1)
    result, _, params = worked_out(PruneEdges("a", threshold=3.0), a__weight=weight)
    assert off(params, carried(result.morphism, params)) == {(0, 0), (0, 1), (0, 2)}
    refused, _, _ = worked_out(PruneEdges("a", threshold=0.5), a__weight=weight)
    assert isinstance(refused.verdict, Refused)


def test_exact_zeros_go_exactly_and_the_prover_sees_one_that_is_not():
    weight = np.random.default_rng(0).normal(size=(5, 4))
    weight[1:3, ::2] = 0.0
    result, graph, params = worked_out(PruneEdges("a", threshold=0.0), a__weight=weight)
    assert result.verdict == Exact()
    assert off(params, carried(result.morphism, params)) == {(1, 0), (1, 2), (2, 0), (2, 2)}
    assert output_error(result.morphism, params, random_inputs(graph, 0)) == 0.0
    more, _, _ = worked_out(PruneEdges("a", count=5), a__weight=weight)
    assert more.verdict == Changes("a synapse of `a` has another weight")
    blind = Prover(result.morphism, None)
    blind.run()
    assert isinstance(blind.verdict(), Changes), "nothing is known without the numbers"


def test_ties_are_broken_by_place():
    result, _, params = worked_out(PruneEdges("a", count=3), a__weight=np.full((5, 4), -0.5))
    assert off(params, carried(result.morphism, params)) == {(0, 0), (0, 1), (0, 2)}


@pytest.mark.parametrize("by", ["snip", "movement"])
def test_gradient_criteria(by):
    rng = np.random.default_rng(1)
    weight, gradient = rng.normal(size=(5, 4)), rng.normal(size=(5, 4))
    result, _, params = worked_out(PruneEdges("a", by, count=5), gradients={"a.weight": gradient}, a__weight=weight)
    score = np.abs(gradient * weight) if by == "snip" else -gradient * weight
    lowest = {tuple(np.unravel_index(i, score.shape)) for i in np.argsort(score, axis=None)[:5]}
    assert off(params, carried(result.morphism, params)) == lowest


def test_snip_on_a_live_network_is_the_gradient_times_the_weight():
    net, _, step = live(MLP)
    step()
    x = inputs(net, 5)
    weight = net.params["a.weight"]
    (gradient,) = torch.autograd.grad(criterion(net(x)), weight)
    score = (gradient * weight).abs().detach()
    receipt = net.rewrite(PruneEdges("a", "snip", count=4), batch=x, loss=criterion)
    assert receipt.loss is not None
    gone = net.params["a.mask"] == 0
    assert gone.sum() == 4
    assert score[gone].max() <= score[~gone].min()


def test_random_is_reproducible_and_differs_by_seed():
    runs = []
    for seed in (0, 0, 1):
        result, _, params = worked_out(PruneEdges("a", "random", count=8), seed=seed)
        runs.append(carried(result.morphism, params)["a.mask"])
    assert np.array_equal(runs[0], runs[1])
    assert not np.array_equal(runs[0], runs[2])
    assert plan(PruneEdges("a", "random", count=8), parse(MLP), Context()).verdict.applies, "needs no numbers"


# kernels ------------------------------------------------------------------------------------------------------------


def test_whole_kernels_go_by_their_norm():
    ones = {"c__mask": np.ones((4, 2, 3, 3)), "d__mask": np.ones((4, 1, 2, 2))}
    result, _, params = worked_out(PruneEdges("c", count=3, kernels=True), CNN, **ones)
    after = carried(result.morphism, params)
    norms = np.sqrt((params["c.weight"] ** 2).sum((2, 3)))
    smallest = np.argsort(norms, axis=None)[:3]
    kernels = after["c.mask"].reshape(8, 9)
    assert set(np.flatnonzero((kernels == 0).all(1))) == set(smallest)
    assert (np.delete(kernels, smallest, axis=0) == 1).all()
    result, _, params = worked_out(PruneEdges("d", fraction=0.5, kernels=True), CNN, **ones)
    assert carried(result.morphism, params)["d.mask"].reshape(4, 4).sum(1).tolist().count(0.0) == 2


def test_kernels_with_a_single_entry_on_count_as_on():
    mask = np.ones((4, 2, 3, 3))
    mask[0, 0] = 0
    mask[0, 0, 1, 1] = 1
    mask[1] = 0
    result, _, params = worked_out(PruneEdges("c", density=0.5, kernels=True), CNN, c__mask=mask)
    after = carried(result.morphism, params)["c.mask"].reshape(8, 9)
    assert after.any(1).sum() == 4
    norms = np.sqrt((params["c.weight"] ** 2).sum((2, 3))).reshape(8)
    gone = np.flatnonzero(mask.reshape(8, 9).any(1) & ~after.any(1))
    assert norms[gone].max() <= norms[after.any(1)].min()


# all weights --------------------------------------------------------------------------------------------------------


def masks(result, params):
    after = carried(result.morphism, params)
    return {n.split(".")[0]: int(v.sum()) for n, v in after.items() if n.endswith(".mask")}


def test_uniform_takes_the_same_share_of_each():
    assert masks(*worked_out(PruneEdges(fraction=0.5))[::2]) == {"a": 10, "b": 8, "head": 3}
    assert masks(*worked_out(PruneEdges(density=0.3))[::2]) == {"a": 6, "b": 5, "head": 2}
    assert masks(*worked_out(PruneEdges(count=10))[::2]) == {"a": 15, "b": 11, "head": 5}


def test_erk_by_hand():
    """Weights (5, 4), (3, 5), (2, 3): sizes 20, 15, 6, scales 9/20, 8/15, 5/6; e = 0.5 * 41 / 22."""
    e = 0.5 * 41 / 22
    wanted = [20 - int(20 * (1 - e * 9 / 20)), 15 - int(15 * (1 - e * 8 / 15)), 6 - int(6 * (1 - e * 5 / 6))]
    assert list(masks(*worked_out(PruneEdges(density=0.5, allocation="erk"))[::2]).values()) == wanted == [9, 8, 5]


def test_global_is_one_ranking():
    result, _, params = worked_out(PruneEdges(count=20, allocation="global"))
    after = carried(result.morphism, params)
    every = np.concatenate([np.abs(params[f"{n}.weight"]).ravel() for n in ("a", "b", "head")])
    edge = np.sort(every)[19]
    for name in ("a", "b", "head"):
        assert np.array_equal(after[f"{name}.mask"] == 0, np.abs(params[f"{name}.weight"]) <= edge)


def test_some_weights_may_be_spared():
    for spare, left in {"first": ["b", "head"], "last": ["a", "b"], "ends": ["b"]}.items():
        assert list(masks(*worked_out(PruneEdges(fraction=0.5, spare=spare))[::2])) == left


def test_a_tied_weight_goes_in_all_its_uses():
    result, graph, _ = worked_out(PruneEdges("b", count=5), TIED)
    assert result.morphism.after["a"].op.masked
    assert result.morphism.after["b"].op.masked
    assert set(result.morphism.after.params) - set(graph.params) == {"a.mask"}
    net = build(TIED, dtype=torch.float64)
    net.rewrite(PruneEdges("b", count=5))
    x = inputs(net)
    weight = net.params["a.weight"] * net.params["a.mask"]
    hidden = torch.tanh(x @ weight.T + net.params["a.bias"])
    wanted = (hidden @ weight.T + net.params["a.bias"]) @ net.params["dense_1.weight"].T + net.params["dense_1.bias"]
    torch.testing.assert_close(net(x), wanted, rtol=1e-12, atol=1e-12)


# ephemeral ----------------------------------------------------------------------------------------------------------


def test_ephemeral_pruning_leaves_weight_and_moments_and_is_undone_exactly():
    net, opt, step = live(MLP)
    step()
    weight = net.params["a.weight"]
    before, moments = weight.detach().clone(), opt.state[weight]["exp_avg"].clone()
    x = inputs(net)
    outputs = net(x).detach()
    receipt = net.rewrite(PruneEdges("a", count=6, ephemeral=True))
    assert isinstance(receipt.verdict, Changes)
    assert isinstance(receipt.morphism.transfers["a.weight"], Keep)
    assert net.params["a.weight"] is weight
    assert torch.equal(weight, before)
    assert torch.equal(opt.state[weight]["exp_avg"], moments)
    assert not torch.allclose(net(x), outputs)
    net.undo()
    assert torch.equal(net(x), outputs)
    assert "a.mask" not in net.params


def test_permanent_pruning_cannot_be_undone():
    net, _, _ = live(MLP)
    receipt = net.rewrite(PruneEdges("a", count=6))
    assert isinstance(receipt.morphism.transfers["a.weight"], Cut)
    assert receipt.morphism.inverse() is None


# refusals -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rewrite", "reason"),
    [
        (PruneEdges("relu_1", count=1), "`relu_1` has no weight"),
        (PruneEdges("nope", count=1), "no axis or node is called `nope`"),
        (PruneEdges("a", count=1, kernels=True), "`a` has no kernels"),
        (PruneEdges(count=1, kernels=True), "there is no weight with kernels"),
        (PruneEdges("a"), "exactly one of fraction, count, density or threshold must be given, found none"),
        (PruneEdges("a", count=1, density=0.5), "must be given, found count = 1 and density = 0.5"),
        (PruneEdges("a", density=0.0), "`density` must be above 0"),
        (PruneEdges("a", density=1.5), "`density` must be at most 1"),
        (PruneEdges("a", fraction=-0.5), "`fraction` must be above 0"),
        (PruneEdges("a", fraction=float("nan")), "`fraction` takes a finite number"),
        (PruneEdges("a", "lottery", count=1), "`by` takes one of"),
        (PruneEdges("a", "random", threshold=0.5), "random numbers have no threshold"),
        (PruneEdges(threshold=0.1, allocation="erk"), "a threshold says for every weight what goes"),
        (PruneEdges("a", fraction=0.01), "no synapse of `a` goes with fraction = 0.01"),
        (PruneEdges("a", density=1.0), "no synapse of `a` goes with density = 1.0"),
        (PruneEdges("a", count=20), "`a.weight` would have no synapses left"),
        (PruneEdges("a", count=21), "20 synapses are on, asked for 21"),
        (PruneEdges("a", threshold=1e9), "`a.weight` would have no synapses left"),
        (PruneEdges("a", "snip", count=1), "pruning by snip needs gradients: give a batch and a loss"),
    ],
)
def test_refusals(rewrite, reason):
    result, _, _ = worked_out(rewrite)
    assert isinstance(result.verdict, Refused)
    assert reason in result.verdict.reason
    assert result.morphism is None


def test_more_refusals():
    embedded = "net n(x: ids(7)[3]) { return x |> e: embedding(4) |> h: dense(4) |> head: dense(7, tied = e) }"
    assert "has no weight whose entries" in worked_out(PruneEdges("e", count=1), embedded)[0].verdict.reason
    tied = worked_out(PruneEdges("head", count=1), embedded)[0].verdict.reason
    assert tied == "`head` uses the weight of `e`, which cannot be masked"
    named = "net n(x: [4]) { axis d = 5  return x |> dense(d) |> dense(2) }"
    assert "`d` is an axis" in worked_out(PruneEdges("d", count=1), named)[0].verdict.reason
    ambiguous = "net n(x: [4]) { return x |> all: dense(5) |> dense(2) }"
    assert "`all` is a node here" in worked_out(PruneEdges(count=1), ambiguous)[0].verdict.reason
    none = "net n(x: [4]) { return x |> relu }"
    assert "there is no weight" in worked_out(PruneEdges(count=1), none)[0].verdict.reason
    spared = worked_out(PruneEdges(count=1, spare="ends"), "net n(x: [4]) { return x |> a: dense(2) }")[0]
    assert "once spare = ends is left out" in spared.verdict.reason
    assert "there are none yet" in plan(PruneEdges("a", count=1), parse(MLP)).verdict.reason
    broken, _, _ = worked_out(PruneEdges("a", count=1), a__weight=np.full((5, 4), np.nan))
    assert "`a.weight` has entries that are not finite" in broken.verdict.reason
    wild = {"a.weight": np.full((5, 4), np.inf)}
    infinite, _, _ = worked_out(PruneEdges("a", "snip", count=1), gradients=wild)
    assert "the gradient of `a.weight` has entries that are not finite" in infinite.verdict.reason


def test_a_global_ranking_may_not_empty_a_weight():
    result, _, _ = worked_out(PruneEdges(count=15, allocation="global"), b__weight=np.full((3, 5), 1e-9))
    assert "`b.weight` would have no synapses left" in result.verdict.reason


def test_refused_changes_nothing():
    net, _, step = live(MLP)
    step()
    before = {n: p.detach().clone() for n, p in net.params.items()}
    module, graph = net.module, net.graph
    assert not net.rewrite(PruneEdges("a", count=20)).applied
    assert net.module is module
    assert net.graph is graph
    assert all(torch.equal(net.params[n], v) for n, v in before.items())


# texts and laws -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "rewrite",
    [
        PruneEdges(),
        PruneEdges("a", "snip", density=0.1),
        PruneEdges("stage.0.c", count=4, kernels=True, ephemeral=True),
        PruneEdges(threshold=0.0, spare="ends"),
        PruneEdges(fraction=0.1, allocation="global", by="movement"),
    ],
    ids=str,
)
def test_the_text_is_read_back(rewrite):
    assert parse_pass(str(rewrite)) == rewrite


def test_laws():
    check_pass(PruneEdges)


def test_a_prover_that_believes_every_switch_breaks_a_law(monkeypatch):
    """Negative control: the numbers catch a prover that calls a pruned synapse the old one."""
    case = Case(parse(MLP), PruneEdges("a", count=3))
    verdict_is_sound(case)
    monkeypatch.setattr(prover, "same_synapses", lambda *args: True)
    with pytest.raises(Broken, match="proved exact, the outputs differ"):
        verdict_is_sound(case)


def test_density_counts_what_was_pruned():
    net, _, _ = live(MLP)
    net.rewrite(PruneEdges(density=0.25, allocation="erk", by="random"))
    found = density(net.graph, net.params)
    assert found.on == sum(int(net.params[n].sum()) for n in net.params if n.endswith("mask"))
    assert 0.25 <= found.density < 0.25 + 3 / found.size
