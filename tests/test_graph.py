"""Graphs: types, axes by name, parameters, edits and views."""

import copy

import numpy as np
import pytest

from irgrow.axes import NEW, Atom
from irgrow.cost import cost
from irgrow.errors import OptionError, ProgramError
from irgrow.grammar import parse
from irgrow.graph import Node, rebuilt
from irgrow.ops import Dense

LENET = """
net lenet(image: [1, 28, 28]) {
  return image |> c1: conv(6, kernel = 5, padding = 2) |> relu |> p: maxpool(2) |> flatten
    |> f1: dense(120) |> relu |> head: dense(10)
}
"""
RESIDUAL = """
net n(x: [4]) {
  return x |> stem: dense(8) |> residual { up: dense(12) |> relu |> down: dense(8) } |> head: dense(3)
}
"""


def test_shapes_and_cost():
    graph = parse(LENET)
    assert graph.shape("p") == (6, 14, 14)
    assert graph.shape("flatten_1") == (1176,)
    assert cost(graph).parameters == 6 * 26 + 120 * 1177 + 10 * 121
    assert cost(graph).macs == 25 * 6 * 784 + 1176 * 120 + 1200
    assert graph.count() == cost(graph).parameters


def test_a_residual_stream_is_one_axis_named_after_its_first_maker():
    graph = parse(RESIDUAL)
    assert graph.axis("down") == graph.axis("stem") == graph.axis("add_1") == Atom("stem")
    assert graph.leaves == ("x", "stem", "up", "head")


def test_locks_say_why():
    graph = parse(RESIDUAL)
    assert str(graph.locked(graph.axis("x"))) == "interface: `x` is an input of the network"
    assert str(graph.locked(graph.axis("head"))) == "interface: `head` is an output of the network"
    assert graph.locked(graph.axis("up")) is None
    fixed = parse("net n(x: [4]) { axis d = 8 fixed  return x |> h: dense(d) |> dense(1) }")
    assert str(fixed.locked(fixed.axis("h"))) == "`d` is declared fixed"


def test_unknown_axes_are_named_with_the_closest_known():
    with pytest.raises(OptionError, match="did you mean `stem`"):
        parse(RESIDUAL).axis("stemm")


def test_parameters_know_their_axes_and_roles():
    graph = parse(LENET)
    assert list(graph.params) == ["c1.weight", "c1.bias", "f1.weight", "f1.bias", "head.weight", "head.bias"]
    assert graph.param_shape("f1.weight") == (120, 1176)
    assert [r.value for r in graph.params["c1.weight"].spec.roles] == ["makes", "reads", "fixed", "fixed"]


def test_tied_parameters_are_one():
    graph = parse("net t(x: ids(9)[4]) { return x |> e: embedding(5) |> head: dense(9, tied = e) }")
    assert list(graph.params) == ["e.weight", "head.bias"]
    assert [node for node, _ in graph.params["e.weight"].uses] == ["e", "head"]
    assert {r.value for r in graph.params["e.weight"].roles(1)} == {"makes", "reads"}
    again = parse("net t(x: [4]) { return x |> a: dense(4) |> relu |> b: dense(4, tied = a) |> c: dense(4, tied = b) }")
    assert list(again.params) == ["a.weight", "a.bias"]


def test_an_edit_of_an_atom_moves_every_size_with_it():
    graph = parse(LENET)
    grown = graph.resized({"c1": np.array([0, 1, 2, 3, 4, 5, NEW])})
    assert grown.shape("flatten_1") == (7 * 196,)
    assert grown.param_shape("f1.weight") == (120, 7 * 196)
    assert grown == parse(str(grown))
    assert graph.shape("p") == (6, 14, 14), "the old graph is as it was"


def test_an_edit_shares_what_it_does_not_touch():
    graph = parse(LENET)
    grown = graph.resized({"f1": np.append(np.arange(120), NEW)})
    assert grown["c1"] is graph["c1"]
    assert grown.types is graph.types


def test_an_edit_that_empties_a_part_drops_it():
    graph = parse("net n(x: [3]) { h = dense(x, 6)  return h |> slice(2, 5) |> dense(1) }")
    cut = graph.axis("h")
    assert str(cut) == "h[0] + h[1] + h[2]"
    smaller = graph.resized({"h[0]": np.array([], dtype=np.int64)})
    assert smaller.shape("h") == (4,)
    assert smaller == parse(str(smaller))


def test_head_dim_keeps_its_scale_when_it_changes():
    text = """
    net a(x: [3, 8]) { axis h = 2  axis d = 4
      t = transpose(x)  q = dense(t, h * d)  k = dense(t, h * d)  v = dense(t, h * d)
      return dot_product_attention(q, k, v, h) |> dense(2) }
    """
    graph = parse(text)
    mix = next(n.name for n in graph if n.op.kind == "dot_product_attention")
    assert graph[mix].op.scale is None
    grown = graph.resized({"d": np.append(np.arange(4), NEW)})
    assert grown[mix].op.scale == 0.5
    grown_heads = graph.resized({"h": np.append(np.arange(2), NEW)})
    assert grown_heads[mix].op.scale is None


def test_rebuilding_checks_the_result():
    graph = parse(RESIDUAL)
    broken = [n if n.name != "head" else Node("head", Dense(Atom("head")), ("nothing",)) for n in graph]
    with pytest.raises((ProgramError, KeyError)):
        rebuilt(graph, broken).typed.types["head"]


def test_networkx_view_and_copies():
    graph = parse(RESIDUAL)
    view = graph.to_networkx()
    assert set(view.successors("stem")) == {"up", "add_1"}
    assert copy.deepcopy(graph) is graph
    assert len({graph, parse(RESIDUAL)}) == 1


def test_users_and_iteration():
    graph = parse(RESIDUAL)
    assert graph.users["stem"] == ("up", "add_1")
    assert [n.name for n in graph][:2] == ["x", "stem"]
    assert "stem" in graph
    assert "nope" not in graph
