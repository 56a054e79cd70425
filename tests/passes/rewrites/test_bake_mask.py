"""Baking masks in: plain layers with zeros, bit for bit the same."""

import pytest
import torch
from hypothesis import strategies as st

from irgrow.backends import random_params
from irgrow.grammar import parse
from irgrow.network import Network
from irgrow.passes import BakeMask, Context, plan
from irgrow.testing import check_pass
from irgrow.testing.laws import same_snapshot, snapshot
from irgrow.testing.numbers import as_tensors, carried, output_error, random_inputs
from irgrow.verdict import Exact, Refused

LAYERS = {
    "dense": ("x: [5]", "dense(7, masked = true)"),
    "conv": ("x: [2, 5, 6]", "conv(4, kernel = 3, groups = 2, masked = true, bias = false)"),
    "conv of signals": ("x: [2, 5]", "conv(4, kernel = 3, masked = true)"),
    "depthwise": ("x: [2, 5, 6]", "depthwise(kernel = 3, masked = true)"),
}


def alive(graph, seed=0):
    """Return parameters whose masked entries are not zero, so that forgetting the mask shows."""
    params = random_params(graph, seed)
    return {name: value + 0.5 if name.endswith("weight") else value for name, value in params.items()}


@pytest.mark.parametrize("layer", LAYERS)
def test_every_kind_of_layer(layer):
    shape, call = LAYERS[layer]
    graph = parse(f"net n({shape}) {{ return x |> layer: {call} |> relu }}")
    params = alive(graph)
    for context in (Context(params), Context()):
        assert plan(BakeMask("layer"), graph, context).verdict == Exact()
    morphism = plan(BakeMask("layer"), graph).morphism
    assert list(morphism.after.params) == [name for name in graph.params if not name.endswith("mask")]
    assert output_error(morphism, params, random_inputs(graph, 0)) == 0.0
    made = carried(morphism, params)["layer.weight"]
    assert (made == params["layer.weight"] * params["layer.mask"]).all()
    assert (made == 0).any()


def test_live_networks_hold_stock_modules():
    graph = parse("net n(x: [5]) { return x |> h: dense(7, masked = true) |> relu |> dense(2) }")
    net = Network(graph, as_tensors(graph, alive(graph)))
    net.params["h.weight"].requires_grad_(False)
    x = torch.ones(2, 5, dtype=torch.float64)
    before = net(x).detach()
    receipt = net.rewrite("bake_mask(h)")
    assert receipt.verdict == Exact()
    assert torch.equal(net(x).detach(), before)
    assert type(net.module.get_submodule("h")) is torch.nn.Linear
    assert not net.params["h.weight"].requires_grad


def test_layers_that_share_weight_and_mask_go_together():
    text = "return x |> a: dense(4, masked = true) |> relu |> b: dense(4, masked = {}, tied = a)"
    graph = parse(f"net n(x: [4]) {{ {text.format('true')} }}")
    for site in ("a", "b"):
        result = plan(BakeMask(site), graph)
        assert result.verdict == Exact()
        assert output_error(result.morphism, alive(graph), random_inputs(graph, 0)) == 0.0
    bare = parse(f"net n(x: [4]) {{ {text.format('false')} }}")
    verdict = plan(BakeMask("a"), bare).verdict
    assert isinstance(verdict, Refused)
    assert verdict.reason == "`b` uses the weight of `a` without its mask"


def test_refusals_change_nothing():
    graph = parse("net n(x: [4]) { axis d = 3  return x |> a: dense(d) }")
    net = Network(graph, as_tensors(graph, random_params(graph, 0)))
    before = snapshot(net)
    for site, reason in (
        ("a", "`a` is not masked"),
        ("x", "`x` is not masked"),
        ("d", "is an axis"),
        ("q", "no axis or node"),
    ):
        receipt = net.rewrite(BakeMask(site))
        assert not receipt.applied
        assert reason in receipt.verdict.reason
    assert same_snapshot(before, snapshot(net)) is None


def test_laws():
    applied = []

    def options(graph):
        fitting = [n.name for n in graph if BakeMask(n.name).match(graph, n.name) is None]
        applied.extend(fitting)
        return st.sampled_from(fitting or list(graph.by_name)).map(BakeMask)

    layers = st.lists(st.sampled_from(list(LAYERS.values())[1::2]), min_size=1, max_size=2)
    nets = layers.map(
        lambda made: parse(f"net n(x: [2, 5, 6]) {{ return x |> {' |> relu |> '.join(c for _, c in made)} }}")
    )
    check_pass(BakeMask, options=options, programs=nets)
    assert len(applied) >= 8, "the laws were put to it"
