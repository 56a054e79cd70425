"""Removing layers: what was inserted goes without a trace, what does something stays."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from live import step, trained

from irgrow.backends import random_params
from irgrow.grammar import parse, parse_pass
from irgrow.network import build
from irgrow.passes import Context, InsertLayer, RemoveLayer, plan
from irgrow.testing import check_pass
from irgrow.testing.laws import Case, refused_changes_nothing, same_snapshot, snapshot
from irgrow.testing.numbers import carried, output_error, planned, random_inputs
from irgrow.testing.programs import graphs
from irgrow.testing.rewriting import pass_of
from irgrow.verdict import Changes, Exact, Refused

CNN = "net n(x: [2, 6, 6]) { return x |> c: conv(4, kernel = 3, padding = 1) |> a: relu |> p: maxpool(2) |> flatten |> dense(3) }"
MLP = "net n(x: [4]) { return x |> h: dense(5) |> a: relu |> dense(2) }"
TOKENS = "net n(x: ids(9)[5]) { return x |> e: embedding(6) |> a: relu |> avgpool |> dense(2) }"
FORMS = [
    (CNN, InsertLayer("a")),
    (CNN, InsertLayer("a", "dirac", "leaky_relu", 5, slope=0.2)),
    (CNN, InsertLayer("a", "dirac", norm="batchnorm")),
    (CNN, InsertLayer("p", "residual", norm="batchnorm")),
    (CNN, InsertLayer("p", "gate", "tanh", 3)),
    (MLP, InsertLayer("h", "plus_minus", "silu")),
    (MLP, InsertLayer("h", "plus_minus", "leaky_relu", slope=0.3)),
    (MLP, InsertLayer("h", "linear")),
    (MLP, InsertLayer("a", norm="batchnorm")),
    (TOKENS, InsertLayer("e", "residual", norm="layernorm")),
    (TOKENS, InsertLayer("e", "block", heads=2, hidden=1)),
    (TOKENS, InsertLayer("e", "block", heads=3, hidden=1, norm="rmsnorm", norm_first=False)),
]
IDS = [f"{rewrite.form}-{i}" for i, (_, rewrite) in enumerate(FORMS)]


def inserted(text, rewrite, seed=1):
    """Return the graphs before and after, the parameters of both, and the pass that takes out what was inserted."""
    graph = parse(text)
    params = random_params(graph, seed)
    morphism = planned(rewrite, graph, params, random_inputs(graph, seed, 4), seed).morphism
    new = [n.name for n in morphism.after if n.name not in graph]
    return graph, morphism.after, params, carried(morphism, params), RemoveLayer(new[0], new[-1])


@pytest.mark.parametrize(("text", "rewrite"), FORMS, ids=IDS)
def test_what_was_inserted_goes_without_a_trace(text, rewrite):
    graph, after, params, now, removal = inserted(text, rewrite)
    result = plan(removal, after, Context(now))
    assert result.verdict == Exact("eval" if rewrite.form != "residual" and rewrite.norm == "batchnorm" else "always")
    assert result.morphism.after == graph
    assert result.morphism.after.digest == graph.digest
    back = carried(result.morphism, now)
    assert back.keys() == params.keys()
    assert all(np.array_equal(back[name], params[name]) for name in params)
    assert output_error(result.morphism, now, random_inputs(graph, 8, 1)) < 1e-10


@pytest.mark.parametrize(("text", "rewrite"), FORMS, ids=IDS)
def test_no_number_may_be_wrong(text, rewrite):
    """One entry of one parameter at a time: either it does not matter at all, or nothing is proved."""
    graph, after, _, now, removal = inserted(text, rewrite)
    rng = np.random.default_rng(5)
    inputs = random_inputs(graph, 8, 3)
    refused = 0
    for name in (n for n in now if n not in graph.params and now[n].ndim):
        forged = {**now, name: now[name].copy()}
        forged[name].reshape(-1)[rng.integers(forged[name].size)] += 1e-6
        verdict = plan(removal, after, Context(forged)).verdict
        refused += isinstance(verdict, Refused)
        if not isinstance(verdict, Refused):
            let = plan(RemoveLayer(removal.first, removal.last, exact=False), after, Context(forged)).morphism
            assert output_error(let, forged, inputs) < 1e-10, f"{name} was not looked at"
    assert refused, "every form has numbers that matter"


@settings(max_examples=25)
@given(st.data())
def test_what_was_inserted_anywhere_goes_without_a_trace(data):
    graph = data.draw(graphs())
    rewrite = data.draw(pass_of(InsertLayer, graph))
    case = Case(graph, rewrite, data.draw(st.integers(0, 99)))
    result = case.plan()
    if not result.verdict.preserves:
        return
    now = carried(result.morphism, case.params)
    new = [n.name for n in result.morphism.after if n.name not in graph]
    back = plan(RemoveLayer(new[0], new[-1]), result.morphism.after, Context(now))
    assert back.verdict.preserves
    assert back.morphism.after.digest == graph.digest


# on live networks ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("text", "rewrite"), FORMS, ids=IDS)
def test_the_optimizer_forgets_what_went(text, rewrite):
    if "ids(" in text:
        text = text.replace("x: ids(9)[5]", "x: [4, 5]").replace("e: embedding(6)", "transpose |> e: dense(6)")
    net, optimizer = trained(text, optimizer=torch.optim.AdamW)
    x = torch.randn(4, *net.graph.shape("x"), dtype=torch.float64)
    before = snapshot(net)
    assert net.rewrite(rewrite, statistics=x).verdict.preserves
    new = [n.name for n in net.graph if n.name not in parse(text)]
    assert net.rewrite(RemoveLayer(new[0], new[-1])).verdict.preserves
    after = snapshot(net)
    for key in ("journal", "module"):
        after[key] = before[key]
    assert same_snapshot(before, after) is None
    assert len(optimizer.state) == len(list(net.parameters()))
    step(net, optimizer)


def test_single_precision_is_rounding_too():
    """1 / (1 + s) is not a number of single precision; what is stored is."""
    for rewrite in (InsertLayer("h", "plus_minus", "leaky_relu", slope=0.1), InsertLayer("a", norm="batchnorm")):
        net = build(MLP, seed=3)
        x = torch.randn(6, 4)
        net.rewrite(rewrite, statistics=x)
        new = [n.name for n in net.graph if n.name not in parse(MLP)]
        removal = RemoveLayer(new[0], new[-1])
        weight = net.params[new[-1] + ".weight"] if rewrite.form == "plus_minus" else net.params[new[1] + ".weight"]
        with torch.no_grad():
            weight.view(-1)[0] += 1e-5
        assert isinstance(net.rewrite(removal).verdict, Refused), "1e-5 is not rounding"
        with torch.no_grad():
            weight.view(-1)[0] -= 1e-5
        assert net.rewrite(removal, batch=x).verdict.preserves


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(dtype):
    net = build(MLP, dtype=dtype)
    net.rewrite(InsertLayer("a"))
    assert net.rewrite(RemoveLayer("a_deep1.layer", "a_deep1.act")).verdict == Exact()


def test_trained_layers_stay_unless_told():
    net, optimizer = trained(MLP)
    net.rewrite(InsertLayer("a", "residual"))
    step(net, optimizer)
    removal = RemoveLayer("a_deep1.inner", "a_deep1.add")
    before = snapshot(net)
    receipt = net.rewrite(removal)
    assert isinstance(receipt.verdict, Refused)
    assert "the bias of `a_deep1.outer` is not known to be zero" in receipt.verdict.reason
    assert "`exact = false` removes it all the same" in receipt.verdict.reason
    assert same_snapshot(before, snapshot(net)) is None
    x = torch.randn(4, 4, dtype=torch.float64)
    receipt = net.rewrite(RemoveLayer(removal.first, removal.last, exact=False), batch=x)
    assert isinstance(receipt.verdict, Changes)
    assert receipt.error > 1e-6
    assert net.graph == parse(MLP)


# what else is an identity --------------------------------------------------------------------------------------------


def outcome(text, removal, change=None, seed=0):
    """Return the verdict with random parameters after a change, held against the numbers."""
    graph = parse(text)
    params = random_params(graph, seed)
    if change is not None:
        change(params)
    result = plan(removal, graph, Context(params, seed))
    loose = plan(RemoveLayer(removal.first, removal.last, exact=False), graph, Context(params, seed))
    inputs = random_inputs(graph, seed, 4)
    error = output_error(loose.morphism, params, inputs)
    if isinstance(result.verdict, Exact):
        assert error < 1e-10
    else:
        assert isinstance(result.verdict, Refused)
        assert error > 1e-9, f"needless caution: {result.verdict}"
    return result.verdict


def test_nodes_without_numbers():
    text = "net n(x: [4]) { return x |> h: dense(5) |> r: relu |> i: identity |> s: relu |> d: dropout |> t: tanh |> dense(2) }"
    assert outcome(text, RemoveLayer("i")) == Exact()
    assert outcome(text, RemoveLayer("s")) == Exact()
    assert outcome(text, RemoveLayer("d")) == Exact("eval")
    assert outcome(text, RemoveLayer("i", "d")) == Exact("eval")
    assert isinstance(outcome(text, RemoveLayer("r", "t")), Refused)
    assert isinstance(outcome(text, RemoveLayer("t")), Refused)
    assert plan(RemoveLayer("i"), parse(text)).verdict == Exact(), "there are no numbers to look at"


def test_without_the_parameters_nothing_is_known_of_a_layer():
    _, after, _, _, removal = inserted(MLP, InsertLayer("a"))
    assert isinstance(plan(removal, after).verdict, Refused)
    assert isinstance(plan(RemoveLayer(removal.first, removal.last, exact=False), after).verdict, Changes)


def _identity(params, name, value=1.0):
    weight = params[f"{name}.weight"]
    weight[...] = 0
    rows, local = weight.shape[:2]
    centre = tuple(n // 2 for n in weight.shape[2:])
    for row in range(rows):
        weight[(row, row % local, *centre)] = value
    params[f"{name}.bias"][...] = 0


@pytest.mark.parametrize("layer", ["conv(6, kernel = 3, padding = 1, groups = 2)", "depthwise(3, padding = 1)"])
def test_layers_that_work_in_groups(layer):
    text = f"net n(x: [2, 5, 4]) {{ return x |> conv(6, kernel = 1) |> g: {layer} |> flatten |> dense(2) }}"
    assert isinstance(outcome(text, RemoveLayer("g")), Refused)
    assert outcome(text, RemoveLayer("g"), lambda p: _identity(p, "g")) == Exact()
    assert isinstance(outcome(text, RemoveLayer("g"), lambda p: _identity(p, "g", -1.0)), Refused)


def test_groups_that_exchange_their_units_are_no_identity():
    text = "net n(x: [4, 3]) { return x |> g: conv(4, kernel = 1, groups = 2) |> flatten |> dense(2) }"

    def swapped(params):
        _identity(params, "g")
        params["g.weight"][:2] = params["g.weight"][[1, 0]]

    assert isinstance(outcome(text, RemoveLayer("g"), swapped), Refused)


@pytest.mark.parametrize("switch", ["all on", "diagonal on", "diagonal off"])
def test_masks_are_looked_through(switch):
    text = "net n(x: [4]) { return x |> h: dense(5) |> m: dense(5, masked = true) |> dense(2) }"

    def change(params):
        rng = np.random.default_rng(0)
        params["m.bias"][...] = 0
        if switch == "all on":
            params["m.weight"], params["m.mask"] = np.eye(5), np.ones((5, 5))
            return
        params["m.weight"] = np.where(np.eye(5) > 0, 1.0, rng.normal(size=(5, 5)))
        params["m.mask"] = np.eye(5)
        if switch == "diagonal off":
            params["m.mask"][2, 2] = 0

    verdict = outcome(text, RemoveLayer("m"), change)
    assert isinstance(verdict, Refused) if switch == "diagonal off" else verdict == Exact()


@pytest.mark.parametrize("norm", ["batchnorm", "instancenorm", "groupnorm(2)"])
def test_branches_behind_a_gain_of_zero(norm):
    text = f"net n(x: [2, 5, 5]) {{ return x |> c: conv(4, kernel = 3) |> r: residual {{ k: conv(4, kernel = 1) |> n: {norm} }} |> avgpool |> dense(2) }}"
    graph = parse(text)
    first, last = graph.users["c"][0], graph["dense_1"].inputs[0]
    total = graph[graph[last].inputs[0]].name
    gain = next(n for n in graph.params if n.endswith("n.weight"))

    def change(params):
        params[gain][...] = 0
        params[gain.replace("weight", "bias")][...] = 0

    assert isinstance(outcome(text, RemoveLayer(first, total)), Refused)
    assert outcome(text, RemoveLayer(first, total), change) == Exact()


def test_scales_of_one_and_norms_that_undo_themselves():
    text = (
        "net n(x: [4]) { return x |> h: dense(5) |> s: scale |> b: batchnorm(eps = 0.01, affine = false) |> dense(2) }"
    )
    assert isinstance(outcome(text, RemoveLayer("s")), Refused)
    assert outcome(text, RemoveLayer("s"), lambda p: p["s.weight"].fill(1.0)) == Exact()

    def undone(params):
        params["b.running_mean"].fill(0.0)
        params["b.running_var"].fill(0.99)

    assert isinstance(outcome(text, RemoveLayer("b")), Refused)
    assert outcome(text, RemoveLayer("b"), undone) == Exact("eval")


def test_numbers_that_are_none_prove_nothing():
    _, after, _, now, removal = inserted(MLP, InsertLayer("a", "residual"))
    now["a_deep1.outer.weight"][0, 0] = np.nan
    assert isinstance(plan(removal, after, Context(now)).verdict, Refused)


# where a layer may not go --------------------------------------------------------------------------------------------

BRANCHED = """
net n(x: [4]) {
  h = dense(x, 5)
  a = relu(h)
  b = dense(a, 5)
  c = tanh(b)
  d = add(a, c)
  e = dense(d, 3)
  t = dense(a, 3, tied = e)
  return e, t, b
}
"""


@pytest.mark.parametrize(
    ("first", "last", "reason"),
    [
        ("nope", None, "no axis or node is called `nope`"),
        ("h", "nope", "no axis or node is called `nope`"),
        ("x", None, "`x` is an input of the network"),
        ("d", None, "`d` reads several values, `a`, `c`"),
        ("c", "a", "`a` does not depend on `c`"),
        ("h", None, "`h` has shape [5] and what would be read instead, `x`, has [4]"),
        ("c", "d", "`d` also reads `a`, which does not start from `b` alone"),
        ("b", "d", "`b` is read by the network's output as well"),
        ("a", "b", "`a` is read by `d` as well"),
    ],
)
def test_refusals(first, last, reason):
    for exact in (True, False):
        case = Case(parse(BRANCHED), RemoveLayer(first, last, exact))
        verdict = case.plan().verdict
        assert isinstance(verdict, Refused)
        assert reason in verdict.reason
    refused_changes_nothing(case)


def test_owners_of_parameters_stay():
    text = "net n(x: [4]) { a = dense(x, 4)  b = dense(a, 4, tied = a)  return dense(b, 2) }"
    verdict = plan(RemoveLayer("a", exact=False), parse(text)).verdict
    assert "`b` uses the parameters of `a`, which would go" in verdict.reason
    assert isinstance(plan(RemoveLayer("b", exact=False), parse(text)).verdict, Changes), "b owns nothing"
    again = (
        "net n(x: [4]) { a = dense(x, 4)  b = dense(a, 4, tied = a)  c = dense(b, 4, tied = b)  return dense(c, 2) }"
    )
    after = plan(RemoveLayer("b", exact=False), parse(again)).morphism.after
    assert after["c"].tied == "a"


def test_an_axis_outlives_the_node_it_is_called_after():
    text = "net n(x: [5]) { h = dense(x, 5)  g = dense(x, width(h))  return dense(h * g, 2) }"
    after = plan(RemoveLayer("h", exact=False), parse(text)).morphism.after
    assert parse(str(after)) == after
    assert after.named == ("h",)
    assert after.shape("g") == (5,)


@pytest.mark.parametrize("text", ["remove_layer(a)", "remove_layer(a.b, c.d)", "remove_layer(a, b, exact = false)"])
def test_texts(text):
    assert str(parse_pass(text)) == text


def test_the_laws_hold_on_random_programs():
    check_pass(RemoveLayer)
