"""Redundancy: planted duplicates are found, and of two only one goes."""

import numpy as np
import pytest

from irgrow.passes import Context, PruneUnits, Redundancy, plan


def activity(rows):
    """Return a context in which the units of `h` did this, one row each."""
    return Context(None, 0, {"r": np.array(rows, dtype=float).T})


def greedy(rows, measure):
    """Remove the most redundant unit again and again, everything computed afresh; return the order and the scores."""
    rows = np.array(rows, dtype=float)
    rows = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    left, order, scores = list(range(len(rows))), [], {}
    while left:
        similar = np.abs(rows[left] @ rows[left].T)
        np.fill_diagonal(similar, 0.0)
        if measure == "largest":
            each = similar.max(1)
        else:
            each = np.sqrt((similar**2).sum(1) / max(len(rows) - 1, 1))
        worst = int(np.argmax(np.round(each, 12)))
        scores[left[worst]] = 1.0 - each[worst]
        order.append(left.pop(worst))
    return order, [scores[i] for i in range(len(rows))]


@pytest.mark.parametrize("measure", ["largest", "norm"])
def test_against_removing_one_at_a_time(measured, measure):
    m = measured("net n(x: [3]) { return x |> h: dense(9) |> r: relu |> dense(2) }")
    for seed in range(5):
        rows = np.random.default_rng(seed).normal(size=(9, 6))
        order, wanted = greedy(rows, measure)
        scores = Redundancy(measure).scores(m.graph, "h", activity(rows))
        np.testing.assert_allclose(scores, wanted, atol=1e-7)
        assert np.argsort(scores, kind="stable").tolist() == order


def test_of_duplicates_only_one_goes(measured):
    m = measured("net n(x: [3]) { return x |> h: dense(5) |> r: relu |> dense(2) }")
    one, two, three = np.eye(6)[:3]
    rows = [one, two + 0.5 * three, 3 * one, three, -two - 0.5 * three]
    scores = Redundancy().scores(m.graph, "h", activity(rows))
    np.testing.assert_allclose(scores[:2], 0.0, atol=1e-15)
    assert scores[2] == 1.0, "its twin has gone"
    for count, kept in ((1, [1, 2, 3, 4]), (2, [2, 3, 4])):
        morphism = plan(PruneUnits("h", by=Redundancy(), count=count), m.graph, activity(rows)).morphism
        assert morphism.edits["h"].tolist() == kept


def test_without_recomputing_both_twins_would_go():
    """Negative control: scores that look at all others at once take every copy before anything else."""
    one, two = np.eye(4)[:2]
    rows = np.array([one, two + 0.1 * one, one, two - 0.2 * one])
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    similar = np.abs(rows @ rows.T) - np.eye(4)
    at_once = np.argsort(1 - similar.max(1), kind="stable")[:2].tolist()
    assert sorted(at_once) == [0, 2]
    assert greedy(rows, "largest")[0][:2] == [0, 1]


def test_planted_in_weights(measured, programs):
    m = measured(programs["flatten"][0], batch=3)
    for name in (
        "c.weight",
        "c.bias",
        *(f"batchnorm_1.{k}" for k in ("weight", "bias", "running_mean", "running_var")),
    ):
        m.params[name][3] = m.params[name][1]
    scores = m.scores(Redundancy(), "c")
    assert np.argmin(scores) == 1
    assert scores[1] == pytest.approx(0.0, abs=1e-12)
    assert scores[3] > 1e-3


def test_units_that_are_never_active_go_first(measured):
    m = measured("net n(x: [3]) { return x |> h: dense(3) |> r: relu |> dense(2) }")
    rows = [[1.0, 1.0], [1.0, 1.0], [0.0, 0.0]]
    for measure in ("largest", "norm"):
        scores = Redundancy(measure).scores(m.graph, "h", activity(rows))
        assert scores[2] == -1.0
        assert np.argsort(scores, kind="stable").tolist() == [2, 0, 1]
    dead = Redundancy().scores(m.graph, "h", activity(np.zeros((3, 4))))
    assert dead.tolist() == [-1.0, -1.0, -1.0]


def test_the_size_of_activity_does_not_matter(measured):
    m = measured("net n(x: [3]) { return x |> h: dense(4) |> r: relu |> dense(2) }")
    rows = np.random.default_rng(3).normal(size=(4, 7))
    plain = Redundancy().scores(m.graph, "h", activity(rows))
    scaled = Redundancy().scores(m.graph, "h", activity(rows * [[1e-200], [1.0], [-7.0], [1e200]]))
    np.testing.assert_allclose(scaled, plain, rtol=1e-12, atol=1e-15)


def test_a_single_unit_is_not_redundant(measured):
    m = measured("net n(x: [3]) { return x |> h: dense(1) |> r: relu |> dense(2) }")
    for measure in ("largest", "norm"):
        assert Redundancy(measure).scores(m.graph, "h", activity([[1.0, 2.0]])).tolist() == [1.0]
