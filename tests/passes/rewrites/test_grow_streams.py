"""Growing model widths through norms: zeros for root-mean-square norms, means for layer norms, neither elsewhere."""

import numpy as np
import pytest
import torch

import irgrow
from irgrow.backends import random_params
from irgrow.grammar import parse
from irgrow.passes import Context, GrowUnits, plan
from irgrow.testing.numbers import carried, output_error, random_inputs
from irgrow.verdict import Changes, Exact

BODY = "x |> e: dense(6) |> residual {{ {norm} |> dense(7) |> gelu |> dense(6) }} |> {norm} |> r: dense(3)"
RMS = "net n(x: [5]) { return " + BODY.format(norm="rmsnorm(eps = 0.01)") + " }"
LAYER = "net n(x: [5]) { return " + BODY.format(norm="layernorm(eps = 0.01)") + " }"
GPT = """import std.transformer
net gpt(tokens: ids(11)[5]) {
  axis d = 9
  h = tokens |> e: embedding(d) |> positions{table} |> repeat(2) { transformer(heads = 3, head_dim = 3, hidden = 10) }
  return h |> layernorm(eps = 0.01) |> head: dense(11, bias = false, tied = e)
}""".replace("{table}", "(table)")
LLAMA = """import std.transformer
net llama(tokens: ids(11)[5]) {
  axis d = 9
  return tokens |> e: embedding(d) |> repeat(2) { llama(4, 2, 2, 9) } |> rmsnorm(eps = 0.01) |> dense(11, bias = false)
}"""


def grown(text, zero, count=3, params=None, seed=0):
    graph = parse(text)
    params = random_params(graph, seed) if params is None else params
    result = plan(GrowUnits("e", count, zero=zero), graph, Context(params, seed))
    return graph, params, result


def errors(graph, params, result):
    inputs = random_inputs(graph, 1)
    return [output_error(result.morphism, params, inputs, training=t) for t in (False, True)]


@pytest.mark.parametrize("count", [1, 4])
@pytest.mark.parametrize(
    ("text", "zero"),
    [
        (RMS, "fan_in"),
        (LLAMA, "fan_in"),
        (LAYER, "mean"),
        (GPT.replace("(table)", ""), "mean"),
        (GPT.replace("(table)", "(table = sinusoidal)"), "mean"),
    ],
)
def test_the_right_start_is_exact(text, zero, count):
    graph, params, result = grown(text, zero, count)
    assert result.verdict == Exact()
    assert max(errors(graph, params, result)) < 1e-12


@pytest.mark.parametrize(
    ("text", "zero"),
    [(RMS, "fan_out"), (RMS, "mean"), (LAYER, "fan_in"), (LAYER, "fan_out"), (LAYER, "neither"), (LLAMA, "mean")],
)
def test_any_other_is_not(text, zero):
    """Rows 16 and 21; negative control of the one above."""
    graph, params, result = grown(text, zero)
    assert isinstance(result.verdict, Changes)
    assert "normalises over units" in result.verdict.reason
    assert errors(graph, params, result)[0] > 1e-3


def test_gain_and_eps_make_up_for_the_width():
    _, params, result = grown(RMS, "fan_in")
    new = carried(result.morphism, params)
    np.testing.assert_allclose(new["rmsnorm_2.weight"][:6], params["rmsnorm_2.weight"] * np.sqrt(6 / 9))
    assert result.morphism.after["rmsnorm_2"].op.eps == 0.01 * 6 / 9
    assert (new["e.weight"][6:] == 0).all()
    assert (new["r.weight"][:, 6:] != 0).all()


def test_new_rows_are_the_mean_of_the_old_ones():
    """Row 18."""
    _, params, result = grown(LAYER, "mean")
    new = carried(result.morphism, params)
    for name in ("e.weight", "e.bias", "dense_2.weight", "dense_2.bias"):
        np.testing.assert_allclose(new[name][6:], np.broadcast_to(params[name].mean(0), new[name][6:].shape))
    assert (new["layernorm_2.bias"][6:] == 0).all()


@pytest.mark.parametrize("centred", [True, False])
def test_a_centred_stream_takes_zeros(centred):
    """Row 17: zeros are the mean where every writer's rows add up to zero; and only there."""
    graph = parse(LAYER)
    params = random_params(graph, 0)
    for name in ("e.weight", "e.bias", "dense_2.weight", "dense_2.bias"):
        params[name] = params[name] - params[name].mean(0)
    if not centred:
        params["dense_2.bias"] = params["dense_2.bias"] + 1e-3
    graph, params, result = grown(LAYER, "fan_in", params=params)
    assert isinstance(result.verdict, Exact if centred else Changes)
    assert (errors(graph, params, result)[0] < 1e-12) is centred


def test_what_is_not_affine_cannot_make_up_for_it():
    text = RMS.replace("eps = 0.01", "eps = 0.01, affine = false")
    assert isinstance(grown(text, "fan_in")[2].verdict, Changes)


def test_dropout_on_the_stream_keeps_means_in_evaluation_only():
    text = "net n(x: [5]) { return x |> e: dense(6) |> dropout(0.3) |> layernorm(eps = 0.01) |> dense(3) }"
    graph, params, result = grown(text, "mean")
    assert result.verdict == Exact("eval")
    assert output_error(result.morphism, params, random_inputs(graph, 0)) < 1e-13


@pytest.mark.parametrize("between", ["relu", "scale", "tanh"])
def test_means_do_not_survive_what_is_not_linear(between):
    text = f"net n(x: [5]) {{ return x |> e: dense(6) |> {between} |> layernorm(eps = 0.01) |> dense(3) }}"
    graph, params, result = grown(text, "mean")
    assert isinstance(result.verdict, Changes)
    assert errors(graph, params, result)[0] > 1e-4


def test_a_vision_transformer_stream():
    text = """import std.transformer
    net vit(x: [3, 8, 8]) {
      axis d = 8
      h = x |> e: conv(d, 4, stride = 4) |> flatten(start = 1) |> transpose |> classtoken |> positions
        |> transformer(heads = 2, head_dim = 4, hidden = 6)
      return h |> layernorm(eps = 0.01) |> dense(3)
    }"""
    graph, params, result = grown(text, "mean", 5)
    assert result.verdict == Exact()
    assert errors(graph, params, result)[0] < 1e-12


def test_newborns_learn_and_training_goes_on():
    net = irgrow.build(LAYER, seed=0, dtype=torch.float64)
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-3)
    net.track(optimizer)
    x, y = torch.randn(30, 5, dtype=torch.float64), torch.randn(30, 3, dtype=torch.float64)

    def step():
        optimizer.zero_grad()
        loss = ((net(x) - y) ** 2).mean()
        loss.backward()
        optimizer.step()
        return float(loss.detach())

    for _ in range(5):
        last = step()
    receipt = net.rewrite(GrowUnits("e", 3, zero="mean"), batch=x)
    assert receipt.error < 1e-12
    assert step() < last
    assert net.params["r.weight"].grad[:, 6:].abs().max() < 1e-15, "what reads the centred units sees zeros at first"
    assert (net.params["e.weight"].grad[6:] != 0).any()
    for _ in range(10):
        step()
    assert net.params["r.weight"].grad[:, 6:].abs().max() > 1e-9


@pytest.mark.parametrize("zero", ["fan_in", "mean"])
def test_float32(zero):
    text = RMS if zero == "fan_in" else LAYER
    net = irgrow.build(text, seed=3)
    receipt = net.rewrite(GrowUnits("e", 7, zero=zero), batch=torch.randn(9, 5))
    assert receipt.verdict == Exact()
    assert receipt.error < 1e-5
