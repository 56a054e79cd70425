"""Growing units: on every idiom exact where it can be, refused or explained where not."""

import numpy as np
import pytest
import torch

from irgrow.backends import random_params
from irgrow.grammar import parse
from irgrow.network import build
from irgrow.passes import GradMax, GrowUnits, plan
from irgrow.testing import assert_preserves
from irgrow.testing.laws import Case, gradients_follow, verdict_is_sound
from irgrow.testing.numbers import carried
from irgrow.verdict import Changes, Exact, Refused

IMAGE = "net n(x: [2, 6, 6]) {{ return x |> {} }}"
TOKENS = "net n(x: ids(9)[5]) {{ return x |> e: embedding(8) |> {} }}"
ATTENTION = "attn: attention(2, 4, {}) |> avgpool |> dense(2)"
BODY = "c1: conv(4, kernel = 3, padding = 1) |> batchnorm |> relu |> "
IDIOMS = {
    "plain": (IMAGE.format(BODY + "flatten |> dense(3)"), "c1", 2),
    "residual": (
        IMAGE.format(
            BODY
            + "residual { c2: conv(5, kernel = 3, padding = 1) |> relu |> conv(4, kernel = 1) } |> flatten |> dense(3)"
        ),
        "c1",
        2,
    ),
    "residual, inside": (
        IMAGE.format(
            BODY
            + "residual { c2: conv(5, kernel = 3, padding = 1) |> relu |> conv(4, kernel = 1) } |> flatten |> dense(3)"
        ),
        "c2",
        3,
    ),
    "projection": (
        IMAGE.format(
            BODY
            + "sum { conv(6, kernel = 3, padding = 1, stride = 2) ; p: conv(6, kernel = 1, stride = 2) } |> avgpool |> dense(2)"
        ),
        "p",
        1,
    ),
    "zero-padded shortcut": (
        IMAGE.format(BODY + "sum { padunits(before = 1, after = 2) ; q: conv(7, kernel = 1) } |> avgpool |> dense(2)"),
        "c1",
        2,
    ),
    "dense concatenation": (
        IMAGE.format(
            BODY
            + "concat { identity ; conv(3, kernel = 1) } |> concat { identity ; conv(3, kernel = 1) } |> avgpool |> dense(2)"
        ),
        "c1",
        1,
    ),
    "concat with the raw input": (
        "net n(x: [2, 6, 6]) { h = conv(x, 4, kernel = 1)  return concat(x, h, x) |> conv(3, kernel = 1) |> avgpool |> dense(2) }",
        "h",
        2,
    ),
    "concat with itself": ("net n(x: [4]) { h = dense(x, 3)  return concat(h, h) |> dense(2) }", "h", 2),
    "chunk twice": (
        "net n(x: [4]) { h = dense(x, 8)  a, b = chunk(h, 2)  c, d = chunk(a, 2)  return concat(d, b, c) |> dense(2) }",
        "h",
        2,
    ),
    "gate by chunk": (
        "net n(x: [4]) { h = dense(x, 8)  a, b = chunk(h, 2)  return a * sigmoid(b) |> dense(2) }",
        "h",
        4,
    ),
    "gate by two layers": (
        "net n(x: [4]) { a = dense(x, 5)  b = dense(x, 5) |> silu  return a * b |> dense(2) }",
        "a",
        2,
    ),
    "flip": ("net n(x: [4]) { h = dense(x, 5)  return flip(h) |> dense(2) }", "h", 2),
    "channel shuffle": (
        IMAGE.format("c1: conv(6, kernel = 1) |> channelshuffle(3) |> conv(3, kernel = 1) |> avgpool |> dense(2)"),
        "c1",
        3,
    ),
    "pixel shuffle": (
        IMAGE.format("c1: conv(8, kernel = 1) |> pixelshuffle(2) |> conv(3, kernel = 1) |> avgpool |> dense(2)"),
        "c1",
        4,
    ),
    "grouped": (
        IMAGE.format(
            "c1: conv(6, kernel = 1) |> g: conv(9, kernel = 3, padding = 1, groups = 3) |> relu |> avgpool |> dense(2)"
        ),
        "c1",
        2,
    ),
    "grouped, inside": (
        IMAGE.format(
            "c1: conv(6, kernel = 1) |> g: conv(9, kernel = 3, padding = 1, groups = 3) |> relu |> avgpool |> dense(2)"
        ),
        "g.makes",
        1,
    ),
    "depthwise": (
        IMAGE.format(
            "c1: conv(4, kernel = 1) |> relu |> depthwise(kernel = 3, multiplier = 2) |> relu |> avgpool |> dense(2)"
        ),
        "c1",
        2,
    ),
    "squeeze and excite": (
        IMAGE.format(
            "c1: conv(4, kernel = 1) |> product { identity ; avgpool |> s: dense(3) |> relu |> dense(4) |> sigmoid } |> avgpool |> dense(2)"
        ),
        "c1",
        2,
    ),
    "squeeze": (
        IMAGE.format(
            "c1: conv(4, kernel = 1) |> product { identity ; avgpool |> s: dense(3) |> relu |> dense(4) |> sigmoid } |> avgpool |> dense(2)"
        ),
        "s",
        2,
    ),
    "flatten of tokens": (TOKENS.format("h: dense(6) |> relu |> flatten |> dense(2)"), "h", 2),
    "tied head": ("net n(x: ids(9)[5]) { return x |> e: embedding(8) |> positions |> dense(9, tied = e) }", "e", 2),
    "layer used twice": (
        "net n(x: [4]) { return x |> h: dense(5) |> a: dense(5) |> relu |> dense(5, tied = a) |> relu |> dense(2) }",
        "h",
        1,
    ),
    "positions first": (
        "net n(x: [3, 4]) { return x |> t: transpose |> dense(3) |> transpose |> h: dense(5) |> dense(2) }",
        "h",
        2,
    ),
    "mixer": (
        TOKENS.format("residual { transpose |> m: dense(7) |> gelu |> dense(5) |> transpose } |> avgpool |> dense(2)"),
        "m",
        2,
    ),
    "mixer, across": (
        TOKENS.format("residual { transpose |> m: dense(7) |> gelu |> dense(5) |> transpose } |> avgpool |> dense(2)"),
        "e",
        2,
    ),
    "heads": (TOKENS.format(ATTENTION.format("causal = true")), "attn.heads", 1),
    "head_dim": (TOKENS.format(ATTENTION.format("causal = true")), "attn.head_dim", 3),
    "rotary head_dim": (TOKENS.format(ATTENTION.format("rotary = true")), "attn.head_dim", 2),
    "key/value heads": (TOKENS.format(ATTENTION.format("kv_heads = 1, rotary = true")), "attn.kv_heads", 1),
    "repeats of key/value heads": (TOKENS.format(ATTENTION.format("kv_heads = 1")), "attn.mix.repeats", 1),
    "model width without norms": (
        TOKENS.format(
            "residual { attn: attention(2, 4) } |> residual { dense(6) |> gelu |> dense(8) } |> avgpool |> dense(2)"
        ),
        "e",
        3,
    ),
    "packed qkv": (
        TOKENS.format("h: dense(24)").replace("return x", "p = x").rstrip(" }")
        + "  q, k, v = chunk(p, 3)  return dot_product_attention(q, k, v, heads = 2) |> out: dense(8) |> avgpool |> dense(2) }",
        "attention.heads",
        1,
    ),
    "vgg": (
        IMAGE.format(
            "c1: conv(4, kernel = 3) |> relu |> maxpool(2) |> flatten |> dense(5) |> relu |> dropout(p = 0.0) |> dense(2)"
        ),
        "c1",
        3,
    ),
    "group norm by whole groups": (
        IMAGE.format("c1: conv(6, kernel = 1) |> gn: groupnorm(3) |> relu |> avgpool |> dense(2)"),
        "gn.groups",
        1,
    ),
    "instance norm": (IMAGE.format("c1: conv(4, kernel = 1) |> instancenorm |> relu |> avgpool |> dense(2)"), "c1", 2),
}


def site_of(graph, site):
    if site == "attention.heads":
        return next(n.name for n in graph if n.op.kind == "dot_product_attention") + ".heads"
    return site


@pytest.mark.parametrize("name", IDIOMS)
def test_every_idiom_is_exact_with_zero_fan_out(name):
    text, site, count = IDIOMS[name]
    graph = parse(text)
    rewrite = GrowUnits(site_of(graph, site), count)
    assert_preserves(graph, rewrite, seed=len(name))
    case = Case(graph, rewrite, 3)
    gradients_follow(case)
    assert case.plan().morphism.after.count() > graph.count()


def test_the_packed_query_rows_are_zero_and_the_others_are_not():
    graph = parse(IDIOMS["packed qkv"][0])
    heads = site_of(graph, "attention.heads")
    head_dim = heads.replace("heads", "head_dim")
    rewrite = GrowUnits(head_dim, 1)
    assert_preserves(graph, rewrite)
    morphism = plan(rewrite, graph).morphism
    weight = carried(morphism, random_params(graph, 0))["h.weight"]
    new = np.flatnonzero(morphism.transfers["h.weight"].maps[0] < 0)
    assert (np.abs(weight[new]).sum(1) == 0).tolist() == [True, True, False, False], "queries zero, keys not"


def test_the_scale_of_attention_is_kept_when_the_head_grows():
    graph = parse(IDIOMS["head_dim"][0])
    after = plan(GrowUnits("attn.head_dim", 3), graph).morphism.after
    assert after["attn.mix"].op.scale == 0.5
    assert parse(str(after)) == after


def test_rotary_pairs_are_kept_and_new_ones_come_last():
    graph = parse(IDIOMS["rotary head_dim"][0])
    morphism = plan(GrowUnits("attn.head_dim", 2), graph).morphism
    params = random_params(graph, 0)
    new = carried(morphism, params)
    np.testing.assert_array_equal(new["attn.mix.frequencies"][:2], params["attn.mix.frequencies"])
    rows = morphism.transfers["attn.query.weight"].maps[0]
    assert rows.tolist() == [0, 1, -1, 2, 3, -1, 4, 5, -1, 6, 7, -1]


@pytest.mark.parametrize("activation", ["gelu", "silu", "tanh", "hardtanh", "elu", "softsign", "mish", "hardswish"])
def test_zero_fan_in_lives_where_the_slope_at_zero_does(activation):
    graph = parse(f"net n(x: [4]) {{ return x |> h: dense(5) |> {activation} |> dense(2) }}")
    assert_preserves(graph, GrowUnits("h", 2, zero="fan_in"))
    new = carried(plan(GrowUnits("h", 2, zero="fan_in"), graph).morphism, random_params(graph, 0))
    assert np.abs(new["h.weight"][5:]).max() == 0
    assert new["h.bias"][5:].tolist() == [0, 0]
    assert np.abs(new["dense_1.weight"][:, 5:]).min() > 0


@pytest.mark.parametrize("activation", ["relu", "relu6"])
def test_zero_fan_in_is_refused_where_it_would_be_dead(activation):
    graph = parse(f"net n(x: [4]) {{ return x |> h: dense(5) |> {activation} |> dense(2) }}")
    verdict = plan(GrowUnits("h", 2, zero="fan_in"), graph).verdict
    assert isinstance(verdict, Refused)
    assert "never receive a gradient" in verdict.reason


@pytest.mark.parametrize(
    "through", ["conv(6, kernel = 3, padding = 1, groups = 3)", "depthwise(kernel = 3, padding = 1)"]
)
def test_zero_fan_in_is_zero_once_where_layers_pass_units_on(through):
    graph = parse(
        f"net n(x: [2, 4, 4]) {{ return x |> h: conv(3, kernel = 1) |> d: {through} |> conv(2, kernel = 1) }}"
    )
    new = carried(plan(GrowUnits("h", 2, zero="fan_in"), graph).morphism, random_params(graph, 0))
    assert not new["h.weight"][3:].any()
    assert (new["d.weight"].reshape(-1, 9)[-2:] != 0).all()
    assert_preserves(graph, GrowUnits("h", 2, zero="fan_in"))


@pytest.mark.parametrize(("norm", "axis"), [("batchnorm", "h"), ("instancenorm", "h"), ("groupnorm(2)", "bn.groups")])
def test_zero_fan_in_behind_a_norm_of_its_own_is_refused(norm, axis):
    text = f"net n(x: [2, 4, 4]) {{ return x |> h: conv(4, kernel = 3) |> bn: {norm} |> gelu |> avgpool |> dense(2) }}"
    assert "zero fan-in behind `bn`" in plan(GrowUnits(axis, 1, zero="fan_in"), parse(text)).verdict.reason
    assert plan(GrowUnits(axis, 1), parse(text)).verdict.preserves
    batch, loss = torch.randn(3, 2, 4, 4), lambda y: y.square().mean()
    verdict = build(text).rewrite(GrowUnits(axis, 1, GradMax()), statistics=batch, loss=loss).verdict
    assert "zero fan-in behind `bn`" in verdict.reason


@pytest.mark.parametrize("function", ["sigmoid", "softplus", "hardsigmoid"])
def test_zero_fan_in_changes_the_function_where_zero_is_not_kept(function):
    graph = parse(f"net n(x: [4]) {{ return x |> h: dense(5) |> {function} |> dense(2) }}")
    assert isinstance(plan(GrowUnits("h", 2, zero="fan_in"), graph).verdict, Changes)


def test_a_residual_stream_under_rms_norm_needs_zero_producers_and_says_so():
    graph = parse(TOKENS.format("residual { rmsnorm |> dense(6) |> gelu |> dense(8) } |> avgpool |> dense(2)"))
    verdict = plan(GrowUnits("e", 2), graph).verdict
    assert isinstance(verdict, Changes)
    assert "`rmsnorm_1` normalises over units of `e`, which gains 2" in verdict.reason


@pytest.mark.parametrize(
    ("site", "reason"),
    [
        ("x", "interface: `x` is an input"),
        ("out", "interface: `out` is an output"),
        ("fixed_one", "`d` is declared fixed"),
        ("nothing", "no axis or node is called `nothing`"),
    ],
)
def test_what_cannot_grow_is_refused_with_the_reason(site, reason):
    graph = parse("net n(x: [4]) { axis d = 5 fixed  return x |> fixed_one: dense(d) |> h: dense(3) |> out: dense(2) }")
    assert reason in plan(GrowUnits(site, 1), graph).verdict.reason


def test_dropout_makes_it_exact_in_evaluation_mode_only():
    graph = parse("net n(x: [4]) { return x |> h: dense(5) |> dropout |> dense(2) }")
    assert plan(GrowUnits("h", 2), graph).verdict == Exact("eval")


def test_new_fan_in_has_the_mean_norm_of_the_old():
    net = build(parse(IDIOMS["plain"][0]), dtype=torch.float64)
    old = net.params["c1.weight"].flatten(1).norm(dim=1).mean().item()
    net.rewrite(GrowUnits("c1", 3))
    assert net.params["c1.weight"][4:].flatten(1).norm(dim=1).tolist() == pytest.approx([old] * 3, rel=1e-12)


@pytest.mark.parametrize("width", [1, 7, 13])
def test_odd_widths_and_single_units(width):
    graph = parse(f"net n(x: [3]) {{ return x |> h: dense({width}) |> relu |> dense(1) }}")
    for seed in range(3):
        verdict_is_sound(Case(graph, GrowUnits("h", 5), seed, 1))
