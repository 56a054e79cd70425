"""Which units go: leaf axes of an expression, groups, ties, bounds and multiples."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from irgrow.axes import Atom
from irgrow.edits import Impossible, removal
from irgrow.grammar import parse
from irgrow.passes.analyses.ranking import at_most, bounds, lowest, ranked, removable, without

JOINED = parse(
    "net n(x: [4]) { a = dense(x, 3)  b = dense(x, 4)  return j: concat(x, a, b) |> dense(2) }".replace("j: ", "")
)
FLAT = parse("net n(x: [2, 3, 3]) { return x |> c: conv(5, kernel = 2) |> flatten |> dense(2) }")
GROUPED = parse(
    "net n(x: [2, 5, 5]) { return x |> c: conv(6, kernel = 1) |> g: conv(6, kernel = 3, groups = 3) |> avgpool |> dense(2) }"
)


def test_leaf_axes_that_can_lose_units():
    assert removable(JOINED, JOINED.axis("concat_1")) == ("a", "b"), "the input is locked"
    assert removable(FLAT, FLAT.axis("flatten_1")) == ("c",)
    assert removable(GROUPED, GROUPED.axis("c")) == ("g.groups",), "of a product the outermost"
    with pytest.raises(Impossible, match="locked: interface"):
        removable(JOINED, JOINED.axis("x"))


def test_groups_in_order_of_score_then_position():
    axis = JOINED.axis("concat_1")
    found = ranked(JOINED, axis, {"b": np.array([1.0, 0.0, 2.0, 1.0]), "a": np.array([1.0, 5.0, 0.0])})
    assert [(g.leaf, g.unit) for g in found] == [("a", 2), ("b", 1), ("a", 0), ("b", 0), ("b", 3), ("b", 2), ("a", 1)]
    assert [g.places.tolist() for g in found[:3]] == [[6], [8], [4]]


def test_channels_behind_a_flatten_go_with_all_their_positions():
    axis = FLAT.axis("flatten_1")
    groups = ranked(FLAT, axis, {"c": np.array([3.0, 1.0, 2.0, 5.0, 4.0])})
    assert groups[0].places.tolist() == [4, 5, 6, 7]
    gone = lowest(FLAT, axis, groups, 8, 1, True)
    edits = without(FLAT, [(g.leaf, g.unit) for g in gone])
    assert edits["c"].tolist() == [0, 3, 4]
    named = removal(FLAT, axis, [p for g in gone for p in g.places.tolist()])
    assert named["c"].tolist() == edits["c"].tolist()
    with pytest.raises(Impossible, match="go 4 at a time"):
        lowest(FLAT, axis, groups, 6, 1, True)
    assert len(lowest(FLAT, axis, groups, 6, 1, False)) == 1


def test_every_leaf_axis_keeps_a_unit():
    axis = JOINED.axis("concat_1")
    groups = ranked(JOINED, axis, {"a": np.zeros(3), "b": np.ones(4)})
    assert [(g.leaf, g.unit) for g in lowest(JOINED, axis, groups, 4, 1, True)] == [
        ("a", 0),
        ("a", 1),
        ("b", 0),
        ("b", 1),
    ]
    with pytest.raises(Impossible, match="none of its leaf axes goes whole; 6 cannot go"):
        lowest(JOINED, axis, groups, 6, 1, True)
    with pytest.raises(Impossible, match="would have no units left"):
        lowest(FLAT, Atom("c"), ranked(FLAT, Atom("c"), {"c": np.zeros(5)}), 5, 1, False)


@given(st.integers(1, 60), st.integers(1, 80), st.one_of(st.none(), st.integers(1, 60)), st.integers(1, 16))
def test_bounds_are_kept_and_no_more_than_needed(width, wanted, least, multiple):
    most = at_most(wanted, width, least, multiple)
    assert most <= wanted
    assert (width - most) % multiple == 0
    assert least is None or width - most >= least
    better = range(max(most, 0) + 1, min(wanted, width) + 1)
    assert not any((width - n) % multiple == 0 and (least is None or width - n >= least) for n in better)
    assert bounds(least, multiple) == " and ".join(
        [f"at least {least}"] * (least is not None) + [f"a multiple of {multiple}"] * (multiple > 1)
    )
