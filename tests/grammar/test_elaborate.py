"""Elaboration: names, blocks, repetition, conditions, axes, sugar."""

import pytest

from irgrow.errors import ProgramError
from irgrow.grammar import parse
from irgrow.ops import Add, Concat, Part


def names(text, **values):
    return [n.name for n in parse(text, **values)]


def failing(text):
    with pytest.raises(ProgramError) as caught:
        parse(text)
    return [d.message for d in caught.value.diagnostics]


def test_stages_labels_and_automatic_names():
    text = "net n(x: [4]) { return x |> f1: dense(3) |> relu |> relu |> dense(2) |> relu }"
    assert names(text) == ["x", "f1", "relu_1", "relu_2", "dense_1", "relu_3"]


def test_an_assignment_names_the_node_it_ends_in():
    assert names("net n(x: [4]) { h = x |> dense(3) |> relu  y = dense(h, 2)  return y }") == ["x", "dense_1", "h", "y"]
    assert names("net n(x: [4]) { x = relu(x)  x = relu(x)  return x }") == ["x", "relu_1", "relu_2"]


def test_automatic_names_avoid_explicit_ones():
    assert names("net n(x: [4]) { return x |> relu |> relu_1: dense(3) |> relu }") == [
        "x",
        "relu_2",
        "relu_1",
        "relu_3",
    ]


def test_sums_and_products():
    graph = parse("net n(x: [4]) { a = relu(x)  b = tanh(x)  return a + b + x |> out: dense(1) }")
    assert graph["add_1"].op == Add()
    assert graph["add_1"].inputs == ("a", "b", "x")
    assert parse("net n(x: [4]) { return x * sigmoid(x) }")["mul_1"].inputs == ("x", "sigmoid_1")


def test_blocks_and_their_names():
    text = """
    block layer(x, width, act = 1) { y = x |> dense(width)  return if act == 1 { y |> relu } else { y } }
    net n(x: [4]) { return x |> first: layer(8) |> layer(4, act = 0) |> dense(2) }
    """
    assert names(text) == ["x", "first.y", "first.relu_1", "layer_1.y", "dense_1"]


def test_repeat_copies_are_independent_and_numbered():
    text = "net n(x: [4]) { return x |> s: repeat(2) { dense(4) |> relu } |> t: repeat(2) { dense(4) } }"
    assert names(text) == ["x", "s.0.dense_1", "s.0.relu_1", "s.1.dense_1", "s.1.relu_1", "t.0", "t.1"]
    block = "block b(x) { return x |> dense(3) |> relu }\nnet n(x: [4]) { return x |> s: repeat(2) { b } }"
    assert names(block) == ["x", "s.0.dense_1", "s.0.relu_1", "s.1.dense_1", "s.1.relu_1"]


def test_brace_combinators():
    graph = parse("""
    net n(x: [4]) {
      return x |> residual { dense(4) } |> c: concat { identity ; h: dense(2) } |> sum { dense(3) ; dense(3) }
        |> product { identity ; dense(3) |> sigmoid }
    }
    """)
    assert graph["add_1"].inputs == ("x", "dense_1")
    assert graph["c"].op == Concat()
    assert graph["c"].inputs == ("c.identity_1", "c.h")
    assert graph.shape("c") == (6,)


def test_conditions_and_arithmetic_are_compile_time():
    text = "net n(x: [4], k = 3, deep = true) { return x |> if deep { dense(2 * k + 1) } else { dense(1) } |> dense(7 // k) }"
    assert parse(text).shape("dense_1") == (7,)
    assert parse(text, deep=False).shape("dense_1") == (1,)
    assert parse(text, k=5).shape("dense_1") == (11,)


def test_named_axes_tie_and_lock():
    graph = parse("""
    net n(x: [4]) {
      axis d = 6
      axis e = 3 fixed
      return x |> a: dense(d) |> relu |> b: dense(e) |> c: dense(d) |> dense(2 * d) |> out: dense(d + e)
    }
    """)
    assert graph.axis("a") == graph.axis("c")
    assert graph.shape("out") == (9,)
    assert graph.shape("dense_1") == (12,)
    assert graph.locked(graph.axis("e")) is not None


def test_width_and_size():
    graph = parse("net n(x: [4]) { h = dense(x, 6)  y = h |> dense(width(h)) |> dense(size(width(h)) / 2)  return y }")
    assert graph.axis("dense_1") == graph.axis("h")
    assert graph.shape("y") == (3,)
    assert parse(str(graph)) == graph


def test_the_width_of_a_flipped_value_is_a_number():
    graph = parse("net n(x: [4]) { h = x |> dense(6) |> flip  return h |> dense(width(h)) |> dense(1) }")
    assert graph.shape("dense_2") == (6,)
    assert graph.axis("dense_1") != graph.axis("dense_2")


def test_parts():
    graph = parse("""
    net n(x: [12]) {
      a, b = chunk(x, 2)
      c, d = split(a, [2, 4])
      e = slice(b, 1, 4)
      return concat(c, d, e) |> dense(1)
    }
    """)
    assert isinstance(graph["c"].op, Part)
    assert [graph.shape(n) for n in "cde"] == [(2,), (4,), (3,)]
    assert "b" in graph
    unused = parse("net n(x: [12]) { a, b = chunk(x, 2)  return a |> dense(1) }")
    assert "b" not in unused, "a part that nothing reads is left out"


def test_split_by_named_axes():
    graph = parse(
        "net n(x: [9]) { axis d = 3  axis e = 6  h = dense(x, d + e)  a, b = split(h, [d, e])  return dense(b, 2) |> dense(1) }"
    )
    assert str(graph.axis("h")) == "d + e"


def test_inputs_of_every_kind():
    graph = parse(
        "net n(image: [3, 8, 8], tokens: ids(50)[6], flat: [7]) { return flat, image, tokens |> embedding(2) }"
    )
    assert graph.inputs == ("image", "tokens", "flat")
    assert graph.outputs == ("flat", "image", "embedding_1")
    assert graph.types["tokens"].ids == 50


def test_tied_layers_by_label():
    graph = parse(
        "net n(x: ids(9)[4]) { return x |> e: embedding(5) |> layernorm |> head: dense(9, tied = e, bias = false) }"
    )
    assert graph["head"].tied == "e"


def test_attention_is_a_block_of_ops():
    graph = parse(
        "net n(x: [8, 5]) { return x |> transpose |> attn: attention(2, 4, kv_heads = 1, rotary = true) |> dense(2) }"
    )
    assert [n for n in names(str(graph)) if n.startswith("attn")] == [
        "attn.query",
        "attn.key",
        "attn.value",
        "attn.mix",
        "attn.out",
    ]
    assert str(graph.axis("attn.query")) == "attn.kv_heads * attn.mix.repeats * 2 * attn.mix.pairs"
    assert graph.param_shape("attn.mix.frequencies") == (2,)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("return x |> dens(3)", "unknown operator `dens`"),
        ("return y", "unknown name `y`"),
        ("return x |> dense", "dense needs `units`"),
        ("return x |> dense(3, true, false, 5)", "dense takes at most 3 arguments here, found one more"),
        ("return x |> dense(3, unit = 4)", "dense has no argument `unit`"),
        ("return x |> dense(3, units = 4)", "`units` of dense is given twice"),
        ("return x |> dense(0)", "`units` of dense must be at least 1, found 0"),
        ("return x |> dense(-2)", "`units` of dense must be at least 1, found -2"),
        ("return x |> dense(2.5)", "`units` of dense takes a number or an axis, found 2.5"),
        ("return x |> dense(3000000000)", "`units` of dense must be at most 2147483647, found 3000000000"),
        ("return x |> dense(x)", "`units` of dense takes a number or an axis, found the value `x`"),
        ("return x |> dense(3, bias = 1)", "`bias` takes true or false, found 1"),
        ("return x |> dropout(1.5)", "`p` must be at most 1.0, found 1.5"),
        ("return dense(3)", "dense takes a value here, found 3"),
        ("return x |> relu(3)", "relu takes no arguments"),
        ("return x + 3", "`+` takes two values, two axes or two numbers, found the value `x` and 3"),
        ("return 3", "only values can be returned, found 3"),
        ("h = dense(x, 3)", "net `n` returns nothing"),
        ("return x |> repeat(0) { relu }", "`repeat` takes a count of at least 1, found 0"),
        ("return x |> repeat(2)", "`repeat` needs stages in braces"),
        ("return x |> relu { relu }", "`relu` takes no stages"),
        ("return x |> residual { relu ; relu }", "`residual` takes one branch, found 2"),
        ("a, b = relu(x)  return a", "expected 2 values, found 1"),
        ("return chunk(x, 3)", "chunk needs a count that divides 4, found 3"),
        ("return x |> slice(3, 2)", "slice takes 0 <= start < stop <= 4, found 3 and 2"),
        ("return x |> split([1, 2])", "split needs sizes that sum to 4, found 3"),
        ("axis d = 0  return x |> dense(d)", "axis `d` must be at least 1, found 0"),
        ("axis d = 3  axis d = 4  return x |> dense(d)", "two axes are called `d`"),
        ("return x |> a: relu |> a: relu", "two nodes are called `a`"),
        ("h = dense(x, 3)  return x |> dense(2)", "`h` is never used"),
        ("return x |> if 3 { relu }", "a condition is true or false, found 3"),
        ("return x |> dense(1 / 0)", "`1 / 0` has no result"),
        ("return x |> conv(3, kernel = 3)", "conv takes 2 or 3 dimensions, found 1: [4]"),
        ("return x |> dense(8, tied = 3)", "`tied` takes the label of a node, found 3"),
        ("return add(x, dense(x, 3))", "both sides of add: expected equal sizes, found 4 and 3"),
        ("return x |> maxpool(2)", "maxpool takes 2 or 3 dimensions, found 1: [4]"),
    ],
)
def test_mistakes_are_named(body, message):
    assert message in failing(f"net n(x: [4]) {{ {body} }}")


def test_several_mistakes_in_one_run_and_no_echoes():
    found = failing("""
    net n(x: [4]) {
      a = dens(x, 3)
      b = dense(a, 3) |> relu
      c = dense(x, 0)
      d = b + c
      return d |> denze(2)
    }
    """)
    assert found == [
        "unknown operator `dens`",
        "`units` of dense must be at least 1, found 0",
        "unknown operator `denze`",
    ]


BROKEN = [
    ("a = dens(x, 3)", "dens"),
    ("a = x |> dens(3)", "dens"),
    ("a = dense(x, 3) + dense(x, 5)", "add"),
    ("a = x |> dense(zz)", "zz"),
    ("a = x |> dense(3, unit = 4)", "unit"),
    ("a, b = relu(x)", "expected 2 values"),
    ("axis k = 0  a = x |> dense(k)", "axis `k`"),
    ("a = x |> if zz == 3 { relu } else { tanh }", "zz"),
    ("a = if 3 { x } else { relu(x) }", "a condition"),
    ("a = x |> repeat(zz) { dense(3) }", "zz"),
    ("a = x |> split([1, zz])", "zz"),
    ("a = x |> b(3)", "takes"),
    ("a = x |> b", "rel"),
    ("a = x |> bb(3)", "bb"),
    ("q = x |> conv(3, kernel = 3)  a = q |> dense(3)", "conv"),
]


@pytest.mark.parametrize(("statement", "word"), BROKEN)
@pytest.mark.parametrize(
    "use",
    [
        "return a |> dense(2)",
        "return concat(a, x, a)",
        "h = dense(a, 3)  return h + a",
        "return x |> dense(width(a)) |> dense(size(width(a)))",
        "return x |> dense(3, tied = a)",
        "return a |> residual { u: dense(3) } |> concat { relu ; dense(4) } |> repeat(2) { dense(3) }",
        "return x |> if size(width(a)) == 3 { l: relu } else { tanh } |> add(a.dense_1)",
        "c, d = chunk(a, 2)  return c |> b |> sum { dense(2) ; relu }, [a, d] |> concat, x |> dense(3)",
    ],
)
def test_what_depends_on_something_broken_is_not_reported(statement, word, use):
    """Whatever is broken, and however it is used, there is one mistake."""
    block = f"block b(x) {{ return x |> {'rel' if word == 'rel' else 'relu'} }}\n"
    (message,) = failing(f"{block}net n(x: [4]) {{ {statement}  {use} }}")
    assert word in message


def test_labels_of_what_is_broken_are_known():
    found = failing("""
    net n(x: [4]) {
      y = zz |> a: dense(3) |> residual { b: dense(3) } |> if true { c: relu }
      z = x |> d: dens(3) |> e: relu
      return add(a, b, c, d, e) |> dense(3, tied = d)
    }
    """)
    assert found == ["unknown name `zz`", "unknown operator `dens`"]


def test_words_and_options_behind_something_broken_are_checked():
    found = failing("""
    block b(x, w = 3) { return x |> dense(w) }
    net n(x: [4]) {
      y = x |> dens(3) |> dense(3, bia = true, maskd = true) |> b(v = 2) |> residual { rel } |> dropout(2.0)
      return y |> repeat(2) { dense(0) }, zz |> dense
    }
    """)
    assert found == [
        "unknown operator `dens`",
        "dense has no argument `bia`",
        "dense has no argument `maskd`",
        "block `b` has no parameter `v`",
        "unknown operator `rel`",
        "`p` must be at most 1.0, found 2.0",
        "`units` of dense must be at least 1, found 0",
        "unknown name `zz`",
        "dense needs `units`",
    ]


def test_an_option_that_is_misspelt_is_not_missing_too():
    assert failing("net n(x: [4]) { return x |> dense(unit = 3) }") == ["dense has no argument `unit`"]


def test_a_mistake_in_a_block_is_told_once():
    text = "block b(x) { y = x |> rel  return x }\nnet n(x: [4]) { return x |> b |> repeat(9) { b } |> b }"
    assert failing(text) == ["unknown operator `rel`"]


@pytest.mark.parametrize("shape", ["[k, 2]", "ids(k)[3]"])
def test_an_input_of_a_broken_size_is_no_second_mistake(shape):
    assert failing(f"net n(k = 1 / 0, x: {shape}) {{ return x |> embedding(3) }}") == ["`1 / 0` has no result"]


# options that are given by name --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "option", "found", "meant"),
    [
        (
            "batchnorm(64)",
            "`eps` of batchnorm",
            "64",
            "widths follow from the input; write `eps = 64.0` if you mean it",
        ),
        ("instancenorm(64, 0.1)", "`eps` of instancenorm", "64", "`eps = 64.0`"),
        ("groupnorm(2, 64)", "`eps` of groupnorm", "64", "`eps = 64.0`"),
        ("layernorm(1e-6)", "`eps` of layernorm", "1e-06", "`eps = 1e-06`"),
        ("layernorm([4, 8], 1e-6)", "`eps` of layernorm", "a list of 2", "widths follow from the input"),
        ("rmsnorm(d)", "`eps` of rmsnorm", "the axis `d`", "widths follow from the input"),
        ("layernorm(0)", "`eps` of layernorm", "0", "widths follow from the input"),
        ("conv(4, 8, 3)", "`stride` of conv", "3", "the channels it reads follow from the input; write `stride = 3`"),
    ],
)
def test_what_pytorch_says_first_is_not_taken_for_an_option(call, option, found, meant):
    with pytest.raises(ProgramError) as caught:
        parse(f"net n(x: [4, 32, 32]) {{ axis d = 4  return x |> conv(d, kernel = 1) |> {call} |> conv(2, 1) }}")
    (diagnostic,) = caught.value.diagnostics
    assert diagnostic.message == f"{option} is given by its name, found {found}"
    assert diagnostic.help.startswith(meant) or meant in diagnostic.help
    assert ("write" in diagnostic.help) == ("write" in meant or "eps =" in meant)


def test_options_given_by_name_print_and_parse_back():
    text = "net n(x: [4, 9, 9]) { return x |> batchnorm(eps = 64, momentum = 0.2) |> groupnorm(2, eps = 0.5) |> conv(3, 2, stride = 2) }"
    graph = parse(text)
    assert (graph["batchnorm_1"].op.eps, graph["groupnorm_1"].op.eps) == (64.0, 0.5)
    assert "batchnorm(x, eps = 64.0, momentum = 0.2)" in str(graph)
    assert parse(str(graph)) == graph


def test_conflicts_name_both_ends():
    with pytest.raises(ProgramError) as caught:
        parse("net n(x: [4]) {\n  a = dense(x, 3) |> relu\n  b = dense(x, 5)\n  return a + b\n}")
    (found,) = caught.value.diagnostics
    assert found.code == "shape-conflict"
    assert [n.message for n in found.notes] == ["`a` got its 3 from `dense_1`", "`b` got its 5 from `b`"]
    assert [str(n.span) for n in found.notes] == ["<text>:2:7", "<text>:3:7"]


def test_errors_in_a_block_say_where_it_was_called():
    with pytest.raises(ProgramError) as caught:
        parse("block b(x) { return x |> conv(3, kernel = 2) }\nnet n(x: [4]) { return x |> b }")
    (found,) = caught.value.diagnostics
    assert str(found.span) == "<text>:1:26"
    assert [(n.message, str(n.span)) for n in found.notes] == [("in block `b`, called here", "<text>:2:29")]


def test_recursion_is_refused():
    assert failing("block b(x) { return x |> b }\nnet n(x: [4]) { return x |> b }") == ["block `b` calls itself"]
    both = "block a(x) { return x |> b }\nblock b(x) { return x |> a }\nnet n(x: [4]) { return x |> a }"
    assert failing(both) == ["block `a` calls itself"]


def test_blocks_check_their_arguments():
    block = "block b(x, w, k = 1) { return x |> dense(w) }\n"
    assert failing(block + "net n(x: [4]) { return x |> b }") == ["block `b` needs `w`"]
    assert failing(block + "net n(x: [4]) { return x |> b(1, 2, 3) }") == ["block `b` takes 3 arguments, found 4"]
    assert failing(block + "net n(x: [4]) { return x |> b(1, v = 2) }") == ["block `b` has no parameter `v`"]
    assert failing(block + "net n(x: [4]) { return x |> b(1, w = 2) }") == ["`w` of `b` is given twice"]


def test_unknown_compile_time_parameters():
    with pytest.raises(ProgramError, match="no compile-time parameter `widht`"):
        parse("net n(x: [4], width = 3) { return x |> dense(width) }", widht=4)


def test_a_word_for_an_attribute_needs_no_quotes():
    text = "net n(x: ids(5)[3]) { return x |> embedding(4) |> positions(table = sinusoidal) |> dense(1) }"
    assert parse(text)["positions_1"].op.table == "sinusoidal"
    assert "`table` takes one of learned, sinusoidal, found sinus" in failing(text.replace("sinusoidal", "sinus"))
