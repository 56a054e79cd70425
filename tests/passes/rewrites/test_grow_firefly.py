"""Firefly: what is worked out without inserting anything is what a real insertion of all candidates gives."""

import numpy as np
import pytest
import torch

from irgrow.backends import random_params
from irgrow.backends.torch_fx import lower
from irgrow.fills import ZERO
from irgrow.grammar import parse, parse_pass
from irgrow.morphism import Select, describe
from irgrow.network import build
from irgrow.passes import Context, GrowFirefly, plan
from irgrow.passes.analyses.bridge import needed
from irgrow.passes.analyses.contributions import Candidates
from irgrow.probing import probe
from irgrow.testing import check_pass
from irgrow.testing.laws import LAWS, Case
from irgrow.testing.numbers import (
    as_tensors,
    carried,
    gradients,
    output_error,
    output_weights,
    random_inputs,
    weighted_loss,
)
from irgrow.transfer import move
from irgrow.transfer_json import transfer_from_json, transfer_to_json
from irgrow.verdict import Approximate, Changes

MLP = "net n(x: [6]) { return x |> h: dense(5) |> tanh |> y: dense(4) |> tanh |> dense(2) }"
MASKED = MLP.replace("h: dense(5)", "h: dense(5, masked = true)").replace("y: dense(4)", "y: dense(4, masked = true)")
CNN = "net n(x: [2, 6, 6]) { return x |> h: conv(4, kernel = 3, padding = 1) |> silu |> y: conv(3, kernel = 3, stride = 2) |> tanh |> avgpool |> dense(2) }"
FLAT = "net n(x: [2, 6, 6]) { return x |> h: conv(4, kernel = 3) |> gelu |> avgpool(2) |> flatten |> y: dense(3) |> tanh |> dense(2) }"
STREAM = "net n(x: [4]) { return x |> h: dense(5) |> residual { tanh |> a: dense(3) |> tanh |> b: dense(5) } |> y: dense(2) }"
PROGRAMS = {"dense": MLP, "masked": MASKED, "convolution": CNN, "flatten": FLAT, "stream": STREAM}


def recorded(text, seed=0, batch=8):
    graph = parse(text)
    params, inputs = random_params(graph, seed), random_inputs(graph, seed, batch)
    rng = np.random.default_rng(seed)
    for name, value in params.items():
        if name.endswith("mask"):
            params[name] = (rng.random(value.shape) < 0.7).astype(float)
    tensors = as_tensors(graph, params)
    batch = tuple(torch.as_tensor(inputs[n]) for n in graph.inputs)
    loss = weighted_loss(output_weights(graph, params, inputs, seed))
    found = probe(graph, lower(graph, tensors), tensors, batch, needed(graph, "h"), loss)
    context = Context(params, seed, found.values, found.gradients, found.signals, found.trial)
    return graph, params, inputs, context


def inserted_norms(graph, params, inputs, context, rewrite, both, seed=0):
    """Insert all candidates and return the gradient norms of splits (their copies) and new units by autograd."""
    morphism = rewrite.rewrite(graph, "h", context)
    weights = output_weights(graph, params, inputs, seed)
    found = gradients(morphism.after, carried(morphism, params), inputs, weights)
    old = graph.widths["h"]
    squares = (found["h.weight"][old:].numpy().reshape(rewrite.count, -1) ** 2).sum(1)
    for name in ("y.weight", "a.weight") if both else ():
        if name in params:
            g = found[name].numpy()[:, params[name].shape[1] :]
            squares += (g.reshape(g.shape[0], rewrite.count, -1) ** 2).sum((0, 2))
    return np.sqrt(squares)


@pytest.mark.parametrize("by", ["fan_in", "both"])
@pytest.mark.parametrize("program", PROGRAMS)
def test_the_norms_are_those_of_a_real_insertion(program, by):
    """With no candidates beyond those needed all are inserted; the difference shrinks as epsilon does."""
    graph, params, inputs, context = recorded(PROGRAMS[program])
    worst = []
    for epsilon in (1e-3, 1e-4, 1e-5):
        rewrite = AllOf("h", 6, 0, epsilon, by)
        drawn = rewrite.drawn(graph, "h", 6, context)
        scores = rewrite.scores(graph, "h", drawn, context)
        norms = inserted_norms(graph, params, inputs, context, rewrite, by == "both")
        assert 0 < len(drawn.splits) < 6
        worst.append((np.abs(scores - norms) / norms).max())
        if epsilon == 1e-5:
            assert (np.argsort(-scores) == np.argsort(-norms)).all()
    assert worst[0] < 0.2
    assert worst[2] < 1e-3
    assert worst[2] < worst[1] / 5 < worst[0] / 25


class AllOf(GrowFirefly):
    """Draws no candidates beyond those needed."""

    def drawn(self, graph, axis, count, context):
        found = super().drawn(graph, axis, count, context)
        splits = found.splits[: count // 2]
        new = count - len(splits)
        return Candidates(splits, found.fan_in[:new], {w: v[:new] for w, v in found.fan_outs.items()})


@pytest.mark.parametrize("program", PROGRAMS)
def test_the_best_are_kept(program):
    graph, params, _, context = recorded(PROGRAMS[program])
    rewrite = GrowFirefly("h", 2, 8, by="both")
    drawn = rewrite.drawn(graph, "h", 2, context)
    scores = rewrite.scores(graph, "h", drawn, context)
    best = np.sort(np.argsort(-scores)[:2])
    morphism = rewrite.rewrite(graph, "h", context)
    m = morphism.edits["h"]
    splits = len(drawn.splits)
    assert m[graph.widths["h"] :].tolist() == [*drawn.splits[best[best < splits]], *[-1] * int((best >= splits).sum())]
    new = carried(morphism, params)
    for i, unit in enumerate(best[best >= splits]):
        row = graph.widths["h"] + int((best < splits).sum()) + i
        np.testing.assert_array_equal(new["h.weight"][row], drawn.fan_in[unit - splits])
    assert morphism.notes == (f"grow_firefly: {(best < splits).sum()} units split, {(best >= splits).sum()} new",)


@pytest.mark.parametrize("noise", ["uniform", "normal"])
def test_splits_share_and_are_parted_by_noise_of_both_signs(noise):
    graph, params, inputs, context = recorded(MLP)
    result = plan(GrowFirefly("h", 2, 8, noise=noise), graph, context)
    assert isinstance(result.verdict, Approximate)
    new, m = carried(result.morphism, params), result.morphism.edits["h"]
    for copy, unit in enumerate(m[5:], 5):
        np.testing.assert_allclose(new["y.weight"][:, [copy]], params["y.weight"][:, [unit]] / 2)
        np.testing.assert_allclose(new["y.weight"][:, [unit]], params["y.weight"][:, [unit]] / 2)
        pair = new["h.weight"][[copy, unit]] - params["h.weight"][unit]
        np.testing.assert_allclose(pair.sum(0), 0, atol=1e-16)
        size = np.linalg.norm(pair[0]) / np.linalg.norm(params["h.weight"][unit])
        assert 0.2e-4 < size < 5e-4
        assert (abs(size - 1e-4) < 1e-10) == (noise == "uniform")
    assert output_error(result.morphism, params, inputs) < 1e-7


def test_uniform_noise_is_relative_to_the_unit_it_parts():
    graph, params, _, context = recorded(MLP)
    params["h.weight"][0] *= 100.0
    params["h.weight"][1] *= 0.01
    apart = {}
    for noise in ("uniform", "normal"):
        chosen = Candidates(np.arange(5), np.zeros((0, 6)), {"y.weight": np.zeros((0, 4))})
        new = carried(GrowFirefly("h", 5, 8, noise=noise)._inserted(graph, "h", chosen, context), params)["h.weight"]
        apart[noise] = np.linalg.norm(new[5:] - params["h.weight"], axis=1) / np.linalg.norm(params["h.weight"], axis=1)
    np.testing.assert_allclose(apart["uniform"], 1e-4, rtol=1e-6)
    assert apart["normal"][1] > 100 * apart["normal"][0], "one size for all"


def entries(noise, units=40, wide=500):
    """Return the noise of splits of wide units, each divided by its largest entry."""
    graph = parse(f"net n(x: [{wide}]) {{ return x |> h: dense({units}) |> tanh |> dense(2) }}")
    params = random_params(graph, 0)
    rewrite = GrowFirefly("h", units, noise=noise)
    chosen = Candidates(np.arange(units), np.zeros((0, wide)), {"dense_1.weight": np.zeros((0, 2))})
    morphism = rewrite._inserted(graph, "h", chosen, Context(params, 0))
    apart = carried(morphism, params)["h.weight"][units:] - params["h.weight"]
    return apart / np.abs(apart).max(1, keepdims=True)


def test_noise_is_uniform_as_printed_or_normal():
    """Kolmogorov's distance of 20,000 entries to the uniform distribution; 1.63 / sqrt(n) is passed once in a hundred."""
    for noise, is_uniform in (("uniform", True), ("normal", False)):
        sorted_ = np.sort(entries(noise).ravel())
        distance = np.abs(np.linspace(0.0, 1.0, len(sorted_)) - (sorted_ + 1) / 2).max()
        assert (distance < 1.63 / len(sorted_) ** 0.5) == is_uniform, (noise, distance)
    kurtosis = {noise: (e**4).mean() / (e**2).mean() ** 2 for noise in ("uniform", "normal") for e in [entries(noise)]}
    assert kurtosis["uniform"] == pytest.approx(9 / 5, abs=0.05)
    assert kurtosis["normal"] == pytest.approx(3.0, abs=0.15)


def test_the_noise_is_written_read_and_sent():
    assert str(GrowFirefly("h", 2)) == "grow_firefly(h, 2)"
    text = str(GrowFirefly("h", 2, noise="normal"))
    assert text == "grow_firefly(h, 2, noise = normal)"
    assert parse_pass(text) == GrowFirefly("h", 2, noise="normal")
    for noise in ("uniform", "normal"):
        graph, _, _, context = recorded(MLP)
        transfer = plan(GrowFirefly("h", 2, 8, noise=noise), graph, context).morphism.transfers["h.weight"]
        again = transfer_from_json(transfer_to_json(transfer))
        assert (again.drawn, again.noise) == (noise, transfer.noise)
        assert ("uniform" in describe(transfer)) == (noise == "uniform")
    old = {k: v for k, v in transfer_to_json(transfer).items() if k != "drawn"}
    assert transfer_from_json(old).drawn == "normal", "what was written before there was a choice"


def test_of_an_odd_number_of_copies_one_stays_where_it_is():
    old = torch.ones(2, 5, dtype=torch.float64)
    maps = np.array([0, 1, 1, 1]), None
    made = move(Select("w", maps, (ZERO, ZERO), noise=(0.1, 0.0), drawn="uniform"), {"w": old}, (4, 5), "w", 3)
    apart = made - 1.0
    assert not apart[0].any()
    assert not apart[3].any()
    torch.testing.assert_close(apart[1], -apart[2])
    assert float(apart[1].norm()) == pytest.approx(0.1 * 5**0.5)


def test_new_units_change_the_function_to_first_order():
    graph, params, inputs, context = recorded(MLP)
    errors = []
    for epsilon in (1e-2, 1e-3):
        result = plan(AllOf("h", 4, 0, epsilon), graph, context)
        assert isinstance(result.verdict, Changes)
        errors.append(output_error(result.morphism, params, inputs))
    assert errors[0] / errors[1] == pytest.approx(10, rel=0.2)


def test_with_a_tiny_epsilon_splits_win_and_with_both_sides_new_ones_may():
    graph, _, _, context = recorded(MLP)
    assert (plan(GrowFirefly("h", 3, 8), graph, context).morphism.edits["h"] >= 0).all()
    notes = [
        plan(GrowFirefly("h", 5, 40, by="both"), recorded(MLP, s)[0], recorded(MLP, s)[3]).morphism.notes
        for s in range(3)
    ]
    assert any("0 new" not in n[0] for n in notes)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("program", ["dense", "convolution"])
def test_on_a_live_network_moments_follow(program, dtype):
    net = build(PROGRAMS[program], seed=1, dtype=dtype)
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-2)
    net.track(optimizer)
    batch = torch.randn(8, *net.graph.shape("x"), dtype=dtype)
    loss = lambda y: ((y - 1) ** 2).mean()  # noqa: E731
    for _ in range(3):
        optimizer.zero_grad()
        loss(net(batch)).backward()
        optimizer.step()
    old = net.graph.widths["h"]
    before = optimizer.state[net.params["h.weight"]]["exp_avg"].clone()
    receipt = net.rewrite(GrowFirefly("h", 2, 6), batch=batch, statistics=batch, loss=loss)
    assert receipt.applied
    assert receipt.error < 1e-3
    after, m = optimizer.state[net.params["h.weight"]]["exp_avg"], receipt.morphism.edits["h"]
    for row, unit in enumerate(m.tolist()):
        wanted = 0 * after[row] if unit < 0 else before[unit] / (2 if (m == unit).sum() > 1 else 1)
        assert torch.allclose(after[row], wanted, rtol=1e-5, atol=1e-12)
    optimizer.zero_grad()
    loss(net(batch)).backward()
    assert (net.params["h.weight"].grad[old:].flatten(1).norm(dim=1) > 0).all()


def test_text_and_rules():
    rewrite = GrowFirefly("h", 4, 100, 1e-3, "both")
    assert parse_pass(str(rewrite)) == rewrite
    assert rewrite.at("g", 2) == GrowFirefly("g", 2, 100, 1e-3, "both")
    assert rewrite.counted


@pytest.mark.parametrize(
    ("text", "site", "reason"),
    [
        ("net n(x: [4]) { return x |> h: dense(3) |> tanh |> y: dense(2) }", "y", "locked"),
        ("net n(x: ids(5)[3]) { return x |> h: embedding(4) |> dense(2) }", "h", "no dense layer or convolution makes"),
        ("net n(x: [4]) { return x |> h: dense(3) |> dense(2) }", "nowhere", "no axis or node"),
    ],
)
def test_where_it_does_not_apply_the_reason_says_so(text, site, reason):
    assert reason in plan(GrowFirefly(site, 1), parse(text)).verdict.reason


def test_what_is_missing_is_said():
    graph, params, _, context = recorded(MLP)
    assert "needs the parameters" in plan(GrowFirefly("h", 1), graph, Context()).verdict.reason
    assert "give `loss`" in plan(GrowFirefly("h", 1), graph, Context(params)).verdict.reason
    bad = {name: g * np.nan for name, g in context.gradients.items()}
    context = Context(params, 0, context.statistics, bad, context.signals)
    assert "not finite" in plan(GrowFirefly("h", 1), graph, context).verdict.reason


def test_it_obeys_the_laws():
    for program in ("dense", "convolution"):
        for law in LAWS:
            law(Case(parse(PROGRAMS[program]), GrowFirefly("h", 2, 6), 3, 4))
    check_pass(GrowFirefly, examples=15)
