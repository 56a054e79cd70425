"""Pruning over all axes: what goes where, normalised or not, in one rewrite."""

from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from hypothesis import strategies as st

from irgrow.backends import random_params
from irgrow.errors import OptionError
from irgrow.fills import ZERO
from irgrow.grammar import parse, parse_pass
from irgrow.growth import GrowthProgram, Rule, Where
from irgrow.growth.controller import Controller
from irgrow.network import build
from irgrow.passes import Context, Magnitude, NormGain, PruneGlobally, Saliency, Schedule, Taylor, plan
from irgrow.passes.primitives import by_role, resize
from irgrow.testing import check_pass
from irgrow.testing.laws import Broken, Case, prune_is_mask, trained
from irgrow.testing.numbers import carried, output_error, random_inputs
from irgrow.testing.rewriting import saliencies
from irgrow.verdict import Changes, Exact, Refused

NET = "net n(x: [4]) { return x |> a: dense(4) |> relu |> b: dense(6) |> relu |> dense(2) }"
CNN = "net n(x: [2, 6, 6]) { return x |> c: conv(5, kernel = 3) |> batchnorm |> relu |> flatten |> h: dense(6) |> relu |> dense(2) }"
STREAM = "net n(x: [2, 6, 6]) { return x |> s: conv(5, kernel = 1) |> relu |> residual { i: conv(3, kernel = 1) |> relu |> conv(5, kernel = 1) } |> flatten |> dense(2) }"


@dataclass(frozen=True)
class Planted(Saliency):
    """Scores that a test gives, by leaf axis."""

    planted: tuple[tuple[str, tuple[float, ...]], ...] = ()

    def scores(self, graph, axis, context):
        return np.array(dict(self.planted)[axis], dtype=float)


SCORES = Planted((("a", (1.0, 2.0, 3.0, 4.0)), ("b", (10.0, 50.0, 20.0, 60.0, 30.0, 70.0))))


def kept(text=NET, **options):
    result = plan(PruneGlobally(by=SCORES, **options), parse(text))
    assert result.morphism is not None, result.verdict
    return {name: m.tolist() for name, m in result.morphism.edits.items()}


def refusal(text=NET, by=SCORES, **options):
    verdict = plan(PruneGlobally(by=by, **options), parse(text), Context(random_params(parse(text), 0))).verdict
    assert isinstance(verdict, Refused), verdict
    return verdict.reason


@pytest.mark.parametrize(
    ("normalise", "edits"),
    [
        ("none", {"a": [3], "b": [1, 2, 3, 4, 5]}),  # the small layer first, down to its last unit
        ("mean", {"a": [1, 2, 3], "b": [1, 3, 5]}),
        ("max", {"a": [1, 2, 3], "b": [1, 3, 5]}),
        ("norm", {"a": [1, 2, 3], "b": [1, 3, 5]}),
    ],
)
def test_scores_are_normalised_by_axis(normalise, edits):
    assert kept(count=4, normalise=normalise) == edits


@pytest.mark.parametrize("normalise", ["mean", "max", "norm"])
def test_the_order_is_that_of_the_divided_scores(normalise):
    rng = np.random.default_rng(1)
    planted = {"a": rng.normal(size=4) * 100, "b": rng.normal(size=6)}
    by = Planted(tuple((k, tuple(v)) for k, v in planted.items()))
    size = {
        "mean": lambda v: np.abs(v).mean(),
        "max": lambda v: np.abs(v).max(),
        "norm": np.linalg.norm,
    }[normalise]
    order = sorted((s / size(v), k, u) for k, v in planted.items() for u, s in enumerate(v))
    for count in range(1, 6):
        result = plan(PruneGlobally(by=by, count=count, normalise=normalise), parse(NET))
        gone = {(k, u) for k, m in result.morphism.edits.items() for u in range(len(planted[k])) if u not in m}
        assert gone == {(k, u) for _, k, u in order[:count]}


def test_how_many():
    assert kept(fraction=0.45, normalise="none") == kept(count=4, normalise="none")
    assert kept(count=5, normalise="none", least=2) == {"a": [2, 3], "b": [1, 3, 5]}
    assert kept(count=5, normalise="none", least=4) == {"b": [1, 3, 4, 5]} | {}
    assert kept(count=6, normalise="none", multiple=2) == {"a": [2, 3], "b": [1, 3, 4, 5]}
    assert kept(count=9, normalise="none", least=1) == {"a": [3], "b": [5]}


def test_equal_scores_go_in_program_order():
    by = Planted((("a", (1.0,) * 4), ("b", (1.0,) * 6)))
    result = plan(PruneGlobally(by=by, count=2, normalise="none"), parse(NET))
    assert {k: m.tolist() for k, m in result.morphism.edits.items()} == {"a": [2, 3]}
    zeros = Planted((("a", (0.0,) * 4), ("b", (1.0,) * 6)))
    result = plan(PruneGlobally(by=zeros, count=1), parse(NET))
    assert {k: m.tolist() for k, m in result.morphism.edits.items()} == {"a": [1, 2, 3]}


def test_one_rewrite_cuts_every_tensor_once():
    graph, params = parse(NET), random_params(parse(NET), 0)
    morphism = plan(PruneGlobally(by=SCORES, count=4), graph, Context(params)).morphism
    new = carried(morphism, params)
    np.testing.assert_array_equal(new["b.weight"], params["b.weight"][[1, 3, 5]][:, [1, 2, 3]])
    np.testing.assert_array_equal(new["dense_1.weight"], params["dense_1.weight"][:, [1, 3, 5]])
    assert morphism.summary.startswith("prune 4 units of hidden axes by planted")
    prune_is_mask(Case(graph, PruneGlobally(by=SCORES, count=4)))
    prune_is_mask(Case(parse(CNN), PruneGlobally(by=Magnitude(), count=4)))


def test_hidden_and_editable_axes():
    params = random_params(parse(STREAM), 0)
    for where, axes in (("hidden", {"i"}), ("editable", {"s", "i"})):
        rewrite = PruneGlobally(where, count=2, by=Magnitude(), least=2)
        morphism = plan(rewrite, parse(STREAM), Context(params)).morphism
        assert set(morphism.edits) <= axes
    wide = plan(PruneGlobally("editable", count=5, by=Magnitude()), parse(STREAM), Context(params)).morphism
    assert set(wide.edits) == {"s", "i"}


def test_exact_where_only_what_is_read_with_zero_weights_goes():
    graph = parse(NET)
    params = random_params(graph, 0)
    params["b.weight"][:, 2] = 0
    params["dense_1.weight"][:, [0, 5]] = 0
    for count, verdict in ((3, Exact), (4, Changes)):
        result = plan(PruneGlobally(by=Magnitude(side="fan_out"), count=count), graph, Context(params))
        assert isinstance(result.verdict, verdict)
        assert (output_error(result.morphism, params, random_inputs(graph, 0, 60)) < 1e-12) == (verdict is Exact)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({}, "say how many units go: either `count` or `fraction`"),
        ({"count": 1, "fraction": 0.5}, "say how many units go: either `count` or `fraction`"),
        ({"fraction": 1.0}, "`fraction` must be below 1.0, found 1.0"),
        ({"where": "hiden", "count": 1}, "`where` takes one of hidden, editable, found hiden"),
        ({"fraction": 0.05}, "nothing to prune: 0.05 of 10 units is less than one"),
        ({"count": 9}, "9 of 10 units cannot go: an axis would have no units left"),
        ({"count": 2, "multiple": 8}, "nothing to prune: of every axis a multiple of 8 units stay"),
        ({"count": 2, "least": 6}, "nothing to prune: of every axis at least 6 units stay"),
        ({"count": 2, "by": NormGain()}, "norm_gain looks at the gains of batch norms, and `a` passes none"),
        ({"count": 2, "by": Taylor()}, "taylor needs the gradient of `b.weight`: pass a `batch` and a `loss`"),
    ],
    ids=lambda v: str(v)[:40],
)
def test_refusals(options, reason):
    assert refusal(**options) == reason


def test_a_network_without_hidden_axes():
    assert refusal("net n(x: [4]) { return x |> dense(2) }", count=1) == "`n` has no hidden axes"


def test_on_a_live_network():
    case = Case(parse(CNN), PruneGlobally(by=Taylor(), fraction=0.4, least=2), 2, 6)
    net = trained(case)
    batch = torch.as_tensor(case.inputs["x"])
    assert net.rewrite(case.rewrite, batch=batch).verdict.reason.endswith("pass a `batch` and a `loss`")
    receipt = net.rewrite(str(case.rewrite), batch=batch, loss=lambda y: y.square().mean())
    assert receipt.applied, receipt.verdict
    assert net.graph.widths["c"] + net.graph.widths["h"] == 7
    assert min(net.graph.widths["c"], net.graph.widths["h"]) >= 2
    assert all(net.tracked[0].optimizer.state[p]["exp_avg"].shape == p.shape for p in net.parameters())
    fresh = build(net.graph, seed=0, dtype=torch.float64)
    assert {n: p.shape for n, p in fresh.named_parameters()} == {n: p.shape for n, p in net.named_parameters()}


def test_text():
    text = "prune_globally(editable, by = taylor, count = 4, least = 8, multiple = 8, normalise = norm)"
    assert str(parse_pass(text)) == text
    assert parse_pass("prune_globally(fraction = 0.5)") == PruneGlobally(fraction=0.5)
    assert PruneGlobally(by=Taylor()).at("h", 3) == PruneGlobally(by=Taylor(), count=3)
    assert PruneGlobally(fraction=0.5).at("h", 3) == PruneGlobally(fraction=0.5)


@st.composite
def drawn(draw, graph):
    amount = draw(st.sampled_from([{"count": 1}, {"count": 3}, {"fraction": 0.5}]))
    where = draw(st.sampled_from(["hidden", "editable"]))
    least, normalise = draw(st.sampled_from([None, 1, 2])), draw(st.sampled_from(["none", "mean", "max", "norm"]))
    return PruneGlobally(where, draw(saliencies()), least=least, normalise=normalise, **amount)


@pytest.mark.parametrize(("amount", "gone"), [({}, 2), ({"fraction": 0.3}, 3)], ids=["units", "fraction"])
def test_a_rule_prunes_all_axes_once_and_not_at_every_one(amount, gone):
    net = build(NET, seed=1)
    rule = Rule("r", PruneGlobally(by=Magnitude(), **amount), Schedule(2), require="any")
    (receipt,) = Controller(net, GrowthProgram((rule,))).step()
    assert receipt.applied
    assert net.graph.widths["a"] + net.graph.widths["b"] == 10 - gone


def test_a_rule_does_not_say_where_as_well():
    with pytest.raises(OptionError, match="`prune_globally` chooses its own sites; leave `where` out"):
        Rule("r", PruneGlobally(), Schedule(1), where=Where(("a",)))
    with pytest.raises(OptionError, match="cannot be taken site by site"):
        Rule("r", PruneGlobally(), Schedule(1), order="sites")


def test_the_laws_hold():
    check_pass(PruneGlobally, options=drawn)


@dataclass(frozen=True)
class Forgetful(PruneGlobally):
    """Removes other units than it ranks last from the weights that read them."""

    def rewrite(self, graph, site, context):
        morphism = super().rewrite(graph, site, context)
        mirrored = {k: (graph.widths[k] - 1 - m)[::-1].copy() for k, m in morphism.edits.items()}
        other = resize(graph, mirrored, by_role(ZERO, ZERO), context.seed, "broken")
        transfers = dict(morphism.transfers)
        for name, t in transfers.items():
            if len(getattr(t, "maps", ())) > 1 and t.maps[1] is not None:
                maps = (t.maps[0], other.transfers[name].maps[1], *t.maps[2:])
                transfers[name] = replace(t, maps=maps)
        return replace(morphism, transfers=transfers)


def test_a_broken_one_breaks_a_law():
    prune_is_mask(Case(parse(CNN), PruneGlobally(by=Magnitude(), count=3)))
    with pytest.raises(Broken, match="prune = mask"):
        prune_is_mask(Case(parse(CNN), Forgetful(by=Magnitude(), count=3)))
