"""Dormancy: mean absolute activity relative to the layer; planted dead units score zero."""

import numpy as np
import torch

from irgrow.passes import Context, Dormancy, PruneUnits, plan


def test_relative_to_the_layer(measured, programs):
    for name, node, over in (("dense", "r", 0), ("flatten", "relu_1", (0, 2, 3))):
        text, axis = programs[name]
        m = measured(text)
        size = np.abs(m.values[node]).mean(over)
        np.testing.assert_allclose(m.scores(Dormancy(), axis), size / size.mean(), rtol=1e-12)


def test_negative_activity_is_activity(measured, programs):
    m = measured("net n(x: [3]) { return x |> h: dense(4) |> t: tanh |> dense(2) }")
    size = np.abs(m.values["t"]).mean(0)
    np.testing.assert_allclose(m.scores(Dormancy(), "h"), size / size.mean(), rtol=1e-12)
    assert (m.values["t"] < 0).any()


def test_planted_dead_units(measured, programs):
    m = measured(programs["dense"][0])
    m.params["h.bias"] = np.array([9.0, -99.0, 9.0, 9.0, -99.0])
    assert np.flatnonzero(m.scores(Dormancy(), "h") == 0).tolist() == [1, 4]
    result = plan(PruneUnits("h", by=Dormancy(), threshold=0.1), m.graph, m.context(Dormancy(), "h"))
    assert result.morphism.edits["h"].tolist() == [0, 2, 3]


def test_a_layer_that_is_dead_altogether_scores_zero(measured, programs):
    m = measured(programs["dense"][0])
    m.params["h.bias"][:] = -99.0
    assert m.scores(Dormancy(), "h").tolist() == [0.0] * 5


def test_a_loud_layer_of_a_stream_does_not_drown_the_others(measured, programs):
    m = measured(programs["residual"][0])
    before = m.scores(Dormancy(), "c")
    for name in ("weight", "bias"):
        m.params[f"batchnorm_2.{name}"] *= 1000.0
    np.testing.assert_allclose(m.scores(Dormancy(), "c"), before, rtol=1e-12)


def test_refusals(measured, programs):
    m = measured(programs["dense"][0])
    rewrite = PruneUnits("h", by=Dormancy(), count=1)
    assert plan(rewrite, m.graph, Context(m.params)).verdict.reason == (
        "dormancy needs the values of `r`: pass a `batch`"
    )
    empty = Context(m.params, 0, {"r": torch.zeros(0, 5)})
    assert plan(rewrite, m.graph, empty).verdict.reason == "the batch has no samples"
    broken = m.context(Dormancy(), "h")
    broken.statistics["r"][0, 0] = torch.nan
    assert plan(rewrite, m.graph, broken).verdict.reason == "what was recorded at `r` is not finite"
