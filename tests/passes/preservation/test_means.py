"""New units that are the mean of the old ones: where the prover may say so, and where it must not."""

import numpy as np
import pytest
from helpers import net, resized

from irgrow.backends import interpret, random_params
from irgrow.fills import ZERO, Mean, Normal
from irgrow.grammar import parse
from irgrow.passes import Prover
from irgrow.passes.preservation.known import MEAN
from irgrow.testing.numbers import carried, random_inputs


def statuses(graph, node, bias=None, chosen=None, **edits):
    """Return the status of the new units of a node, and how far they are from the mean of the old ones."""
    morphism = resized(graph, Mean(), Normal(1.0), Mean() if bias is None else bias, **edits)
    prover = Prover(morphism)
    prover.run()
    params, inputs = random_params(graph, 0), random_inputs(graph, 0)
    value = interpret(morphism.after, carried(morphism, params), inputs).values[node]
    dim = 1 + morphism.after.types[node].unit_dim
    value = np.moveaxis(value, dim, 0)
    known = prover.known[node]
    new = known.new
    error = np.abs(value[new] - value[~new].mean(0)).max()
    return known.status[new].tolist(), error


@pytest.mark.parametrize(
    ("body", "shape", "node"),
    [
        ("h: dense(3) |> id: identity |> dense(2)", "x: [4]", "id"),
        ("h: conv(3, 2) |> flatten(start = 1) |> t: transpose |> dense(2)", "x: [2, 4, 3]", "t"),
        ("transpose |> h: dense(3) |> p: positions |> dense(2)", "x: [4, 2]", "p"),
        ("transpose |> h: dense(3) |> p: classtoken |> dense(2)", "x: [4, 2]", "p"),
        ("sum { h: dense(3); dense(3) } |> id: identity |> dense(2)", "x: [4]", "id"),
        ("h: dense(3, masked = true) |> id: identity |> dense(2)", "x: [4]", "id"),
    ],
)
def test_means_are_means(body, shape, node):
    found, error = statuses(net(body, shape), node, h=[0, 1, 2, -1, -1])
    assert found == [MEAN, MEAN]
    assert error < 1e-14


@pytest.mark.parametrize(
    ("body", "shape", "node"),
    [
        ("h: dense(3) |> s: scale |> dense(2)", "x: [4]", "s"),
        ("h: dense(3) |> r: relu |> dense(2)", "x: [4]", "r"),
        ("h: conv(3, 2) |> p: maxpool(2) |> flatten |> dense(2)", "x: [2, 4, 3]", "p"),
        ("h: conv(3, 1) |> d: depthwise(3, padding = 1) |> flatten |> dense(2)", "x: [2, 4, 3]", "d"),
        ("h: dense(3) |> m: residual { gate: sigmoid } |> dense(2)", "x: [4]", "m"),
    ],
)
def test_elsewhere_nothing_is_claimed(body, shape, node):
    found, error = statuses(net(body, shape), node, h=[0, 1, 2, -1])
    assert MEAN not in found
    assert error > 1e-6


def test_a_bias_that_is_not_the_mean():
    found, error = statuses(net("h: dense(3) |> id: identity |> dense(2)"), "id", bias=ZERO, h=[0, 1, 2, -1])
    assert MEAN not in found
    assert error > 1e-6


def test_means_over_other_units():
    """Behind a flatten the mean would be over other units."""
    graph = net("h: conv(3, 2) |> f: flatten |> dense(2)", "x: [2, 4, 3]")
    found, _ = statuses(graph, "f", h=[0, 1, 2, -1])
    assert MEAN not in found


def test_groups_have_no_common_mean():
    graph = parse("net n(x: [4, 3, 3]) { return x |> h: conv(6, 3, groups = 2) |> avgpool |> dense(2) }")
    morphism = resized(graph, Mean(), Normal(1.0), Mean(), h_DOT_makes=[0, 1, 2, -1])
    prover = Prover(morphism)
    prover.run()
    assert MEAN not in prover.known["h"].status


def test_what_was_removed_is_missing_in_the_mean():
    found, error = statuses(net("h: dense(3) |> id: identity |> dense(2)"), "id", h=[0, 2, -1])
    assert MEAN not in found
    assert error < 1e-14, "it is the mean of those that stay, not of the old ones"
