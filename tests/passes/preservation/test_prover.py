"""The walk as a whole: what is carried, what is compared, what is concluded."""

from dataclasses import replace

import numpy as np
from helpers import net, resized, verdict, with_op

from irgrow.backends import random_params
from irgrow.fills import Normal
from irgrow.graph import Graph, Node
from irgrow.morphism import Keep, Morphism, New
from irgrow.passes import Prover, prove
from irgrow.passes.preservation.known import ANY, SAME, ZERO, Known, uniform
from irgrow.passes.preservation.rules import RULES
from irgrow.verdict import Changes, Exact

GRAPH = net("a: dense(3) |> r: relu |> b: dense(3) |> s: relu |> dense(2)")


def same(graph, after=None, **changed):
    after = after or graph
    return Morphism(graph, after, {n: changed.get(n.replace(".", "_"), Keep(n)) for n in after.params})


def test_nothing_changes_nothing():
    assert verdict(same(GRAPH)) == Exact()


def test_fresh_weights_are_other_weights():
    found = verdict(same(GRAPH, b_weight=New(Normal(1.0))))
    assert isinstance(found, Changes)
    assert found.reason == "`b` has other weights"


def test_swapped_parameters_are_noticed():
    assert isinstance(verdict(same(GRAPH, a_bias=Keep("b.bias"), b_bias=Keep("a.bias"))), Changes)


def test_rewired_nodes_are_noticed():
    nodes = tuple(replace(n, inputs=("r",)) if n.name == "s" else n for n in GRAPH)
    after = Graph(GRAPH.name, nodes, GRAPH.outputs, GRAPH.sizes)
    morphism = Morphism(GRAPH, after, {n: Keep(n) for n in after.params})
    assert isinstance(prove(morphism), Changes)
    assert "reads other values than before" in prove(morphism).reason


def test_other_attributes_are_noticed():
    graph = net(
        "c: conv(3, kernel = 3, padding = 1) |> n: batchnorm(eps = 0.01) |> flatten |> dense(2)", "x: [2, 4, 4]"
    )
    assert isinstance(verdict(with_op(same(graph), "n", eps=0.5)), Changes)
    graph = net("h: dense(3) |> l: leaky_relu(slope = 0.1) |> dense(2)")
    assert isinstance(verdict(with_op(same(graph), "l", slope=0.2)), Changes)


def test_other_outputs_are_noticed():
    after = replace(GRAPH, outputs=("s",))
    nodes = tuple(n for n in GRAPH if n.name != "dense_1")
    after = Graph(GRAPH.name, nodes, ("s",), {k: v for k, v in GRAPH.sizes.items() if k != "dense_1"})
    assert isinstance(prove(Morphism(GRAPH, after, {n: Keep(n) for n in after.params})), Changes)


def test_what_is_known_of_every_value():
    prover = Prover(resized(GRAPH, Normal(1.0), a=[0, 1, 2, -1]))
    prover.run()
    assert prover.known["a"].status.tolist() == [SAME, SAME, SAME, ANY]
    assert prover.known["b"].same
    zero = Prover(resized(GRAPH, reads=Normal(1.0), a=[0, 1, 2, -1]))
    zero.run()
    assert zero.known["r"].status.tolist() == [SAME, SAME, SAME, ZERO]
    assert zero.known["r"].old_intact


def test_every_coupling_has_a_rule():
    from irgrow.ops import OPS, Coupling

    assert {op.coupling for op in OPS} <= set(RULES) == set(Coupling)


def test_knowledge():
    known = Known("x", 0, np.array([SAME, ZERO, ANY], dtype=np.int8), np.array([1, -1, 0]))
    assert known.new.tolist() == [False, True, False]
    assert known.lost(3).tolist() == [2]
    assert not known.old_intact
    assert not known.same
    assert known.changed("why").why == "why"
    assert uniform("x", ZERO).zero
    assert uniform("x", SAME).same
    assert Node("x", GRAPH["r"].op).name == "x"
    assert random_params(GRAPH, 0)
