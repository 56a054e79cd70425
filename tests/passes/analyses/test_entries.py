"""Which entries belong to a unit: against masks written entry by entry."""

import numpy as np
import pytest

from irgrow.axes import NEW
from irgrow.grammar import parse
from irgrow.ops import Role
from irgrow.passes.analyses.entries import belonging, effective, unit_sums

MAKES, READS = frozenset({Role.MAKES}), frozenset({Role.READS})


def by_entry(values, places, units):
    """Sum entry by entry: it belongs to a unit if any of its indices does."""
    total = np.zeros(units)
    for index in np.ndindex(values.shape):
        owners = {int(o[index[d]]) for d, occurrences in places.items() for o in occurrences}
        for unit in owners - {NEW}:
            total[unit] += values[index]
    return total


PLACES = [
    ((4, 3), {0: [np.array([0, 1, 2, 3])]}),
    ((6, 2, 3), {0: [np.array([0, 0, 1, 1, NEW, NEW])]}),
    ((4, 4), {0: [np.arange(4)], 1: [np.arange(4)]}),
    ((4, 4, 2), {0: [np.array([0, 1, 0, 1])], 1: [np.array([1, 1, 0, NEW])]}),
    ((4, 2), {0: [np.array([0, 0, 1, 1]), np.array([0, 1, 0, 1])]}),
]


@pytest.mark.parametrize(("shape", "places"), PLACES)
def test_every_entry_counts_once(shape, places):
    values = np.random.default_rng(0).normal(size=shape)
    np.testing.assert_allclose(unit_sums(values, places, 5), by_entry(values, places, 5), rtol=1e-12, atol=1e-14)


def test_by_role():
    graph = parse(
        "net n(x: [2, 5, 5]) { return x |> c: conv(4, kernel = 3, masked = true) |> b: batchnorm |> flatten |> d: dense(3) }"
    )
    assert {n: list(p) for n, p in belonging(graph, "c", MAKES).items()} == {"c.weight": [0], "c.bias": [0]}
    assert {n: list(p) for n, p in belonging(graph, "c", READS).items()} == {"d.weight": [1]}
    per_unit = belonging(graph, "c", frozenset({Role.PER_UNIT}))
    assert set(per_unit) == {"b.weight", "b.bias"}, "buffers are no entries"
    (read,) = belonging(graph, "c", READS)["d.weight"][1]
    assert read.tolist() == np.repeat(np.arange(4), 9).tolist()


def test_a_tied_table_makes_and_reads():
    graph = parse("net n(x: ids(9)[5]) { return x |> e: embedding(8) |> dense(9, tied = e) }")
    assert set(belonging(graph, "e", MAKES)) == set(belonging(graph, "e", READS)) == {"e.weight"}


def test_masks_are_multiplied_in():
    params = {"a.weight": np.array([[2.0, 3.0]]), "a.mask": np.array([[0.0, 1.0]]), "b.weight": np.array([1.0])}
    assert effective(params, "a.weight").tolist() == [[0.0, 3.0]]
    assert effective(params, "b.weight").tolist() == [1.0]
    assert effective(params, "a.mask").tolist() == [[0.0, 1.0]]
