"""APoZ: shares of zeros; planted dead units come out lowest."""

import numpy as np

from irgrow.passes import Apoz, PruneUnits, plan


def test_shares_of_zeros(measured, programs):
    for name, node, over in (("dense", "r", 0), ("flatten", "relu_1", (0, 2, 3))):
        text, axis = programs[name]
        m = measured(text)
        wanted = 1.0 - (m.values[node] == 0).mean(over)
        np.testing.assert_allclose(m.scores(Apoz(), axis), wanted, rtol=1e-12)
        assert 0 < wanted.mean() < 1


def test_planted_dead_units_go_first(measured, programs):
    m = measured(programs["dense"][0])
    m.params["h.bias"] = np.array([9.0, -99.0, 9.0, 9.0, -99.0])
    scores = m.scores(Apoz(), "h")
    assert scores.tolist() == [1.0, 0.0, 1.0, 1.0, 0.0]
    result = plan(PruneUnits("h", by=Apoz(), threshold=0.5), m.graph, m.context(Apoz(), "h"))
    assert result.morphism.edits["h"].tolist() == [0, 2, 3]


def test_a_channel_behind_batch_norm(measured, programs):
    m = measured(programs["flatten"][0])
    m.params["batchnorm_1.bias"][3] = -99.0
    assert np.argmin(m.scores(Apoz(), "c")) == 3


def test_without_zeros_it_tells_nothing_apart(measured, programs):
    m = measured(programs["tokens mixed"][0])
    reason = plan(PruneUnits("m", by=Apoz(), count=1), m.graph, m.context(Apoz(), "m")).verdict.reason
    assert reason == "apoz counts zeros, and the activity of `m` has none"
