"""Pruning units: what goes, what it ties along, and when nothing of the function goes with it."""

import numpy as np
import pytest
import torch

from irgrow.backends import random_params
from irgrow.grammar import parse
from irgrow.network import build
from irgrow.passes import Context, GrowUnits, PruneUnits, plan
from irgrow.testing.laws import Case, prune_is_mask
from irgrow.testing.numbers import carried, output_error, random_inputs
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
