"""Weighted sums: shares of split units, scaled units, groups, other weights."""

import numpy as np
from helpers import net, resized, scaled, verdict

from irgrow.backends import random_params
from irgrow.fills import ONES, Normal
from irgrow.verdict import Changes, Exact

GRAPH = net("h: dense(3) |> tanh |> o: dense(2)")


def split(shares, graph=GRAPH):
    """Copy unit 0, giving its copies these shares of the fan-out."""
    morphism = resized(graph, h=[0, 1, 2, 0])
    return scaled(morphism, "o.weight", 1, [shares[0], 1.0, 1.0, shares[1]])


def test_copies_are_exact_if_their_shares_sum_to_one():
    assert verdict(split((0.3, 0.7))) == Exact()
    assert verdict(split((-1.0, 2.0))) == Exact()
    found = verdict(split((0.5, 0.6)))
    assert isinstance(found, Changes)
    assert "do not sum to one" in found.reason
    assert isinstance(verdict(resized(GRAPH, h=[0, 1, 2, 0])), Changes), "copies that are not shared"


def test_net2wider_multiplicities():
    morphism = scaled(resized(GRAPH, h=[0, 0, 1, 2, 0, 2]), "o.weight", 1, [1 / 3, 1 / 3, 1, 0.5, 1 / 3, 0.5])
    assert verdict(morphism) == Exact()


def test_a_scaled_unit_is_exact_if_its_reader_undoes_it():
    linear = net("h: dense(3) |> relu |> o: dense(2)")
    morphism = resized(linear, h=[0, 1, 2])
    for name in ("h.weight", "h.bias"):
        morphism = scaled(morphism, name, 0, [2.0, 1.0, 1.0])
    assert isinstance(verdict(morphism), Changes)
    assert verdict(scaled(morphism, "o.weight", 1, [0.5, 1.0, 1.0])) == Exact()
    forgotten = scaled(scaled(resized(linear, h=[0, 1, 2]), "h.weight", 0, [2.0, 1.0, 1.0]), "o.weight", 1, [0.5, 1, 1])
    assert isinstance(verdict(forgotten), Changes), "the bias was not scaled along"
    curved = resized(GRAPH, h=[0, 1, 2])
    for name, dim, factor in (("h.weight", 0, 2.0), ("h.bias", 0, 2.0), ("o.weight", 1, 0.5)):
        curved = scaled(curved, name, dim, [factor, 1.0, 1.0])
    assert isinstance(verdict(curved), Changes), "tanh does not hand a factor on"


def test_a_negative_factor_does_not_pass_a_relu():
    graph = net("h: dense(3) |> relu |> o: dense(2)")
    morphism = resized(graph, h=[0, 1, 2])
    for name, dim in (("h.weight", 0), ("h.bias", 0), ("o.weight", 1)):
        morphism = scaled(morphism, name, dim, [-1.0, 1.0, 1.0])
    assert isinstance(verdict(morphism), Changes)


def test_new_units_must_be_zero_or_read_with_zero():
    assert verdict(resized(GRAPH, makes=Normal(1.0), h=[0, 1, 2, -1])) == Exact()
    assert verdict(resized(GRAPH, reads=Normal(1.0), h=[0, 1, 2, -1])) == Exact()
    assert isinstance(verdict(resized(GRAPH, Normal(1.0), Normal(1.0), h=[0, 1, 2, -1])), Changes)
    assert isinstance(verdict(resized(GRAPH, reads=Normal(1.0), bias=ONES, h=[0, 1, 2, -1])), Changes)


def test_a_permutation_is_exact():
    assert verdict(resized(GRAPH, h=[2, 0, 1])) == Exact()


def test_groups_read_their_own_units():
    graph = net(
        "c: conv(4, kernel = 1) |> g: conv(6, kernel = 3, padding = 1, groups = 2) |> relu |> avgpool |> o: dense(2)",
        "x: [2, 4, 4]",
    )
    assert verdict(resized(graph, Normal(1.0), g_DOT_groups=[0, 1, -1])) == Exact()
    assert verdict(resized(graph, Normal(1.0), g_DOT_reads=[0, 1, -1])) == Exact()
    assert verdict(resized(graph, Normal(1.0), g_DOT_groups=[1, 0])) == Exact()
    assert isinstance(verdict(resized(graph, g_DOT_reads=[0])), Changes)
    assert isinstance(verdict(resized(graph, g_DOT_groups=[1])), Changes)


def test_columns_known_to_be_zero_may_go():
    params = random_params(GRAPH, 1)
    params["o.weight"][:, 1] = 0
    assert verdict(resized(GRAPH, h=[0, 2]), params) == Exact()
    assert isinstance(verdict(resized(GRAPH, h=[0, 1]), params), Changes)
    assert np.abs(params["o.weight"][:, 2]).max() > 0
