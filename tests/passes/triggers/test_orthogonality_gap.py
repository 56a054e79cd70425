"""The orthogonality gap, from the Gram matrix alone, against its definition over the samples."""

import json
from math import ceil, floor, sqrt

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from irgrow.errors import OptionError
from irgrow.grammar import parse
from irgrow.passes import OrthogonalityGap, View
from irgrow.passes.analyses.spectrum import Gram, orthogonality
from irgrow.passes.records.activity import Activity


def graph_of(width):
    return parse(f"net n(x: [9]) {{ return x |> h: dense({width}) |> r: relu |> dense(3) }}")


def gram_of(h):
    """The record of activity H, units by samples."""
    gram = Gram(0, window=h.shape[1])
    gram.add(torch.as_tensor(h.T.copy()))
    return gram


def as_defined(h):
    n = h.shape[1]
    return 1 - np.linalg.norm(h.T @ h / np.linalg.norm(h) ** 2 - np.eye(n) / n)


def orthonormal(width, samples, seed=0):
    q, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(samples, width)))
    return q.T


@given(st.integers(0, 10**6), st.integers(1, 12), st.integers(13, 60), st.floats(0, 4))
def test_it_is_what_the_definition_over_samples_says(seed, width, samples, offset):
    h = np.random.default_rng(seed).normal(size=(width, samples)) + offset
    assert orthogonality(gram_of(h)) == pytest.approx(as_defined(h), abs=1e-12)


@pytest.mark.parametrize(("width", "samples", "phi"), [(64, 128, 0.912), (4, 4096, 0.5), (1, 50, 1 - sqrt(1 - 1 / 50))])
def test_orthonormal_units_are_not_at_one_and_the_width_says_how_far(width, samples, phi):
    h = orthonormal(width, samples)
    assert orthogonality(gram_of(h)) == pytest.approx(1 - sqrt(1 / width - 1 / samples), abs=1e-12)
    assert orthogonality(gram_of(h)) == pytest.approx(phi, abs=1e-3)


def test_the_printed_formula_without_the_identity_is_another():
    """Negative control: what is subtracted is I_n / n, not 1 / n in every entry."""
    h = orthonormal(5, 40)
    printed = 1 - np.linalg.norm(h.T @ h / np.linalg.norm(h) ** 2 - 1 / 40)
    assert abs(orthogonality(gram_of(h)) - printed) > 1e-3


def test_units_that_are_all_the_same_or_zero_have_none():
    same = np.ones((6, 50))
    assert orthogonality(gram_of(same)) == pytest.approx(1 - sqrt(1 - 1 / 50), abs=1e-12)
    assert orthogonality(gram_of(0 * same)) == 0.0
    assert OrthogonalityGap().wanted(View(graph_of(6), recorded={"r": gram_of(0 * same)}), "h", {}) == 0


def test_the_count_is_a_ceiling_and_the_target_a_floor():
    h = np.random.default_rng(3).normal(size=(8, 100)) + 0.5
    phi = as_defined(h)
    for gamma in (0.3, 0.9, 1.0, 1.5):
        expected = max(0, ceil(phi * 8) - floor(gamma * phi * 8))
        assert OrthogonalityGap(gamma).wanted(View(graph_of(8), recorded={"r": gram_of(h)}), "h", {}) == expected


def run(trigger, grams, width=8):
    memory, found = {}, []
    for h in grams:
        found.append(trigger.wanted(View(graph_of(width), recorded={"r": gram_of(h)}), "h", memory))
    assert json.loads(json.dumps(memory)) == memory
    return found


def test_baselines():
    rng = np.random.default_rng(1)
    poor, good = rng.normal(size=(8, 100)) + 3, orthonormal(8, 100)
    rise = ceil(as_defined(good) * 8) - floor(as_defined(poor) * 8)
    assert rise > 1
    assert run(OrthogonalityGap(1.0), [poor, good])[1] == rise
    assert run(OrthogonalityGap(1.0, "maximum"), [poor, good])[1] <= 1, "the maximum takes in what is measured now"
    trigger, memory = OrthogonalityGap(1.0, "last"), {}
    view = View(graph_of(8), recorded={"r": gram_of(poor)})
    trigger.wanted(view, "h", memory)
    trigger.settle(View(graph_of(8), recorded={"r": gram_of(good)}), "h", memory)
    assert memory["phi"] == pytest.approx(as_defined(good), abs=1e-12)


def test_a_wider_layer_that_is_as_orthogonal_is_always_above_the_first_baseline():
    """Why `initial` alone does not stop: the gap's best value depends on the width."""
    trigger, memory = OrthogonalityGap(1.0), {}
    trigger.wanted(View(graph_of(8), recorded={"r": gram_of(orthonormal(8, 400))}), "h", memory)
    assert trigger.wanted(View(graph_of(64), recorded={"r": gram_of(orthonormal(64, 400))}), "h", memory) > 5


def test_what_it_watches_and_when_it_says_nothing():
    assert OrthogonalityGap(samples=300).watches(graph_of(4), "h") == (Activity(300, "r"),)
    with pytest.raises(OptionError, match="`x` has none"):
        OrthogonalityGap().watches(graph_of(4), "x")
    assert OrthogonalityGap().wanted(View(graph_of(4)), "h", {}) == 0
    with pytest.raises(OptionError, match="activity of `h` is not finite"):
        OrthogonalityGap().wanted(View(graph_of(4), recorded={"r": gram_of(np.full((4, 20), np.inf))}), "h", {})
