"""Folding batch norms: the same function in evaluation, nothing claimed in training, everything else follows."""

import pytest
import torch
from hypothesis import strategies as st
from live import batch, step

from irgrow.axes import Atom
from irgrow.backends import random_params
from irgrow.errors import RefusedError
from irgrow.grammar import parse
from irgrow.graph import Node
from irgrow.morphism import Compute
from irgrow.network import Network, build
from irgrow.ops import BatchNorm, Conv, Dense, Depthwise
from irgrow.passes import Context, FoldBatchNorm, plan
from irgrow.passes.primitives import splice
from irgrow.testing import check_pass, graphs
from irgrow.testing.laws import same_snapshot, snapshot
from irgrow.testing.numbers import as_tensors, output_error, random_inputs
from irgrow.verdict import Exact, Refused

CNN = """net cnn(x: [2, 5, 5]) {
  return x |> c: conv(3, kernel = 3, padding = 1) |> bn: batchnorm(eps = 1e-2) |> relu |> flatten |> dense(2)
}"""
LAYERS = {
    "dense": ("x: [5]", "dense(7{})"),
    "conv": ("x: [2, 5, 6]", "conv(7, kernel = 3, stride = 2, padding = 1{})"),
    "conv of signals": ("x: [3, 7]", "conv(5, kernel = 3, dilation = 2{})"),
    "grouped": ("x: [4, 5, 5]", "conv(6, kernel = 3, groups = 2{})"),
    "depthwise": ("x: [3, 5, 5]", "depthwise(kernel = 3, padding = 1, multiplier = 2{})"),
    "depthwise of signals": ("x: [3, 7]", "depthwise(kernel = 3{})"),
}


def program(layer, bias, affine, masked=False):
    shape, call = LAYERS[layer]
    options = f", bias = {str(bias).lower()}" + (", masked = true" if masked else "")
    norm = f"bn: batchnorm(eps = 1e-2, affine = {str(affine).lower()})"
    return parse(f"net n({shape}) {{ return x |> layer: {call.format(options)} |> {norm} |> tanh }}")


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("affine", [False, True])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("layer", LAYERS)
def test_every_kind_of_layer(layer, bias, affine, masked):
    graph = program(layer, bias, affine, masked)
    params = random_params(graph, 1)
    result = plan(FoldBatchNorm("bn"), graph, Context(params))
    assert result.verdict == Exact("eval")
    assert "bn" not in result.morphism.after
    assert result.morphism.after["layer"].op.bias
    for size in (1, 4):
        inputs = random_inputs(graph, 2, size)
        assert output_error(result.morphism, params, inputs) < 1e-13
    assert output_error(result.morphism, params, random_inputs(graph, 2, 4), training=True) > 1e-3


@pytest.mark.parametrize(("dtype", "bound"), [(torch.float64, 1e-13), (torch.float32, 1e-5)])
def test_on_live_networks(dtype, bound):
    graph = parse(CNN)
    net = Network(graph, as_tensors(graph, random_params(graph, 3), dtype)).eval()
    x = torch.as_tensor(random_inputs(graph, 0, 6)["x"], dtype=dtype)
    before = net(x).detach()
    receipt = net.rewrite(FoldBatchNorm("bn"), batch=x)
    assert receipt.verdict == Exact("eval")
    assert receipt.error < bound
    assert float((net(x).detach() - before).abs().max()) < 10 * bound
    assert receipt.parameters == -6
    assert all(p.dtype == dtype for p in net.parameters())
    assert not any(isinstance(m, torch.nn.BatchNorm2d) for m in net.modules())


def test_the_proof_needs_no_numbers():
    assert plan(FoldBatchNorm("bn"), parse(CNN)).verdict == Exact("eval")


def test_a_norm_may_be_the_output():
    graph = parse("net n(x: [3]) { return x |> h: dense(4, bias = false) |> bn: batchnorm }")
    result = plan(FoldBatchNorm("bn"), graph)
    assert result.verdict == Exact("eval")
    assert result.morphism.after.outputs == ("h",)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("x |> c: conv(3, kernel = 1) |> relu |> bn: batchnorm", "reads `relu_1`, which is neither a dense layer"),
        ("x |> bn: batchnorm |> c: conv(3, kernel = 1)", "reads `x`, which is neither a dense layer"),
        ("x |> c: conv(3, kernel = 1) |> bn: layernorm", "`bn` is not a batch norm"),
        ("x |> c: dense(5) |> bn: batchnorm", "`c` works along the positions, not the units"),
    ],
)
def test_refusals(text, reason):
    verdict = plan(
        FoldBatchNorm("bn"), parse(f"net n(x: [2, 4, 4]) {{ return {text} |> flatten |> dense(2) }}")
    ).verdict
    assert isinstance(verdict, Refused)
    assert reason in verdict.reason
    assert verdict.span is not None


def test_who_else_needs_the_layer_or_its_parameters():
    shared = parse("net n(x: [3]) { c = dense(x, 4)  bn = batchnorm(c)  return add(bn, c) |> dense(2) }")
    assert "`add_1` reads `c` as well" in plan(FoldBatchNorm("bn"), shared).verdict.reason
    output = parse("net n(x: [3]) { c = dense(x, 4)  bn = batchnorm(c)  return dense(bn, 2), c }")
    assert "`c` is an output" in plan(FoldBatchNorm("bn"), output).verdict.reason
    layers = parse("net n(x: [3]) { return x |> c: dense(3) |> bn: batchnorm |> d: dense(3, tied = c) }")
    assert "`c` and `d` share parameters" in plan(FoldBatchNorm("bn"), layers).verdict.reason
    norms = parse(
        "net n(x: [3]) { return x |> c: dense(3) |> bn: batchnorm |> d: dense(3) |> b2: batchnorm(tied = bn) }"
    )
    assert "`bn` and `b2` share parameters" in plan(FoldBatchNorm("bn"), norms).verdict.reason
    assert "`b2` and `bn` share parameters" in plan(FoldBatchNorm("b2"), norms).verdict.reason
    assert "no axis or node is called `b9`" in plan(FoldBatchNorm("b9"), norms).verdict.reason
    heads = parse("net n(x: [3]) { axis d = 4  return x |> c: dense(d) |> batchnorm |> dense(2) }")
    assert "`d` is an axis" in plan(FoldBatchNorm("d"), heads).verdict.reason


def trained(text, **groups):
    net = build(text, seed=1, dtype=torch.float64)
    optimizer = torch.optim.Adam(groups.get("groups", lambda n: n.parameters())(net), lr=1e-2)
    net.track(optimizer)
    for i in range(3):
        step(net, optimizer, i)
    return net, optimizer


def held(optimizer, net):
    names = {id(p): n for n, p in net.params.items()}
    return [[names[id(p)] for p in group["params"]] for group in optimizer.param_groups]


def test_the_optimizer_holds_the_new_parameters_and_training_goes_on():
    def groups(net):
        biases = [p for n, p in net.named_parameters() if n.endswith("bias")]
        others = [p for n, p in net.named_parameters() if not n.endswith("bias")]
        return [{"params": others}, {"params": biases, "lr": 1e-3}]

    net, optimizer = trained(CNN, groups=groups)
    net.eval()
    state = optimizer.state[net.params["dense_1.weight"]]
    net.rewrite(FoldBatchNorm("bn"), batch=batch(net))
    assert held(optimizer, net) == [["c.weight", "dense_1.weight"], ["c.bias", "dense_1.bias"]]
    assert optimizer.state[net.params["dense_1.weight"]] is state
    assert net.params["c.weight"] not in optimizer.state, "it starts afresh"
    assert set(optimizer.state) == {net.params["dense_1.weight"], net.params["dense_1.bias"]}
    old = {name: p.detach().clone() for name, p in net.named_parameters()}
    losses = [step(net, optimizer) for _ in range(5)]
    assert losses[-1] < losses[0]
    assert all(not torch.equal(p, old[name]) for name, p in net.named_parameters())


@pytest.mark.parametrize(
    ("frozen", "left"),
    [
        (("c.weight",), {"c.weight"}),
        (("c.bias",), set()),
        (("bn.bias",), {"c.bias"}),
        (("c.weight", "c.bias", "bn.weight", "bn.bias"), {"c.weight", "c.bias"}),
    ],
)
def test_frozen_stays_frozen(frozen, left):
    net = build(CNN, dtype=torch.float64)
    for name in frozen:
        net.params[name].requires_grad_(False)
    optimizer = torch.optim.SGD([p for p in net.parameters() if p.requires_grad], lr=0.1)
    net.track(optimizer)
    net.rewrite(FoldBatchNorm("bn"))
    assert {n for n, p in net.named_parameters() if not p.requires_grad} == left
    trainable = {n for n, p in net.named_parameters() if p.requires_grad}
    assert set(held(optimizer, net)[0]) == trainable


def test_a_bias_made_of_the_running_mean_alone_is_frozen():
    text = CNN.replace("padding = 1", "padding = 1, bias = false").replace("eps = 1e-2", "affine = false")
    net, optimizer = trained(text)
    net.rewrite(FoldBatchNorm("bn"))
    assert not net.params["c.bias"].requires_grad
    assert held(optimizer, net) == [["c.weight", "dense_1.weight", "dense_1.bias"]]
    step(net, optimizer)


def test_what_the_optimizer_does_not_hold_is_left_out_still():
    net = build(CNN, dtype=torch.float64)
    optimizer = torch.optim.SGD([net.params["bn.bias"], net.params["dense_1.weight"]], lr=0.1)
    net.track(optimizer)
    net.rewrite(FoldBatchNorm("bn"))
    assert held(optimizer, net) == [["c.bias", "dense_1.weight"]]
    assert net.params["c.weight"].requires_grad


def test_averages_are_folded_by_their_own_numbers():
    net = build(CNN, seed=1, dtype=torch.float64)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    average = torch.optim.swa_utils.AveragedModel(net)
    net.track(optimizer, average=average)
    for i in range(4):
        step(net, optimizer, i)
        average.update_parameters(net)
    net.eval(), average.eval()
    x = batch(net)
    before = average(x).detach()
    assert float((net(x).detach() - before).abs().max()) > 1e-6, "the control: the average is not the network"
    net.rewrite(FoldBatchNorm("bn"))
    assert float((average(x).detach() - before).abs().max()) < 1e-13
    assert "bn" not in average.module.graph


def test_undo_is_refused_and_a_refusal_changes_nothing():
    net, _ = trained(CNN)
    before = snapshot(net)
    assert not net.rewrite(FoldBatchNorm("relu_1")).applied
    assert same_snapshot(before, snapshot(net)) is None
    net.rewrite(FoldBatchNorm("bn"))
    with pytest.raises(RefusedError, match=r"fold_batch_norm\(bn\)` cannot be undone"):
        net.undo()
    assert "bn" not in net.graph


def test_the_rules_are_named_with_what_they_need():
    transfers = plan(FoldBatchNorm("bn"), parse(CNN)).morphism.transfers
    assert transfers["c.weight"] == Compute(
        "fold_norm_weight", ("c.weight", "bn.running_var", "bn.weight"), (("eps", 0.01),)
    )
    assert transfers["c.bias"].names == ("bn.bias", "bn.weight", "c.bias", "bn.running_mean", "bn.running_var")


@st.composite
def programs(draw):
    """Draw a random program with a layer and a batch norm put somewhere into it."""
    graph = draw(graphs())
    fitting = [n for n, t in graph.types.items() if t.ids is None and t.unit_dim == 0 and graph[n].op.kind != "input"]
    if not fitting:
        return graph
    after = draw(st.sampled_from(fitting))
    value, bias, masked = graph.types[after], draw(st.booleans()), draw(st.booleans())
    size = graph.size(value.units)
    ops = [Dense(Atom("lay"), bias, masked)]
    if value.rank > 1:
        ops = [Conv(Atom("lay"), 1, bias=bias, masked=masked), Depthwise(3, padding=1, bias=bias, masked=masked)]
    nodes = [
        Node("lay", draw(st.sampled_from(ops)), (after,)),
        Node("nrm", BatchNorm(1e-2, affine=draw(st.booleans())), ("lay",)),
    ]
    return splice(graph, after, nodes, {"lay": size}, {}).after


def test_laws():
    applied = []

    def options(graph):
        fitting = [n.name for n in graph if FoldBatchNorm(n.name).match(graph, n.name) is None]
        applied.extend(fitting)
        return st.sampled_from(fitting or list(graph.by_name)).map(FoldBatchNorm)

    check_pass(FoldBatchNorm, options=options, programs=programs())
    assert len(applied) >= 8, "the laws were put to it"
