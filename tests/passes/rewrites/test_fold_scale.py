"""Folding scales: into the layer before, or else into all that read them; exact in both modes."""

import pytest
import torch
from hypothesis import strategies as st
from live import batch, step

from irgrow.backends import random_params
from irgrow.errors import RefusedError
from irgrow.grammar import parse
from irgrow.graph import Node
from irgrow.network import build
from irgrow.ops import Scale
from irgrow.passes import Context, FoldScale, plan
from irgrow.passes.primitives import splice
from irgrow.testing import check_pass, graphs
from irgrow.testing.laws import same_snapshot, snapshot
from irgrow.testing.numbers import output_error, random_inputs
from irgrow.verdict import Exact, Refused

BEFORE = {
    "dense": ("x: [5]", "x |> a: dense(4{}) |> s: scale |> relu"),
    "dense over tokens": ("x: ids(7)[5]", "x |> embedding(6) |> a: dense(4{}) |> s: scale |> relu"),
    "conv": ("x: [2, 5, 5]", "x |> a: conv(4, kernel = 3{}) |> s: scale |> relu"),
    "grouped": ("x: [2, 5, 5]", "x |> a: conv(4, kernel = 3, groups = 2{}) |> s: scale |> relu"),
    "depthwise": ("x: [2, 5]", "x |> a: depthwise(kernel = 3, multiplier = 2{}) |> s: scale |> relu"),
}
BEHIND = {
    "dense": ("x: [5]", "x |> tanh |> s: scale |> a: dense(4{})"),
    "dense over tokens": ("x: ids(7)[5]", "x |> embedding(6) |> tanh |> s: scale |> a: dense(4{}) |> relu"),
    "conv": ("x: [2, 5, 5]", "x |> tanh |> s: scale |> a: conv(4, kernel = 3, padding = 1{}) |> relu"),
    "conv of signals": ("x: [2, 5]", "x |> tanh |> s: scale |> a: conv(4, kernel = 3, stride = 2{})"),
}


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize(("shape", "body"), [*BEFORE.values(), *BEHIND.values()], ids=[*BEFORE, *BEHIND])
def test_every_kind_of_layer(shape, body, bias, masked):
    options = f", bias = {str(bias).lower()}" + (", masked = true" if masked else "")
    graph = parse(f"net n({shape}) {{ return {body.format(options)} }}")
    params = random_params(graph, 1)
    result = plan(FoldScale("s"), graph, Context(params))
    assert result.verdict == Exact()
    assert "s" not in result.morphism.after
    for size in (1, 4):
        inputs = random_inputs(graph, 2, size)
        assert output_error(result.morphism, params, inputs) < 1e-13
        assert output_error(result.morphism, params, inputs, training=True) < 1e-13


def test_the_layer_before_comes_first():
    graph = parse("net n(x: [5]) { return x |> a: dense(4) |> s: scale |> b: dense(2) }")
    assert plan(FoldScale("s"), graph).morphism.touched == ("a.weight", "a.bias")


def test_all_that_read_it_take_their_part():
    graph = parse("net n(x: [5]) { s = scale(tanh(x))  return add(dense(s, 3), dense(s, 3)), dense(s, 2) }")
    params = random_params(graph, 0)
    result = plan(FoldScale("s"), graph, Context(params))
    assert result.verdict == Exact()
    assert result.morphism.touched == ("dense_1.weight", "dense_2.weight", "dense_3.weight")
    assert output_error(result.morphism, params, random_inputs(graph, 0)) < 1e-13


def test_a_layer_read_by_others_leaves_it_to_what_is_behind():
    graph = parse("net n(x: [5]) { a = dense(x, 4)  s = scale(a)  return concat(dense(s, 3), a) |> dense(2) }")
    result = plan(FoldScale("s"), graph)
    assert result.verdict == Exact()
    assert result.morphism.touched == ("dense_1.weight",)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (
            "relu(x) |> s: scale |> relu",
            "`relu_1` before it is neither a dense layer nor a convolution, and `relu_2` behind it",
        ),
        ("relu(x) |> s: scale |> conv(4, kernel = 1, groups = 2)", "`conv_1` behind it works in groups"),
        ("relu(x) |> s: scale |> depthwise(kernel = 1)", "`depthwise_1` behind it is neither a dense"),
        ("relu(x) |> s: scale |> dense(4)", "`dense_1` behind it works along the positions"),
        ("relu(x) |> dense(5) |> s: scale |> relu", "`dense_1` before it works along the positions"),
        ("relu(x) |> s: scale", "`s` is an output"),
        ("relu(x) |> s: relu", "`s` is not a learned scale"),
    ],
)
def test_refusals(text, reason):
    verdict = plan(FoldScale("s"), parse(f"net n(x: [2, 4, 4]) {{ return {text} }}")).verdict
    assert isinstance(verdict, Refused)
    assert reason in verdict.reason
    assert verdict.span is not None


def test_what_is_tied_is_left_alone():
    scales = parse("net n(x: [4]) { return x |> a: dense(4) |> s: scale |> b: dense(4) |> t: scale(tied = s) }")
    assert "`s` and `t` share parameters" in plan(FoldScale("s"), scales).verdict.reason
    assert "`t` and `s` share parameters" in plan(FoldScale("t"), scales).verdict.reason
    layers = parse("net n(x: [4]) { return x |> a: dense(4) |> s: scale |> relu |> b: dense(4, tied = a) }")
    assert "`a` and `b` share parameters, and `relu_1`" in plan(FoldScale("s"), layers).verdict.reason
    assert "no axis or node is called `q`" in plan(FoldScale("q"), layers).verdict.reason


@pytest.mark.parametrize("body", ["a: dense(4) |> s: scale |> relu |> dense(2)", "tanh |> s: scale |> a: dense(2)"])
def test_the_optimizer_holds_the_new_parameters_and_training_goes_on(body):
    net = build(f"net n(x: [5]) {{ return x |> {body} }}", seed=1, dtype=torch.float64)
    net.params["a.bias"].requires_grad_(False)
    optimizer = torch.optim.Adam([p for p in net.parameters() if p.requires_grad], lr=1e-2)
    net.track(optimizer)
    for i in range(3):
        step(net, optimizer, i)
    receipt = net.rewrite(FoldScale("s"), batch=batch(net))
    assert receipt.verdict == Exact()
    assert receipt.error < 1e-13
    assert not net.params["a.bias"].requires_grad
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    assert held == {id(p) for p in net.parameters() if p.requires_grad}
    assert net.params["a.weight"] not in optimizer.state
    losses = [step(net, optimizer) for _ in range(5)]
    assert losses[-1] < losses[0]
    with pytest.raises(RefusedError, match="cannot be undone"):
        net.undo()


def test_a_refusal_changes_nothing():
    net = build("net n(x: [5]) { return x |> tanh |> s: scale |> relu |> dense(2) }")
    before = snapshot(net)
    assert not net.rewrite(FoldScale("s")).applied
    assert same_snapshot(before, snapshot(net)) is None


@st.composite
def programs(draw):
    """Draw a random program with a scale put somewhere into it."""
    graph = draw(graphs())
    after = draw(st.sampled_from([n for n, t in graph.types.items() if t.ids is None]))
    return splice(graph, after, [Node("put", Scale(), (after,))], {}, {}).after


def test_laws():
    applied = []

    def options(graph):
        fitting = [n.name for n in graph if FoldScale(n.name).match(graph, n.name) is None]
        applied.extend(fitting)
        return st.sampled_from(fitting or list(graph.by_name)).map(FoldScale)

    check_pass(FoldScale, options=options, programs=programs())
    assert len(applied) >= 8, "the laws were put to it"
