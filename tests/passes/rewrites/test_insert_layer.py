"""Inserting layers: identities after what they leave unchanged, pairs, gates and zero branches anywhere."""

import numpy as np
import pytest
import torch
from live import trained

from irgrow.backends import random_params
from irgrow.grammar import parse, parse_pass
from irgrow.network import build
from irgrow.passes import InsertLayer, plan
from irgrow.testing import assert_preserves, check_pass
from irgrow.testing.laws import LAWS, Case, gradients_follow, undo_restores
from irgrow.testing.numbers import carried, gradients, output_error, output_weights, random_inputs
from irgrow.verdict import Changes, Exact, Refused

CNN = "net n(x: [2, 6, 6]) {{ return x |> c: conv(4, kernel = 3, padding = 1) |> a: {} |> p: maxpool(2) |> flatten |> dense(3) }}"
MLP = "net n(x: [4]) {{ return x |> h: dense(5) |> a: {} |> dense(2) }}"
TOKENS = "net n(x: ids(9)[5]) { return x |> e: embedding(6) |> a: relu |> avgpool |> dense(2) }"
STREAM = "net n(x: ids(9)[5]) { return x |> e: embedding(6) |> a: layernorm(eps = 0.01) |> avgpool |> dense(2) }"
SIGNAL = "net n(x: [2, 9]) { return x |> conv(3, kernel = 3) |> a: relu |> flatten |> dense(2) }"
GROUPED = (
    "net n(x: [4, 5, 3]) { return x |> conv(6, kernel = 3, padding = 1, groups = 2) |> a: relu |> flatten |> dense(2) }"
)
PLACES = {
    "images": parse(CNN.format("relu")),
    "vectors": parse(MLP.format("relu")),
    "tokens": parse(TOKENS),
    "signals": parse(SIGNAL),
    "groups": parse(GROUPED),
}


@pytest.mark.parametrize("activation", ["relu", "relu6", "hardtanh"])
@pytest.mark.parametrize("form", ["identity", "dirac"])
def test_identity_after_idempotent_activations(activation, form):
    graph = parse(CNN.format(activation))
    for after in ("a", "p"):
        assert_preserves(graph, InsertLayer(after, form, activation))
    if form == "identity":
        assert_preserves(parse(MLP.format(activation)), InsertLayer("a", form, activation))


def test_identity_in_other_layouts():
    assert_preserves(parse(TOKENS), InsertLayer("a"))
    assert_preserves(parse(SIGNAL), InsertLayer("a", "dirac", kernel=5))


def test_identity_behind_what_stays_in_the_range():
    text = "net n(x: [4]) { s = dense(x, 5) |> sigmoid  t = dense(x, 5) |> relu  both = s * t |> dropout(p = 0.0)  return concat(both, s) |> c: identity |> dense(2) }"
    assert_preserves(parse(text), InsertLayer("c"))


def test_identities_without_activations_before_them_change_the_network():
    for activation in ("relu", "gelu", "hardtanh"):
        assert isinstance(plan(InsertLayer("h", "identity", activation), PLACES["vectors"]).verdict, Changes)
    assert plan(InsertLayer("a", "identity", "relu"), parse(MLP.format("sigmoid"))).verdict == Exact()


@pytest.mark.parametrize("activation", ["relu", "gelu", "gelu_tanh", "silu", "hardswish"])
@pytest.mark.parametrize("behind", ["tanh", "gelu", "identity"])
def test_plus_minus_is_exact_anywhere(activation, behind):
    for text in (CNN, MLP):
        graph = parse(text.format(behind))
        assert_preserves(graph, InsertLayer("a", "plus_minus", activation))
        gradients_follow(Case(graph, InsertLayer("a", "plus_minus", activation)))
    assert_preserves(parse(CNN.format(behind)), InsertLayer("a", "plus_minus", activation, kernel=3))


@pytest.mark.parametrize("activation", ["tanh", "elu", "mish", "sigmoid", "softsign", "relu6"])
def test_plus_minus_needs_an_odd_part(activation):
    verdict = plan(InsertLayer("a", "plus_minus", activation), parse(MLP.format("relu"))).verdict
    assert isinstance(verdict, Refused)
    assert "f(z) - f(-z) = c z" in verdict.reason


@pytest.mark.parametrize("activation", ["relu", "gelu", "tanh", "sigmoid"])
def test_zero_residual_blocks_are_exact_anywhere(activation):
    for graph in (parse(CNN.format("tanh")), parse(MLP.format("gelu")), parse(TOKENS)):
        assert_preserves(graph, InsertLayer("a", "residual", activation))


@pytest.mark.parametrize("form", ["identity", "dirac", "plus_minus", "residual"])
def test_new_parameters_receive_gradient_at_once(form):
    """All of them, but in a residual block only the outer layer."""
    graph = parse(CNN.format("relu"))
    morphism = plan(InsertLayer("a", form, "gelu" if form == "residual" else "relu"), graph).morphism
    params, inputs = carried(morphism, random_params(graph, 0)), random_inputs(graph, 0)
    grads = gradients(morphism.after, params, inputs, output_weights(morphism.after, params, inputs, 0))
    fresh = [n for n in morphism.after.params if n not in graph.params]
    live = {n for n in fresh if grads[n].abs().max() > 0}
    assert live == ({n for n in fresh if ".outer." in n} if form == "residual" else set(fresh))


def test_the_new_layer_has_the_width_and_the_readers_of_the_old_node():
    graph = parse("net n(x: [4]) { h = dense(x, 5) |> relu  return concat(dense(h, 2), dense(h, 3)), h }")
    after = plan(InsertLayer("h"), graph).morphism.after
    assert after.shape("h_deep1.layer") == (5,)
    assert after["dense_2"].inputs == ("h_deep1.act",)
    assert after.outputs[1] == "h_deep1.act"
    again = plan(InsertLayer("h"), after).morphism.after
    assert "h_deep2.layer" in again


def test_names_do_not_clash():
    graph = parse("net n(x: [4]) { return x |> a: relu |> a_deep1: dense(4) |> relu |> dense(2) }")
    assert "a_deep2.layer" in plan(InsertLayer("a"), graph).morphism.after


@pytest.mark.parametrize(
    ("rewrite", "reason"),
    [
        (InsertLayer("nope"), "no axis or node is called `nope`"),
        (InsertLayer("a", "dirac"), "has no positions for a kernel; use the form `identity`"),
        (InsertLayer("a", "identity", kernel=3), "has no positions for a kernel"),
    ],
)
def test_refusals(rewrite, reason):
    verdict = plan(rewrite, parse(MLP.format("relu"))).verdict
    assert isinstance(verdict, Refused)
    assert reason in verdict.reason


def test_more_refusals():
    assert "a kernel must be odd" in plan(InsertLayer("a", "dirac", kernel=4), parse(CNN.format("relu"))).verdict.reason
    assert "integer ids" in plan(InsertLayer("x"), parse(TOKENS)).verdict.reason
    named = parse("net n(x: [4]) { axis d = 5  return x |> dense(d) |> dense(2) }")
    assert "is an axis" in plan(InsertLayer("d"), named).verdict.reason


def test_inserting_and_undoing_on_a_live_network():
    undo_restores(Case(parse(CNN.format("relu")), InsertLayer("a", "dirac"), 1))
    net = build(CNN.format("relu"))
    x = torch.randn(3, 2, 6, 6)
    before = net(x).detach()
    assert net.rewrite(InsertLayer("p", "dirac", kernel=3)).verdict == Exact()
    assert torch.equal(net(x), before), "a Dirac kernel after ReLU is bitwise exact"
    assert np.isclose(net.params["p_deep1.layer.weight"].sum().item(), 4)


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("form", ["identity", "linear", "plus_minus", "residual", "gate"])
def test_every_form_in_every_layout_obeys_every_law(place, form):
    graph = PLACES[place]
    for batch in (1, 3):
        case = Case(graph, InsertLayer("a", form), 2, batch)
        assert case.plan().verdict == Exact()
        for law in LAWS:
            law(case)


def test_dirac_with_odd_kernels_and_groups_around():
    for place, kernel in (("images", 3), ("images", 5), ("signals", 3), ("groups", 3)):
        case = Case(PLACES[place], InsertLayer("a", "dirac", kernel=kernel), 2, 1)
        assert case.plan().verdict == Exact()
        for law in LAWS:
            law(case)


# functions -----------------------------------------------------------------------------------------------------------

LEAKY = "net n(x: [4]) {{ return x |> h: dense(5) |> a: {} |> dense(3) }}"


@pytest.mark.parametrize("slope", [None, 0.3, 0.0, -0.5, 1.0])
def test_plus_minus_undoes_leaky_slopes(slope):
    """f(z) - f(-z) = (1 + s) z, so the second layer divides by 1 + s."""
    for text in (MLP, CNN):
        case = Case(parse(text.format("tanh")), InsertLayer("a", "plus_minus", "leaky_relu", slope=slope))
        assert case.plan().verdict == Exact()
        for law in LAWS:
            law(case)


@pytest.mark.parametrize("slope", [-1.0, -0.9999])
def test_plus_minus_does_not_divide_by_nothing(slope):
    verdict = plan(InsertLayer("a", "plus_minus", "leaky_relu", slope=slope), PLACES["vectors"]).verdict
    assert isinstance(verdict, Refused)
    assert "plus_minus" in verdict.reason


@pytest.mark.parametrize("function", ["leaky_relu", "gelu", "silu", "tanh", "elu", "mish", "sigmoid"])
def test_identities_with_functions_that_are_not_idempotent_change_the_network(function):
    """Row 34: also behind the very same function; the difference is far from rounding."""
    graph = parse(LEAKY.format(function))
    result = plan(InsertLayer("a", activation=function), graph)
    assert isinstance(result.verdict, Changes)
    assert "`a_deep1.act` leaves" in result.verdict.reason
    params, inputs = random_params(graph, 4), random_inputs(graph, 4)
    assert output_error(result.morphism, params, inputs) > 1e-3


@pytest.mark.parametrize(
    ("behind", "slope", "exact"),
    [
        ("tanh", 1.0, True),
        ("tanh", 0.5, False),
        ("relu", 0.5, True),
        ("relu", -1.0, True),
        ("leaky_relu(-1.0)", -1.0, True),
        ("leaky_relu(0.5)", -1.0, False),
    ],
)
def test_leaky_identities(behind, slope, exact):
    """With slope one, as a PReLU may have, it is no activation at all; behind what is not negative it does nothing."""
    case = Case(parse(LEAKY.format(behind)), InsertLayer("a", "identity", "leaky_relu", slope=slope))
    verdict = case.plan().verdict
    assert verdict == Exact() if exact else isinstance(verdict, Changes)
    for law in LAWS:
        law(case)


@pytest.mark.parametrize("behind", ["tanh", "gelu", "identity", "sigmoid"])
def test_linear_layers_fit_anywhere(behind):
    for text in (MLP, CNN):
        assert_preserves(parse(text.format(behind)), InsertLayer("a", "linear"))
    assert_preserves(parse(CNN.format(behind)), InsertLayer("a", "linear", kernel=3))


# gradients -----------------------------------------------------------------------------------------------------------


def _live(graph, rewrite, names=None):
    """Return the new parameters that receive a gradient on one batch, and all new ones."""
    morphism = plan(rewrite, graph).morphism
    params, inputs = carried(morphism, random_params(graph, 0)), random_inputs(graph, 0)
    grads = gradients(morphism.after, params, inputs, output_weights(morphism.after, params, inputs, 0))
    fresh = {n for n in grads if n not in graph.params}
    return {n.removeprefix("a_deep1.") for n in fresh if grads[n].abs().max() > 1e-9}, fresh


def test_only_what_is_zero_receives_gradient_first():
    assert _live(PLACES["vectors"], InsertLayer("a", "gate", "gelu"))[0] == {"gate.weight"}
    zero = {"attn.out.weight", "attn.out.bias", "down.weight", "down.bias"}
    assert _live(parse(STREAM), InsertLayer("a", "block", heads=2))[0] == zero
    assert _live(parse(STREAM), InsertLayer("a", "block", heads=2, norm_first=False))[0] == {"gate.weight"}
    live, fresh = _live(PLACES["images"], InsertLayer("a", "linear", kernel=3))
    assert len(live) == len(fresh) == 2


@pytest.mark.parametrize("form", ["gate", "residual", "block"])
def test_the_rest_learns_one_step_later(form):
    net = build(STREAM, dtype=torch.float64)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    net.track(optimizer)
    old = set(net.params)
    assert net.rewrite(InsertLayer("a", form, "gelu")).verdict == Exact()
    x = torch.arange(10).reshape(2, 5) % 9
    start = {n: p.detach().clone() for n, p in net.params.items() if n not in old}
    for _ in range(2):
        optimizer.zero_grad()
        (net(x) - 1.0).square().sum().backward()
        optimizer.step()
    still = {n for n, value in start.items() if torch.equal(value, net.params[n])}
    assert still == ({"a_deep1.attn.key.bias"} & still), "a bias of the keys moves all products of a query alike"


# options -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"form": "linear", "activation": "relu"}, "the form `linear` has no use for `activation = relu`"),
        ({"form": "identity", "heads": 2}, "the form `identity` has no use for `heads = 2`"),
        ({"form": "identity", "hidden": 2}, "has no use for `hidden = 2`"),
        ({"form": "gate", "norm": "batchnorm"}, "the form `gate` has no use for `norm = batchnorm`"),
        ({"form": "plus_minus", "norm": "layernorm"}, "has no use for `norm = layernorm`"),
        ({"form": "residual", "causal": True}, "has no use for `causal = true`"),
        ({"form": "residual", "norm_first": False}, "has no use for `norm_first = false`"),
        ({"form": "identity", "slope": 0.2}, "`slope` is that of leaky_relu, the activation is relu"),
        ({"form": "block", "kernel": 3}, "the form `block` has no use for `kernel = 3`"),
        ({"form": "identity", "norm": "layernorm"}, "takes batchnorm, found layernorm"),
        ({"form": "block"}, "`a` is not a (positions, units) value"),
        ({"form": "residual", "norm": "layernorm"}, "layernorm takes units last, those of `a` are first"),
    ],
)
def test_options_a_form_has_no_use_for_are_refused(options, reason):
    verdict = plan(InsertLayer("a", **options), PLACES["images"]).verdict
    assert isinstance(verdict, Refused)
    assert reason in verdict.reason


def test_options_that_do_not_fit_the_value_are_refused():
    graph = parse(TOKENS)
    assert "not a multiple of 4 heads" in plan(InsertLayer("a", "block", heads=4), graph).verdict.reason
    verdict = plan(InsertLayer("a", "block", norm="batchnorm"), graph).verdict
    assert "takes layernorm or rmsnorm, found batchnorm" in verdict.reason
    verdict = plan(InsertLayer("a", "residual", norm="batchnorm"), graph).verdict
    assert "a batch norm takes units first, those of `a` are last" in verdict.reason


@pytest.mark.parametrize(
    "text",
    [
        "insert_layer(a)",
        "insert_layer(a, linear, kernel = 3)",
        "insert_layer(a, gate, silu)",
        "insert_layer(a, plus_minus, leaky_relu, slope = 0.25)",
        "insert_layer(a, dirac, relu6, 5, batchnorm)",
        "insert_layer(a, residual, norm = layernorm)",
        "insert_layer(a, block, gelu_tanh, norm = rmsnorm, heads = 3, hidden = 2, causal = true, norm_first = false)",
    ],
)
def test_texts(text):
    rewrite = parse_pass(text)
    assert str(rewrite) == text
    assert rewrite == InsertLayer(**vars(rewrite))


def test_the_optimizer_adopts_new_parameters():
    net, optimizer = trained(CNN.format("relu"), optimizer=torch.optim.AdamW)
    x = torch.randn(5, 2, 6, 6, dtype=torch.float64)
    for rewrite in (InsertLayer("p", "gate"), InsertLayer("a", "dirac", norm="batchnorm")):
        before = net.eval()(x).detach()
        receipt = net.rewrite(rewrite, statistics=x)
        assert receipt.applied
        assert torch.allclose(net(x), before, rtol=0, atol=1e-12)
    assert {id(p) for g in optimizer.param_groups for p in g["params"]} == {id(p) for p in net.parameters()}
    net.train()
    for _ in range(2):
        optimizer.zero_grad()
        net(x).square().mean().backward()
        optimizer.step()
    assert net.params["a_deep1.norm.running_mean"].abs().max() > 0


def test_the_laws_hold_on_random_programs():
    check_pass(InsertLayer)
