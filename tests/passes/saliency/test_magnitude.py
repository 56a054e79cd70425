"""Magnitude: norms of the weights that make and read a unit, against sums written out."""

import numpy as np
import pytest

from irgrow.passes import Context, Magnitude, plan
from irgrow.passes.rewrites.prune_units import PruneUnits
from irgrow.passes.saliency.base import scored

PACKED = (
    "net n(x: ids(9)[5]) { p = x |> embedding(8) |> dense(24)  q, k, v = chunk(p, 3)"
    "  return dot_product_attention(q, k, v, heads = 2) |> dense(8) |> avgpool |> dense(2) }"
)


def test_dense_by_hand(measured):
    m = measured("net n(x: [2]) { return x |> h: dense(2) |> relu |> dense(1) }")
    m.params |= {
        "h.weight": np.array([[3.0, -4.0], [1.0, 1.0]]),
        "h.bias": np.array([100.0, 100.0]),
        "dense_1.weight": np.array([[-12.0, 2.0]]),
    }
    assert m.scores(Magnitude(1), "h").tolist() == [7.0, 2.0]
    assert m.scores(Magnitude(2), "h").tolist() == [5.0, np.sqrt(2.0)]
    assert m.scores(Magnitude(1, "fan_out"), "h").tolist() == [12.0, 2.0]
    assert m.scores(Magnitude(2, "both"), "h").tolist() == [13.0, np.sqrt(6.0)]


def test_a_channel_is_read_at_every_position_behind_a_flatten(measured, programs):
    m = measured(programs["flatten"][0])
    reads = m.params["dense_1.weight"].reshape(3, 4, 36)
    np.testing.assert_allclose(m.scores(Magnitude(1, "fan_out"), "c"), np.abs(reads).sum((0, 2)), rtol=1e-12)
    makes = np.sqrt((m.params["c.weight"] ** 2).sum((1, 2, 3)))
    np.testing.assert_allclose(m.scores(Magnitude(), "c"), makes, rtol=1e-12)


def test_a_stream_counts_all_layers_that_write_to_it(measured, programs):
    m = measured(programs["residual"][0])
    writes = [m.params[n] for n in ("c.weight", "conv_1.weight")]
    wanted = sum(np.abs(w).sum((1, 2, 3)) for w in writes)
    np.testing.assert_allclose(m.scores(Magnitude(1), "c"), wanted, rtol=1e-12)


def test_groups_count_with_all_their_units(measured, programs):
    m = measured(programs["grouped"][0])
    c, g = (np.abs(m.params[f"{n}.weight"]).reshape(3, -1).sum(1) for n in "cg")
    np.testing.assert_allclose(m.scores(Magnitude(1), "g.groups"), c + g, rtol=1e-12)


def test_a_weight_that_makes_and_reads_the_same_unit_counts_once(measured, programs):
    m = measured(programs["layer on itself"][0])
    square = np.abs(m.params["dense_1.weight"])
    own = np.abs(m.params["h.weight"]).sum(1) + np.abs(m.params["dense_2.weight"]).sum(0)
    wanted = own + square.sum(0) + square.sum(1) - np.diag(square)
    np.testing.assert_allclose(m.scores(Magnitude(1, "both"), "h"), wanted, rtol=1e-12)
    assert not np.allclose(wanted, own + square.sum(0) + square.sum(1)), "the diagonal matters here"


def test_what_a_mask_switches_off_does_not_count(measured, programs):
    m = measured(programs["masked"][0])
    m.params["h.mask"] = (np.arange(15).reshape(5, 3) % 2).astype(float)
    wanted = np.abs(m.params["h.weight"] * m.params["h.mask"]).sum(1)
    np.testing.assert_allclose(m.scores(Magnitude(1), "h"), wanted, rtol=1e-12)
    assert (wanted < np.abs(m.params["h.weight"]).sum(1)).all()


def test_refusals(measured, programs):
    text, axis = programs["dense"]
    m = measured(text)
    rewrite = PruneUnits(axis, by=Magnitude(), count=1)
    assert (
        "magnitude needs the values of `h.weight`: the network has no parameters"
        in plan(rewrite, m.graph, Context()).verdict.reason
    )
    m.params["h.weight"][1, 1] = np.inf
    assert plan(rewrite, m.graph, Context(m.params)).verdict.reason == "`h.weight` is not finite"
    heads = measured(PACKED)
    axis = "dot_product_attention_1.head_dim"
    unread = PruneUnits(axis, by=Magnitude(side="fan_out"), count=1)
    reason = plan(unread, heads.graph, Context(heads.params)).verdict.reason
    assert reason == f"magnitude looks at the weights that read `{axis}`, and there are none"


@pytest.mark.parametrize("value", [1e200, 1e-200])
def test_sizes_that_squares_cannot_hold_are_refused_or_harmless(measured, programs, value):
    m = measured(programs["dense"][0])
    m.params["h.weight"] = np.full((5, 3), value)
    with np.errstate(over="ignore"):
        verdict = plan(PruneUnits("h", by=Magnitude(2), count=1), m.graph, Context(m.params)).verdict
    assert ("is not finite" in str(verdict)) == (value > 1)
    assert np.isfinite(scored(Magnitude(1), m.graph, "h", Context(m.params))).all()
