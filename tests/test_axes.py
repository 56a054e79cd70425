"""The algebra of axes: normal form, ties, refinement, locks and index maps."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from irgrow.axes import (
    NEW,
    Atom,
    Cat,
    Const,
    Prod,
    Reversed,
    atoms,
    cat,
    compose,
    index_map,
    positions,
    prod,
    reverse,
    size_of,
    substitute,
)
from irgrow.unify import Axes, SizeConflict, Why

WHY = Why("a test says so")
SIZES = {"a": 2, "b": 3, "c": 4, "d": 6}


def axes_of(**sizes):
    axes = Axes()
    for name, size in sizes.items():
        axes.atom(name, size)
    return axes


def expressions(names=tuple(SIZES), depth=3):
    leaf = st.one_of(st.sampled_from(names).map(Atom), st.integers(1, 3).map(Const))
    return st.recursive(
        leaf,
        lambda inner: st.one_of(
            st.lists(inner, min_size=1, max_size=3).map(cat),
            st.lists(inner, min_size=1, max_size=2).map(prod),
            inner.map(reverse),
        ),
        max_leaves=depth + 2,
    )


@st.composite
def edits(draw, sizes=SIZES):
    """Draw an edit of some atoms: any mix of kept, repeated, removed and new units."""
    found = {}
    for name in draw(st.lists(st.sampled_from(sorted(sizes)), unique=True, max_size=3)):
        entry = st.integers(NEW, sizes[name] - 1)
        found[name] = np.array(draw(st.lists(entry, min_size=1, max_size=sizes[name] + 2)), dtype=np.int64)
    return found


# normal form ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("axis", "text"),
    [
        (cat([Atom("a"), cat([Atom("b"), Atom("c")])]), "a + b + c"),
        (cat([Atom("a"), Atom("a"), Atom("a")]), "3 * a"),
        (cat([Const(2), Const(3), Atom("a")]), "5 + a"),
        (prod([Const(1), Atom("a"), Const(1)]), "a"),
        (prod([Const(2), Const(3)]), "6"),
        (prod([cat([Atom("a"), Atom("b")]), Atom("c")]), "a * c + b * c"),
        (prod([Atom("c"), cat([Atom("a"), Atom("b")])]), "c * (a + b)"),
        (reverse(cat([Atom("a"), Const(2), Atom("b")])), "reversed(b) + 2 + reversed(a)"),
        (reverse(prod([Atom("a"), Atom("b")])), "reversed(a) * reversed(b)"),
        (reverse(reverse(Atom("a"))), "a"),
        (cat([]), "0"),
        (prod([]), "1"),
    ],
)
def test_normal_form(axis, text):
    assert str(axis) == text


@given(expressions())
def test_reversing_twice_is_nothing(axis):
    assert reverse(reverse(axis)) == axis


@given(expressions(), expressions(), expressions())
def test_cat_and_prod_are_associative(a, b, c):
    assert cat([cat([a, b]), c]) == cat([a, cat([b, c])])
    assert size_of(prod([prod([a, b]), c]), SIZES) == size_of(prod([a, prod([b, c])]), SIZES)


@given(expressions(), edits())
def test_an_axis_has_the_size_its_map_says(axis, edit):
    mapped = index_map(axis, edit, SIZES)
    new_sizes = SIZES | {name: len(m) for name, m in edit.items()}
    if mapped is not None:
        assert len(mapped) == size_of(axis, new_sizes)
        assert mapped.max() < size_of(axis, SIZES)
    else:
        assert not any(a.name in edit for a in atoms(axis))


# index maps ----------------------------------------------------------------------------------------------------------


@given(expressions(), st.data())
def test_index_maps_compose(axis, data):
    first = data.draw(edits())
    middle = SIZES | {name: len(m) for name, m in first.items()}
    second = data.draw(edits(middle))
    both = {name: compose(second.get(name), first.get(name)) for name in first.keys() | second.keys()}
    stepwise = compose(index_map(axis, second, middle), index_map(axis, first, SIZES))
    whole = index_map(axis, both, SIZES)
    if whole is None:
        assert stepwise is None
    else:
        np.testing.assert_array_equal(stepwise, whole)


@given(expressions(), edits())
def test_an_index_map_is_what_happens_to_an_array(axis, edit):
    """Build the axis out of arrays of labels, edit the atoms, and compare with gathering by the map."""
    mapped = index_map(axis, edit, SIZES)
    before = _labels(axis, {name: np.arange(size) for name, size in SIZES.items()})
    labels = {name: np.arange(size) for name, size in SIZES.items()}
    after = _labels(axis, {name: edit.get(name, units) for name, units in labels.items()})
    moved = np.arange(len(before)) if mapped is None else mapped
    for new, old in zip(after, moved, strict=True):
        if old == NEW:
            assert any(part[1] == NEW for part in new)
        else:
            assert new == before[old]


def _labels(axis, units):
    """Return for every position the tuple of (place in the expression, unit) it is made of."""
    match axis:
        case Atom(name):
            return [((name, int(u)),) for u in units[name]]
        case Const(size):
            return [(("const", i),) for i in range(size)]
        case Reversed(inner):
            return _labels(inner, units)[::-1]
        case Cat(parts):
            return [(("part", i), *label) for i, p in enumerate(parts) for label in _labels(p, units)]
        case Prod(factors):
            return [sum(c, ()) for c in itertools.product(*(_labels(f, units) for f in factors))]


def test_labels_notice_a_wrong_offset():
    """Negative control: a map shifted by one is not what happens to the array."""
    axis, edit = cat([Const(1), Atom("a")]), {"a": np.array([1])}
    wrong = index_map(axis, edit, SIZES) - 1
    before = _labels(axis, {"a": np.arange(2)})
    after = _labels(axis, edit)
    assert after[1] != before[wrong[1]]


@given(expressions())
def test_positions_agree_with_the_map_of_removing_one_unit(axis):
    for name, occurrences in positions(axis, SIZES).items():
        for unit in range(SIZES[name]):
            kept = index_map(axis, {name: np.delete(np.arange(SIZES[name]), unit)}, SIZES)
            gone = np.zeros(size_of(axis, SIZES), dtype=bool)
            for units in occurrences:
                gone |= units == unit
            np.testing.assert_array_equal(kept, np.flatnonzero(~gone))


def test_examples_of_maps():
    grown = {"c": np.array([0, 1, 2, 3, NEW])}
    flat = prod([Atom("c"), Const(2)])
    assert index_map(flat, grown, SIZES).tolist() == [0, 1, 2, 3, 4, 5, 6, 7, NEW, NEW]
    shuffled = prod([Const(2), Atom("c")])
    assert index_map(shuffled, grown, SIZES).tolist() == [0, 1, 2, 3, NEW, 4, 5, 6, 7, NEW]
    flipped = reverse(Atom("c"))
    assert index_map(flipped, grown, SIZES).tolist() == [NEW, 0, 1, 2, 3]


# ties ----------------------------------------------------------------------------------------------------------------


def test_an_atom_takes_anything():
    axes = axes_of(a=2, b=3, c=6, d=5)
    axes.unify(Atom("c"), prod([Atom("a"), Atom("b")]), WHY)
    axes.unify(Atom("d"), cat([Atom("a"), Atom("b")]), WHY)
    assert str(axes.resolve(Atom("c"))) == "a * b"
    assert str(axes.resolve(Atom("d"))) == "a + b"


def test_concatenations_are_refined():
    axes = axes_of(a=3, b=5, c=4, d=4)
    axes.unify(cat([Atom("a"), Atom("b")]), cat([Atom("c"), Atom("d")]), WHY)
    axes.settle()
    assert str(axes.resolve(Atom("b"))) == "b[0] + d"
    assert str(axes.resolve(Atom("c"))) == "a + b[0]"
    assert axes.sizes["b[0]"] == 1


def test_a_cyclic_shift_ends_in_equal_units():
    axes = axes_of(a=4, b=6)
    axes.unify(cat([Atom("a"), Atom("b")]), cat([Atom("b"), Atom("a")]), WHY)
    axes.settle()
    assert str(axes.resolve(Atom("a"))) == "2 * a[0]"
    assert str(axes.resolve(Atom("b"))) == "3 * a[0]"
    assert axes.sizes["a[0]"] == 2


def test_chunks_of_equal_size_that_are_added_are_one_axis():
    axes = axes_of(up=6, left=3, right=3)
    axes.unify(Atom("up"), cat([Atom("left"), Atom("right")]), WHY)
    axes.unify(Atom("left"), Atom("right"), WHY)
    assert str(axes.resolve(Atom("up"))) == "2 * left"


def test_products_are_tied_factor_by_factor():
    axes = axes_of(c=8, g=2, m=4, h=2, k=4)
    axes.unify(Atom("c"), prod([Atom("g"), Atom("m")]), WHY)
    axes.unify(Atom("c"), prod([Atom("h"), Atom("k")]), WHY)
    assert axes.resolve(Atom("g")) == axes.resolve(Atom("h"))
    assert axes.resolve(Atom("m")) == axes.resolve(Atom("k"))


def test_a_factor_is_split_where_the_other_side_has_more():
    axes = axes_of(a=12, b=3, c=4, d=3)
    axes.unify(prod([Atom("a"), Atom("b")]), prod([Atom("c"), Atom("d"), Const(3)]), WHY)
    assert str(axes.resolve(Atom("a"))) == "c * d"
    assert axes.locked(Atom("b")) is WHY


def test_a_single_group_too_many_is_a_lock():
    """`m * g * k` = `p * k` with one group g: no splitting of k ends; g cannot be edited."""
    axes = axes_of(g=1, m=2, k=2, p=2)
    axes.unify(prod([Atom("m"), Atom("g"), Atom("k")]), prod([Atom("p"), Atom("k")]), WHY)
    assert axes.resolve(Atom("p")) == axes.resolve(Atom("m"))
    assert axes.locked(Atom("g")) is WHY
    assert axes.locked(Atom("k")) is None


def test_a_product_is_cut_between_its_rows():
    axes = axes_of(c=4, x=4, y=8)
    axes.unify(prod([Atom("c"), Const(3)]), cat([Const(6), Const(6)]), WHY)
    assert axes.locked(Atom("c")) is WHY
    axes = axes_of(c=4, x=6, y=6)
    axes.unify(prod([Atom("c"), Const(3)]), cat([Atom("x"), Atom("y")]), WHY)
    axes.settle()
    assert str(axes.resolve(Atom("x"))) == "c[0] * 3"


@pytest.mark.parametrize(
    ("left", "right"),
    [
        (prod([Atom("a"), Atom("d")]), prod([Atom("b"), Atom("c")])),
        (Atom("a"), Reversed(Atom("a"))),
        (prod([Atom("a"), Atom("b")]), cat([Atom("c"), Atom("e")])),
        (Atom("c"), Const(4)),
    ],
)
def test_what_cannot_be_tied_is_locked_with_the_reason(left, right):
    axes = axes_of(a=2, b=3, c=4, d=6, e=2)
    axes.unify(left, right, WHY)
    for atom in {*atoms(left), *atoms(right)}:
        assert axes.locked(atom) is WHY


def test_sizes_must_agree_and_nothing_changes_if_they_do_not():
    axes = axes_of(a=2, b=3)
    with pytest.raises(SizeConflict):
        axes.unify(Atom("a"), Atom("b"), WHY)
    assert axes.resolve(Atom("a")) == Atom("a")
    assert axes.locked(Atom("a")) is None


def test_locks_follow_ties_in_both_directions():
    axes = axes_of(a=2, b=2, c=4)
    axes.lock(Atom("a"), WHY)
    axes.unify(Atom("a"), Atom("b"), Why("later"))
    axes.unify(Atom("c"), cat([Atom("b"), Const(2)]), Why("later"))
    assert axes.locked(Atom("b")) is WHY
    assert axes.locked(Atom("c")) is WHY


def test_names_follow_the_program():
    axes = Axes()
    axes.atom("late", 4)
    axes.atom("cut.take", 2, Axes.IMPLIED)
    axes.atom("cut.after", 2, Axes.IMPLIED)
    axes.atom("d", 4, Axes.NAMED)
    axes.unify(Atom("late"), Atom("d"), WHY)
    axes.unify(Atom("late"), cat([Atom("cut.take"), Atom("cut.after")]), WHY)
    axes.settle()
    assert axes.resolve(Atom("late")) == axes.resolve(Atom("d"))


@st.composite
def systems(draw):
    """Draw atoms and ties between expressions of equal size over them."""
    names = [f"x{i}" for i in range(draw(st.integers(2, 5)))]
    sizes = {n: draw(st.integers(1, 6)) for n in names}
    ties = []
    for _ in range(draw(st.integers(1, 4))):
        left = draw(expressions(tuple(names), 2))
        size = size_of(left, sizes)
        right = [p for p in (draw(expressions(tuple(names), 2)),) if size_of(p, sizes) <= size]
        rest = size - sum(size_of(p, sizes) for p in right)
        ties.append((left, cat([*right, Const(rest)]) if rest else cat(right)))
    return sizes, ties


def _classes(sizes, ties):
    """Tie in this order and return for every position of every atom its class, `None` where it is locked."""
    axes = Axes()
    for name, size in sizes.items():
        axes.atom(name, size)
    for left, right in ties:
        axes.unify(left, right, WHY)
    axes.settle()
    found = {}
    for name, size in sizes.items():
        axis = axes.resolve(Atom(name))
        where = [[] for _ in range(size)]
        for leaf, occurrences in positions(axis, axes.sizes).items():
            for units in occurrences:
                for place, unit in enumerate(units):
                    if unit != NEW:
                        where[place].append((leaf, int(unit)))
        locked = {leaf for leaf in axes.leaves(axis) if axes.locked(Atom(leaf))}
        for place, parts in enumerate(where):
            free = bool(parts) and not any(leaf in locked for leaf, _ in parts)
            found[name, place] = tuple(sorted(parts)) if free else None
    return found


def _partition(classes):
    groups = {}
    for place, label in classes.items():
        if label is not None:
            groups.setdefault(label, set()).add(place)
    return {frozenset(g) for g in groups.values()}, {p for p, label in classes.items() if label is None}


@given(systems(), st.randoms(use_true_random=False))
def test_the_order_of_ties_does_not_matter(system, random):
    """Whatever the order, the same positions are tied, and where no tie had to be a lock the same are free."""
    sizes, ties = system
    shuffled = list(ties)
    random.shuffle(shuffled)
    groups, locked = _partition(_classes(sizes, ties))
    other_groups, other_locked = _partition(_classes(sizes, shuffled))
    assert locked == other_locked
    assert groups == other_groups


@given(systems(), st.data())
def test_tied_expressions_stay_equal_under_every_edit(system, data):
    sizes, ties = system
    axes = Axes()
    for name, size in sizes.items():
        axes.atom(name, size)
    for left, right in ties:
        axes.unify(left, right, WHY)
    axes.settle()
    leaves = {n for name in sizes for n in axes.leaves(Atom(name)) if not axes.locked(Atom(n))}
    if not leaves:
        return
    leaf = data.draw(st.sampled_from(sorted(leaves)))
    edit = {leaf: np.append(np.arange(axes.sizes[leaf])[1:], [NEW, NEW])}
    for left, right in ties:
        a = index_map(axes.resolve(left), edit, axes.sizes)
        b = index_map(axes.resolve(right), edit, axes.sizes)
        assert (a is None) == (b is None)
        if a is not None:
            np.testing.assert_array_equal(a, b)


def test_a_refined_atom_edits_like_its_parts():
    axes = axes_of(a=5, x=2, y=3)
    axes.unify(Atom("a"), cat([Atom("x"), Atom("y")]), WHY)
    edit = {"y": np.array([0, 2, NEW])}
    whole = index_map(axes.resolve(Atom("a")), edit, axes.sizes)
    assert whole.tolist() == [0, 1, 2, 4, NEW]


def test_doubling_a_concatenation_does_not_grow_the_expression():
    axis = Atom("a")
    for _ in range(25):
        axis = cat([axis, axis])
    assert axis == Prod((Const(1 << 25), Atom("a")))


def test_substitution_keeps_the_normal_form():
    axis = Prod((Atom("a"), Const(2)))
    assert str(substitute(axis, {"a": cat([Atom("b"), Const(3)])})) == "b * 2 + 6"
