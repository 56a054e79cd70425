"""The reference interpreter against torch's own functions, op by op, written down independently of the lowering."""

import ast
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from irgrow.backends import interpret, random_params
from irgrow.errors import DataError
from irgrow.grammar import parse
from irgrow.ops import ACTIVATIONS, WORDS
from irgrow.testing.numbers import random_inputs

torch.set_grad_enabled(True)


def outputs(text, training=False, batch=3):
    graph = parse(text)
    params, inputs = random_params(graph, 1), random_inputs(graph, 1, batch)
    result = interpret(graph, params, inputs, training)
    tensors = {n: torch.as_tensor(v) for n, v in params.items()}
    return result, tensors, {n: torch.as_tensor(v) for n, v in inputs.items()}


def same(found, wanted, tolerance=1e-12):
    np.testing.assert_allclose(found, wanted.numpy(), rtol=tolerance, atol=tolerance)


def image(stages, shape="3, 6, 5"):
    return f"net n(x: [{shape}]) {{ return x |> y: {stages} }}"


@pytest.mark.parametrize("name", sorted(ACTIVATIONS))
def test_activations(name):
    torch_of = {
        "relu": F.relu,
        "right_relu": F.relu,
        "relu6": F.relu6,
        "hardtanh": F.hardtanh,
        "gelu": F.gelu,
        "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
        "silu": F.silu,
        "hardswish": F.hardswish,
        "tanh": torch.tanh,
        "sigmoid": torch.sigmoid,
        "hardsigmoid": F.hardsigmoid,
        "softplus": F.softplus,
        "elu": F.elu,
        "mish": F.mish,
        "softsign": F.softsign,
    }
    x = np.concatenate([np.linspace(-9, 9, 2001), [0.0, -1.0, 1.0, 3.0, -3.0, 6.0, 30.0, -30.0]])
    same(ACTIVATIONS[name].define(x), torch_of[name](torch.as_tensor(x)), 1e-8 if name == "softplus" else 1e-13)


@pytest.mark.parametrize("name", sorted(ACTIVATIONS))
def test_the_facts_of_activations_are_true(name):
    entry = ACTIVATIONS[name]
    f, facts = entry.define, entry.facts
    x = np.linspace(-20, 20, 4001)
    y = f(x)
    assert facts.image[0] <= y.min() + 1e-12
    assert y.max() - 1e-12 <= facts.image[1]
    assert f(np.zeros(1))[0] == pytest.approx(facts.at_zero, abs=1e-15)
    if facts.fixed_on is not None:
        inside = x[(x >= facts.fixed_on[0]) & (x <= facts.fixed_on[1])]
        np.testing.assert_array_equal(f(inside), inside)
    if facts.homogeneous:
        np.testing.assert_allclose(f(2.5 * x), 2.5 * f(x), rtol=1e-14)
    if facts.odd_slope is not None:
        np.testing.assert_allclose(f(x) - f(-x), facts.odd_slope * x, atol=1e-13)
    z = torch.zeros(1, dtype=torch.float64, requires_grad=True)
    entry.layer()(z).sum().backward()
    assert z.grad.item() == pytest.approx(facts.slope_at_zero, abs=1e-8)  # torch holds 1/6 in float32


def test_dense_and_its_relatives():
    result, p, x = outputs("net n(x: [4]) { return x |> y: dense(3) }")
    same(result.outputs[0], F.linear(x["x"], p["y.weight"], p["y.bias"]))
    result, p, x = outputs("net n(x: [5, 4]) { return x |> y: dense(3, bias = false) }")
    same(result.outputs[0], x["x"] @ p["y.weight"].T)
    result, p, x = outputs("net n(x: [4]) { return x |> leaky_relu(slope = 0.3) |> scale |> dropout(0.4) |> identity }")
    same(result.outputs[0], F.leaky_relu(x["x"], 0.3) * p["scale_1.weight"])
    result, p, x = outputs("net n(x: [4, 6]) { return x |> softmax }")
    same(result.outputs[0], torch.softmax(x["x"], -1))


@pytest.mark.parametrize(
    ("arguments", "options"),
    [
        ("4, kernel = 3", {}),
        ("4, kernel = [3, 2], stride = [2, 1], padding = [1, 0]", {"stride": (2, 1), "padding": (1, 0)}),
        ("4, kernel = 3, dilation = 2, padding = 2", {"dilation": 2, "padding": 2}),
        ("6, kernel = 3, groups = 3", {"groups": 3}),
    ],
)
def test_conv2d(arguments, options):
    result, p, x = outputs(image(f"conv({arguments})"))
    same(result.outputs[0], F.conv2d(x["x"], p["y.weight"], p["y.bias"], **options))


def test_conv1d_and_depthwise():
    result, p, x = outputs(
        "net n(x: [4, 9]) { return x |> y: conv(6, kernel = 4, stride = 2, padding = 3, groups = 2) }"
    )
    same(result.outputs[0], F.conv1d(x["x"], p["y.weight"], p["y.bias"], 2, 3, groups=2))
    result, p, x = outputs(image("depthwise(kernel = 3, padding = 1, multiplier = 2)"))
    same(result.outputs[0], F.conv2d(x["x"], p["y.weight"], p["y.bias"], padding=1, groups=3))


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("shape", ["4", "3, 7", "3, 4, 5"])
def test_batch_norm_in_both_modes(training, shape):
    result, p, x = outputs(f"net n(x: [{shape}]) {{ return x |> y: batchnorm(eps = 0.01, momentum = 0.3) }}", training)
    mean, var = p["y.running_mean"].clone(), p["y.running_var"].clone()
    wanted = F.batch_norm(x["x"], mean, var, p["y.weight"], p["y.bias"], training, 0.3, 0.01)
    same(result.outputs[0], wanted)
    if training:
        same(result.updates["y.running_mean"], mean)
        same(result.updates["y.running_var"], var)
        assert result.updates["y.num_batches_tracked"] == 1
    else:
        assert result.updates == {}


def test_other_norms():
    result, p, x = outputs(image("instancenorm(eps = 0.01)"))
    same(result.outputs[0], F.instance_norm(x["x"], weight=p["y.weight"], bias=p["y.bias"], eps=0.01))
    result, p, x = outputs(image("groupnorm(2, eps = 0.01)", "4, 3, 3"))
    same(result.outputs[0], F.group_norm(x["x"], 2, p["y.weight"], p["y.bias"], 0.01))
    result, p, x = outputs("net n(x: [5, 4]) { return x |> y: layernorm(eps = 0.01) }")
    same(result.outputs[0], F.layer_norm(x["x"], (4,), p["y.weight"], p["y.bias"], 0.01))
    result, p, x = outputs("net n(x: [5, 4]) { return x |> y: rmsnorm(eps = 0.01) }")
    same(result.outputs[0], F.rms_norm(x["x"], (4,), p["y.weight"], 0.01))


@pytest.mark.parametrize(
    ("stage", "wanted"),
    [
        ("maxpool(2)", lambda x: F.max_pool2d(x, 2)),
        ("maxpool(3, stride = 2, padding = 1)", lambda x: F.max_pool2d(x, 3, 2, 1)),
        ("avgpool([2, 3], stride = 1)", lambda x: F.avg_pool2d(x, (2, 3), 1)),
        ("avgpool(3, padding = 1)", lambda x: F.avg_pool2d(x, 3, padding=1)),
        ("maxpool", lambda x: x.amax((2, 3))),
        ("avgpool", lambda x: x.mean((2, 3))),
        ("flip", lambda x: x.flip(1)),
        ("flip(dim = 2)", lambda x: x.flip(3)),
        ("pad([1, 2])", lambda x: F.pad(x, (2, 2, 1, 1))),
        ("padunits(before = 1, after = 2)", lambda x: F.pad(x, (0, 0, 0, 0, 1, 2))),
        ("flatten", lambda x: x.flatten(1)),
        ("flatten(start = 1)", lambda x: x.flatten(2)),
        ("transpose", lambda x: x.transpose(2, 3)),
        ("transpose(order = [2, 0, 1])", lambda x: x.permute(0, 3, 1, 2)),
        ("slice(1, 3)", lambda x: x[:, 1:3]),
        ("slice(0, 2, dim = 2)", lambda x: x[..., 0:2]),
        ("channelshuffle(3)", lambda x: F.channel_shuffle(x, 3)),
    ],
)
def test_pooling_and_movement(stage, wanted):
    result, _, x = outputs(image(stage))
    same(result.outputs[0], wanted(x["x"]))


def test_pixel_shuffle_and_concat():
    result, _, x = outputs(image("pixelshuffle(2)", "8, 2, 3"))
    same(result.outputs[0], F.pixel_shuffle(x["x"], 2))
    result, _, x = outputs("net n(a: [2, 3, 3], b: [4, 3, 3]) { return concat(a, b, a) }")
    same(result.outputs[0], torch.cat([x["a"], x["b"], x["a"]], 1))
    result, _, x = outputs("net n(a: [2, 3], b: [2, 4]) { return concat(a, b, dim = 1) }")
    same(result.outputs[0], torch.cat([x["a"], x["b"]], 2))


def test_sums_products_and_spread_gates():
    result, _, x = outputs("net n(a: [2, 3, 4], g: [2]) { return a * g + a }")
    same(result.outputs[0], x["a"] * x["g"][:, :, None, None] + x["a"])
    result, _, x = outputs("net n(a: [2, 3], g: [2]) { return transpose(a) * g }")
    same(result.outputs[0], x["a"].transpose(1, 2) * x["g"][:, None, :])


def test_tokens():
    result, p, x = outputs("net n(x: ids(9)[4]) { return x |> e: embedding(6) |> pos: positions |> c: classtoken(2) }")
    h = F.embedding(x["x"], p["e.weight"]) + p["pos.weight"]
    same(result.outputs[0], torch.cat([p["c.weight"].expand(3, -1, -1), h], 1))


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("groups", [1, 2, 4])
@pytest.mark.parametrize("rotary", [False, True])
def test_attention(causal, groups, rotary):
    flags = f"causal = {str(causal).lower()}, rotary = {str(rotary).lower()}"
    result, p, x = outputs(
        f"net n(q: [24, 5], k: [{6 * groups}, 5], v: [{7 * groups}, 5]) {{ return dot_product_attention("
        f"transpose(q), transpose(k), transpose(v), heads = 4, kv_heads = {groups}, {flags}) }}"
    )
    q, k, v = (
        x[n].transpose(1, 2).unflatten(2, (h, -1)).transpose(1, 2) for n, h in (("q", 4), ("k", groups), ("v", groups))
    )
    if rotary:
        name = next(n for n in p if n.endswith("frequencies"))
        q, k = turned(q, p[name]), turned(k, p[name])
    k, v = k.repeat_interleave(4 // groups, 1), v.repeat_interleave(4 // groups, 1)
    y = F.scaled_dot_product_attention(q, k, v, is_causal=causal)
    same(result.outputs[0], y.transpose(1, 2).flatten(2))


def turned(x, frequencies):
    """Rotary positions by complex numbers."""
    half = x.shape[-1] // 2
    number = torch.complex(x[..., :half], x[..., half:])
    angle = torch.arange(x.shape[-2])[:, None] * frequencies
    number = number * torch.polar(torch.ones_like(angle), angle)
    return torch.cat([number.real, number.imag], -1)


def test_bad_inputs_and_parameters_are_named():
    graph = parse("net n(x: [4], t: ids(3)[2]) { return x |> y: dense(2), t |> embedding(2) }")
    params, inputs = random_params(graph, 0), random_inputs(graph, 0)
    with pytest.raises(DataError, match="parameter `y.bias` is missing"):
        interpret(graph, {n: v for n, v in params.items() if n != "y.bias"}, inputs)
    with pytest.raises(DataError, match=r"parameter `y.bias`: expected shape \[2\], found \[3\]"):
        interpret(graph, {**params, "y.bias": np.zeros(3)}, inputs)
    with pytest.raises(DataError, match=r"input `x`: expected shape \['batch', 4\], found \[3, 5\]"):
        interpret(graph, params, {**inputs, "x": np.zeros((3, 5))})
    with pytest.raises(DataError, match="input `x` is missing"):
        interpret(graph, params, {"t": inputs["t"]})
    with pytest.raises(DataError, match="expected ids from 0 to 2, found 0 to 3"):
        interpret(graph, params, {**inputs, "t": np.array([[0, 3]] * 3)})


def test_every_op_was_compared():
    """Nothing of the op set is left out of the programs of this file."""
    tree = ast.parse(Path(__file__).read_text())
    programs = " ".join(n.value for n in ast.walk(tree) if isinstance(n, ast.Constant) and isinstance(n.value, str))
    written = set(re.findall(r"\w+", programs))
    sugar = {"add": "+", "mul": "*", "part": "slice"}
    written |= {word for word, text in sugar.items() if text in programs}
    missing = {op.kind for word, op in WORDS.items() if word not in written and word not in ACTIVATIONS}
    assert not missing
