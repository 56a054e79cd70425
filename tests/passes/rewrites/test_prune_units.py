"""Pruning units: what goes, what it ties along, and when nothing of the function goes with it."""

from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from hypothesis import strategies as st

from irgrow.backends import random_params
from irgrow.errors import ProgramError
from irgrow.grammar import parse, parse_pass
from irgrow.network import build
from irgrow.passes import (
    SALIENCIES,
    Context,
    GrowUnits,
    Magnitude,
    PruneUnits,
    RandomSaliency,
    Saliency,
    Taylor,
    plan,
)
from irgrow.testing import check_pass
from irgrow.testing.laws import Broken, Case, prune_is_mask, same_snapshot, snapshot, trained
from irgrow.testing.numbers import carried, output_error, random_inputs
from irgrow.testing.rewriting import saliencies, sites
from irgrow.verdict import Changes, Exact, Refused

NET = "net n(x: [2, 6, 6]) { return x |> c: conv(5, kernel = 3) |> batchnorm |> relu |> flatten |> h: dense(6) |> relu |> dense(2) }"


def test_every_tensor_on_the_axis_is_cut():
    graph = parse(NET)
    morphism = plan(PruneUnits("c", (1, 3)), graph).morphism
    new = carried(morphism, random_params(graph, 0))
    old = random_params(graph, 0)
    kept = [0, 2, 4]
    np.testing.assert_array_equal(new["c.weight"], old["c.weight"][kept])
    np.testing.assert_array_equal(new["batchnorm_1.running_var"], old["batchnorm_1.running_var"][kept])
    columns = old["h.weight"].reshape(6, 5, 16)[:, kept].reshape(6, -1)
    np.testing.assert_array_equal(new["h.weight"], columns)
    prune_is_mask(Case(graph, PruneUnits("c", (1, 3))))


def test_something_alive_goes():
    verdict = plan(PruneUnits("h", (0,)), parse(NET)).verdict
    assert isinstance(verdict, Changes)
    assert verdict.reason == "`dense_1` reads 1 unit that is gone"


def test_units_read_with_zero_weights_go_without_a_trace():
    graph = parse(NET)
    params = random_params(graph, 0)
    params["dense_1.weight"][:, [1, 4]] = 0
    result = plan(PruneUnits("h", (1, 4)), graph, Context(params))
    assert result.verdict == Exact()
    assert output_error(result.morphism, params, random_inputs(graph, 0)) < 1e-12
    assert isinstance(plan(PruneUnits("h", (1, 3)), graph, Context(params)).verdict, Changes)


def test_what_was_just_grown_is_pruned_exactly():
    net = build(NET, dtype=torch.float64)
    assert net.rewrite(GrowUnits("h", 3)).verdict == Exact()
    assert net.rewrite(PruneUnits("h", (6, 7, 8))).verdict == Exact()
    assert net.graph == parse(NET)


@pytest.mark.parametrize(
    ("site", "units", "reason"),
    [
        ("h", (6,), "has units 0 to 5, found 6"),
        ("h", (), "no units were named"),
        ("h", (0, 1, 2, 3, 4, 5), "would have no units left"),
        ("x", (0,), "interface"),
        ("dense_1", (0,), "interface"),
        ("flatten_1", (3,), "cannot go alone"),
    ],
)
def test_refusals(site, units, reason):
    verdict = plan(PruneUnits(site, units), parse(NET)).verdict
    assert isinstance(verdict, Refused)
    assert reason in verdict.reason


def test_a_part_may_go_if_the_whole_stays():
    graph = parse("net n(x: [3]) { h = dense(x, 6) |> relu  return h |> slice(2, 5) |> dense(1) }")
    result = plan(PruneUnits("h", (0, 1)), graph)
    assert result.verdict == Exact(), "nothing reads these units"
    assert result.morphism.after.shape("h") == (4,)
    gone = plan(PruneUnits("h", (2, 3, 4)), graph).verdict
    assert isinstance(gone, Refused)


def test_groups_and_heads_go_whole():
    graph = parse(
        "net n(x: [2, 5, 5]) { return x |> c: conv(6, kernel = 1) |> g: conv(6, kernel = 3, groups = 3) |> avgpool |> dense(2) }"
    )
    after = plan(PruneUnits("c", (2, 3)), graph).morphism.after
    assert after.shape("g") == (4, 3, 3)
    assert after.widths["g.groups"] == 2
    heads = parse("net n(x: ids(9)[5]) { return x |> embedding(8) |> attn: attention(2, 4) |> avgpool |> dense(2) }")
    assert plan(PruneUnits("attn.heads", (0,)), heads).morphism.after.shape("attn.mix") == (5, 4)


# by a saliency -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Planted(Saliency):
    """Scores that a test gives, by leaf axis."""

    planted: tuple[tuple[str, tuple[float, ...]], ...] = ()

    def __str__(self):
        return "planted"

    def scores(self, graph, axis, context):
        return np.array(dict(self.planted)[axis], dtype=float)


def given(**scores):
    return Planted(tuple((name.replace("__", "."), tuple(values)) for name, values in scores.items()))


def kept(site, text=NET, **options):
    """Return the edit as lists."""
    result = plan(PruneUnits(site, **options), parse(text), Context(random_params(parse(text), 0)))
    assert result.morphism is not None, result.verdict
    return {name: m.tolist() for name, m in result.morphism.edits.items()}


def refusal(site, text=NET, **options):
    graph = parse(text)
    verdict = plan(PruneUnits(site, **options), graph, Context(random_params(graph, 0))).verdict
    assert isinstance(verdict, Refused), verdict
    return verdict.reason


SCORES = given(h=(4, 1, 3, 1, 0.5, 9), c=(2, 1, 0, 4, 3))


@pytest.mark.parametrize(
    ("options", "left"),
    [
        ({"count": 1}, [0, 1, 2, 3, 5]),
        ({"count": 2}, [0, 2, 3, 5]),  # of equal units the first goes
        ({"count": 3}, [0, 2, 5]),
        ({"fraction": 0.5}, [0, 2, 5]),
        ({"fraction": 0.66}, [0, 2, 5]),  # rounded down
        ({"fraction": 1 / 3}, [0, 2, 3, 5]),
        ({"threshold": 1.0}, [0, 1, 2, 3, 5]),  # below, not at
        ({"threshold": 1.5}, [0, 2, 5]),
        ({"threshold": 99.0, "least": 2}, [0, 5]),
        ({"count": 5, "least": 3}, [0, 2, 5]),
        ({"count": 3, "multiple": 2}, [0, 2, 3, 5]),
        ({"count": 3, "multiple": 5}, [0, 1, 2, 3, 5]),
        ({"fraction": 0.9, "multiple": 3, "least": 2}, [0, 2, 5]),
    ],
)
def test_how_many(options, left):
    assert kept("h", by=SCORES, **options) == {"h": left}


def test_it_is_the_same_as_naming_them():
    graph, params = parse(NET), random_params(parse(NET), 0)
    ranked = plan(PruneUnits("c", by=SCORES, count=2), graph, Context(params))
    named = plan(PruneUnits("c", (1, 2)), graph, Context(params))
    assert ranked.morphism.after == named.morphism.after
    assert ranked.verdict == named.verdict
    new, wanted = (carried(r.morphism, params) for r in (ranked, named))
    assert all(np.array_equal(new[name], wanted[name]) for name in wanted)
    assert ranked.morphism.summary == "prune 2 units of c by planted"


def test_channels_behind_a_flatten_go_whole():
    assert kept("flatten_1", by=SCORES, count=16) == {"c": [0, 1, 3, 4]}
    assert kept("flatten_1", by=SCORES, fraction=0.5) == {"c": [0, 3, 4]}
    assert kept("flatten_1", by=SCORES, count=32, multiple=32) == {"c": [0, 1, 3, 4]}
    assert "go 16 at a time" in refusal("flatten_1", by=SCORES, count=5)


@pytest.mark.parametrize(("count", "left"), [(1, [0, 1, 2, 4]), (2, [0, 1, 4])])
def test_a_stream_loses_the_same_units_everywhere(count, left):
    text = "net n(x: [2, 6, 6]) { return x |> s: conv(5, kernel = 1) |> relu |> residual { conv(3, kernel = 1) |> relu |> e: conv(5, kernel = 1) } |> flatten |> dense(2) }"
    graph, params = parse(text), random_params(parse(text), 0)
    scores = given(s=(4, 4, 1, 0, 4))
    morphism = plan(PruneUnits("s", by=scores, count=count), graph, Context(params)).morphism
    new = carried(morphism, params)
    for name in ("s.weight", "e.weight"):
        np.testing.assert_array_equal(new[name], params[name][left])
    prune_is_mask(Case(graph, PruneUnits("s", by=scores, count=count)))


def test_groups_are_ranked_by_what_all_their_units_sum_to():
    text = "net n(x: [2, 5, 5]) { return x |> c: conv(6, kernel = 1) |> g: conv(6, kernel = 3, groups = 3) |> avgpool |> dense(2) }"
    params = random_params(parse(text), 0)
    c, g = (np.abs(params[f"{n}.weight"]).reshape(3, -1).sum(1) for n in "cg")
    worst = int(np.argmin(c + g))
    assert kept("c", text, by=Magnitude(1), count=2) == {"g.groups": [u for u in range(3) if u != worst]}
    assert "go 2 at a time" in refusal("c", text, by=Magnitude(1), count=3)


def test_of_a_sum_of_axes_the_lowest_of_all_go_and_what_is_locked_stays():
    text = "net n(x: [4]) { a = dense(x, 3)  b = dense(x, 4)  j = concat(x, a, b)  return dense(j, 2) }"
    scores = given(a=(0, 1, 9), b=(9, 0.5, 9, 2))
    assert kept("j", text, by=scores, count=3) == {"a": [2], "b": [0, 2, 3]}
    assert "none of its leaf axes goes whole" in refusal("j", text, by=scores, count=6)
    assert "locked: interface" in refusal("x", text, by=scores, count=1)


def test_what_is_read_with_zero_weights_goes_first_and_exactly():
    graph = parse(NET)
    params = random_params(graph, 0)
    params["dense_1.weight"][:, [1, 4]] = 0
    for count, verdict in ((1, Exact), (2, Exact), (3, Changes)):
        rewrite = PruneUnits("h", by=Magnitude(side="fan_out"), count=count)
        result = plan(rewrite, graph, Context(params))
        assert isinstance(result.verdict, verdict), count
        error = output_error(result.morphism, params, random_inputs(graph, 0, 60))
        assert (error < 1e-12) == (verdict is Exact)


OPTIONS = [
    ({"units": (1,), "by": SCORES, "count": 1}, "`units` and `by` both say which units go; give one of them"),
    ({"units": (1,), "count": 1}, "`count` needs `by`, which ranks the units"),
    ({"units": (1,), "least": 2}, "`least` needs `by`, which ranks the units"),
    ({"units": (1,), "multiple": 2}, "`multiple` needs `by`, which ranks the units"),
    ({"threshold": 0.1}, "`threshold` needs `by`, which ranks the units"),
    ({}, "no units were named: give `units`, or `by` and how many"),
    ({"by": SCORES}, "`by` ranks the units; say how many go: `count`, `fraction` or `threshold`"),
    ({"by": SCORES, "count": 1, "fraction": 0.5}, "`count` and `fraction` both say how many units go; give one"),
    (
        {"by": SCORES, "fraction": 0.5, "threshold": 0.5},
        "`fraction` and `threshold` both say how many units go; give one",
    ),
    ({"by": SCORES, "count": 0}, "`count` must be at least 1, found 0"),
    ({"by": SCORES, "fraction": 1.0}, "`fraction` must be below 1.0, found 1.0"),
    ({"by": SCORES, "fraction": float("nan")}, "`fraction` takes a finite number, found nan"),
    ({"by": SCORES, "count": 1, "multiple": 0}, "`multiple` must be at least 1, found 0"),
    ({"by": SCORES, "count": 6}, "axis `h` would have no units left"),
    ({"by": SCORES, "count": 7}, "axis `h` would have no units left"),
    ({"by": SCORES, "threshold": 10.0}, "axis `h` would have no units left"),
    ({"by": SCORES, "threshold": 0.5}, "nothing to prune: no unit of `h` scores below 0.5"),
    ({"by": SCORES, "fraction": 0.1}, "nothing to prune: 0.1 of 6 units of `h` is less than one"),
    ({"by": SCORES, "count": 2, "least": 6}, "nothing to prune: of 6 units of `h` at least 6 stay, 2 were to go"),
    (
        {"by": SCORES, "count": 2, "multiple": 8},
        "nothing to prune: of 6 units of `h` a multiple of 8 stay, 2 were to go",
    ),
    ({"by": given(h=(1, 2, 3)), "count": 1}, "planted gave scores of shape [3] for 6 units"),
    ({"by": given(h=(1, 2, np.nan, 3, 4, 5)), "count": 1}, "the score of unit 2 of `h` by planted is not finite"),
]


@pytest.mark.parametrize(("options", "reason"), OPTIONS, ids=lambda v: str(v)[:40])
def test_contradictions_and_empty_selections(options, reason):
    assert refusal("h", **options) == reason


def test_without_a_batch_or_a_loss_nothing_changes():
    case = Case(parse(NET), PruneUnits("h", by=Taylor(), count=2))
    net = trained(case)
    before = snapshot(net)
    batch = torch.as_tensor(case.inputs["x"])
    for options, missing in (({}, "pass a `batch` and a `loss`"), ({"batch": batch}, "pass a `batch` and a `loss`")):
        receipt = net.rewrite(case.rewrite, **options)
        assert receipt.verdict.reason.endswith(missing)
        assert same_snapshot(before, snapshot(net)) is None


@pytest.mark.parametrize("cls", SALIENCIES, ids=lambda c: c.__name__)
def test_every_saliency_on_a_live_network(cls):
    case = Case(parse(NET), PruneUnits("c", by=cls(), fraction=0.4), 3, 6)
    net = trained(case)
    receipt = net.rewrite(str(case.rewrite), batch=torch.as_tensor(case.inputs["x"]), loss=lambda y: y.square().mean())
    assert receipt.applied, receipt.verdict
    assert net.graph.widths["c"] == 3
    optimizer = net.tracked[0].optimizer
    assert {id(p) for p in net.parameters()} == {id(p) for g in optimizer.param_groups for p in g["params"]}
    assert all(optimizer.state[p]["exp_avg"].shape == p.shape for p in net.parameters())


@pytest.mark.parametrize("by", ["magnitude", "taylor", "fisher", "redundancy", "norm_gain"])
def test_in_half_precision(by):
    net = build(NET, seed=0, dtype=torch.bfloat16)
    batch = torch.randn(4, 2, 6, 6, dtype=torch.bfloat16)
    receipt = net.rewrite(f"prune_units(c, by = {by}, count = 2)", batch=batch, loss=lambda y: y.square().mean())
    assert receipt.applied, receipt.verdict
    assert net.params["c.weight"].dtype == torch.bfloat16


@pytest.mark.parametrize(
    "text",
    [
        "prune_units(f1, by = taylor, count = 4)",
        "prune_units(f1, by = magnitude(1), fraction = 0.25, least = 8, multiple = 8)",
        "prune_units(stage1.c, by = redundancy(norm), threshold = -0.5)",
        "prune_units(f1, [0, 3])",
    ],
)
def test_text(text):
    assert str(parse_pass(text)) == text
    assert parse_pass("prune_units(f1, by = magnitude(norm = 1), count = 4)").by == Magnitude(1)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("prune_units(f1, by = tailor, count = 4)", "unknown saliency `tailor`"),
        ("prune_units(f1, by = 3, count = 4)", "expected a saliency"),
        ("prune_units(f1, by = magnitude(norm = 3), count = 4)", "`norm` must be at most 2, found 3"),
        ("prune_units(f1, by = taylor, fraction = 1.5)", "`fraction` must be below 1.0, found 1.5"),
    ],
)
def test_text_that_is_wrong(text, message):
    with pytest.raises(ProgramError, match=message):
        parse_pass(text)


def test_a_rule_says_where_and_how_many():
    assert PruneUnits(by=Taylor()).at("h", 3) == PruneUnits("h", by=Taylor(), count=3)
    assert PruneUnits(by=Taylor(), fraction=0.5).at("h", 3) == PruneUnits("h", by=Taylor(), fraction=0.5)
    assert PruneUnits(units=(1,)).at("h", 3) == PruneUnits("h", (1,))


@st.composite
def ranked(draw, graph):
    amount = draw(st.sampled_from([{"count": 1}, {"count": 2}, {"fraction": 0.5}, {"threshold": 0.7}]))
    return PruneUnits(draw(sites(graph)), by=draw(saliencies()), least=draw(st.sampled_from([None, 1, 2])), **amount)


def test_the_laws_hold_by_saliency():
    check_pass(PruneUnits, options=ranked)


@dataclass(frozen=True)
class Shifted(PruneUnits):
    """Takes the neighbours of the lowest units away from the readers only."""

    def rewrite(self, graph, site, context):
        morphism = super().rewrite(graph, site, context)
        transfers = dict(morphism.transfers)
        for name, t in transfers.items():
            if len(getattr(t, "maps", ())) > 1 and t.maps[1] is not None:
                rolled = (t.maps[1] + 1) % graph.param_shape(name)[1]
                transfers[name] = replace(t, maps=(t.maps[0], rolled, *t.maps[2:]))
        return replace(morphism, transfers=transfers)


def test_a_broken_one_breaks_a_law():
    rewrite = PruneUnits("h", by=Magnitude(), count=2)
    prune_is_mask(Case(parse(NET), rewrite))
    with pytest.raises(Broken, match="prune = mask"):
        prune_is_mask(Case(parse(NET), Shifted("h", by=Magnitude(), count=2)))


def test_lots_are_drawn_from_the_seed_of_the_rewrite():
    graph = parse(NET)
    rewrite = PruneUnits("h", by=RandomSaliency(), count=3)
    edits = [plan(rewrite, graph, Context(seed=s)).morphism.edits["h"].tolist() for s in (1, 1, 2)]
    assert edits[0] == edits[1] != edits[2]
