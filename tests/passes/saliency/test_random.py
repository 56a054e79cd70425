"""Random: by seed and axis, and even over many seeds."""

import numpy as np

from irgrow.passes import Context, PruneUnits, RandomSaliency, plan


def test_the_seed_says_it_all(measured, programs):
    m = measured(programs["dense"][0])
    first, again, other = (RandomSaliency().scores(m.graph, "h", Context(seed=s)) for s in (4, 4, 5))
    np.testing.assert_array_equal(first, again)
    assert (first != other).all()


def test_every_unit_goes_sometimes(measured, programs):
    m = measured(programs["dense"][0])
    gone = np.zeros(5)
    for seed in range(200):
        result = plan(PruneUnits("h", by=RandomSaliency(), count=2), m.graph, Context(seed=seed))
        gone[np.setdiff1d(np.arange(5), result.morphism.edits["h"])] += 1
    assert gone.sum() == 400
    assert gone.min() > 50
