"""Computed parameters: what the prover recognises in the old graph, and forgeries it must not fall for."""

from dataclasses import replace

import pytest

from irgrow.axes import Const
from irgrow.backends import random_params
from irgrow.grammar import parse
from irgrow.morphism import Compute, Keep
from irgrow.passes import BakeMask, FoldBatchNorm, FoldScale, FuseLinear, Simplify, plan, prove
from irgrow.passes.reparametrizing import reparametrize
from irgrow.testing.numbers import output_error, random_inputs
from irgrow.verdict import Changes, Exact

NORMS = """net n(x: [2, 7, 7]) {
  c = conv(x, 3, kernel = 3, padding = 2, dilation = 2)
  bn = batchnorm(c, eps = 1e-2)
  d = conv(relu(bn), 3, kernel = 3)
  dn = batchnorm(d, eps = 0.1)
  return dense(flatten(tanh(dn)), 2)
}"""


def honest(pass_, text):
    graph = parse(text)
    morphism = plan(pass_, graph).morphism
    assert morphism is not None
    return morphism


def forged(morphism, node=None, inputs=None, op=None, **transfers):
    """Return a morphism with other transfers (`__` for the dot), and a node that does or reads something else."""
    changed = {name.replace("__", "."): t for name, t in transfers.items()}
    after = morphism.after
    if node is not None:
        new = [
            replace(n, inputs=inputs or n.inputs, op=replace(n.op, **(op or {}))) if n.name == node else n
            for n in after.nodes
        ]
        after = replace(after, nodes=tuple(new))
    kept = {name: t for name, t in {**morphism.transfers, **changed}.items() if name in after.params}
    return replace(morphism, after=after, transfers=kept)


def check(morphism, wanted=None):
    """Assert that a true claim is proved, or with `wanted=None` that a false one is not, by the numbers too."""
    params = random_params(morphism.before, 3)
    params = {n: v + 0.3 if n.endswith("weight") else v for n, v in params.items()}
    error = output_error(morphism, params, random_inputs(morphism.before, 3))
    if wanted is not None:
        assert error < 1e-12
        assert prove(morphism) == wanted == prove(morphism, params)
    else:
        assert error > 1e-6, "the forgery is not one"
        assert isinstance(prove(morphism), Changes)
        assert isinstance(prove(morphism, params), Changes)


def changed(transfer, rule=None, names=None, **options):
    """Return a transfer with another rule, other names or other options."""
    merged = tuple((k, options.get(k, v)) for k, v in transfer.options)
    return Compute(rule or transfer.rule, transfer.names if names is None else names, merged)


# batch norms ---------------------------------------------------------------------------------------------------------


def test_a_folded_norm_is_recognised():
    check(honest(FoldBatchNorm("bn"), NORMS), Exact("eval"))
    check(honest(FoldBatchNorm("dn"), NORMS), Exact("eval"))


def _other(name):
    return name.replace("bn.", "dn.")


FORGERIES = {
    "another eps in the weight": lambda w, b: {"c__weight": changed(w, eps=0.02)},
    "another eps in the bias": lambda w, b: {"c__bias": changed(b, eps=0.02)},
    "the variance of another norm": lambda w, b: {
        "c__weight": changed(w, names=("c.weight", "dn.running_var", "bn.weight"))
    },
    "the gain of another norm": lambda w, b: {
        "c__weight": changed(w, names=("c.weight", "bn.running_var", "dn.weight"))
    },
    "all of another norm": lambda w, b: {
        "c__weight": changed(w, names=tuple(map(_other, w.names)), eps=0.1),
        "c__bias": changed(b, names=tuple(map(_other, b.names)), eps=0.1),
    },
    "names in another order": lambda w, b: {"c__weight": changed(w, names=("c.weight", "bn.weight", "bn.running_var"))},
    "mean and variance swapped": lambda w, b: {"c__bias": changed(b, names=(*b.names[:3], *b.names[:2:-1]))},
    "the bias of another layer": lambda w, b: {"c__bias": changed(b, names=(*b.names[:2], "d.bias", *b.names[3:]))},
    "the weight only": lambda w, b: {"c__bias": Keep("c.bias")},
    "the bias only": lambda w, b: {"c__weight": Keep("c.weight")},
    "no gain": lambda w, b: {"c__weight": changed(w, names=w.names[:2])},
    "a mean of zero": lambda w, b: {"c__bias": Compute("scale_rows", ("c.bias", "bn.weight"))},
}


@pytest.mark.parametrize("forgery", FORGERIES)
def test_forged_transfers(forgery):
    morphism = honest(FoldBatchNorm("bn"), NORMS)
    transfers = FORGERIES[forgery](morphism.transfers["c.weight"], morphism.transfers["c.bias"])
    check(forged(morphism, **transfers))


def test_a_layer_that_is_not_what_it_was():
    morphism = honest(FoldBatchNorm("bn"), NORMS)
    check(forged(morphism, "c", op={"padding": 1, "dilation": 1}))
    text = NORMS.replace("c = conv(x", "y = tanh(x)\n  c = conv(x").replace(
        "d = conv(relu(bn)", "z = flatten(y)\n  d = conv(relu(bn)"
    )
    text = text.replace("return dense(flatten(tanh(dn)), 2)", "return concat(flatten(tanh(dn)), z) |> dense(2)")
    check(honest(FoldBatchNorm("bn"), text), Exact("eval"))
    check(forged(honest(FoldBatchNorm("bn"), text), "c", ("y",)))


def test_a_norm_that_reads_something_else():
    text = "net n(x: [3]) {{ a = dense(x, 4)  b = dense(x, 4)  bn = batchnorm({}, eps = 1e-2)  return dense(concat(a, tanh(bn)), 2), b }}"
    graph = parse(text.format("b"))
    names = ("bn.bias", "bn.weight", "{}.bias", "bn.running_mean", "bn.running_var")
    for layer in "ab":
        computed = {
            f"{layer}.weight": Compute(
                "fold_norm_weight", (f"{layer}.weight", "bn.running_var", "bn.weight"), (("eps", 1e-2),)
            ),
            f"{layer}.bias": Compute(
                "fold_norm_bias",
                tuple(n.format(layer) for n in names),
                (("eps", 1e-2), ("bias", True), ("affine", True)),
            ),
        }
        check(reparametrize(graph, {}, {"bn": layer}, computed))  # of b the norm is right, but b is an output itself


def test_who_else_reads_the_layer_is_not_forgotten():
    graph = parse(
        "net n(x: [3]) { c = dense(x, 4)  bn = batchnorm(c, eps = 1e-2)  return dense(concat(bn, tanh(c)), 2) }"
    )
    computed = honest(
        FoldBatchNorm("bn"), "net n(x: [3]) { return x |> c: dense(4) |> bn: batchnorm(eps = 1e-2) |> dense(2) }"
    )
    transfers = {name: computed.transfers[name] for name in ("c.weight", "c.bias")}
    check(reparametrize(graph, {}, {"bn": "c"}, transfers))


def test_a_norm_over_the_positions_of_a_dense_layer():
    text = "net n(x: [4, 4]) { return x |> c: dense(4) |> bn: batchnorm(eps = 1e-2) |> tanh }"
    names = ("bn.bias", "bn.weight", "c.bias", "bn.running_mean", "bn.running_var")
    computed = {
        "c.weight": Compute("fold_norm_weight", ("c.weight", "bn.running_var", "bn.weight"), (("eps", 1e-2),)),
        "c.bias": Compute("fold_norm_bias", names, (("eps", 1e-2), ("bias", True), ("affine", True))),
    }
    check(reparametrize(parse(text), {}, {"bn": "c"}, computed))


def test_tied_layers_each_see_the_new_weight():
    text = "net n(x: [4]) { return x |> c: dense(4) |> bn: batchnorm(eps = 1e-2) |> tanh |> dense(4, tied = c) }"
    names = ("bn.bias", "bn.weight", "c.bias", "bn.running_mean", "bn.running_var")
    computed = {
        "c.weight": Compute("fold_norm_weight", ("c.weight", "bn.running_var", "bn.weight"), (("eps", 1e-2),)),
        "c.bias": Compute("fold_norm_bias", names, (("eps", 1e-2), ("bias", True), ("affine", True))),
    }
    check(reparametrize(parse(text), {}, {"bn": "c"}, computed))


def test_a_mask_that_changes_on_the_way():
    text = """net n(x: [4]) {
      return x |> c: dense(4, masked = true) |> bn: batchnorm(eps = 1e-2) |> tanh |> d: dense(4, masked = true)
    }"""
    morphism = honest(FoldBatchNorm("bn"), text)
    check(morphism, Exact("eval"))
    check(forged(morphism, c__mask=Keep("d.mask")))
    check(forged(morphism, "c", op={"masked": False}))


# linear layers -------------------------------------------------------------------------------------------------------

PAIR = "net n(x: [4]) { return x |> a: dense(4) |> b: dense(4) |> tanh |> c: dense(4) |> d: dense(4) |> tanh }"


def test_fused_layers_are_recognised():
    check(honest(FuseLinear("a"), PAIR), Exact())
    check(honest(FuseLinear("c"), PAIR), Exact())


@pytest.mark.parametrize(
    "transfers",
    [
        {"b__weight": Compute("fuse_weight", ("a.weight", "b.weight"))},
        {"b__weight": Compute("fuse_weight", ("b.weight", "c.weight"))},
        {"b__weight": Keep("b.weight")},
        {"b__bias": Compute("fuse_bias", ("b.bias", "a.bias", "a.weight"))},
        {"b__bias": Compute("fuse_bias", ("a.bias", "b.bias", "b.weight"))},
        {"b__bias": Compute("fuse_bias", ("a.bias", "b.weight"))},
        {"b__bias": Keep("b.bias")},
    ],
    ids=str,
)
def test_forged_fusions(transfers):
    check(forged(honest(FuseLinear("a"), PAIR), **transfers))


def test_something_between_two_layers():
    graph = parse(PAIR)
    computed = {
        "c.weight": Compute("fuse_weight", ("c.weight", "b.weight")),
        "c.bias": Compute("fuse_bias", ("c.bias", "b.bias", "c.weight")),
    }
    check(reparametrize(graph, {}, {"b": "a", "tanh_1": "a"}, computed))


def test_kernels_that_do_not_fuse():
    text = "net n(x: [2, 5, 5]) {{ return x |> a: conv(2, kernel = 3, padding = 1) |> b: conv(2, {}) |> tanh }}"
    check(honest(FuseLinear("a"), text.format("kernel = 1")), Exact())
    computed = {
        "b.weight": Compute("fuse_weight", ("b.weight", "a.weight")),
        "b.bias": Compute("fuse_bias", ("b.bias", "a.bias", "b.weight")),
    }
    strided = parse(text.format("kernel = 1, stride = 2, padding = 2"))
    assert strided.shape("b") == strided.shape("a")
    check(reparametrize(strided, {"b": strided["a"].op}, {"a": "x"}, computed))
    grouped = parse(text.format("kernel = 1, groups = 1"))
    other = replace(grouped["a"].op, units=grouped["b"].op.units, padding=2, dilation=2)
    check(reparametrize(grouped, {"b": other}, {"a": "x"}, computed))


# scales --------------------------------------------------------------------------------------------------------------


def test_folded_scales_are_recognised_and_forgeries_are_not():
    rows = "net n(x: [4]) { return x |> a: dense(4) |> s: scale |> tanh |> b: dense(4) |> t: scale |> tanh }"
    morphism = honest(FoldScale("s"), rows)
    check(morphism, Exact())
    check(forged(morphism, a__weight=Compute("scale_rows", ("a.weight", "t.weight"))))
    check(forged(morphism, a__weight=Compute("scale_columns", ("a.weight", "s.weight"))))
    check(forged(morphism, a__bias=Keep("a.bias")))
    check(forged(morphism, a__bias=Compute("scale_rows", ("b.bias", "s.weight"))))
    columns = "net n(x: [4]) { return x |> tanh |> s: scale |> a: dense(4) |> tanh |> t: scale |> b: dense(4) }"
    morphism = honest(FoldScale("s"), columns)
    check(morphism, Exact())
    check(forged(morphism, a__weight=Compute("scale_columns", ("a.weight", "t.weight"))))
    check(forged(morphism, a__weight=Compute("scale_rows", ("a.weight", "s.weight"))))
    check(forged(morphism, a__bias=Compute("scale_rows", ("a.bias", "s.weight"))))


def test_scales_of_other_units():
    graph = parse("net n(x: [3, 3]) { return x |> tanh |> s: scale |> a: dense(3) |> tanh }")
    columns = {"a.weight": Compute("scale_columns", ("a.weight", "s.weight"))}
    check(reparametrize(graph, {}, {"s": "tanh_1"}, columns))
    graph = parse("net n(x: [3, 3]) { return x |> a: dense(3) |> s: scale |> tanh }")
    rows = {name: Compute("scale_rows", (name, "s.weight")) for name in ("a.weight", "a.bias")}
    check(reparametrize(graph, {}, {"s": "a"}, rows))
    graph = parse("net n(x: [4, 3]) { return x |> tanh |> s: scale |> a: conv(4, kernel = 1) |> tanh }")
    grouped = {"a": replace(graph["a"].op, groups=Const(1))}
    check(reparametrize(graph, grouped, {"s": "tanh_1"}, columns), Exact())


# masks and nodes that hand on ----------------------------------------------------------------------------------------


def test_baked_masks():
    text = "net n(x: [4]) { return x |> a: dense(4, masked = true) |> tanh |> b: dense(4, masked = true) }"
    morphism = honest(BakeMask("a"), text)
    check(morphism, Exact())
    check(forged(morphism, a__weight=Compute("bake_mask", ("a.weight", "b.mask"))))
    check(forged(morphism, a__weight=Compute("bake_mask", ("b.weight", "a.mask"))))
    check(forged(morphism, a__weight=Keep("a.weight")))
    check(forged(morphism, a__bias=Keep("b.bias")))


@pytest.mark.parametrize(
    "body", ["tanh |> s: relu", "relu |> s: tanh", "dense(4) |> s: sigmoid", "relu |> s: scale", "relu |> s: flip"]
)
def test_what_does_not_hand_its_input_on(body):
    graph = parse(f"net n(x: [4]) {{ return x |> {body} |> dense(2) }}")
    check(reparametrize(graph, {}, {"s": graph["s"].inputs[0]}, {}))


def test_what_hands_its_input_on_is_not_any_value():
    graph = parse("net n(x: [4]) { a = relu(x)  b = tanh(x)  s = identity(a)  return dense(concat(s, b), 2) }")
    check(honest(Simplify("s"), str(graph)), Exact())
    check(reparametrize(graph, {}, {"s": "b"}, {}))


def test_more_inputs_than_before_are_noticed():
    graph = parse("net n(x: [4]) { s = identity(x)  j = add(s, x)  return dense(tanh(j), 2) }")
    morphism = honest(Simplify("s"), str(graph))
    check(morphism, Exact())
    check(forged(morphism, "j", ("x", "x", "x")))
