"""Variance of activity, against NumPy on the values themselves."""

import numpy as np

from irgrow.passes import PruneUnits, Variance, plan


def test_over_samples_and_positions(measured, programs):
    dense = measured(programs["dense"][0])
    np.testing.assert_allclose(dense.scores(Variance(), "h"), dense.values["r"].var(0), rtol=1e-12)
    conv = measured(programs["flatten"][0])
    np.testing.assert_allclose(conv.scores(Variance(), "c"), conv.values["relu_1"].var((0, 2, 3)), rtol=1e-12)


def test_places_are_added(measured, programs):
    stream = measured(programs["residual"][0])
    wanted = sum(stream.values[n].var((0, 2, 3)) for n in ("relu_1", "batchnorm_2"))
    np.testing.assert_allclose(stream.scores(Variance(), "c"), wanted, rtol=1e-12)
    heads = measured(programs["heads"][0])
    wanted = heads.values["attn.mix"].var((0, 1)).reshape(2, 4).sum(1)
    np.testing.assert_allclose(heads.scores(Variance(), "attn.heads"), wanted, rtol=1e-12)


def test_a_constant_unit_goes_first(measured, programs):
    m = measured(programs["dense"][0])
    m.params["h.weight"][2] = 0.0
    assert m.scores(Variance(), "h")[2] == 0.0
    rewrite = PruneUnits("h", by=Variance(), count=1)
    morphism = plan(rewrite, m.graph, m.context(Variance(), "h")).morphism
    units = morphism.edits["h"].tolist()
    dead = np.flatnonzero(m.values["r"].var(0) == 0)
    assert units == [u for u in range(5) if u != dead[0]], "of units that never vary the first goes"


def test_a_single_number_has_no_variance(measured, programs):
    m = measured(programs["dense"][0], batch=1)
    reason = plan(PruneUnits("h", by=Variance(), count=1), m.graph, m.context(Variance(), "h")).verdict.reason
    assert reason == "variance needs more than one sample of the activity of `h`"
    conv = measured(programs["flatten"][0], batch=1)
    assert conv.scores(Variance(), "c").max() > 0, "one sample has many positions"
