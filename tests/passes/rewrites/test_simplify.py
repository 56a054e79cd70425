"""Taking out what hands its input on: identities, dropout, activations that change nothing where they stand."""

import pytest
import torch
from hypothesis import strategies as st

from irgrow.backends import random_params
from irgrow.grammar import parse
from irgrow.network import build
from irgrow.passes import Context, Simplify, plan
from irgrow.testing import check_pass
from irgrow.testing.laws import same_snapshot, snapshot
from irgrow.testing.numbers import output_error, random_inputs
from irgrow.verdict import Exact, Refused


def net(body, shape="x: [4]"):
    return parse(f"net n({shape}) {{ return x |> {body} }}")


@pytest.mark.parametrize(
    ("body", "verdict"),
    [
        ("dense(3) |> s: identity |> tanh", Exact()),
        ("dense(3) |> s: dropout(p = 0.0) |> tanh", Exact()),
        ("dense(3) |> s: dropout(p = 0.3) |> tanh", Exact("eval")),
        ("dense(3) |> relu |> s: relu |> dense(2)", Exact()),
        ("dense(3) |> sigmoid |> s: relu |> dense(2)", Exact()),
        ("dense(3) |> relu |> s: leaky_relu(slope = 0.2) |> dense(2)", Exact()),
        ("dense(3) |> relu |> dropout |> s: relu |> dense(2)", Exact()),
        ("dense(3) |> s: identity", Exact()),
        ("s: identity", Exact()),
        ("dense(3) |> s: dropout", Exact("eval")),
    ],
)
def test_what_goes(body, verdict):
    graph = net(body)
    params = random_params(graph, 0)
    for context in (Context(params), Context()):
        result = plan(Simplify("s"), graph, context)
        assert result.verdict == verdict
        assert "s" not in result.morphism.after
    assert output_error(result.morphism, params, random_inputs(graph, 0)) == 0.0


@pytest.mark.parametrize(
    "body",
    [
        "dense(3) |> s: relu |> dense(2)",
        "dense(3) |> tanh |> s: relu |> dense(2)",
        "dense(3) |> sigmoid |> s: sigmoid |> dense(2)",
        "dense(3) |> s: scale |> dense(2)",
        "s: dense(3)",
        "relu |> s: flip |> dense(2)",
    ],
)
def test_what_stays(body):
    verdict = plan(Simplify("s"), net(body)).verdict
    assert isinstance(verdict, Refused)
    assert verdict.reason == "`s` does not hand its input on as it is"


def test_several_readers_and_outputs_follow():
    graph = parse("net n(x: [4]) { h = dense(x, 3)  s = identity(h)  return add(s, relu(s)) |> dense(2), s }")
    result = plan(Simplify("s"), graph)
    assert result.verdict == Exact()
    assert result.morphism.after.outputs == ("dense_1", "h")
    assert output_error(result.morphism, random_params(graph, 0), random_inputs(graph, 0)) == 0.0


def test_a_reader_of_both_sides_is_not_confused():
    graph = parse("net n(x: [4]) { h = dense(x, 3)  s = dropout(h)  return concat(s, h) |> dense(2) }")
    result = plan(Simplify("s"), graph)
    assert result.verdict == Exact("eval")
    assert output_error(result.morphism, random_params(graph, 0), random_inputs(graph, 0)) == 0.0


def test_undo_puts_it_back():
    live = build(net("dense(3) |> s: dropout |> tanh"), dtype=torch.float64)
    before = live.graph
    live.rewrite(Simplify("s"))
    assert live.undo().verdict == Exact("eval")
    assert live.graph == before


def test_a_refusal_changes_nothing():
    live = build(net("dense(3) |> s: relu |> dense(2)"))
    before = snapshot(live)
    for site, reason in (("s", "does not hand"), ("x", "does not hand"), ("q", "no axis or node")):
        assert reason in live.rewrite(Simplify(site)).verdict.reason
    assert same_snapshot(before, snapshot(live)) is None


def test_laws():
    applied = []

    def options(graph):
        fitting = [n.name for n in graph if Simplify(n.name).match(graph, n.name) is None]
        applied.extend(fitting)
        return st.sampled_from(fitting or list(graph.by_name)).map(Simplify)

    check_pass(Simplify, options=options)
    assert len(applied) >= 8, "the laws were put to it"
