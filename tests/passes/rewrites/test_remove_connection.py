"""Removing connections: out of a sum, with the branch that served it, exact where it was zero."""

import numpy as np
import pytest
import torch
from live import trained

from irgrow.backends import random_params
from irgrow.grammar import parse, parse_pass
from irgrow.passes import AddConnection, Context, RemoveConnection, plan
from irgrow.testing import check_pass
from irgrow.testing.laws import Case, refused_changes_nothing
from irgrow.testing.numbers import carried, output_error, random_inputs
from irgrow.verdict import Changes, Exact, Refused

MLP = "net n(x: [4]) { return x |> a: dense(5) |> r: relu |> b: dense(3) |> s: tanh |> c: dense(5) |> dense(2) }"
CNN = "net n(x: [2, 8, 12]) { return x |> a: conv(3, kernel = 3, padding = 1) |> r: relu |> p: maxpool(2) |> b: conv(5, kernel = 1) |> flatten |> dense(2) }"
SUMS = """
net n(x: [4]) {
  a = dense(x, 5)
  b = relu(a)
  c = dense(b, 5)
  d = dense(x, 5)
  e = tanh(d)
  three = add(a, c, e)
  two = add(three, b)
  return dense(two, 2), two
}
"""


@pytest.mark.parametrize(
    ("text", "rewrite"),
    [
        (MLP, AddConnection("r", "c")),
        (MLP, AddConnection("a", "c", "zero")),
        (MLP, AddConnection("x", "dense_1")),
        (CNN, AddConnection("a", "b")),
        (CNN, AddConnection("x", "r")),
    ],
)
def test_what_was_added_goes_without_a_trace(text, rewrite):
    graph = parse(text)
    params = random_params(graph, 2)
    morphism = plan(rewrite, graph, Context(params)).morphism
    now = carried(morphism, params)
    new = [n.name for n in morphism.after if n.name not in graph]
    for removal in (
        RemoveConnection(rewrite.source, rewrite.target),
        RemoveConnection(new[-2], new[-1]),
        RemoveConnection(new[-2]),
        RemoveConnection(new[0], rewrite.target),
    ):
        result = plan(removal, morphism.after, Context(now))
        assert result.verdict == Exact()
        assert result.morphism.after == graph
        assert result.morphism.after.digest == graph.digest
        back = carried(result.morphism, now)
        assert all(back[name] is now[name] or np.array_equal(back[name], params[name]) for name in params)


def test_a_connection_that_learned_is_named():
    graph = plan(AddConnection("r", "c"), parse(MLP)).morphism.after
    params = random_params(graph, 2)
    params["c_from_r1.project.weight"][...] = 0
    params["c_from_r1.project.weight"][2, 1] = 1e-9
    result = plan(RemoveConnection("r", "c"), graph, Context(params))
    assert isinstance(result.verdict, Changes)
    assert "the weight of `c_from_r1.project`" in result.verdict.reason
    assert 1e-12 < output_error(result.morphism, params, random_inputs(graph, 2)) < 1e-6
    assert isinstance(plan(RemoveConnection("r", "c"), graph).verdict, Changes), "without numbers nothing is known"


def outcome(text, removal, change=None):
    """Return the verdict and the new graph, held against the numbers."""
    graph = parse(text)
    params = random_params(graph, 3)
    if change is not None:
        change(params)
    result = plan(removal, graph, Context(params))
    for batch in (1, 4):
        error = output_error(result.morphism, params, random_inputs(graph, 3, batch))
        assert (error < 1e-10) == result.verdict.preserves
    assert parse(str(result.morphism.after)) == result.morphism.after
    return result.verdict, result.morphism.after


def _zero(*names):
    def change(params):
        for name in names:
            params[name][...] = 0

    return change


def test_one_of_three():
    verdict, after = outcome(SUMS, RemoveConnection("c"))
    assert isinstance(verdict, Changes)
    assert "`c`" in verdict.reason
    assert after["three"].inputs == ("a", "e")
    assert "c" not in after
    assert "b" in after, "something else reads it"
    verdict, _ = outcome(SUMS, RemoveConnection("c"), _zero("c.weight", "c.bias"))
    assert verdict == Exact()
    verdict, after = outcome(SUMS, RemoveConnection("e", "three"), _zero("d.weight", "d.bias"))
    assert verdict == Exact()
    assert "d" not in after


def test_a_sum_of_one_value_is_that_value():
    verdict, after = outcome(SUMS, RemoveConnection("three"))
    assert isinstance(verdict, Changes)
    assert after.outputs[1] == "b"
    assert "three" not in after
    assert "d" not in after
    verdict, after = outcome(SUMS, RemoveConnection("b", "two"))
    assert after.outputs[1] == "three"
    assert isinstance(verdict, Changes)
    assert "`two` adds `three` and `b`" in verdict.reason


def test_the_connection_itself_comes_before_a_branch_from_it():
    text = "net n(x: [4]) { h = dense(x, 5)  r = relu(h)  o = dense(r, 5)  s = add(h, o)  return dense(s, 2) }"
    _, after = outcome(text, RemoveConnection("h", "s"))
    assert after["dense_1"].inputs == ("o",)
    _, after = outcome(text, RemoveConnection("h", "o"))
    assert after["dense_1"].inputs == ("o",)
    _, after = outcome(text, RemoveConnection("r", "s"))
    assert after["dense_1"].inputs == ("h",)
    assert "o" not in after


def test_a_value_that_is_added_twice_is_taken_out_once():
    text = "net n(x: [4]) { h = dense(x, 5)  s = add(h, h)  return dense(s, 2) }"
    verdict, after = outcome(text, RemoveConnection("h"))
    assert isinstance(verdict, Changes)
    assert after["dense_1"].inputs == ("h",)


@pytest.mark.parametrize(
    ("source", "target", "reason"),
    [
        ("nope", None, "no axis or node is called `nope`"),
        ("a", "nope", "no axis or node is called `nope`"),
        ("d", None, "`d` is not added to anything"),
        ("x", "three", "is added several times, as"),
        ("e", "two", "no sum adds a branch that begins at `e` to `two`"),
        ("c", "c", "no sum adds a branch that begins at `c` to `c`"),
    ],
)
def test_refusals(source, target, reason):
    text = SUMS.replace("tanh(d)", "tanh(d)  f = dense(x, 5)").replace("a, c, e", "a, c, e, f")
    case = Case(parse(text), RemoveConnection(source, target))
    verdict = case.plan().verdict
    assert isinstance(verdict, Refused)
    assert reason in verdict.reason
    refused_changes_nothing(case)


def test_more_refusals():
    inputs = parse("net n(x: [4], y: [4]) { s = add(x, y)  return dense(s, 2) }")
    assert "the input `y` would not be read any more" in plan(RemoveConnection("y"), inputs).verdict.reason
    spread = parse("net n(x: [4, 3], y: [4]) { s = add(x, y)  return conv(s, 2, kernel = 1), dense(y, 2), flatten(x) }")
    assert "`x` gives `s` its shape" in plan(RemoveConnection("x"), spread).verdict.reason
    assert isinstance(plan(RemoveConnection("y"), spread).verdict, Changes)
    several = parse("net n(x: [4]) { h = dense(x, 4)  s = add(x, h)  t = add(s, h)  return dense(t, 2) }")
    reason = plan(RemoveConnection("h"), several).verdict.reason
    assert reason == "`h` is added several times, as `h` in `s` and `h` in `t`; name the one that goes"
    assert plan(RemoveConnection("h", "t"), several).verdict.applies
    tied = parse("net n(x: [4]) { h = dense(x, 4)  s = add(x, h)  t = dense(s, 4, tied = h)  return t }")
    assert "`t` uses the parameters of `h`, which would go" in plan(RemoveConnection("h"), tied).verdict.reason


def test_optimizers_of_live_networks_follow():
    text = "net n(x: [4]) { h = dense(x, 5)  r = relu(h)  o = dense(r, 5)  s = add(h, o)  return dense(s, 2) }"
    net, optimizer = trained(text, optimizer=torch.optim.AdamW)
    gone = [net.params["o.weight"], net.params["o.bias"]]
    x = torch.randn(4, 4, dtype=torch.float64)
    receipt = net.rewrite(RemoveConnection("o"), batch=x)
    assert receipt.applied
    assert receipt.error > 1e-6
    left = [p for g in optimizer.param_groups for p in g["params"]]
    assert {id(p) for p in left} == {id(p) for p in net.parameters()}
    assert not any(g is p for g in gone for p in left)
    assert not any(g in optimizer.state for g in gone)


@pytest.mark.parametrize("text", ["remove_connection(a)", "remove_connection(a, b.c)"])
def test_texts(text):
    assert str(parse_pass(text)) == text


def test_the_laws_hold_on_random_programs():
    check_pass(RemoveConnection)
