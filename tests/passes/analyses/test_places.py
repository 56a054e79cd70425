"""Where units are made, activated and read."""

from irgrow.grammar import parse
from irgrow.passes.analyses.places import activation, editable_axes, hidden_axes, makers, measured, path

GRAPH = parse("""
net n(x: [3, 8, 8]) {
  return x |> stem: conv(8, kernel = 3, padding = 1) |> batchnorm |> r0: relu
    |> residual { c1: conv(6, kernel = 3, padding = 1) |> batchnorm |> r1: relu |> dropout(p = 0.1) |> c2: conv(8, kernel = 1) |> batchnorm }
    |> relu |> maxpool(2) |> flatten |> f1: dense(5) |> leaky_relu |> head: dense(2)
}
""")


def test_makers():
    assert makers(GRAPH, "stem") == ["stem", "c2"]
    assert makers(GRAPH, "f1") == ["f1"]
    assert makers(GRAPH, "x") == []


def test_the_activation_behind_a_layer():
    assert [activation(GRAPH, n) for n in ("stem", "c1", "c2", "f1", "head")] == [
        "r0",
        "r1",
        None,
        "leaky_relu_1",
        None,
    ]
    assert measured(GRAPH, "c2") == "c2"
    assert [n.name for n in path(GRAPH, "c1")] == ["batchnorm_2", "r1", "dropout_1"]


def test_sets_of_axes():
    assert hidden_axes(GRAPH) == ("c1", "f1")
    assert editable_axes(GRAPH) == ("stem", "c1", "f1")
    mlp = parse("net n(x: [4]) { return x |> a: dense(3) |> relu |> b: dense(3) |> tanh |> dense(1) }")
    assert hidden_axes(mlp) == ("a", "b")


def test_gated_units_are_hidden():
    text = """net n(x: [4]) {
      gate = x |> g: dense(h) |> silu
      up = x |> u: dense(h)
      return gate * up |> dense(2)
    }"""
    graph = parse(text.replace("{\n", "{\n axis h = 6\n", 1))
    assert hidden_axes(graph) == ("h",)
    bare = parse(text.replace("{\n", "{\n axis h = 6\n", 1).replace(" |> silu", ""))
    assert hidden_axes(bare) == ()
