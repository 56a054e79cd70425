"""The auxiliary gradient is what autograd gives on a real bridge, and on a real unit with zero fan-in."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from irgrow.backends import random_params
from irgrow.backends.torch_fx import lower
from irgrow.edits import Impossible
from irgrow.fills import ZERO, Given
from irgrow.grammar import parse
from irgrow.passes.analyses.auxiliary import auxiliary
from irgrow.passes.analyses.bridge import bridge, needed
from irgrow.passes.analyses.fan_outs import new_columns
from irgrow.passes.primitives import by_role, resize
from irgrow.probing import probe
from irgrow.testing.numbers import as_tensors, carried, random_inputs

MLP = "net n(x: [5]) { return x |> h: dense(4) |> tanh |> y: dense(3) |> tanh |> dense(2) }"


def conv_pair(n=9, k1=3, s1=1, p1=1, k2=3, s2=1, p2=1, between="tanh"):
    return (
        f"net n(x: [3, {n}, {n}]) {{ return x |> h: conv(4, kernel = {k1}, stride = {s1}, padding = {p1}) |> {between} "
        f"|> y: conv(5, kernel = {k2}, stride = {s2}, padding = {p2}) |> tanh |> avgpool |> dense(2) }}"
    )


def loss_of(seed):
    def loss(outputs):
        w = torch.as_tensor(np.random.default_rng(seed).normal(size=tuple(outputs.shape)))
        return (w * (outputs + 0.3 * outputs**2)).sum()

    return loss


def probed(text, axis="h", batch=4, seed=0, dtype=torch.float64):
    graph = parse(text)
    params, inputs = random_params(graph, seed), random_inputs(graph, seed, batch)
    tensors = as_tensors(graph, params, dtype)
    loaded = tuple(torch.as_tensor(inputs[n]).to(dtype) for n in graph.inputs)
    found = probe(graph, lower(graph, tensors), tensors, loaded, needed(graph, axis), loss_of(seed))
    return graph, params, inputs, found


def received(graph, params, inputs, axis, fan_outs, seed=0):
    """Grow a unit with zero fan-in for every fan-out and return what autograd gives its fan-in, and the outputs."""
    k = len(next(iter(fan_outs.values())))
    width = graph.widths[axis]
    given = {name: Given(new_columns(graph, axis, name, np.stack(parts))) for name, parts in fan_outs.items()}
    edits = {axis: np.append(np.arange(width), np.full(k, -1))}
    morphism = resize(graph, edits, by_role(ZERO, ZERO, given=given))
    tensors = as_tensors(morphism.after, carried(morphism, params))
    module = lower(morphism.after, tensors).eval()
    loss_of(seed)(module(*(torch.as_tensor(inputs[n]) for n in graph.inputs))).backward()
    return tensors[f"{bridge(graph, axis).maker}.weight"].grad[width:].reshape(k, -1).numpy()


def check_against_autograd(text, axis="h", batch=4, bound=1e-12):
    graph, params, inputs, found = probed(text, axis, batch)
    a = auxiliary(graph, axis, found.values, found.signals, "exact", sloped=True)
    rng = np.random.default_rng(1)
    rows = rng.normal(size=(2, len(a.matrix)))
    sizes = [int(np.prod(s)) for s in a.parts.values()]
    cuts = np.split(rows, np.cumsum(sizes)[:-1], 1)
    fan_outs = {n: [v.reshape(s) for v in cut] for (n, s), cut in zip(a.parts.items(), cuts, strict=True)}
    wanted = received(graph, params, inputs, axis, fan_outs)
    assert np.abs(wanted).max() > 1e-6
    np.testing.assert_allclose(rows @ a.matrix.numpy(), wanted, rtol=0, atol=bound * np.abs(wanted).max())
    return a


@pytest.mark.parametrize("batch", [1, 4])
def test_dense_is_signal_times_value(batch):
    graph, _, _, found = probed(MLP, batch=batch)
    a = auxiliary(graph, "h", found.values, found.signals)
    np.testing.assert_allclose(a.matrix, found.signals["y"].T @ found.values["x"], rtol=1e-13)
    assert a.parts == {"y.weight": (3,)}
    check_against_autograd(MLP, batch=batch)


KERNELS = [
    {},
    {"p1": 0, "p2": 0},
    {"s1": 2},
    {"s1": 2, "s2": 2, "n": 11},
    {"s2": 2, "p1": 0},
    {"k1": 5, "k2": 1, "p1": 2, "p2": 0},
    {"k1": 1, "p1": 0, "k2": 3, "p2": 1},
    {"k1": 2, "k2": 4, "p1": 1, "p2": 0},
    {"k1": 3, "k2": 3, "p1": 0, "p2": 2, "s2": 3},
]


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("options", KERNELS, ids=str)
def test_exact_is_what_a_unit_receives(options, batch):
    check_against_autograd(conv_pair(**options), batch=batch)


@pytest.mark.parametrize("options", [o for o in KERNELS if o.get("s1", 1) == 1], ids=str)
def test_kernel_is_the_gradient_of_a_real_bridge(options):
    """Put a real convolution, all zeros, beside the two layers and unfold the gradient autograd gives it."""
    graph, *_, found = probed(conv_pair(**options), batch=3)
    a = auxiliary(graph, "h", found.values, found.signals, "kernel")
    first, second = graph["h"].op, graph["y"].op
    k1, k2 = first.kernel, second.kernel
    real = nn.Conv2d(
        3, 5, k1 + k2 - 1, first.stride * second.stride, first.padding + second.padding, bias=False, dtype=torch.float64
    )
    nn.init.zeros_(real.weight)
    (real(found.values["x"]) * found.signals["y"]).sum().backward()
    patches = F.unfold(real.weight.grad, (k1, k1))  # (outputs, inputs * k1 * k1, k2 * k2)
    wanted = patches.permute(0, 2, 1).reshape(5 * k2 * k2, 3 * k1 * k1)
    np.testing.assert_allclose(a.matrix, wanted, rtol=0, atol=1e-12 * float(wanted.abs().max()))


def test_both_agree_without_padding_between_and_differ_with_it():
    for p2, same in ((0, True), (1, False)):
        graph, _, _, found = probed(conv_pair(p2=p2))
        both = [auxiliary(graph, "h", found.values, found.signals, b).matrix for b in ("exact", "kernel")]
        assert torch.allclose(*both, rtol=1e-10, atol=1e-12) is same


def test_a_bridge_that_does_not_fit_is_refused():
    graph, _, _, found = probed(conv_pair(n=7, s1=2, p2=0))
    with pytest.raises(Impossible, match=r"gives \[3, 3\] positions, `y` \[2, 2\]; use `borders = exact`"):
        auxiliary(graph, "h", found.values, found.signals, "kernel")


CHAIN = "x |> h: conv(4, kernel = 3, padding = 1)"
WAYS = {
    "flatten": f"net n(x: [2, 5, 5]) {{ return {CHAIN} |> tanh |> flatten |> y: dense(3) |> tanh |> dense(2) }}",
    "mean": f"net n(x: [2, 6, 6]) {{ return {CHAIN} |> silu |> avgpool(2) |> flatten |> y: dense(3) |> tanh }}",
    "everything": f"net n(x: [2, 6, 6]) {{ return {CHAIN} |> tanh |> avgpool |> y: dense(3) |> tanh }}",
    "mean, convolution": f"net n(x: [2, 6, 6]) {{ return {CHAIN} |> gelu |> avgpool(3, stride = 2) |> y: conv(3, kernel = 2, padding = 1) |> tanh |> avgpool |> dense(2) }}",
    "one dimension": "net n(x: [2, 9]) { return x |> h: conv(4, kernel = 3, stride = 2) |> tanh |> y: conv(3, kernel = 2, dilation = 2) |> avgpool |> tanh |> dense(2) }",
    "tokens": "net n(x: [6, 4]) { return x |> h: dense(4) |> tanh |> y: dense(3) |> tanh |> flatten |> dense(2) }",
    "tokens, flatten": "net n(x: [6, 4]) { return x |> h: dense(4) |> tanh |> flatten |> y: dense(3) |> tanh }",
    "padding": f"net n(x: [2, 4, 4]) {{ return {CHAIN} |> tanh |> pad(1) |> y: conv(3, kernel = 3) |> tanh |> avgpool |> dense(2) }}",
    "concatenation": "net n(x: [3]) {\n a = x |> g: dense(2) |> tanh\n b = x |> h: dense(4) |> tanh\n return concat(a, b) |> y: dense(3) |> tanh }",
}


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("way", WAYS)
def test_what_is_done_on_the_way_is_done_to_the_bridge(way, batch):
    graph = parse(WAYS[way])
    if "flatten" in way or way == "mean":
        assert len(bridge(graph, "h").routes[0].shape) == (1 if way == "everything" else 2)
    check_against_autograd(WAYS[way], batch=batch)


STREAM = (
    "net n(x: [4]) { return x |> h: dense(5) |> tanh |> residual { a: dense(3) |> silu |> b: dense(5) } "
    "|> residual { gelu |> c: dense(4) |> tanh |> d: dense(5) } |> y: dense(2) }"
)


def test_all_that_read_a_stream_are_stacked():
    a = check_against_autograd(STREAM)
    assert a.parts == {"a.weight": (3,), "c.weight": (4,), "y.weight": (2,)}
    assert [r.slope for r in bridge(parse(STREAM), "h", True).routes] == [1.0, 0.5, 1.0]


def test_a_tied_reader_adds_what_its_uses_receive():
    text = "net n(x: [4]) {\n s = x |> h: dense(5)\n a = s |> tanh |> y: dense(3)\n b = s |> silu |> z: dense(3, tied = y)\n return add(a, b) |> tanh |> dense(2) }"
    a = check_against_autograd(text)
    assert a.parts == {"y.weight": (3,)}


def test_largest_entries_of_a_pool_are_taken_of_the_channels():
    text = (
        f"net n(x: [2, 6, 6]) {{ return {CHAIN} |> tanh |> maxpool(2) |> y: conv(3, kernel = 1) |> tanh |> avgpool }}"
    )
    graph, _, _, found = probed(text)
    a = auxiliary(graph, "h", found.values, found.signals).matrix
    fields = F.unfold(found.values["x"], 3, padding=1).reshape(4, 18, 6, 6)
    wanted = torch.einsum("nohw,nihw->oi", found.signals["y"], F.max_pool2d(fields, 2))
    np.testing.assert_allclose(a, wanted, rtol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_low_precision_is_summed_in_a_higher_one(dtype):
    graph, _, _, found = probed(conv_pair())
    exact = auxiliary(graph, "h", found.values, found.signals).matrix
    low = [{n: v.to(dtype) for n, v in side.items()} for side in (found.values, found.signals)]
    a = auxiliary(graph, "h", *low).matrix
    assert a.dtype == torch.float64
    rounded = auxiliary(graph, "h", *[{n: v.double() for n, v in side.items()} for side in low]).matrix
    assert float((a - rounded).abs().max()) < 1e-5 * float(exact.abs().max())


def test_samples_taken_in_parts_add_up(monkeypatch):
    graph, _, _, found = probed(conv_pair(), batch=5)
    whole = auxiliary(graph, "h", found.values, found.signals).matrix
    monkeypatch.setattr("irgrow.passes.analyses.auxiliary._MOST_ENTRIES", 27 * 81 * 2)
    parts = auxiliary(graph, "h", found.values, found.signals).matrix
    np.testing.assert_allclose(parts, whole, rtol=0, atol=1e-14 * float(whole.abs().max()))


@pytest.mark.parametrize(
    ("text", "axis", "reason"),
    [
        ("net n(x: [4]) { return x |> h: dense(3) }", "h", "no dense layer or convolution reads `h`"),
        ("net n(x: ids(5)[3]) { return x |> h: embedding(4) |> dense(2) }", "h", "no dense layer or convolution makes"),
        (
            "net n(x: [4, 3, 3]) { return x |> h: conv(4, kernel = 1) |> depthwise(1, multiplier = 2) |> conv(2, kernel = 1) }",
            "h",
            "`depthwise_1` has more filters a unit than taps",
        ),
        (
            "net n(x: [4]) {\n s = x |> h: dense(3)\n return s |> residual { tanh |> g: dense(3) } |> dense(2) }",
            "h",
            "`g.weight` makes and reads units of `h`",
        ),
    ],
)
def test_where_there_is_no_bridge_the_reason_says_so(text, axis, reason):
    graph = parse(text)
    assert needed(graph, axis) == ()
    with pytest.raises(Impossible) as error:
        bridge(graph, axis)
    assert reason in str(error.value)


def test_bad_recordings_are_refused():
    graph, _, _, found = probed(MLP)
    with pytest.raises(Impossible, match="the values of `x` on a batch, none were recorded; give `batch`"):
        auxiliary(graph, "h", {}, found.signals)
    with pytest.raises(Impossible, match="the gradient by the values of `y`.*give `loss`"):
        auxiliary(graph, "h", found.values, None)
    bad = dict(found.values) | {"x": found.values["x"] * float("nan")}
    with pytest.raises(Impossible, match="the values of `x` are not finite"):
        auxiliary(graph, "h", bad, found.signals)
    with pytest.raises(Impossible, match="no samples"):
        auxiliary(graph, "h", {"x": found.values["x"][:0]}, {"y": found.signals["y"][:0]})


def test_layers_that_read_an_axis_twice_have_no_bridge():
    """A stream and one of the layers that write to it, side by side: not all of what is read comes from the maker."""
    text = "net n(x: [4]) { h = dense(x, 3) a = tanh(h) b = dense(tanh(dense(a, 5)), 3) s = add(a, b) c = concat(s, b) return dense(c, 2) }"
    graph = parse(text)
    with pytest.raises(Impossible, match="does not read every unit of `h` once"):
        bridge(graph, "h")
