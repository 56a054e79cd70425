"""Norm gain: batch-norm gains, summed over the norms of a stream."""

import numpy as np

from irgrow.passes import Context, NormGain, PruneUnits, plan


def test_absolute_gains(measured, programs):
    m = measured(programs["flatten"][0])
    m.params["batchnorm_1.weight"] = np.array([0.5, -2.0, 0.0, 1.0])
    assert m.scores(NormGain(), "c").tolist() == [0.5, 2.0, 0.0, 1.0]
    result = plan(PruneUnits("c", by=NormGain(), threshold=0.6), m.graph, Context(m.params))
    assert result.morphism.edits["c"].tolist() == [1, 3]


def test_norms_of_a_stream_are_added(measured, programs):
    m = measured(programs["residual"][0])
    wanted = np.abs(m.params["batchnorm_1.weight"]) + np.abs(m.params["batchnorm_2.weight"])
    np.testing.assert_allclose(m.scores(NormGain(), "c"), wanted, rtol=1e-12)


def test_groups_count_with_all_their_channels(measured):
    body = "conv(6, kernel = 1) |> bn: batchnorm |> g: conv(6, kernel = 3, groups = 3) |> relu |> avgpool |> dense(2)"
    m = measured(f"net n(x: [2, 6, 6]) {{ return x |> {body} }}")
    wanted = np.abs(m.params["bn.weight"]).reshape(3, 2).sum(1)
    np.testing.assert_allclose(m.scores(NormGain(), "g.groups"), wanted, rtol=1e-12)


def test_refusals(measured, programs):
    plain = "net n(x: [2, 6, 6]) { return x |> c: conv(3, kernel = 1) |> batchnorm(affine = false) |> relu |> avgpool |> dense(2) }"
    for text, axis in (programs["dense"], (plain, "c")):
        m = measured(text)
        reason = plan(PruneUnits(axis, by=NormGain(), count=1), m.graph, Context(m.params)).verdict.reason
        assert reason == f"norm_gain looks at the gains of batch norms, and `{axis}` passes none"
    m = measured(programs["flatten"][0])
    m.params["batchnorm_1.weight"][0] = np.nan
    reason = plan(PruneUnits("c", by=NormGain(), count=1), m.graph, Context(m.params)).verdict.reason
    assert reason == "`batchnorm_1.weight` is not finite"
