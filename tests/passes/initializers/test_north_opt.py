"""NORTH-Opt: candidates that climbed are newer than the best of those that did not."""

import numpy as np
import pytest

from irgrow.backends import interpret
from irgrow.grammar import parse
from irgrow.passes import Context, GrowUnits, NorthOpt, NorthSelect, plan
from irgrow.passes.analyses.bench import bench
from irgrow.passes.analyses.novelty import row_space
from irgrow.testing.checking import check_pass
from irgrow.testing.laws import LAWS, Case
from irgrow.verdict import Exact

from .north import CNN, WIDE, grown, values

NORMED = CNN.replace("|> relu |> y", "|> batchnorm |> silu |> y")


def distances(text, init, count=2):
    """Return for every new unit how far its activity is from the row space of those before it, and the fan-in."""
    graph, params, inputs, result, new = grown(text, init, count)
    assert result.verdict == Exact()
    after = values(result.morphism, params, inputs)
    active = next(v for n, v in after.items() if n.startswith(("tanh", "relu", "silu")))
    flat = np.moveaxis(active, 1, 0).reshape(active.shape[1], -1)
    old = graph.widths["h"]
    found = []
    for i in range(old, old + count):
        rest = flat[i] - np.linalg.lstsq(flat[:i].T, flat[i], rcond=None)[0] @ flat[:i]
        found.append((rest**2).mean())
    return np.array(found), new["h.weight"][old:]


@pytest.mark.parametrize("text", [WIDE, CNN])
def test_newer_than_the_best_of_the_drawn(text):
    still, _ = distances(text, NorthOpt(10, steps=0))
    climbed, fan_in = distances(text, NorthOpt(10))
    assert climbed[0] > 1.2 * still[0]
    assert climbed[1] > 0
    select, _ = distances(text, NorthSelect(10))
    assert climbed[0] > select[0] * 0.9
    _, params, *_ = grown(text, NorthOpt(1, steps=0))
    rows = params["h.weight"].reshape(len(params["h.weight"]), -1)
    norms = np.linalg.norm(fan_in.reshape(2, -1), axis=1)
    np.testing.assert_allclose(norms, np.linalg.norm(rows, axis=1).mean(), rtol=1e-12)


def test_units_found_one_after_the_other_are_not_alike():
    _, fan_in = distances(WIDE, NorthOpt(10))
    a, b = fan_in.reshape(2, -1)
    assert abs(a @ b) / np.linalg.norm(a) / np.linalg.norm(b) < 0.99


@pytest.mark.parametrize("text", [WIDE, CNN, NORMED])
def test_the_gradient_is_that_of_the_distance(text):
    graph, params, inputs, *_ = grown(text, NorthOpt(1, steps=0))
    recorded = interpret(graph, params, inputs).values
    tried = bench(graph, "h", params, recorded, 300, "a test")
    basis = row_space(tried.existing / np.sqrt(tried.existing.shape[1]), 0.01)
    rng = np.random.default_rng(0)
    w = rng.normal(size=(3, tried.fields.shape[0]))
    score, slope = tried.newness(w, basis)
    active = tried.activity(w)
    rest = active - (active @ basis.T) @ basis
    np.testing.assert_allclose(score, (rest**2).mean(1), rtol=1e-10)
    move = 1e-6 * rng.normal(size=w.shape)
    change = tried.newness(w + move, basis)[0] - tried.newness(w - move, basis)[0]
    np.testing.assert_allclose(change, 2 * (slope * move).sum(1), rtol=1e-4)


def test_what_is_missing_is_said_and_laws_hold():
    graph = parse(WIDE)
    assert "north_opt needs the values of `x`" in plan(GrowUnits("h", 1, NorthOpt()), graph, Context()).verdict.reason
    for law in LAWS:
        law(Case(graph, GrowUnits("h", 2, NorthOpt(3, steps=3)), 3, 12))
    check_pass(GrowUnits(init=NorthOpt(3, steps=2)), examples=8)
