"""Inserting layers: identities after what they leave unchanged, pairs and residual blocks anywhere."""

import numpy as np
import pytest
import torch

from irgrow.backends import random_params
from irgrow.grammar import parse
from irgrow.network import build
from irgrow.passes import InsertLayer, plan
from irgrow.testing import assert_preserves
from irgrow.testing.laws import Case, gradients_follow, undo_restores
from irgrow.testing.numbers import carried, gradients, output_weights, random_inputs
from irgrow.verdict import Changes, Exact, Refused

CNN = "net n(x: [2, 6, 6]) {{ return x |> c: conv(4, kernel = 3, padding = 1) |> a: {} |> p: maxpool(2) |> flatten |> dense(3) }}"
MLP = "net n(x: [4]) {{ return x |> h: dense(5) |> a: {} |> dense(2) }}"
TOKENS = "net n(x: ids(9)[5]) { return x |> e: embedding(6) |> a: relu |> avgpool |> dense(2) }"


@pytest.mark.parametrize("activation", ["relu", "relu6", "hardtanh"])
@pytest.mark.parametrize("form", ["identity", "dirac"])
def test_identity_after_idempotent_activations(activation, form):
    graph = parse(CNN.format(activation))
    for after in ("a", "p"):
        assert_preserves(graph, InsertLayer(after, form, activation))
    if form == "identity":
        assert_preserves(parse(MLP.format(activation)), InsertLayer("a", form, activation))


def test_identity_in_other_layouts():
    assert_preserves(parse(TOKENS), InsertLayer("a"))
    signal = parse("net n(x: [2, 9]) { return x |> conv(3, kernel = 3) |> a: relu |> flatten |> dense(2) }")
    assert_preserves(signal, InsertLayer("a", "dirac", kernel=5))


def test_identity_behind_what_stays_in_the_range():
    text = "net n(x: [4]) { s = dense(x, 5) |> sigmoid  t = dense(x, 5) |> relu  both = s * t |> dropout(p = 0.0)  return concat(both, s) |> c: identity |> dense(2) }"
    assert_preserves(parse(text), InsertLayer("c"))


@pytest.mark.parametrize("activation", ["gelu", "silu", "tanh", "elu", "leaky_relu", "sigmoid"])
def test_identity_is_not_claimed_after_others(activation):
    function = activation if activation != "leaky_relu" else "relu"
    graph = parse(MLP.format(activation))
    assert isinstance(plan(InsertLayer("h", "identity", function), graph).verdict, Changes)
    if activation not in ("sigmoid",):
        assert isinstance(plan(InsertLayer("a", "identity", function), graph).verdict, Changes)
    assert plan(InsertLayer("a", "identity", "relu"), parse(MLP.format("sigmoid"))).verdict == Exact()


@pytest.mark.parametrize("activation", ["relu", "gelu", "gelu_tanh", "silu", "hardswish"])
@pytest.mark.parametrize("behind", ["tanh", "gelu", "identity"])
def test_plus_minus_is_exact_anywhere(activation, behind):
    for text in (CNN, MLP):
        graph = parse(text.format(behind))
        assert_preserves(graph, InsertLayer("a", "plus_minus", activation))
        gradients_follow(Case(graph, InsertLayer("a", "plus_minus", activation)))
    assert_preserves(parse(CNN.format(behind)), InsertLayer("a", "plus_minus", activation, kernel=3))


@pytest.mark.parametrize("activation", ["tanh", "elu", "mish", "sigmoid", "softsign", "relu6"])
def test_plus_minus_needs_an_odd_part(activation):
    verdict = plan(InsertLayer("a", "plus_minus", activation), parse(MLP.format("relu"))).verdict
    assert isinstance(verdict, Refused)
    assert "f(z) - f(-z) = c z" in verdict.reason


@pytest.mark.parametrize("activation", ["relu", "gelu", "tanh", "sigmoid"])
def test_zero_residual_blocks_are_exact_anywhere(activation):
    for graph in (parse(CNN.format("tanh")), parse(MLP.format("gelu")), parse(TOKENS)):
        assert_preserves(graph, InsertLayer("a", "residual", activation))


@pytest.mark.parametrize("form", ["identity", "dirac", "plus_minus", "residual"])
def test_new_parameters_receive_gradient_at_once(form):
    """All of them, but in a residual block only the outer layer."""
    graph = parse(CNN.format("relu"))
    morphism = plan(InsertLayer("a", form, "gelu" if form == "residual" else "relu"), graph).morphism
    params, inputs = carried(morphism, random_params(graph, 0)), random_inputs(graph, 0)
    grads = gradients(morphism.after, params, inputs, output_weights(morphism.after, params, inputs, 0))
    fresh = [n for n in morphism.after.params if n not in graph.params]
    live = {n for n in fresh if grads[n].abs().max() > 0}
    assert live == ({n for n in fresh if ".outer." in n} if form == "residual" else set(fresh))


def test_the_new_layer_has_the_width_and_the_readers_of_the_old_node():
    graph = parse("net n(x: [4]) { h = dense(x, 5) |> relu  return concat(dense(h, 2), dense(h, 3)), h }")
    after = plan(InsertLayer("h"), graph).morphism.after
    assert after.shape("h_deep1.layer") == (5,)
    assert after["dense_2"].inputs == ("h_deep1.act",)
    assert after.outputs[1] == "h_deep1.act"
    again = plan(InsertLayer("h"), after).morphism.after
    assert "h_deep2.layer" in again


def test_names_do_not_clash():
    graph = parse("net n(x: [4]) { return x |> a: relu |> a_deep1: dense(4) |> relu |> dense(2) }")
    assert "a_deep2.layer" in plan(InsertLayer("a"), graph).morphism.after


@pytest.mark.parametrize(
    ("rewrite", "reason"),
    [
        (InsertLayer("nope"), "no axis or node is called `nope`"),
        (InsertLayer("a", "dirac"), "has no positions for a kernel; use the form `identity`"),
        (InsertLayer("a", "identity", kernel=3), "has no positions for a kernel"),
    ],
)
def test_refusals(rewrite, reason):
    verdict = plan(rewrite, parse(MLP.format("relu"))).verdict
    assert isinstance(verdict, Refused)
    assert reason in verdict.reason


def test_more_refusals():
    assert "a kernel must be odd" in plan(InsertLayer("a", "dirac", kernel=4), parse(CNN.format("relu"))).verdict.reason
    assert "integer ids" in plan(InsertLayer("x"), parse(TOKENS)).verdict.reason
    named = parse("net n(x: [4]) { axis d = 5  return x |> dense(d) |> dense(2) }")
    assert "is an axis" in plan(InsertLayer("d"), named).verdict.reason


def test_inserting_and_undoing_on_a_live_network():
    undo_restores(Case(parse(CNN.format("relu")), InsertLayer("a", "dirac"), 1))
    net = build(CNN.format("relu"))
    x = torch.randn(3, 2, 6, 6)
    before = net(x).detach()
    assert net.rewrite(InsertLayer("p", "dirac", kernel=3)).verdict == Exact()
    assert torch.equal(net(x), before), "a Dirac kernel after ReLU is bitwise exact"
    assert np.isclose(net.params["p_deep1.layer.weight"].sum().item(), 4)
