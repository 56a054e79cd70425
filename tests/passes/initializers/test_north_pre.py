"""NORTH-Pre: the pre-activations of new units are orthogonal to those there are, and the best by activity are kept."""

import numpy as np
import pytest
import torch

from irgrow.fills import Given
from irgrow.grammar import parse
from irgrow.network import build
from irgrow.passes import Context, GrowUnits, NorthPre, NorthSelect, Random, plan
from irgrow.testing.checking import check_pass
from irgrow.testing.laws import LAWS, Case
from irgrow.verdict import Exact

from .north import CNN, NARROW, WIDE, cosines, grown, values


def test_orthogonal_to_rounding_with_the_solved_bias():
    _, params, inputs, result, new = grown(WIDE, NorthPre(candidates=30))
    assert result.verdict == Exact()
    z = values(result.morphism, params, inputs)["h"].T
    assert cosines(z[5:], z[:5]) < 1e-13
    assert np.abs(new["h.bias"][5:]).min() > 0
    assert not result.morphism.notes


def test_without_the_bias_the_rest_is_left():
    """Negative control: what the text prints, zero biases, is not orthogonal, nor is a random unit."""
    _, params, inputs, result, new = grown(WIDE, NorthPre("zero", candidates=30))
    z = values(result.morphism, params, inputs)["h"].T
    assert not new["h.bias"][5:].any()
    assert cosines(z[5:], z[:5]) > 1e-3
    h = inputs["x"]
    shifted = z[5:].T + np.linalg.lstsq(np.ones((len(h), 1)), -z[5:].T, rcond=None)[0]
    assert shifted.shape == (20, 2)
    _, params, inputs, result, _ = grown(WIDE, Random())
    z = values(result.morphism, params, inputs)["h"].T
    assert cosines(z[5:], z[:5]) > 1e-2


def test_a_layer_without_bias_needs_none():
    text = WIDE.replace("dense(5)", "dense(5, bias = false)")
    _, params, inputs, result, _ = grown(text, NorthPre(candidates=30))
    z = values(result.morphism, params, inputs)["h"].T
    assert cosines(z[5:], z[:5]) < 1e-13


def test_norms_match_and_the_most_novel_are_kept():
    _, params, _, _, new = grown(WIDE, NorthPre(candidates=40), count=1)
    mean = np.linalg.norm(params["h.weight"], axis=1).mean()
    assert np.linalg.norm(new["h.weight"][5:], axis=1) == pytest.approx(mean, rel=1e-12)
    distances = []
    for candidates in (0, 40):
        _, params, inputs, result, _ = grown(WIDE, NorthPre(candidates=candidates or 1), count=1)
        active = np.tanh(values(result.morphism, params, inputs)["h"].T)
        rest = active[5:] - (np.linalg.lstsq(active[:5].T, active[5:].T, rcond=None)[0].T @ active[:5])
        distances.append((rest**2).sum())
    assert distances[1] >= distances[0]


@pytest.mark.parametrize(("text", "batch"), [(NARROW, 20), (WIDE, 4), (WIDE, 5)])
def test_a_trivial_kernel_falls_back_and_the_receipt_says_so(text, batch):
    _, _, _, result, new = grown(text, NorthPre(candidates=20, greedy=True), batch=batch)
    assert result.verdict == Exact()
    note, *others = result.morphism.notes
    assert [other.partition(":")[0] for other in others] == ["north_select"] * (batch <= 5), (
        "nor has that enough columns"
    )
    assert note == (
        "north_pre: what `h` gives spans all that it reads, so nothing is orthogonal to it; new units are those of "
        "north_select"
    )
    _, _, _, select, its = grown(text, NorthSelect(candidates=20, greedy=True), batch=batch)
    assert select.morphism.transfers["h.weight"].fills[0] == result.morphism.transfers["h.weight"].fills[0]
    np.testing.assert_array_equal(new["h.bias"], its["h.bias"])


def test_one_more_unit_than_inputs_is_the_boundary():
    """Four units, three inputs and a bias: the kernel is empty; with three units it holds one direction."""
    for units, falls in ((4, True), (3, False)):
        text = NARROW.replace("h: dense(5)", f"h: dense({units})")
        assert bool(grown(text, NorthPre(candidates=5), count=1)[3].morphism.notes) is falls


def test_the_receipt_of_a_live_network_carries_the_note():
    net = build(NARROW)
    receipt = net.rewrite(GrowUnits("h", 1, NorthPre(candidates=5)), statistics=torch.randn(12, 3))
    assert receipt.verdict == Exact()
    assert "north_pre" in str(receipt)
    net = build(WIDE)
    receipt = net.rewrite(GrowUnits("h", 1, NorthPre(candidates=5)), statistics=torch.randn(12, 9))
    assert "spans" not in str(receipt)
    assert isinstance(receipt.morphism.transfers["h.bias"].fills[0], Given)


def test_it_is_refused_where_it_has_no_meaning():
    assert "for dense layers, `h` is a conv" in grown(CNN, NorthPre(candidates=5))[3].verdict.reason
    graph = parse(WIDE)
    reason = plan(GrowUnits("h", 1, NorthPre()), graph, Context()).verdict.reason
    assert "give `batch` or `statistics`" in reason
    _, params, inputs, result, _ = grown(WIDE, NorthPre(candidates=5))
    recorded = values(result.morphism, params, inputs)
    bad = {"x": inputs["x"], "tanh_1": np.full((20, 5), np.nan), "h": recorded["h"][:, :5]}
    assert "not finite" in plan(GrowUnits("h", 1, NorthPre()), graph, Context(params, 0, bad)).verdict.reason
    bad = {"x": inputs["x"], "tanh_1": recorded["tanh_1"][:, :5], "h": np.full((20, 5), np.inf)}
    assert "`h` are not finite" in plan(GrowUnits("h", 1, NorthPre()), graph, Context(params, 0, bad)).verdict.reason


def test_it_obeys_the_laws():
    for law in LAWS:
        law(Case(parse(WIDE), GrowUnits("h", 2, NorthPre(candidates=5)), 3, 12))
    check_pass(GrowUnits(init=NorthPre(candidates=5)), examples=10)
