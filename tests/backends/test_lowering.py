"""The lowered module: it computes what the interpreter does, holds stock leaves, bakes nothing in, compiles whole."""

import re

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from irgrow.axes import Atom
from irgrow.backends import interpret, random_params
from irgrow.backends.torch_fx import lower, module_path
from irgrow.grammar import parse, read
from irgrow.graph import Graph, Node
from irgrow.network import build
from irgrow.ops import WORDS, Activate, Conv, Dense, Dropout, Input
from irgrow.testing import graphs
from irgrow.testing.numbers import (
    as_tensors,
    check_lowering,
    difference,
    gradients,
    output_weights,
    random_inputs,
    run_lowered,
)


@given(graphs(), st.integers(0, 10**6), st.integers(1, 4))
def test_lowered_is_interpreted(graph, seed, batch):
    """Law 2, forward, in both modes, batches of one included."""
    result = check_lowering(graph, seed, batch)
    assert result.holds, f"{result}\n{graph}"


@given(graphs(steps=3), st.integers(0, 1000))
def test_a_wrong_definition_is_noticed(graph, seed):
    """Negative control: interpreting with one parameter changed gives another output, unless it has no say."""
    params, inputs = random_params(graph, seed), random_inputs(graph, seed)
    outputs, _ = run_lowered(graph, params, inputs)
    last = graph.outputs[0]
    changed = {n: v + 1.0 if n == f"{last}.bias" else v for n, v in params.items()}
    if f"{last}.bias" in params:
        assert difference(interpret(graph, changed, inputs).outputs, outputs) > 1e-3


@settings(max_examples=40)
@given(graphs(steps=3, dropout=False), st.integers(0, 1000))
def test_gradients_agree_with_finite_differences(graph, seed):
    """Law 2, backward, on the parameters of small programs, along random directions."""
    params, inputs = random_params(graph, seed), random_inputs(graph, seed, 2)
    weights = output_weights(graph, params, inputs, seed)
    grads = gradients(graph, params, inputs, weights)
    rng = np.random.default_rng(seed)
    direction = {n: rng.normal(size=params[n].shape) for n in grads}
    slope = sum(float((g.numpy() * direction[n]).sum()) for n, g in grads.items())

    def total(step):
        moved = {n: v + step * direction[n] if n in direction else v for n, v in params.items()}
        outputs = interpret(graph, moved, inputs).outputs
        return sum(float((w * (y + 0.1 * y**2)).sum()) for w, y in zip(weights, outputs, strict=True))

    # A kink (ReLU, max) may lie on the way; then steps of two sizes disagree and the case says nothing.
    wide, narrow = ((total(h) - total(-h)) / (2 * h) for h in (1e-5, 1e-6))
    scale = max(abs(slope), abs(wide), 1.0)
    if abs(wide - narrow) < 1e-4 * scale:
        assert abs(slope - wide) < 1e-3 * scale, f"{slope} against {wide}\n{graph}"


def test_random_programs_cover_the_op_set():
    """The strategy above really draws every op; deterministic, so that a missing one cannot hide."""
    seen = set()

    @settings(max_examples=1500, derandomize=True, database=None)
    @given(graphs())
    def collect(graph):
        seen.update(n.op.kind for n in graph)

    collect()
    assert {op.kind for op in WORDS.values()} <= seen


EXAMPLES = {
    "lenet": {},
    "wrn28": {"widen": 1},
    "mobilenet": {},
    "llama": {"depth": 1, "heads": 4, "kv_heads": 2, "head_dim": 8, "hidden": 24},
}


@pytest.mark.parametrize("name", EXAMPLES)
def test_examples_lower_to_what_they_mean(name):
    graph = read(f"examples/{name}.irg", **EXAMPLES[name])
    assert check_lowering(graph, 3, 2).holds


def test_leaves_are_stock_modules_where_there_are_any():
    graph = parse("""
    net n(x: [3, 8, 8], t: ids(7)[4]) {
      a = x |> conv(4, kernel = 3, padding = 1) |> batchnorm |> relu |> instancenorm |> groupnorm(2) |> depthwise(kernel = 3)
            |> maxpool(2) |> avgpool(3) |> flatten |> dense(5) |> dropout(0.1)
      b = t |> embedding(6) |> layernorm |> rmsnorm |> gelu_tanh |> avgpool |> dense(5)
      return a + b
    }
    """)
    leaves = build(graph).module.meta["leaves"]
    wanted = {
        "conv": nn.Conv2d,
        "batchnorm": nn.BatchNorm2d,
        "activate": (nn.ReLU, nn.GELU),
        "instancenorm": nn.InstanceNorm2d,
        "groupnorm": nn.GroupNorm,
        "depthwise": nn.Conv2d,
        "maxpool": nn.MaxPool2d,
        "dense": nn.Linear,
        "dropout": nn.Dropout,
        "embedding": nn.Embedding,
        "layernorm": nn.LayerNorm,
        "rmsnorm": nn.RMSNorm,
    }
    for node in graph:
        if node.op.kind in wanted:
            assert isinstance(leaves[node.name], wanted[node.op.kind]), node.name


def test_no_width_is_baked_into_the_code():
    """Growing changes no line of the generated code."""
    text = """
    net n(x: [3, 8, 8], s: ids(9)[4]) {
      c = conv(x, 8, kernel = 3, padding = 1) |> channelshuffle(2) |> groupnorm(2) |> relu
      a, b = chunk(c, 2)
      t = a * b |> padunits(before = 1, after = 1) |> flatten(start = 1) |> transpose
      h = t |> attn: attention(2, 4, rotary = true) |> flip |> avgpool
      e = s |> embedding(6) |> positions |> classtoken |> avgpool |> scale
      return concat(h, e) |> dense(3)
    }
    """
    small, large = parse(text), parse(text.replace("x, 8", "x, 16").replace("(6)", "(11)").replace("(2, 4,", "(4, 6,"))
    codes = [build(g).module.code for g in (small, large)]
    assert codes[0] == codes[1]
    numbers = {int(n) for n in re.findall(r"(?<![\w.])\d+(?![\w.\"])", codes[0])}
    assert numbers <= {-1, 0, 1, 2}


HOSTILE = [
    *(
        "class",
        "forward",
        "training",
        "parameters",
        "state_dict",
        "to",
        "type",
        "half",
        "graph",
        "code",
        "meta",
        "self",
    ),
    *(
        "weight",
        "bias",
        "stride",
        "kernel_size",
        "in_features",
        "running_mean",
        "T",
        "lambda",
        "None",
        "match",
        "torch",
    ),
    *("_parameters", "__init__", "add_module", "modules", "x0", "output", "heads", "frequencies", "print", "getattr"),
]


@pytest.mark.parametrize("name", HOSTILE)
def test_names_that_clash_are_escaped_and_mapped(name):
    if not re.fullmatch(r"[A-Za-z_]\w*", name):
        return
    nodes = (
        Node("x", Input((4,))),
        Node(name, Dense(Atom(name)), ("x",)),
        Node(f"{name}.{name}", Activate("relu"), (name,)),
        Node(f"deep.{name}", Dense(Atom(f"deep.{name}")), (f"{name}.{name}",)),
    )
    graph = Graph("n", nodes, (f"deep.{name}",), {name: 3, f"deep.{name}": 2})
    net = build(graph)
    assert set(net.state_dict()) == set(graph.params) == {n for n, _ in net.named_parameters()}
    assert check_lowering(graph).holds
    fresh = build(graph, seed=5)
    fresh.load_state_dict(net.state_dict())
    x = torch.randn(2, 4)
    assert torch.equal(net(x), fresh(x))


def test_ordinary_names_stay_and_escapes_are_one_to_one():
    assert module_path("stage1.0.conv_1") == "stage1.0.conv_1"
    assert module_path("forward") == "forward_"
    assert module_path("forward_") == "forward__"
    assert len({module_path(n + "_" * i) for n in HOSTILE for i in range(3)}) == 3 * len(HOSTILE)


def test_layers_under_layers():
    """A node may be called like a path under another one."""
    nodes = (
        Node("x", Input((2, 5, 5))),
        Node("a", Conv(Atom("a"), 3), ("x",)),
        Node("a.b", Dropout(0.0), ("a",)),
        Node("a.b.c", Conv(Atom("a.b.c"), 1), ("a.b",)),
    )
    graph = Graph("n", nodes, ("a.b.c",), {"a": 3, "a.b.c": 2})
    assert check_lowering(graph).holds
    net = build(graph)
    assert net.rewrite("grow_units(a, 2)").applied
    assert set(net.state_dict()) == set(net.graph.params)


def test_tied_parameters_are_one_object():
    graph = parse("net n(x: ids(9)[4]) { return x |> e: embedding(5) |> head: dense(9, tied = e) }")
    net = build(graph)
    assert len(list(net.module.parameters())) == 2
    assert set(dict(net.module.named_parameters())) == {"e.weight", "head.bias"}


def test_the_module_holds_the_tensors_it_is_given():
    graph = parse("net n(x: [4]) { return x |> a: dense(3) |> batchnorm |> b: dense(2) }")
    tensors = as_tensors(graph, random_params(graph, 0))
    module = lower(graph, tensors)
    assert all(dict(module.named_parameters())[n] is tensors[n] for n in ("a.weight", "b.bias"))
    assert dict(module.named_buffers())["batchnorm_1.running_mean"] is tensors["batchnorm_1.running_mean"]


@pytest.mark.parametrize(
    "text",
    [
        "net n(x: [3, 8, 8]) { return x |> conv(4, kernel = 3) |> batchnorm |> relu |> flatten |> dense(3) }",
        "net n(x: ids(9)[6]) { return x |> e: embedding(8) |> positions |> residual { rmsnorm |> attention(2, 4, kv_heads = 1, causal = true, rotary = true) } |> dense(9, tied = e) }",
        "net n(x: [8, 4, 4]) { a, b = x |> conv(8, kernel = 1, groups = 2) |> channelshuffle(2) |> chunk(2)  return concat(flip(a), b * b) |> avgpool |> dense(2) }",
    ],
)
def test_compiles_without_graph_breaks(text):
    net = build(text)
    torch._dynamo.reset()
    compiled = torch.compile(net.module, fullgraph=True, backend="eager")
    inputs = [torch.as_tensor(v) for v in random_inputs(net.graph, 0).values()]
    inputs = [v.float() if v.is_floating_point() else v for v in inputs]
    net.eval()
    assert torch.equal(compiled(*inputs), net.module(*inputs))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_compiles_to_code():
    net = build("net n(x: [8]) { return x |> dense(16) |> gelu |> dense(4) }").eval()
    compiled = torch.compile(net.module, fullgraph=True)
    x = torch.randn(5, 8)
    torch.testing.assert_close(compiled(x), net.module(x))


def test_every_lowering_is_a_fresh_class():
    """So that growth does not run into torch.compile's limit of recompilations for one piece of code."""
    net = build("net n(x: [4]) { return x |> h: dense(3) |> relu |> dense(2) }")
    codes = []
    torch._dynamo.reset()
    with torch._dynamo.config.patch(fail_on_recompile_limit_hit=True):
        net.compile_with(backend="eager", fullgraph=True)
        for _ in range(12):
            net(torch.randn(2, 4)).sum().backward()
            codes.append(type(net.module).forward.__code__)
            assert net.rewrite("grow_units(h, 1)").applied
    assert len({id(code) for code in codes}) == 12


SIZED = """net n(x: [3, 8, 8]) { return x |> a: conv(4, kernel = 3, padding = 1) |> batchnorm |> relu
    |> conv(6, kernel = 3, padding = 1, groups = 2, bias = false) |> depthwise(3) |> conv(5, kernel = 1) |> flatten
    |> dense(7) |> batchnorm |> dense(4, masked = true) |> dense(2, bias = false) }"""


def plain(leaf):
    """Return what a leaf holds beside tensors and hooks, and which tensors it has, by name and shape."""
    own = {k: v for k, v in vars(leaf).items() if k not in ("_parameters", "_buffers", "_modules", "training")}
    own = {k: v for k, v in own.items() if "hook" not in k}
    tensors = [(kind, k, v if v is None else tuple(v.shape)) for kind in ("_parameters", "_buffers")
               for k, v in getattr(leaf, kind).items()]  # fmt: skip
    return type(leaf), own, sorted(tensors, key=str)


@pytest.mark.parametrize("axis", ["a", "conv_1", "conv_2", "dense_1", "dense_2"])
def test_leaves_at_other_sizes_are_those_lowered_afresh(axis):
    net = build(SIZED)
    before = dict(net.module.meta["leaves"])
    were = {name: plain(leaf) for name, leaf in before.items()}
    assert net.rewrite(f"grow_units({axis}, 2)").applied
    found, afresh = net.module.meta["leaves"], lower(net.graph, net.params).meta["leaves"]
    assert found.keys() == afresh.keys()
    assert any(leaf is not before[name] for name, leaf in found.items())
    for name, leaf in found.items():
        assert plain(leaf) == plain(afresh[name]), name
        for local, value in (*leaf.named_parameters(recurse=False), *leaf.named_buffers(recurse=False)):
            assert value is net.params[f"{name}.{local}"]
    assert {name: plain(leaf) for name, leaf in before.items()} == were, "the old module is to be put back on failure"


def test_a_leaf_with_something_of_its_owner_in_it_is_made_afresh():
    """Negative control: a method that somebody bound to the old leaf would go on reading the old weights."""
    net = build("net n(x: [3]) { return x |> a: dense(4) |> b: dense(2) }")
    old = net.module.meta["leaves"]["a"]
    old.forward = lambda x: nn.functional.linear(x, old.weight, old.bias)
    assert net.rewrite("grow_units(a, 1)").applied
    new = net.module.meta["leaves"]["a"]
    assert new is not old
    assert "forward" not in vars(new)
    assert new.out_features == 5
