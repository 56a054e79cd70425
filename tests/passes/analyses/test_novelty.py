"""How much new activity adds."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from irgrow.passes.analyses.novelty import matched, most_novel


@given(st.integers(0, 10**6))
def test_what_is_explained_is_chosen_last(seed):
    rng = np.random.default_rng(seed)
    existing = rng.normal(size=(4, 30))
    explained = rng.normal(size=(3, 4)) @ existing
    fresh = 0.1 * rng.normal(size=(3, 30))
    order = most_novel(existing, np.concatenate([explained, fresh]), 6, False, False, 1e-6)
    assert set(order[:3].tolist()) == {3, 4, 5}


@given(st.integers(0, 10**6), st.booleans(), st.booleans(), st.integers(1, 5))
def test_choices_are_distinct(seed, by_rank, greedy, count):
    rng = np.random.default_rng(seed)
    chosen = most_novel(rng.normal(size=(2, 9)), rng.normal(size=(5, 9)), count, by_rank, greedy, 0.01)
    assert len(set(chosen.tolist())) == count


def test_matching_norms():
    drawn = matched(np.array([[3.0, 4.0], [0.0, 0.0]]), np.array([[0.0, 1.0], [3.0, 0.0]]))
    np.testing.assert_allclose(np.linalg.norm(drawn, axis=1), [2.0, 0.0])
    np.testing.assert_array_equal(matched(np.ones((1, 2)), np.zeros((1, 2))), np.ones((1, 2)))
