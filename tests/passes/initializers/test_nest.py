"""NeST: pairs go down the gradient, candidates are those that lower the loss most, and both sides are alive."""

import numpy as np
import pytest
import torch

from irgrow.backends import interpret, random_params
from irgrow.backends.torch_fx import lower
from irgrow.grammar import parse
from irgrow.network import build
from irgrow.passes import Context, GrowUnits, Nest, plan
from irgrow.passes.analyses.bridge import needed
from irgrow.passes.analyses.fan_outs import fan_out_norm
from irgrow.probing import probe
from irgrow.testing.checking import check_pass
from irgrow.testing.laws import LAWS, Case
from irgrow.testing.numbers import (
    as_tensors,
    carried,
    output_weights,
    planned,
    random_inputs,
    weighted_loss,
)
from irgrow.verdict import Changes

MLP = "net n(x: [6]) { return x |> h: dense(5) |> tanh |> y: dense(4) |> tanh |> dense(2) }"
STREAM = "net n(x: [4]) { return x |> h: dense(5) |> residual { tanh |> a: dense(3) |> tanh |> b: dense(5) } |> y: dense(2) }"
CNN = "net n(x: [2, 6, 6]) { return x |> h: conv(4, kernel = 3, padding = 1) |> relu |> y: conv(3, kernel = 3, stride = 2) |> tanh |> avgpool |> dense(2) }"
FLAT = "net n(x: [2, 6, 6]) { return x |> h: conv(4, kernel = 3) |> batchnorm |> relu |> maxpool(2) |> flatten |> y: dense(3) |> tanh |> dense(2) }"


def case(text, seed=0, batch=8):
    graph = parse(text)
    return graph, random_params(graph, seed), random_inputs(graph, seed, batch)


def loss_after(result, params, inputs, weights):
    outputs = interpret(result.morphism.after, carried(result.morphism, params), inputs).outputs
    return float(weighted_loss(weights)(tuple(torch.as_tensor(y) for y in outputs)))


def recorded(graph, params, inputs, seed=0):
    tensors = as_tensors(graph, params)
    batch = tuple(torch.as_tensor(inputs[n]) for n in graph.inputs)
    loss = weighted_loss(output_weights(graph, params, inputs, seed))
    found = probe(graph, lower(graph, tensors), tensors, batch, needed(graph, "h"), loss)
    return Context(params, seed, found.values, found.gradients, found.signals, found.trial)


@pytest.mark.parametrize(("kept", "share"), [("top", 0.4), ("rest", 0.6)])
@pytest.mark.parametrize("entries", ["root", "square"])
@pytest.mark.parametrize("signs", ["product", "random"])
def test_pairs_are_as_printed(kept, share, entries, signs):
    graph, params, inputs = case(MLP)
    context = recorded(graph, params, inputs)
    result = plan(GrowUnits("h", 3, Nest(kept=kept, entries=entries, signs=signs)), graph, context)
    assert isinstance(result.verdict, Changes)
    a = (context.signals["y"].T @ context.statistics["x"]).numpy()
    r = context.generator("nest", "h").choice([-1.0, 1.0], (3, *a.shape))
    threshold = np.sort(np.abs(a).ravel())[round(a.size * (1 - share))]
    new = carried(result.morphism, params)
    for k in range(3):
        w_out, w_in = np.zeros(4), np.zeros(6)
        for o in range(4):
            for i in range(6):
                if abs(a[o, i]) >= threshold:
                    s = np.sqrt(abs(a[o, i])) if entries == "root" else a[o, i] ** 2
                    w_out[o] += r[k, o, i] * s if signs == "product" else s
                    w_in[i] += -r[k, o, i] * np.sign(a[o, i]) * s if signs == "product" else r[k, o, i] * s
        w_out *= np.linalg.norm(params["y.weight"], axis=0).mean() / np.linalg.norm(w_out)
        w_in *= np.linalg.norm(params["h.weight"], axis=1).mean() / np.linalg.norm(w_in)
        np.testing.assert_allclose(new["h.weight"][5 + k], w_in, rtol=1e-10)
        np.testing.assert_allclose(new["y.weight"][:, 5 + k], w_out, rtol=1e-10)


def test_the_product_sign_lowers_the_loss_more_often():
    """Negative control: with random signs it does not, which is what the authors' code does (NeST)."""
    change = {"product": [], "random": []}
    for seed in range(60):
        graph, params, inputs = case(MLP, seed)
        weights = output_weights(graph, params, inputs, seed)
        context = recorded(graph, params, inputs, seed)
        before = float(
            weighted_loss(weights)(tuple(torch.as_tensor(y) for y in interpret(graph, params, inputs).outputs))
        )
        for signs, found in change.items():
            result = plan(GrowUnits("h", 1, Nest(signs=signs)), graph, context)
            found.append(loss_after(result, params, inputs, weights) - before)
    assert np.mean(np.array(change["product"]) < 0) > 0.6
    assert np.mean(change["product"]) < np.mean(change["random"])
    assert np.mean(change["product"]) < 0


@pytest.mark.parametrize("text", [CNN, FLAT.replace("batchnorm |> ", "")])
def test_the_candidates_with_the_lowest_loss_each_on_its_own_are_kept(text):
    """Insert every candidate for real, one by one, and compare."""
    graph, params, inputs = case(text)
    context, init = recorded(graph, params, inputs), Nest(candidates=7)
    weights = output_weights(graph, params, inputs, 0)
    pools = {}
    for count in (1, 2, 8):
        result = plan(GrowUnits("h", count, Nest(candidates=8 - count)), graph, context)
        pools[count] = carried(result.morphism, params)["h.weight"][4:]
    kept = pools[8]  # all of them, sorted by their loss
    np.testing.assert_array_equal(pools[2], kept[:2])
    np.testing.assert_array_equal(pools[1], kept[:1])
    everything = plan(GrowUnits("h", 8, Nest(candidates=0)), graph, context)
    new = carried(everything.morphism, params)
    losses = []
    for unit in range(8):
        one = dict(params)
        one["h.weight"] = np.concatenate([params["h.weight"], new["h.weight"][4 + unit : 5 + unit]])
        one["h.bias"] = np.append(params["h.bias"], 0.0)
        columns = new["y.weight"][:, params["y.weight"].shape[1] :]
        per = columns.shape[1] // 8
        one["y.weight"] = np.concatenate([params["y.weight"], columns[:, unit * per : (unit + 1) * per]], 1)
        grown = plan(GrowUnits("h", 1, init), graph, context).morphism.after
        outputs = interpret(grown, one, inputs).outputs
        losses.append(float(weighted_loss(weights)(tuple(torch.as_tensor(y) for y in outputs))))
    assert losses == sorted(losses)
    assert losses[0] < losses[-1]


@pytest.mark.parametrize("text", [MLP, STREAM, CNN, FLAT])
def test_norms_are_those_of_the_units_there_are(text):
    graph, params, inputs = case(text)
    context = recorded(graph, params, inputs)
    result = plan(GrowUnits("h", 2, Nest(candidates=3)), graph, context)
    new, old = carried(result.morphism, params), graph.widths["h"]
    rows = new["h.weight"].reshape(len(new["h.weight"]), -1)
    mean = np.linalg.norm(params["h.weight"].reshape(old, -1), axis=1).mean()
    np.testing.assert_allclose(np.linalg.norm(rows[old:], axis=1), mean, rtol=1e-12)
    readers = ("a.weight", "y.weight") if "a.weight" in params else ("y.weight",)
    total = 0.0
    for name in readers:
        total += (new[name][:, params[name].shape[1] :] ** 2).sum()
    assert np.sqrt(total / 2) == pytest.approx(fan_out_norm(graph, "h", readers, params), rel=1e-12)
    if "b.weight" in params:
        assert not new["b.weight"][old:].any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("text", [MLP, CNN, FLAT])
def test_on_a_live_network(text, dtype):
    net = build(text, seed=1, dtype=dtype)
    batch = torch.randn(6, *net.graph.shape("x"), dtype=dtype)
    before = {name: p.detach().clone() for name, p in net.params.items()}
    loss = lambda y: ((y - 2) ** 2).mean()  # noqa: E731
    receipt = net.rewrite(GrowUnits("h", 1, Nest(candidates=20)), batch=batch, statistics=batch, loss=loss)
    assert isinstance(receipt.verdict, Changes)
    if text == CNN:
        assert receipt.loss[1] < receipt.loss[0]
    for name, value in before.items():
        assert torch.equal(net.params[name][tuple(slice(0, s) for s in value.shape)], value), name


def test_what_is_missing_is_said():
    for text, why in ((MLP, "none were recorded"), (CNN, "give `loss`")):
        graph, params, _ = case(text)
        reason = plan(GrowUnits("h", 1, Nest()), graph, Context(params)).verdict.reason
        assert why in reason
    assert "needs the parameters" in plan(GrowUnits("h", 1, Nest()), parse(MLP), Context()).verdict.reason
    net = build(MLP)
    receipt = net.rewrite(GrowUnits("h", 1, Nest()), statistics=torch.randn(4, 6), loss=lambda y: 0 * y.sum())
    assert "the auxiliary gradient is zero" in receipt.verdict.reason
    net = build(CNN)
    nan = lambda y: y.sum() / 0 * 0  # noqa: E731
    receipt = net.rewrite(GrowUnits("h", 1, Nest(candidates=2)), statistics=torch.randn(4, 2, 6, 6), loss=nan)
    assert "not finite" in receipt.verdict.reason


def test_it_obeys_the_laws():
    for text in (MLP, CNN):
        for law in LAWS:
            law(Case(parse(text), GrowUnits("h", 2, Nest(candidates=2)), 3, 4))
    check_pass(GrowUnits(init=Nest(candidates=2)), examples=10)
    assert planned(GrowUnits("h", 1, Nest()), *case(MLP), 0).morphism is not None
