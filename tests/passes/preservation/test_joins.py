"""Sums, products and sources."""

from helpers import net, resized, verdict

from irgrow.fills import Normal
from irgrow.grammar import parse
from irgrow.verdict import Changes, Exact


def test_sums_stay_if_all_parts_do():
    graph = net("h: dense(4) |> residual { relu |> dense(4) } |> dense(2)")
    assert verdict(resized(graph, Normal(1.0), h=[0, 1, 2, 3, -1])) == Exact()
    assert verdict(resized(graph, reads=Normal(1.0), h=[0, 1, 2, 3, -1])) == Exact(), "all producers are zero"


def test_products_with_zero_are_zero():
    graph = parse("net n(x: [4]) { a = dense(x, 3)  b = dense(x, 3) |> sigmoid  return a * b |> dense(2) }")
    assert verdict(resized(graph, reads=Normal(1.0), a=[0, 1, 2, -1])) == Exact()
    summed = parse("net n(x: [4]) { a = dense(x, 3)  b = dense(x, 3) |> sigmoid  return a + b |> dense(2) }")
    assert isinstance(verdict(resized(summed, reads=Normal(1.0), a=[0, 1, 2, -1])), Changes)


def test_gates_are_spread_over_positions():
    graph = net(
        "c: conv(3, kernel = 1) |> product { identity ; avgpool |> dense(3) |> sigmoid } |> avgpool |> dense(2)",
        "x: [2, 3, 3]",
    )
    assert verdict(resized(graph, Normal(1.0), c=[0, 1, 2, -1])) == Exact()
    assert verdict(resized(graph, c=[1, 2, 0])) == Exact()


def test_tables_make_units():
    graph = parse("net n(x: ids(5)[3]) { return x |> e: embedding(4) |> positions |> avgpool |> dense(2) }")
    assert verdict(resized(graph, Normal(1.0), e=[0, 1, 2, 3, -1])) == Exact()
    assert verdict(resized(graph, reads=Normal(1.0), e=[0, 1, 2, 3, -1])) == Exact()
    assert isinstance(verdict(resized(graph, e=[0, 1, 2])), Changes)
