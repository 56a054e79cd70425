"""New units that could never learn are found; those that can are not accused."""

import numpy as np
import pytest
from helpers import net, resized

from irgrow.backends import random_params
from irgrow.fills import ZERO, Normal
from irgrow.grammar import parse
from irgrow.passes import Prover
from irgrow.passes.preservation.liveness import newborns_without_gradient, normalised_zeros
from irgrow.testing.numbers import carried, gradients, output_weights, random_inputs


def dead(morphism):
    prover = Prover(morphism)
    prover.run()
    found = newborns_without_gradient(prover)
    params = carried(morphism, random_params(morphism.before, 0))
    inputs = random_inputs(morphism.before, 0, 16)
    grads = gradients(morphism.after, params, inputs, output_weights(morphism.after, params, inputs, 0))
    reached = 0.0
    for name, t in morphism.transfers.items():
        for dim, m in enumerate(getattr(t, "maps", ())):
            if m is not None and name in grads:
                reached += float(
                    grads[name].index_select(dim, __import__("torch").from_numpy(np.flatnonzero(m < 0))).abs().sum()
                )
    assert (reached == 0.0) == (found is not None), f"{found}, gradient {reached}"
    return found is not None


NEW = {"h": [0, 1, 2, 3, -1]}


@pytest.mark.parametrize("function", ["relu", "gelu", "tanh", "sigmoid", "identity"])
def test_zero_and_zero_is_dead(function):
    graph = net(f"h: dense(4) |> {function} |> dense(2)")
    zero = dead(resized(graph, **NEW))
    assert zero == (function != "sigmoid"), "sigmoid(0) is not zero, so the fan-out learns"
    assert not dead(resized(graph, Normal(1.0), **NEW))


def test_zero_fan_in_under_relu_is_dead_and_under_gelu_is_not():
    assert dead(resized(net("h: dense(4) |> relu |> dense(2)"), reads=Normal(1.0), **NEW))
    assert not dead(resized(net("h: dense(4) |> gelu |> dense(2)"), reads=Normal(1.0), **NEW))
    assert dead(resized(net("h: dense(4) |> gelu |> relu |> dense(2)"), reads=Normal(1.0), **NEW))


def test_any_way_through_is_enough():
    graph = parse("net n(x: [4]) { h = dense(x, 4)  a = relu(h)  b = tanh(h)  return concat(a, b) |> dense(2) }")
    assert not dead(resized(graph, reads=Normal(1.0), **NEW))
    stream = net("h: dense(4) |> residual { relu |> dense(4) } |> relu |> dense(2)")
    assert dead(resized(stream, reads=Normal(1.0), **NEW))
    linear = net("h: dense(4) |> residual { relu |> dense(4) } |> dense(2)")
    assert not dead(resized(linear, reads=Normal(1.0), **NEW))


def test_gates():
    gated = parse("net n(x: [4]) { h = dense(x, 4)  g = dense(x, 4)  return h * g |> dense(2) }")
    assert dead(resized(gated, reads=Normal(1.0), **NEW)), "both factors are zero"
    half = parse("net n(x: [4]) { h = dense(x, 4)  g = dense(x, 4) |> sigmoid  return h * g |> dense(2) }")
    assert not dead(resized(half, reads=Normal(1.0), **NEW))


IMAGE = "x: [2, 4, 4]"


@pytest.mark.parametrize(
    ("graph", "edit"),
    [
        (net("h: dense(4) |> norm: batchnorm |> gelu |> dense(2)"), NEW),
        (net("h: conv(4, kernel = 1) |> norm: instancenorm |> gelu |> avgpool |> dense(2)", IMAGE), NEW),
        (
            net("h: conv(4, kernel = 1) |> norm: groupnorm(2) |> gelu |> avgpool |> dense(2)", IMAGE),
            {"norm_DOT_groups": [0, 1, -1]},
        ),
    ],
    ids=["batch", "instance", "group"],
)
def test_norms_between(graph, edit):
    assert normalised(graph, reads=Normal(1.0), **edit) == "norm"
    assert normalised(graph, Normal(1.0), **edit) is None


def test_zeros_may_join_a_group():
    graph = net("h: conv(4, kernel = 1) |> norm: groupnorm(2) |> gelu |> avgpool |> dense(2)", IMAGE)
    assert normalised(graph, reads=Normal(1.0), norm_DOT_members=[0, 1, -1]) is None


def normalised(*args, **options):
    prover = Prover(resized(*args, **options))
    prover.run()
    return normalised_zeros(prover)


def test_attention_and_permutations():
    graph = net("embedding(6) |> a: attention(2, 4) |> avgpool |> dense(2)", "x: ids(7)[4]")
    assert not dead(resized(graph, Normal(1.0), a_DOT_heads=[0, 1, -1]))
    assert dead(resized(graph, a_DOT_heads=[0, 1, -1]))
    prover = Prover(resized(net("h: dense(3) |> dense(2)"), h=[1, 0, 2]))
    prover.run()
    assert newborns_without_gradient(prover) is None
    assert ZERO.is_zero
