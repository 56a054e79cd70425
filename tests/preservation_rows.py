"""The rows of the table of function-preserving rewrites (growth.md, section 9) and the programs they are tried on.

It is longer than other files because it is one table.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from preservation_table import NEAR, OTHER, REFUSED, SAME, UNPROVED, Case, Numbers, Row

from irgrow.edits import growth
from irgrow.fills import ZERO
from irgrow.graph import Graph
from irgrow.morphism import Morphism
from irgrow.passes import Context, GrowUnits
from irgrow.passes.primitives import by_role, resize

IMAGE = "x: [2, 4, 4]"
TOKENS = "x: ids(7)[3]"
ALL = "fan-in, bias, fan-out"
SHIFTS = "beside the producers the table names, the norm's new shifts learn"


@dataclass(frozen=True)
class ZeroBoth(GrowUnits):
    """Grow units with zero fan-in and zero fan-out, which no pass of irgrow does."""

    def rewrite(self, graph: Graph, site: str, context: Context) -> Morphism:
        return resize(graph, growth(graph, graph.axis(site), self.count), by_role(ZERO, ZERO), context.seed, "dead")


def hidden(function: str) -> str:
    return f"x |> h: dense(5) |> {function} |> dense(2)"


def image(middle: str) -> str:
    return f"x |> c: conv(3, kernel = 3, padding = 1) |> {middle} |> avgpool |> dense(2)"


def tokens(*stages: str) -> str:
    return " |> ".join(["axis d = 6  return x |> e: embedding(d)", *stages, "dense(2)"])


NORM = "layernorm(eps = 1e-2)"
BATCH_NORM = "bn: batchnorm(eps = 1e-2)"
ATTENTION = "residual { attn: attention(2, 4) }"
FEED_FORWARD = "residual { up: dense(5) |> gelu |> dense(d) }"
NORMED = f"residual {{ {NORM} |> dense(5) |> gelu |> dense(d) }}"
STREAM = f"x |> h: dense(5) |> residual {{ {NORM} |> dense(7) |> gelu |> dense(5) }} |> {NORM} |> dense(2)"
GROUPED = "x |> c: conv(6, kernel = 1) |> g: conv(9, kernel = 3, groups = 3) |> relu |> avgpool |> dense(2)"
SHUFFLE = "x |> c: conv(8, kernel = 1) |> {} |> conv(3, kernel = 1) |> avgpool |> dense(2)"
SWIGLU = "g = dense(x, 5) |> silu  u = dense(x, 5)  return g * u |> dense(2)"
FUSED = "h = dense(x, 6)  a, b = chunk(h, 2)  return a * sigmoid(b) |> dense(2)"
TIED = f"axis d = 6  return x |> e: embedding(d) |> positions |> {NORMED} |> {NORM} |> dense(7, bias = false, tied = e)"
PADDED = "x |> c: conv(3, kernel = 1) |> {} |> conv(5, kernel = 3, padding = {}) |> relu |> avgpool |> dense(2)"
MASKED = "x |> h: dense(7, masked = true) |> gelu |> dense(2)"
PAIR = "up.weight, up.bias, down.weight, down.bias"


def centred(params: Numbers) -> Numbers:
    """Return what writes to the stream with rows that add up to zero."""
    return {n: params[n] - params[n].mean(0) for n in ("h.weight", "h.bias", "dense_2.weight", "dense_2.bias")}


def constant(layer: str, value: float = 0.4) -> Callable[[Numbers], Numbers]:
    """Return a layer whose unit 1 has a zero row and gives one number."""

    def params(old: Numbers) -> Numbers:
        weight, bias = np.array(old[f"{layer}.weight"]), np.array(old[f"{layer}.bias"])
        weight[1], bias[1] = 0.0, value
        return {f"{layer}.weight": weight, f"{layer}.bias": bias}

    return params


def below_zero(old: Numbers) -> Numbers:
    """Return a layer whose unit 1 is below zero for every input between 0 and 1."""
    weight, bias = np.array(old["h.weight"]), np.array(old["h.bias"])
    weight[1], bias[1] = -np.abs(weight[1]), -0.1
    return {"h.weight": weight, "h.bias": bias}


def asleep(old: Numbers) -> Numbers:
    """Return a layer whose unit 1 is below zero on any batch one is likely to see."""
    bias = np.array(old["h.bias"])
    bias[1] = -50.0
    return {"h.bias": bias}


def twins(factor: float) -> Callable[[Numbers], Numbers]:
    """Return a layer whose unit 3 is a multiple of unit 1."""

    def params(old: Numbers) -> Numbers:
        weight, bias = np.array(old["h.weight"]), np.array(old["h.bias"])
        weight[3], bias[3] = factor * weight[1], factor * bias[1]
        return {"h.weight": weight, "h.bias": bias}

    return params


def zeros_in_a_weight(params: Numbers) -> Numbers:
    """Return a weight with some entries of exactly zero."""
    weight = np.array(params["h.weight"])
    weight[::2, 1] = 0.0
    return {"h.weight": weight}


ROWS: tuple[Row, ...] = (
    Row(
        1,
        "neuron, zero fan-out",
        "R, any f",
        tuple(Case(hidden(f), "grow_units(h, 2)", learns="fan-out") for f in ("relu", "gelu", "sigmoid")),
    ),
    Row(
        2,
        "neuron, zero fan-in",
        "R if f(0) = 0; ReLU never learns",
        (
            *(
                Case(hidden(f), "grow_units(h, 2, zero = fan_in)", learns="fan-in, bias")
                for f in ("gelu", "silu", "tanh", "elu")
            ),
            Case(hidden("relu"), "grow_units(h, 2, zero = fan_in)", REFUSED),
        ),
    ),
    Row(
        3,
        "neuron, zero fan-in, f(0) ≠ 0",
        "N; R if the next bias takes f(0) up",
        tuple(
            Case(hidden(f), f"grow_units(h, 2, zero = fan_in{absorb})", says, ALL)
            for f in ("sigmoid", "softplus")
            for absorb, says in (("", OTHER), (", absorb = true", SAME))
        ),
    ),
    Row(4, "zero fan-in and zero fan-out", "R but dead: forbid", (Case(hidden("gelu"), ZeroBoth("h", 2), REFUSED),)),
    Row(
        5,
        "split, halved fan-out",
        "R, copies stay equal",
        (
            Case(
                hidden("gelu"),
                "split_units(h, noise = 0.0)",
                note="irgrow refuses copies that could never part, which the table only remarks on",
            ),
            Case(hidden("gelu"), "split_units(h)", learns=ALL, note="parted by noise in the fan-out that cancels"),
        ),
    ),
    Row(
        6,
        "split a / (1 - a)",
        "R",
        (Case(hidden("gelu"), "split_units(h, share = 0.3, noise = 0.0)", learns=ALL),),
    ),
    Row(
        7,
        "Net2Wider, multiplicity",
        "R",
        (
            Case(hidden("tanh"), "duplicate_units(h, [0, 3], 2)", learns=ALL),
            Case(hidden("tanh"), "duplicate_units(h, [0, 3], 2, noise = 0.0)", REFUSED, note="without noise, as in 5"),
        ),
    ),
    Row(
        8,
        "split ± noise on the fan-in",
        "C: second order in the noise if f is smooth",
        (
            Case(hidden("gelu"), "split_units(h, between = fan_in)", NEAR, ALL),
            Case(hidden("relu"), "split_units(h, between = fan_in)", NEAR, ALL),
        ),
    ),
    Row(
        9,
        "convolution channel, zero fan-out",
        "R",
        (Case(image("relu |> conv(5, kernel = 3)"), "grow_units(c, 2)", learns="fan-out", inputs=IMAGE),),
    ),
    Row(
        10,
        "channel behind batch norm, zero fan-out",
        "R in both modes",
        (Case(image(f"{BATCH_NORM} |> relu"), "grow_units(c, 2)", learns="fan-out", inputs=IMAGE),),
    ),
    Row(
        11,
        "channel behind batch norm, zero fan-in",
        "R on conditions, with a cliff",
        tuple(
            Case(
                image(f"{BATCH_NORM} |> {f}"),
                "grow_units(c, 2, zero = fan_in)",
                REFUSED,
                inputs=IMAGE,
                note="a variance of zero makes the first step a leap",
            )
            for f in ("gelu", "relu")
        ),
    ),
    Row(12, "channel behind batch norm, gain = 0", "R on conditions", missing="no pass starts gains at zero"),
    Row(
        13,
        "batch norm channel split",
        "R in both modes",
        (Case(image(f"{BATCH_NORM} |> relu"), "split_units(c, share = 0.3, noise = 0.0)", inputs=IMAGE),),
    ),
    Row(
        14,
        "instance norm channel",
        "as 9 to 13",
        (
            Case(image("instancenorm(eps = 1e-2) |> relu"), "grow_units(c, 2)", learns="fan-out", inputs=IMAGE),
            Case(image("instancenorm(eps = 1e-2) |> relu"), "duplicate_units(c)", inputs=IMAGE),
        ),
    ),
    Row(
        15,
        "group norm",
        "R by whole groups, else N",
        tuple(
            Case(
                "x |> c: conv(6, kernel = 1) |> g: groupnorm(3, eps = 1e-2) |> relu |> avgpool |> dense(2)",
                f"grow_units(g.{part}, 1)",
                *says,
                inputs=IMAGE,
            )
            for part, says in (("groups", ("same", "fan-out")), ("members", (OTHER,)))
        ),
    ),
    Row(
        16,
        "layer norm over features, zero features",
        "N",
        tuple(Case(hidden(NORM), f"grow_units(h, 2, zero = {z})", OTHER) for z in ("fan_in", "fan_out")),
    ),
    Row(
        17,
        "layer norm on a centred stream",
        "R",
        (Case(STREAM, "grow_units(h, 2, zero = fan_in)", learns="fan-in, bias, shift", note=SHIFTS, params=centred),),
    ),
    Row(
        18,
        "layer norm, new features = mean",
        "R",
        (Case(STREAM, "grow_units(h, 2, zero = mean)", learns="fan-in, bias, shift", note=SHIFTS),),
    ),
    Row(19, "layer norm, every feature duplicated", "R", (Case(hidden(NORM), "duplicate_units(h, copies = 2)"),)),
    Row(
        20,
        "RMS norm, zero features",
        "R with gain and eps scaled",
        (
            Case(hidden("rmsnorm(eps = 1e-2)"), "grow_units(h, 2, zero = fan_in)", learns="fan-in, bias"),
            Case(hidden("rmsnorm(eps = 1e-2)"), "grow_units(h, 2)", OTHER),
        ),
    ),
    Row(
        21,
        "residual-tied width",
        "R",
        (
            Case(
                image("residual { conv(5, kernel = 1) |> gelu |> conv(3, kernel = 1) }"),
                "grow_units(c, 2)",
                learns="fan-out",
                inputs=IMAGE,
            ),
            Case(STREAM.replace(NORM, "rmsnorm(eps = 1e-2)"), "grow_units(h, 2, zero = fan_in)", learns="fan-in, bias"),
        ),
    ),
    Row(
        22,
        "concat consumer",
        "R",
        (Case("h = dense(x, 4) |> relu  return concat(x, h, x) |> dense(2)", "grow_units(h, 2)", learns="fan-out"),),
    ),
    Row(
        23,
        "flatten from convolution to dense",
        "R",
        (
            Case(
                "x |> c: conv(3, kernel = 3) |> relu |> flatten |> dense(2)",
                "grow_units(c, 2)",
                learns="fan-out",
                inputs=IMAGE,
            ),
        ),
    ),
    Row(
        24,
        "depthwise (separable)",
        "R",
        (
            Case(
                image("relu |> depthwise(kernel = 3) |> relu |> conv(5, kernel = 1)"),
                "grow_units(c, 2)",
                learns="fan-out",
                inputs=IMAGE,
            ),
        ),
    ),
    Row(
        25,
        "grouped convolution",
        "R by whole groups",
        (
            Case(GROUPED, "grow_units(g.groups, 1)", learns="fan-out", inputs=IMAGE),
            Case(GROUPED, "grow_units(c, 1)", REFUSED, inputs=IMAGE),
            Case(GROUPED, "grow_units(g.reads, 1)", learns="fan-out", inputs=IMAGE, note="a unit more in every group"),
        ),
    ),
    Row(
        26,
        "attention head",
        "R",
        (Case(tokens(ATTENTION), "grow_units(attn.heads, 1)", learns="fan-out", inputs=TOKENS),),
    ),
    Row(
        27,
        "head dimension",
        "R",
        (
            Case(
                tokens(ATTENTION),
                "grow_units(attn.head_dim, 3)",
                learns=ALL,
                inputs=TOKENS,
                note="fan-in is of the queries, zero and live; keys and values wait",
            ),
        ),
    ),
    Row(
        28,
        "head dimension with rotary positions",
        "C, not tested there",
        (
            Case(
                tokens("residual { attn: attention(2, 4, rotary = true) }"),
                "grow_units(attn.head_dim, 2)",
                inputs=TOKENS,
                note="old frequencies and pairs are kept, new pairs come last",
            ),
        ),
    ),
    Row(
        29,
        "hidden units, also gated",
        "R",
        (
            Case(tokens(FEED_FORWARD), "grow_units(up, 3)", learns="fan-out", inputs=TOKENS),
            Case(SWIGLU, "grow_units(g, 2)", learns="fan-out"),
            Case(FUSED, "grow_units(h, 4)", learns="fan-out"),
        ),
    ),
    Row(
        30,
        "model width",
        "R",
        (
            Case(
                tokens("positions", f"residual {{ {NORM} |> attn: attention(2, 4) }}", NORMED, NORM),
                "grow_units(d, 3, zero = mean)",
                learns="fan-in, bias, shift",
                inputs=TOKENS,
                note=SHIFTS,
            ),
            Case(
                TIED,
                "grow_units(d, 3, zero = mean)",
                learns="fan-in, bias, shift",
                inputs=TOKENS,
                note=SHIFTS,
            ),
            Case(
                tokens(
                    "residual { rmsnorm(eps = 1e-2) |> attn: attention(4, 2, kv_heads = 2) }", "rmsnorm(eps = 1e-2)"
                ),
                "grow_units(d, 3, zero = fan_in)",
                learns="fan-in, bias",
                inputs=TOKENS,
            ),
            Case(tokens("positions", ATTENTION), "grow_units(d, 3)", learns="fan-out", inputs=TOKENS),
            Case(
                "x |> e: embedding(5) |> positions |> dense(7, bias = false, tied = e)",
                "grow_units(e, 2, zero = fan_in)",
                REFUSED,
                inputs=TOKENS,
                note="a tied table that is zero makes and reads zeros: nothing could learn, as in 4",
            ),
        ),
    ),
    Row(
        31,
        "transformer block, pre-norm",
        "B/R",
        (
            Case(
                tokens("positions"),
                "insert_layer(positions_1, block, heads = 2)",
                learns="attn.out.weight, attn.out.bias, down.weight, down.bias",
                inputs=TOKENS,
            ),
        ),
    ),
    Row(
        32,
        "transformer block, post-norm",
        "N in general; prefer a gate a = 0 around it",
        (
            Case(
                tokens("positions"),
                "insert_layer(positions_1, block, norm_first = false)",
                learns="gate.weight",
                inputs=TOKENS,
                note="irgrow's form has the gate; without it there is no such form",
            ),
        ),
    ),
    Row(
        33,
        "identity layer after ReLU, ReLU6, Hardtanh, abs",
        "B",
        tuple(
            Case(hidden(f), f"insert_layer({f}_1, activation = {f})", learns="layer.weight, layer.bias")
            for f in ("relu", "relu6", "hardtanh")
        ),
        missing="abs is no operator of irgrow",
    ),
    Row(
        34,
        "identity layer after LeakyReLU, GELU, SiLU, tanh, ELU",
        "N",
        tuple(
            Case(hidden(f), f"insert_layer({f}_1, activation = {f})", OTHER)
            for f in ("leaky_relu", "gelu", "silu", "tanh", "elu")
        ),
    ),
    Row(
        35,
        "± identity pair",
        "R if f(z) - f(-z) = c z; N for ELU, Mish, tanh",
        (
            *(
                Case(hidden("tanh"), f"insert_layer(tanh_1, plus_minus, {f})", learns=PAIR)
                for f in ("relu", "gelu", "gelu_tanh", "silu", "hardswish", "leaky_relu")
            ),
            *(Case(hidden("tanh"), f"insert_layer(tanh_1, plus_minus, {f})", REFUSED) for f in ("elu", "mish", "tanh")),
        ),
    ),
    Row(
        36,
        "convolution Dirac after ReLU",
        "B",
        (Case(image("relu"), "insert_layer(relu_1, dirac)", learns="layer.weight, layer.bias", inputs=IMAGE),),
    ),
    Row(
        37,
        "zero residual block",
        "B",
        (Case(hidden("gelu"), "insert_layer(gelu_1, residual)", learns="outer.weight, outer.bias"),),
    ),
    Row(
        38,
        "gate x + a (g(x) - x), a = 0",
        "B",
        (Case(hidden("gelu"), "insert_layer(gelu_1, gate)", learns="gate.weight"),),
    ),
    Row(39, "topological insertion", "C", missing="no pass inserts along a topological derivative"),
    Row(
        40,
        "synaptogenesis, w = 0",
        "B",
        (Case(MASKED, "grow_edges(h, count = 3)", learns="synapses"),),
    ),
    Row(
        41,
        "synaptic pruning of weights that are exactly zero",
        "B",
        (
            Case(hidden("gelu"), "prune_edges(h, threshold = 0.0)", params=zeros_in_a_weight),
            Case(hidden("gelu"), "prune_edges(h, count = 3)", OTHER),
        ),
    ),
    Row(
        42,
        "dead or constant neuron removed, dense",
        "R when provably constant, C when constant on data",
        (
            Case(hidden("gelu"), "remove_dead_units(h)", params=constant("h")),
            Case(
                "x |> dense(3) |> sigmoid |> h: dense(5) |> relu |> dense(2)", "remove_dead_units(h)", params=below_zero
            ),
            Case(hidden("relu"), "remove_dead_units(h)", REFUSED, params=asleep, note="asleep on the batch: no proof"),
            Case(hidden("relu"), "remove_dead_units(h, data)", UNPROVED, params=asleep),
        ),
    ),
    Row(
        43,
        "constant channel before a convolution",
        "N with zero padding if c ≠ 0, R without or if c = 0",
        (
            Case(PADDED.format("sigmoid", 1), "remove_dead_units(c)", REFUSED, inputs=IMAGE, params=constant("c")),
            Case(PADDED.format("sigmoid", 0), "remove_dead_units(c)", inputs=IMAGE, params=constant("c")),
            Case(PADDED.format("relu", 1), "remove_dead_units(c)", inputs=IMAGE, params=constant("c", 0.0)),
        ),
    ),
    Row(
        44,
        "duplicate neurons merged",
        "R; positive multiples too behind ReLU",
        (
            Case(hidden("tanh"), "merge_units(h)", params=twins(1.0)),
            Case(hidden("relu"), "merge_units(h)", params=twins(2.0)),
            Case(hidden("tanh"), "merge_units(h)", REFUSED, params=twins(2.0)),
        ),
    ),
    Row(
        45,
        "linear-linear fusion",
        "R",
        (Case("x |> a: dense(5) |> b: dense(3) |> tanh |> dense(2)", "fuse_linear(a)"),),
    ),
    Row(
        46,
        "convolution and batch norm folding",
        "R in evaluation",
        (Case(image(f"{BATCH_NORM} |> relu"), "fold_batch_norm(bn)", inputs=IMAGE),),
    ),
    Row(47, "equivariance relaxation", "R", missing="there are no group convolutions yet"),
    Row(48, "Caillon insertion", "N", missing="there are no networks of single neurons yet"),
    Row(
        49,
        "Firefly candidate",
        "C",
        (
            Case(hidden("tanh"), "grow_firefly(h, 2)", NEAR, note="splits: of second order in `epsilon`"),
            Case(
                hidden("tanh"), "grow_firefly(h, 40, by = both)", OTHER, note="new units: of first order in `epsilon`"
            ),
        ),
    ),
    Row(
        50,
        "NeST neuron",
        "N by design",
        (Case(hidden("tanh"), "grow_units(h, 1, init = nest)", OTHER, learns="fan-in, bias, fan-out"),),
    ),
    Row(
        51,
        "new output class, changed input width",
        "N; R with zero columns for new inputs",
        tuple(
            Case(hidden("relu"), f"grow_units({site}, 1)", REFUSED, note="the interface of a network is locked")
            for site in ("dense_1", "x")
        ),
    ),
    Row(
        52,
        "squeeze-excite, channel shuffle, pixel shuffle, GLU by chunk, spectral norm",
        "C: each needs its own index rule",
        (
            *(
                Case(
                    image("relu |> product { identity ; avgpool |> s: dense(5) |> relu |> dense(3) |> sigmoid }"),
                    r,
                    inputs=IMAGE,
                )
                for r in ("grow_units(c, 2)", "grow_units(s, 2)")
            ),
            Case(SHUFFLE.format("channelshuffle(2)"), "grow_units(c, 2)", inputs=IMAGE),
            Case(SHUFFLE.format("pixelshuffle(2)"), "grow_units(c, 4)", inputs=IMAGE),
            Case(SHUFFLE.format("pixelshuffle(2)"), "grow_units(c, 3)", REFUSED, inputs=IMAGE),
            Case(FUSED, "grow_units(h, 2)"),
        ),
        missing="spectral norm is no operator of irgrow",
    ),
)
