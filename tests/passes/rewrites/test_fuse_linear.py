"""Fusing linear layers: exact in both modes, one layer less, and refused where a kernel or a norm is in the way."""

import pytest
import torch
from hypothesis import strategies as st
from live import batch, step

from irgrow.axes import Atom
from irgrow.backends import random_params
from irgrow.errors import RefusedError
from irgrow.grammar import parse
from irgrow.graph import Node
from irgrow.network import Network, build
from irgrow.ops import Conv, Dense
from irgrow.passes import Context, FuseLinear, InsertLayer, Simplify, plan
from irgrow.passes.primitives import splice
from irgrow.testing import check_pass, graphs
from irgrow.testing.laws import same_snapshot, snapshot
from irgrow.testing.numbers import as_tensors, output_error, random_inputs
from irgrow.verdict import Exact, Refused

MLP = "net n(x: [5]) { return x |> a: dense(3) |> b: dense(4) |> tanh |> dense(2) }"
LAYERS = {
    "dense": ("x: [5]", "dense(3{})", "dense(4{})"),
    "dense over tokens": ("x: ids(7)[5]", "embedding(6) |> a: dense(3{})", "dense(4{})"),
    "dense over positions": ("x: [2, 3, 5]", "dense(3{})", "dense(4{})"),
    "conv": ("x: [2, 6, 7]", "conv(3, kernel = [3, 2], stride = [2, 1], padding = [1, 2]{})", "conv(5, kernel = 1{})"),
    "conv of signals": ("x: [2, 8]", "conv(3, kernel = 3, dilation = 2, padding = 1{})", "conv(5, kernel = 1{})"),
}


@pytest.mark.parametrize("outer", [False, True])
@pytest.mark.parametrize("inner", [False, True])
@pytest.mark.parametrize("layer", LAYERS)
def test_every_kind_of_pair(layer, inner, outer):
    shape, first, second = LAYERS[layer]
    a, b = (f", bias = {str(flag).lower()}" for flag in (inner, outer))
    label = "" if "a:" in first else "a: "
    graph = parse(f"net n({shape}) {{ return x |> {label}{first.format(a)} |> b: {second.format(b)} |> tanh }}")
    params = random_params(graph, 1)
    result = plan(FuseLinear("a"), graph, Context(params))
    assert result.verdict == Exact()
    after = result.morphism.after
    assert "a" not in after
    assert after["b"].op.bias == (inner or outer)
    assert after.shape("b") == graph.shape("b")
    for size in (1, 4):
        inputs = random_inputs(graph, 2, size)
        assert output_error(result.morphism, params, inputs) < 1e-13
        assert output_error(result.morphism, params, inputs, training=True) < 1e-13


@pytest.mark.parametrize(("dtype", "bound"), [(torch.float64, 1e-13), (torch.float32, 1e-5)])
def test_on_live_networks(dtype, bound):
    graph = parse(MLP)
    net = Network(graph, as_tensors(graph, random_params(graph, 3), dtype))
    x = torch.as_tensor(random_inputs(graph, 0, 6)["x"], dtype=dtype)
    receipt = net.rewrite(FuseLinear("a"), batch=x)
    assert receipt.verdict == Exact()
    assert receipt.error < bound
    assert net.params["b.weight"].shape == (4, 5)
    assert str(net.graph) == str(parse("net n(x: [5]) { return x |> b: dense(4) |> tanh |> dense(2) }"))


IMAGE = "net n(x: [2, 6, 6]) {{ return {} |> flatten |> dense(2) }}"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("x |> a: conv(3, kernel = 3) |> conv(3, kernel = 3)", "`conv_1` has kernel 3; only a 1x1"),
        ("x |> a: conv(3, kernel = 3) |> conv(3, kernel = 1, stride = 2)", "`conv_1` has stride 2"),
        ("x |> a: conv(3, kernel = 3) |> conv(3, kernel = 1, padding = [0, 1])", "`conv_1` has padding (0, 1)"),
        ("x |> a: conv(4, kernel = 3) |> conv(4, kernel = 1, groups = 2)", "`conv_1` works in groups"),
        ("x |> a: conv(4, kernel = 3, groups = 2) |> conv(3, kernel = 1)", "`a` works in groups"),
        ("x |> a: conv(3, kernel = 3) |> batchnorm |> conv(3, kernel = 1)", "the batch norm `batchnorm_1` is between"),
        ("x |> a: conv(3, kernel = 3) |> relu |> conv(3, kernel = 1)", "`relu_1`, which reads `a`, is not a layer of"),
        ("x |> a: conv(3, kernel = 3) |> dense(3)", "`dense_1`, which reads `a`, is not a layer of"),
        ("x |> a: depthwise(kernel = 3) |> conv(3, kernel = 1)", "`a` is neither a dense layer nor a convolution"),
        ("x |> a: conv(3, kernel = 1, masked = true) |> conv(3, kernel = 1)", "`a` is masked; bake the mask in"),
        ("x |> a: conv(3, kernel = 1) |> conv(3, kernel = 1, masked = true)", "`conv_1` is masked; bake the mask in"),
    ],
)
def test_refusals(text, reason):
    verdict = plan(FuseLinear("a"), parse(IMAGE.format(text))).verdict
    assert isinstance(verdict, Refused)
    assert reason in verdict.reason
    assert verdict.span is not None


def test_who_else_needs_the_first_or_its_parameters():
    for text, reason in [
        ("a = dense(x, 3)  b = dense(a, 3)  return add(a, b) |> dense(2)", "`add_1` reads `a` as well"),
        ("a = dense(x, 3)  return dense(a, 2), a", "`a` is an output"),
        ("return x |> a: dense(3)", "nothing reads `a`"),
        ("return x |> a: dense(3) |> b: dense(3, tied = a)", "`a` and `b` share parameters"),
        ("return x |> a: dense(4) |> b: dense(3) |> tanh |> dense(4) |> dense(3, tied = b)", "`b` and `dense_2` share"),
    ]:
        assert reason in plan(FuseLinear("a"), parse(f"net n(x: [3]) {{ {text} }}")).verdict.reason
    assert "no axis or node is called `z`" in plan(FuseLinear("z"), parse(MLP)).verdict.reason


def test_an_inserted_layer_is_fused_away_again():
    graph = parse("net n(x: [3]) { return x |> a: dense(4) |> relu |> dense(2) }")
    net = build(graph, dtype=torch.float64)
    x = torch.randn(5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    before = net(x).detach()
    net.rewrite(InsertLayer("a", "identity", "relu"))
    assert net.rewrite(FuseLinear("a")).verdict == Exact()
    assert net.rewrite(Simplify("relu_1")).verdict == Exact()
    assert [node.op.kind for node in net.graph] == [node.op.kind for node in graph]
    assert float((net(x).detach() - before).abs().max()) < 1e-13


def test_an_axis_outlives_the_layer_it_is_named_after():
    graph = parse("net n(x: [5]) { return x |> a: dense(3) |> b: dense(4) |> relu |> c: dense(width(a)) |> dense(2) }")
    result = plan(FuseLinear("a"), graph)
    assert result.verdict == Exact()
    after = result.morphism.after
    assert after.named == ("a",)
    assert after.shape("c") == (3,)
    assert parse(str(after)) == after


def test_the_optimizer_holds_the_new_parameters_and_training_goes_on():
    net = build(MLP, seed=1, dtype=torch.float64)
    weights = [p for n, p in net.named_parameters() if n.endswith("weight")]
    biases = [p for n, p in net.named_parameters() if n.endswith("bias")]
    optimizer = torch.optim.Adam([{"params": weights}, {"params": biases, "lr": 1e-3}], lr=1e-2)
    net.track(optimizer)
    for i in range(3):
        step(net, optimizer, i)
    receipt = net.rewrite(FuseLinear("a"), batch=batch(net))
    assert receipt.verdict == Exact()
    assert receipt.error < 1e-13
    names = {id(p): n for n, p in net.params.items()}
    held = [[names[id(p)] for p in group["params"]] for group in optimizer.param_groups]
    assert held == [["b.weight", "dense_1.weight"], ["b.bias", "dense_1.bias"]]
    assert net.params["b.weight"] not in optimizer.state
    assert net.params["dense_1.weight"] in optimizer.state
    losses = [step(net, optimizer) for _ in range(5)]
    assert losses[-1] < losses[0]
    with pytest.raises(RefusedError, match="cannot be undone"):
        net.undo()


def test_frozen_stays_frozen_and_the_first_bias_lives_on():
    net = build(MLP.replace("dense(4)", "dense(4, bias = false)"), dtype=torch.float64)
    net.params["b.weight"].requires_grad_(False)
    optimizer = torch.optim.SGD([p for p in net.parameters() if p.requires_grad], lr=0.1)
    net.track(optimizer)
    net.rewrite(FuseLinear("a"))
    assert {n for n, p in net.named_parameters() if not p.requires_grad} == {"b.weight"}
    assert {id(p) for p in optimizer.param_groups[0]["params"]} == {id(p) for p in net.parameters() if p.requires_grad}


def test_a_refusal_changes_nothing():
    net = build(IMAGE.format("x |> a: conv(3, kernel = 3) |> conv(3, kernel = 3)"), dtype=torch.float64)
    before = snapshot(net)
    assert not net.rewrite(FuseLinear("a")).applied
    assert same_snapshot(before, snapshot(net)) is None


@st.composite
def programs(draw):
    """Draw a random program with two linear layers put somewhere into it."""
    graph = draw(graphs())
    after = draw(st.sampled_from([n for n, t in graph.types.items() if t.ids is None and graph[n].op.kind != "input"]))
    value, (a, b) = graph.types[after], draw(st.tuples(st.booleans(), st.booleans()))
    if value.rank > 1 and value.unit_dim == 0 and draw(st.booleans()):
        kernel = draw(st.sampled_from([1, 3]))
        ops, size = (
            [Conv(Atom("fst"), kernel, padding=kernel // 2, bias=a), Conv(Atom("snd"), 1, bias=b)],
            value.dims[0],
        )
    else:
        ops, size = [Dense(Atom("fst"), a), Dense(Atom("snd"), b)], value.dims[-1]
    sizes = {"fst": draw(st.integers(1, 4)), "snd": graph.size(size)}
    return splice(graph, after, [Node("fst", ops[0], (after,)), Node("snd", ops[1], ("fst",))], sizes, {}).after


def test_laws():
    applied = []

    def options(graph):
        fitting = [n.name for n in graph if FuseLinear(n.name).match(graph, n.name) is None]
        applied.extend(fitting)
        return st.sampled_from(fitting or list(graph.by_name)).map(FuseLinear)

    check_pass(FuseLinear, options=options, programs=programs())
    assert len(applied) >= 8, "the laws were put to it"
