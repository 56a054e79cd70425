"""Adding connections: every layout, nothing changes, the new weights learn at once, cycles are refused."""

import pytest
import torch
from live import step, trained

from irgrow.backends import random_params
from irgrow.grammar import parse, parse_pass
from irgrow.passes import AddConnection, GrowUnits, RemoveConnection, plan
from irgrow.testing import assert_preserves, check_pass
from irgrow.testing.laws import LAWS, Case, refused_changes_nothing, undo_restores
from irgrow.testing.numbers import carried, gradients, output_weights, random_inputs
from irgrow.verdict import Exact, Refused

MLP = "net n(x: [4]) { return x |> a: dense(5) |> r: relu |> b: dense(3) |> s: tanh |> c: dense(5) |> dense(2) }"
CNN = """
net n(x: [2, 8, 12]) {
  a = conv(x, 3, kernel = 3, padding = 1)
  r = relu(a)
  p = maxpool(r, 2)
  b = conv(p, 5, kernel = 3, padding = 1)
  n = batchnorm(b, eps = 0.01)
  s = relu(n)
  q = maxpool(s, [1, 3])
  t = conv(q, 3, kernel = 1)
  u = conv(s, 4, kernel = 2)
  return t |> flatten |> dense(2), u |> flatten |> dense(2)
}
"""
SIGNAL = "net n(x: [2, 9]) { return x |> a: conv(3, kernel = 3, padding = 1) |> p: avgpool(3) |> b: conv(4, kernel = 1) |> flatten |> dense(2) }"
TOKENS = "net n(x: ids(9)[5]) { return x |> e: embedding(6) |> a: dense(7) |> r: gelu |> b: dense(6) |> layernorm |> avgpool |> dense(2) }"
PARALLEL = "net n(x: [4]) { a = dense(x, 3)  b = relu(a)  c = dense(b, 2)  d = dense(x, 5)  e = relu(d)  return c, dense(e, 2) }"

PLACES = [
    (MLP, AddConnection("r", "c")),
    (MLP, AddConnection("x", "dense_1")),
    (MLP, AddConnection("a", "c", "zero")),
    (CNN, AddConnection("x", "r")),
    (CNN, AddConnection("r", "s")),
    (CNN, AddConnection("x", "t")),
    (CNN, AddConnection("p", "n")),
    (SIGNAL, AddConnection("x", "b")),
    (SIGNAL, AddConnection("a", "p")),
    (TOKENS, AddConnection("e", "r")),
    (TOKENS, AddConnection("e", "b", "zero")),
    (PARALLEL, AddConnection("d", "b")),
    (PARALLEL, AddConnection("e", "c")),
]


@pytest.mark.parametrize(("text", "rewrite"), PLACES, ids=lambda v: str(v) if isinstance(v, AddConnection) else "")
def test_nothing_changes_and_the_new_weights_learn_at_once(text, rewrite):
    graph = parse(text)
    for batch in (1, 4):
        case = Case(graph, rewrite, 1, batch)
        assert case.plan().verdict == Exact()
        for law in LAWS:
            law(case)
    morphism = plan(rewrite, graph).morphism
    params, inputs = carried(morphism, random_params(graph, 0)), random_inputs(graph, 0)
    grads = gradients(morphism.after, params, inputs, output_weights(morphism.after, params, inputs, 0))
    (fresh,) = (n for n in morphism.after.params if n not in graph.params)
    assert (grads[fresh] != 0).double().mean() > 0.5


def test_what_read_the_target_reads_the_sum():
    graph = parse("net n(x: [4]) { a = dense(x, 5)  b = relu(a)  c = dense(b, 5)  d = dense(c, 3)  return c, d, a }")
    after = plan(AddConnection("a", "c"), graph).morphism.after
    assert after["c_from_a1.add"].inputs == ("c", "c_from_a1.project")
    assert after["d"].inputs == ("c_from_a1.add",)
    assert after.outputs == ("c_from_a1.add", "d", "a")
    again = plan(AddConnection("a", "c_from_a1.add"), after).morphism.after
    assert "c_from_a1_add_from_a1.project" in again
    beside = plan(AddConnection("a", "c"), after).morphism.after
    assert "c_from_a2.project" in beside


def test_positions_are_averaged_where_there_are_too_many():
    after = plan(AddConnection("x", "t"), parse(CNN)).morphism.after
    assert after["t_from_x1.pool"].op.kernel == (2, 6)
    assert plan(AddConnection("r", "s"), parse(CNN)).morphism.after["s_from_r1.pool"].op.kernel == 2
    assert "n_from_p1.pool" not in plan(AddConnection("p", "n"), parse(CNN)).morphism.after


def test_a_later_source_moves_forward():
    graph = parse(PARALLEL)
    after = plan(AddConnection("d", "b"), graph).morphism.after
    order = [n.name for n in after]
    assert order.index("d") < order.index("b_from_d1.project") < order.index("c")
    assert parse(str(after)) == after


def test_connected_layers_still_grow():
    graph = plan(AddConnection("r", "c"), parse(MLP)).morphism.after
    for axis in ("a", "c", "b"):
        assert_preserves(graph, GrowUnits(axis, 2))
    tied = plan(AddConnection("a", "c", "zero"), parse(MLP)).morphism.after
    assert plan(GrowUnits("a", 2), tied).morphism.after.shape("c") == (7,), "both ends of a sum have one width"


@pytest.mark.parametrize(
    ("text", "rewrite", "reason"),
    [
        (MLP, AddConnection("s", "a"), "`s` depends on `a`: the connection would close a cycle"),
        (MLP, AddConnection("a", "a"), "`a` cannot be connected with itself"),
        (MLP, AddConnection("nope", "a"), "no axis or node is called `nope`"),
        (MLP, AddConnection("a", "nope"), "no axis or node is called `nope`"),
        (MLP, AddConnection("a", "b", "zero"), "`a` has shape [5] and `b` [3]; use the form `projected`"),
        (CNN, AddConnection("x", "flatten_1"), "`x` has 3 dimensions and `flatten_1` 1"),
        (CNN, AddConnection("q", "u"), "`q` has positions [4, 2] and `u` [3, 5], no whole multiple"),
        (CNN, AddConnection("x", "u"), "`x` has positions [8, 12] and `u` [3, 5], no whole multiple"),
        (TOKENS, AddConnection("x", "a"), "`x` holds integer ids"),
        (TOKENS, AddConnection("e", "dense_1"), "`e` has 2 dimensions and `dense_1` 1"),
    ],
)
def test_refusals(text, rewrite, reason):
    case = Case(parse(text), rewrite)
    verdict = case.plan().verdict
    assert isinstance(verdict, Refused)
    assert reason in verdict.reason
    refused_changes_nothing(case)


def test_more_refusals():
    layouts = "net n(x: [4, 3], y: ids(5)[4]) { a = conv(x, 4, kernel = 1)  e = embedding(y, 3)  return a, e }"
    reason = plan(AddConnection("e", "a"), parse(layouts)).verdict.reason
    assert "`e` and `a` have their units in different dimensions" in reason
    named = parse("net n(x: [4]) { axis d = 5  return x |> h: dense(d) |> dense(2) }")
    assert "is an axis" in plan(AddConnection("d", "h"), named).verdict.reason
    lengths = "net n(x: ids(5)[4], y: ids(5)[8]) { a = embedding(x, 3)  b = embedding(y, 3)  return a, b }"
    assert "has positions [8]" in plan(AddConnection("b", "a"), parse(lengths)).verdict.reason
    tied = "net n(x: [4]) { a = dense(x, 4)  b = dense(a, 4)  d = dense(x, 4, tied = b)  return b, d }"
    verdict = plan(AddConnection("d", "a"), parse(tied)).verdict
    assert isinstance(verdict, Refused), "d takes the weights of b, which would read d"
    assert "would depend on itself" in verdict.reason


def test_on_a_live_network():
    undo_restores(Case(parse(CNN), AddConnection("x", "r"), 1))
    net, optimizer = trained(MLP, optimizer=torch.optim.AdamW)
    x = torch.randn(4, 4, dtype=torch.float64)
    before = net(x).detach()
    old = {id(p) for g in optimizer.param_groups for p in g["params"]}
    assert net.rewrite(AddConnection("r", "c")).verdict == Exact()
    assert torch.equal(net(x), before)
    now = [id(p) for g in optimizer.param_groups for p in g["params"]]
    assert old < set(now)
    assert len(now) == len(old) + 1
    weight = net.params["c_from_r1.project.weight"]
    for i in range(2):
        step(net, optimizer, i)
    assert weight.abs().min() > 0
    assert weight in optimizer.state
    removed = net.rewrite(RemoveConnection("r", "c"))
    assert removed.applied
    assert not removed.verdict.preserves
    assert weight not in optimizer.state
    assert {id(p) for g in optimizer.param_groups for p in g["params"]} == old
    step(net, optimizer)


@pytest.mark.parametrize("text", ["add_connection(a, b)", "add_connection(a.c, b, zero)"])
def test_texts(text):
    assert str(parse_pass(text)) == text


def test_the_laws_hold_on_random_programs():
    check_pass(AddConnection)
