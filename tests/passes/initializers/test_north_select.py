"""NORTH-Select: the chosen candidates really are those whose activity adds most."""

import numpy as np
import pytest
import torch

from irgrow.backends import interpret, random_params
from irgrow.errors import DataError
from irgrow.grammar import parse
from irgrow.network import build
from irgrow.passes import Context, GrowUnits, NorthOpt, NorthPre, NorthSelect, Random, plan
from irgrow.passes.analyses.candidates import candidate_activity, receptive_fields
from irgrow.testing.laws import Case, verdict_is_sound
from irgrow.testing.numbers import random_inputs
from irgrow.verdict import Exact

MLP = "net n(x: [6]) { return x |> a: dense(5) |> relu |> b: dense(4) |> tanh |> dense(2) }"
CNN = "net n(x: [2, 7, 7]) { return x |> c1: conv(3, kernel = 3, padding = 1, stride = 2) |> batchnorm |> relu |> c2: conv(4, kernel = 3) |> relu |> maxpool(2) |> flatten |> dense(2) }"


def statistics(graph, params, inputs):
    return interpret(graph, params, inputs).values


def given(text, site, count, init, seed=0, batch=40):
    graph = parse(text)
    params, inputs = random_params(graph, 1), random_inputs(graph, 1, batch)
    context = Context(params, seed, statistics(graph, params, inputs))
    result = plan(GrowUnits(site, count, init), graph, context)
    assert result.verdict.preserves, result.verdict
    return graph, params, inputs, result.morphism


def activity(graph, values, site, fan_in):
    fields = receptive_fields(graph, site, values[graph[site].inputs[0]])
    return candidate_activity(graph, site, torch.as_tensor(fan_in.reshape(len(fan_in), -1) @ fields)).numpy()


@pytest.mark.parametrize(("text", "site"), [(MLP, "a"), (MLP, "b"), (CNN, "c2")])
def test_the_best_of_the_drawn_is_chosen(text, site):
    """Recompute every candidate's distance from the row space by least squares."""
    count, pool = 3, 30
    graph, params, inputs, morphism = given(text, site, count, NorthSelect(pool))
    values = statistics(graph, params, inputs)
    chosen = morphism.transfers[f"{site}.weight"].fills[0].values
    weight = params[f"{site}.weight"]
    drawn = (
        NorthSelect(pool)
        .default()
        .draw((pool + count, *weight.shape[1:]), Context(seed=0).generator("north_select", site))
    )
    drawn = drawn * (
        np.sqrt((weight.reshape(len(weight), -1) ** 2).sum(1)).mean()
        / np.sqrt((drawn.reshape(len(drawn), -1) ** 2).sum(1))
    ).reshape(-1, *(1,) * (drawn.ndim - 1))
    node = {"a": "relu_1", "b": "tanh_1", "c2": "relu_2"}[site]
    existing = np.moveaxis(values[node], 1, 0).reshape(len(weight), -1)
    h = activity(graph, values, site, drawn)
    rest = h - (np.linalg.lstsq(existing.T, h.T, rcond=None)[0].T @ existing)
    best = np.argsort(-(rest**2).sum(1))[:count]
    np.testing.assert_allclose(chosen, drawn[best], rtol=1e-12)


@pytest.mark.parametrize("init", [NorthSelect(30), NorthSelect(30, score="rank"), NorthOpt(5, steps=2)], ids=str)
def test_too_few_columns_are_said_and_not_chosen_by(init):
    """With as many samples as units nothing is new, and the order of candidates would be that of rounding errors."""
    width = parse(MLP).widths["a"]
    for batch, too_few in ((1, True), (width, True), (2 * width, False)):
        notes = given(MLP, "a", 2, init, batch=batch)[3].notes
        said = any(f"{batch} columns of activity (samples times positions) are too few" in note for note in notes)
        assert said == too_few


def test_selected_units_are_newer_than_random_ones():
    """Over seeds, the distance of the new activity is larger than that of random units."""
    gains = []
    for seed in range(8):
        for init in (NorthSelect(100), Random()):
            graph, params, inputs, morphism = given(MLP, "a", 1, init, seed)
            values = statistics(graph, params, inputs)
            from irgrow.testing.numbers import carried

            fan_in = carried(morphism, params)["a.weight"][5:]
            h = activity(graph, values, "a", fan_in)
            existing = values["relu_1"].T
            rest = h - np.linalg.lstsq(existing.T, h.T, rcond=None)[0].T @ existing
            gains.append((rest**2).sum())
    select, random = np.array(gains[::2]), np.array(gains[1::2])
    assert (select > random).all()


@pytest.mark.parametrize("greedy", [False, True])
def test_scoring_by_rank_agrees_with_the_definition(greedy):
    init = NorthSelect(12, "rank", greedy, epsilon=0.05)
    graph, params, inputs, morphism = given(MLP, "a", 2, init)
    values = statistics(graph, params, inputs)
    weight = params["a.weight"]
    drawn = init.default().draw((14, 6), Context(seed=0).generator("north_select", "a"))
    drawn *= np.linalg.norm(weight, axis=1).mean() / np.linalg.norm(drawn, axis=1, keepdims=True)
    columns = values["relu_1"].shape[0]
    existing, h = values["relu_1"].T / np.sqrt(columns), activity(graph, values, "a", drawn) / np.sqrt(columns)
    chosen = []
    for _ in range(2):
        base = np.concatenate([existing, h[chosen]]) if greedy else existing
        singular = [np.linalg.svd(np.concatenate([base, row[None]]), compute_uv=False) for row in h]
        score = [(-1, 0.0) if i in chosen else (int((s > 0.05).sum()), s.sum()) for i, s in enumerate(singular)]
        chosen.append(max(range(14), key=lambda i: score[i]))
    np.testing.assert_allclose(morphism.transfers["a.weight"].fills[0].values, drawn[chosen], rtol=1e-10)


def test_greedy_choices_are_not_alike():
    """With two candidates that do the same, greedy selection takes only one of them."""
    from irgrow.passes.analyses.novelty import most_novel

    rng = np.random.default_rng(0)
    existing = rng.normal(size=(3, 20))
    strong = 5 * rng.normal(size=20)
    candidates = np.stack([strong, 1.01 * strong, rng.normal(size=20)])
    assert most_novel(existing, candidates, 2, False, False, 0.01).tolist() == [1, 0]
    assert most_novel(existing, candidates, 2, False, True, 0.01).tolist() == [1, 2]
    assert most_novel(existing, candidates, 2, True, True, 0.01).tolist() == [1, 2]


def test_it_is_exact_like_any_zero_fan_out():
    for text, site in ((MLP, "a"), (CNN, "c1"), (CNN, "c2")):
        verdict_is_sound(Case(parse(text), GrowUnits(site, 2, NorthSelect(10)), 4, 12))


def test_on_a_live_network():
    net = build(CNN)
    receipt = net.rewrite(GrowUnits("c1", 2, NorthSelect(20)), batch=torch.randn(8, 2, 7, 7))
    assert receipt.verdict.preserves
    assert receipt.error < 1e-5
    assert net.params["c1.weight"].shape == (5, 2, 3, 3)


@pytest.mark.parametrize(
    ("text", "site", "statistic", "reason"),
    [
        (MLP, "a", None, "needs the values of `x` on a batch, none were recorded"),
        (
            "net n(x: ids(5)[3]) { return x |> e: embedding(4) |> relu |> dense(2) }",
            "e",
            {},
            "needs a dense layer or convolution that makes `e`",
        ),
        (
            "net n(x: [4, 3, 3]) { return x |> g: conv(4, kernel = 1, groups = 2) |> relu |> avgpool |> dense(1) }",
            "g.makes",
            "all",
            "to be all the units of `g`",
        ),
    ],
)
def test_where_it_does_not_apply_it_is_refused_and_not_replaced(text, site, statistic, reason):
    graph = parse(text)
    params, inputs = random_params(graph, 0), random_inputs(graph, 0)
    values = statistics(graph, params, inputs) if statistic == "all" else {}
    verdict = plan(GrowUnits(site, 1, NorthSelect(5)), graph, Context(params, 0, values)).verdict
    assert reason in verdict.reason


def test_bad_activity_is_refused():
    graph = parse(MLP)
    params, inputs = random_params(graph, 0), random_inputs(graph, 0)
    values = statistics(graph, params, inputs)
    values["x"] = values["x"].copy()
    values["x"][0, 0] = np.nan
    assert "not finite" in plan(GrowUnits("a", 1, NorthSelect(5)), graph, Context(params, 0, values)).verdict.reason
    assert (
        "needs the parameters"
        in plan(GrowUnits("a", 1, NorthSelect(5)), graph, Context(None, 0, values)).verdict.reason
    )
    with pytest.raises(DataError):
        interpret(graph, params, {"x": np.zeros((2, 3))})


def test_the_number_of_columns_is_bounded():
    init = NorthSelect(5, samples=7)
    graph, *_ = given(CNN, "c2", 1, init, batch=20)
    assert init.needs(graph, {"c2": np.array([0, -1])}) == ("relu_1", "relu_2")


def test_layers_over_positions_read_positions():
    """A dense layer behind a transpose reads along another dimension than that of the value's units."""
    text = "net n(x: ids(7)[3]) { return embedding(x, 5) |> transpose |> h: dense(4) |> relu |> o: dense(3) |> transpose |> dense(1) }"
    for init in (NorthSelect(20), NorthPre(candidates=20), NorthOpt(4, 2)):
        net = build(text, seed=1, dtype=torch.float64)
        x = torch.randint(7, (9, 3), generator=torch.Generator().manual_seed(2))
        receipt = net.rewrite(GrowUnits("h", 2, init), batch=x)
        assert receipt.verdict == Exact()
        assert receipt.error < 1e-12
