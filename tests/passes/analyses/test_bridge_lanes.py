"""Bridges through depthwise and grouped convolutions and attention, against autograd on real new units."""

import numpy as np
import pytest
import torch
from bridges import check, grown, loss_of, of_new, probed, refused

from irgrow.axes import NEW, positions
from irgrow.backends import interpret
from irgrow.backends.torch_fx import lower
from irgrow.edits import Impossible
from irgrow.fills import ZERO, Given
from irgrow.grammar import parse
from irgrow.passes.analyses.auxiliary import auxiliary
from irgrow.passes.analyses.bridge import bridge, needed
from irgrow.passes.analyses.companions import companions
from irgrow.passes.analyses.contributions import contributions
from irgrow.passes.analyses.fan_outs import new_columns
from irgrow.passes.analyses.received import way
from irgrow.passes.primitives import by_role, resize
from irgrow.testing.numbers import as_tensors, carried, random_inputs

END = "|> tanh |> avgpool |> dense(2)"


def conv(between, second="conv(5, kernel = 1)", first="conv(4, kernel = 3, padding = 1)", shape=(3, 7, 6)):
    return f"net n(x: {list(shape)}) {{ return x |> h: {first} |> {between} |> y: {second} {END} }}"


DEPTHWISE = {
    "same": conv("tanh |> depthwise(3, padding = 1) |> silu"),
    "strided": conv("depthwise(3, stride = 2, padding = 1)", "conv(5, kernel = 3, padding = 1)"),
    "even, dilated": conv(
        "gelu |> depthwise([2, 4], padding = 2, dilation = [1, 2])", "conv(5, kernel = 2, stride = 2)"
    ),
    "masked": conv("tanh |> depthwise(3, masked = true) |> tanh", "conv(5, kernel = 1, masked = true)"),
    "no bias": conv("depthwise(3, bias = false)"),
    "several filters": conv("tanh |> depthwise(3, padding = 1, multiplier = 3) |> tanh", "conv(5, kernel = 3)"),
    "several, flatten": "net n(x: [3, 5, 4]) { return x |> h: conv(3, kernel = 3) |> depthwise(2, multiplier = 2) |> flatten |> y: dense(5) |> tanh |> dense(2) }",
    "two, and pooling": conv("depthwise(3, padding = 1) |> avgpool(2) |> depthwise(2, multiplier = 2) |> tanh"),
    "one dimension": "net n(x: [3, 9]) { return x |> h: conv(4, kernel = 3, stride = 2) |> depthwise(3, padding = 1) |> y: conv(3, kernel = 2) |> avgpool |> tanh |> dense(2) }",
    "beside others": "net n(x: [3, 6, 5]) { a = x |> h: conv(4, kernel = 3) b = x |> conv(3, kernel = 3) |> tanh\n return concat(b, a) |> depthwise(3, padding = 1, multiplier = 2) |> tanh |> y: conv(5, kernel = 1) |> tanh |> avgpool |> dense(2) }",
    "stream": "net n(x: [3, 6, 6]) { return x |> h: conv(5, kernel = 1) |> residual { tanh |> depthwise(3, padding = 1) |> a: conv(4, kernel = 1) |> tanh |> b: conv(5, kernel = 1) } |> y: conv(3, kernel = 1) |> tanh |> avgpool |> dense(2) }",
    "ways that join": "net n(x: [3, 6, 6]) {\n s = x |> h: conv(5, kernel = 3)\n a = s |> tanh |> depthwise(3, padding = 1)\n return add(a, s) |> y: conv(3, kernel = 1) |> tanh |> avgpool |> dense(2) }",
}


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("name", DEPTHWISE)
def test_through_depthwise_convolutions(name, batch):
    _, _, _, _, a, _ = check(DEPTHWISE[name], batch=batch)
    assert len(a.blocks) == 1


def tokens(attention, ways="tanh |> flatten |> dense(2)", before="transpose", shape=(5, 4)):
    return f"net n(x: {list(shape)}) {{ return x |> {before} |> a: attention({attention}) |> {ways} }}"


CROSS = (
    "net n(x: [5, 4], z: [3, 7]) {{\n t = transpose(x)\n s = transpose(z)\n q = dense(t, 6)\n k = dense(s, 6)\n"
    " v = s |> dense(9) |> tanh\n m = dot_product_attention(q, k, v, heads = 3{0})\n"
    " return m |> silu |> y: dense(5) |> tanh |> flatten |> dense(2) }}"
)
ATTENTION = {
    "head_dim": (tokens("heads = 3, head_dim = 2"), "a.head_dim", 3),
    "causal": (tokens("heads = 2, head_dim = 3, causal = true"), "a.head_dim", 2),
    "one head": (tokens("heads = 1, head_dim = 3, bias = false"), "a.head_dim", 1),
    "groups of queries": (tokens("heads = 4, head_dim = 3, kv_heads = 2, causal = true"), "a.head_dim", 2),
    "rotary": (tokens("heads = 4, head_dim = 4, kv_heads = 2, causal = true, rotary = true"), "a.mix.pairs", 4),
    "heads": (tokens("heads = 3, head_dim = 5"), "a.heads", 5),
    "heads, causal": (tokens("heads = 3, head_dim = 2, causal = true"), "a.heads", 2),
    "key/value heads": (tokens("heads = 6, head_dim = 3, kv_heads = 2"), "a.kv_heads", 3),
    "rotary heads": (tokens("heads = 2, head_dim = 4, rotary = true, causal = true"), "a.heads", 4),
    "across": (CROSS.format(""), "m.value_dim", 3),
    "across, heads": (CROSS.format(", scale = 0.3"), "m.heads", 3),
    "pre-norm": (
        "net n(x: [5, 4]) { return x |> transpose |> dense(6) |> residual { layernorm |> a: attention(2, 3) }"
        " |> residual { layernorm |> dense(8) |> gelu |> dense(6) } |> flatten |> dense(2) }",
        "a.head_dim",
        2,
    ),
}


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("name", ATTENTION)
def test_through_attention(name, batch):
    text, axis, count = ATTENTION[name]
    graph, *_, a, _ = check(text, axis, batch)
    found = bridge(graph, axis)
    assert found.lanes == len(a.blocks) == count
    assert found.maker.endswith("value") or found.maker == graph[found.passed[0]].inputs[2] or "across" in name
    assert bool(found.attended) is not ("heads" in axis), "new heads attend alike, so no weights are looked at"


def test_each_lane_is_the_values_mixed_by_the_weights_of_its_head():
    graph, params, inputs, found = probed(ATTENTION["head_dim"][0], "a.head_dim")
    a = auxiliary(graph, "a.head_dim", found.values, found.signals)
    values = interpret(graph, params, inputs).values
    q, k = (torch.as_tensor(values[f"a.{n}"]).unflatten(-1, (3, 2)) for n in ("query", "key"))
    weights = torch.einsum("nphd,nqhd->nhpq", q, k).div(2**0.5).softmax(-1)
    read = torch.as_tensor(values["transpose_1"])
    wanted = torch.einsum("npo,nhpq,nqi->hoi", found.signals["a.out"], weights, read)
    torch.testing.assert_close(a.blocks, wanted, rtol=1e-12, atol=1e-14)
    assert torch.equal(a.matrix, torch.block_diag(*a.blocks))


def test_new_keys_live_on_and_queries_learn_in_the_second_step():
    """Both zero they would stay so for ever; the bridge asks for keys that are not."""
    graph, params, _, _, _, fan_outs = check(*ATTENTION["head_dim"][:2])
    for others, alive in ((None, True), ({}, False)):
        morphism = grown(graph, "a.head_dim", params, fan_outs, others)
        after = morphism.after
        tensors = as_tensors(after, carried(morphism, params))
        module, batch = lower(after, tensors), torch.as_tensor(random_inputs(graph, 0)["x"])
        for _ in range(2):
            module.zero_grad()
            loss_of(0)(module(batch)).backward()
            received = {n: t.grad.clone() for n, t in tensors.items() if t.grad is not None}
            with torch.no_grad():
                for name, gradient in received.items():
                    tensors[name] -= 0.1 * gradient
        new = positions(after.params["a.query.weight"].spec.dims[0], after.widths)["a.head_dim"][0] >= 2
        assert bool(received["a.query.weight"][new].any()) is alive


GROUPED = {
    "read in groups": (conv("tanh", "conv(6, kernel = 3, groups = 2, stride = 2)"), "y.reads", 2),
    "read in groups, flatten": (
        "net n(x: [4, 5, 5]) { return x |> h: conv(6, kernel = 3) |> y: conv(6, kernel = 2, groups = 3) |> tanh |> flatten |> dense(2) }",
        "y.reads",
        3,
    ),
    "made in groups": (
        conv("tanh", "conv(5, kernel = 3)", "conv(6, kernel = 3, groups = 2, padding = 1)", (4, 6, 7)),
        "h.makes",
        2,
    ),
    "made in groups, depthwise, flatten": (
        "net n(x: [4, 5, 4]) { return x |> h: conv(6, kernel = 3, groups = 2) |> depthwise(2, multiplier = 2) |> flatten |> y: dense(5) |> tanh |> dense(2) }",
        "h.makes",
        2,
    ),
    "made and read in groups": (
        "net n(x: [4, 7, 7]) { return x |> h: conv(6, kernel = 3, groups = 2) |> tanh |> y: conv(4, kernel = 3, groups = 2) |> tanh |> avgpool |> dense(2) }",
        "h.makes",
        2,
    ),
}


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("name", GROUPED)
def test_in_groups(name, batch):
    text, axis, count = GROUPED[name]
    *_, a, _ = check(text, axis, batch)
    assert len(a.blocks) == count


HEADS = (
    "net n(x: [5, 4]) {{ t = transpose(x) q = dense(t, 6) k = dense(t, 6) v = dense(t, 6)\n"
    " m = dot_product_attention({0}, v, heads = 2)\n return {1} |> y: dense(5) |> tanh |> flatten |> dense(2) }}"
)
REFUSED = {
    "keys that are read": (HEADS.format("q, k", "add(m, k)"), "m.head_dim", "new keys of `m` must not be zero"),
    "keys that are read, heads": (HEADS.format("q, k", "concat(m, k)"), "m.heads", "new keys of `m` must not be zero"),
    "keys that are queries": (
        HEADS.format("q, q", "m").replace("k = dense(t, 6) ", ""),
        "m.heads",
        "nothing makes them that is for them alone",
    ),
    "beside others of the same axis": (
        "net n(x: [5, 4]) { axis d = 3\n t = transpose(x) q = dense(t, 6) k = dense(t, 6) a = dense(t, d) "
        "b = dense(t, d) v = concat(a, b) m = dot_product_attention(q, k, v, heads = 2) "
        "return m |> y: dense(5) |> flatten |> dense(2) }",
        "d",
        "units of `d` stand beside others in `m`",
    ),
    "gains of others": (
        "net n(x: [5, 4]) { return x |> h: dense(6) |> s: scale |> y: dense(3) |> flatten |> dense(2) }",
        "h",
        "units of `h` pass through `s`; there is no bridge around it",
    ),
    "queries and keys": (
        CROSS.format(""),
        "m.head_dim",
        "are queries or keys of `m`: what they give is the product of two new things",
    ),
    "more queries": (
        tokens("heads = 4, head_dim = 3, kv_heads = 2"),
        "a.mix.repeats",
        "are queries or keys of `a.mix`",
    ),
    "normalised queries": (
        "net n(x: [5, 4]) { t = transpose(x) q = t |> dense(6) |> layernorm k = dense(t, 6) v = dense(t, 6) "
        "m = dot_product_attention(q, k, v, heads = 2) r = add(m, q) return r |> y: dense(5) |> flatten |> dense(2) }",
        "m.head_dim",
        "new queries of `m` are not known to be zero",
    ),
    "new groups": (
        "net n(x: [4, 5, 5]) { return x |> h: conv(6, kernel = 3) |> y: conv(4, kernel = 3, groups = 2) |> conv(2, kernel = 1) }",
        "y.groups",
        "`y.weight` makes and reads units of `y.groups`",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_where_there_is_none_the_reason_says_so(name):
    refused(*REFUSED[name])


def test_other_filters_have_another_bridge():
    """Negative control: with the filters units start with elsewhere, autograd gives something else."""
    graph, params, inputs, _, _, fan_outs = check(DEPTHWISE["same"])
    wanted = of_new(graph, "h", grown(graph, "h", params, fan_outs), params, inputs)
    other = of_new(graph, "h", grown(graph, "h", params, fan_outs, {}), params, inputs)
    assert np.abs(other - wanted).max() > 0.1 * np.abs(wanted).max()


def test_other_heads_have_another_bridge():
    """Negative control: lanes belong to the heads they are made in."""
    text, axis, _ = ATTENTION["head_dim"]
    graph, params, inputs, _, _, fan_outs = check(text, axis)
    wanted = of_new(graph, axis, grown(graph, axis, params, fan_outs), params, inputs)
    swapped = {w: np.flip(part, 2) for w, part in fan_outs.items()}
    other = of_new(graph, axis, grown(graph, axis, params, swapped), params, inputs)
    assert np.abs(other - wanted).max() > 0.1 * np.abs(wanted).max()


@pytest.mark.parametrize("name", ["several filters", "same", "two, and pooling", "several, flatten"])
def test_contributions_of_candidates_are_what_they_add(name):
    """Take candidates with fan-in and fan-out, put them in, and compare at the reader."""
    graph, params, inputs, found = probed(DEPTHWISE[name], "h")
    rng = np.random.default_rng(3)
    fan_in = rng.normal(size=(2, *graph.param_shape("h.weight")[1:]))
    fan_outs = {w: rng.normal(size=(2, *shape)) for w, shape in bridge(graph, "h").shapes().items()}
    added = contributions(graph, "h", found.values["x"], fan_in, fan_outs)
    given = {w: Given(new_columns(graph, "h", w, part)) for w, part in fan_outs.items()}
    given |= companions(graph, "h", 2, params) | {"h.weight": Given(fan_in)}
    edits = {"h": np.append(np.arange(graph.widths["h"]), [NEW, NEW])}
    morphism = resize(graph, edits, by_role(ZERO, ZERO, given=given))
    after = interpret(morphism.after, carried(morphism, params), inputs).values["y"]
    wanted = after - interpret(graph, params, inputs).values["y"]
    assert np.abs(wanted).max() > 0.1
    np.testing.assert_allclose(added["y"], wanted, rtol=0, atol=1e-12)


def test_candidates_are_not_tried_behind_attention_or_in_lanes():
    for name, reason in (("one head", "candidates are not tried there"), ("head_dim", "run in 3 lanes")):
        text, axis, _ = ATTENTION[name]
        graph, _, _, found = probed(text, axis)
        fan_outs = {w: np.ones((1, *shape)) for w, shape in bridge(graph, axis).shapes().items()}
        fan_in = np.ones((1, graph.param_shape("a.value.weight")[1]))
        with pytest.raises(Impossible, match=reason):
            contributions(graph, axis, found.values["transpose_1"], fan_in, fan_outs)


def test_the_quick_product_says_that_it_does_not_know_these_ways():
    cases = [
        (DEPTHWISE["same"], "h"),
        *((t, a) for t, a, _ in (*ATTENTION.values(), *GROUPED.values())),
    ]
    for text, axis in cases:
        assert way(parse(text), axis) is None, text


def test_samples_taken_in_parts_add_up(monkeypatch):
    text, axis, _ = ATTENTION["groups of queries"]
    graph, _, _, found = probed(text, axis, batch=5)
    whole = auxiliary(graph, axis, found.values, found.signals).blocks
    monkeypatch.setattr("irgrow.passes.analyses.auxiliary._MOST_ENTRIES", 1)
    parts = auxiliary(graph, axis, found.values, found.signals).blocks
    torch.testing.assert_close(parts, whole, rtol=1e-12, atol=1e-14)


def test_rotary_positions_take_the_frequencies():
    text, axis, _ = ATTENTION["rotary"]
    graph, _, _, found = probed(text, axis)
    with pytest.raises(Impossible, match=r"the weights of `a.mix` take its frequencies, `a.mix.frequencies`"):
        auxiliary(graph, axis, found.values, found.signals)


def test_values_of_queries_and_keys_are_asked_for():
    text, axis, _ = ATTENTION["head_dim"]
    graph, _, _, found = probed(text, axis)
    assert needed(graph, axis) == ("transpose_1", "a.out", "a.query", "a.key")
    with pytest.raises(Impossible, match="the values of `a.key` on a batch, none were recorded"):
        auxiliary(graph, axis, {n: v for n, v in found.values.items() if n != "a.key"}, found.signals)
