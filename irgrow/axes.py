"""Axes: the dimensions of tensors as expressions over named widths.

A dimension is never a bare integer that somebody must keep in step. It is an expression::

    Atom(name)          a width that may be edited
    Const(n)            a size that is never edited
    Cat(a, b, ...)      concatenation, in order
    Prod(a, b, ...)     row-major product, outermost first
    Reversed(a)         a flipped axis

`index_map` turns an edit of atoms into the edit of any expression and is the only place where offsets are computed.
What ties expressions to each other is in `irgrow.unify`.

Expressions are kept in a normal form by the constructors `cat`, `prod` and `reverse`: no `Cat` in a `Cat`, no `Prod`
in a `Prod`, no factor of one, equal neighbours in a `Cat` gathered into a `Prod` with a constant, and `Reversed` only
around atoms. Two expressions in normal form that are equal have the same index map under every edit.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from math import prod as product

import numpy as np
from numpy.typing import NDArray

IndexMap = NDArray[np.int64]
"""New index -> old index, or `NEW`; shape (new size,)."""

NEW = -1
"""The entry of an index map for a unit that did not exist before."""


@dataclass(frozen=True, slots=True)
class Atom:
    """A named width that may be edited."""

    name: str

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True, slots=True)
class Const:
    """A size that is never edited."""

    size: int

    def __str__(self) -> str:
        return str(self.size)


@dataclass(frozen=True, slots=True)
class Cat:
    """Concatenation of axes, in order; build it with `cat`."""

    parts: tuple[Axis, ...]

    def __str__(self) -> str:
        return " + ".join(map(str, self.parts))


@dataclass(frozen=True, slots=True)
class Prod:
    """Row-major product of axes, outermost first; build it with `prod`."""

    factors: tuple[Axis, ...]

    def __str__(self) -> str:
        return " * ".join(f"({f})" if isinstance(f, Cat) else str(f) for f in self.factors)


@dataclass(frozen=True, slots=True)
class Reversed:
    """A flipped atom; build it with `reverse`."""

    axis: Atom

    def __str__(self) -> str:
        return f"reversed({self.axis})"


Axis = Atom | Const | Cat | Prod | Reversed
ONE = Const(1)


def cat(parts: Iterable[Axis]) -> Axis:
    """Concatenate axes in normal form.

    >>> str(cat([Atom("a"), cat([Atom("a"), Const(2)]), Const(3)]))
    '2 * a + 5'
    """
    flat: list[Axis] = []
    for part in parts:
        flat.extend(part.parts if isinstance(part, Cat) else (part,))
    if len(flat) == 1:
        return flat[0]
    merged: list[Axis] = []
    for part in flat:
        previous = merged[-1] if merged else None
        if isinstance(part, Const):
            if part.size == 0:
                continue
            if isinstance(previous, Const):
                merged[-1] = Const(previous.size + part.size)
                continue
        elif previous is not None and not isinstance(previous, Const):
            (count, unit), (more, same) = _copies(previous), _copies(part)
            if unit == same:
                merged[-1] = _repeat(count + more, unit)
                continue
        merged.append(part)
    if not merged:
        return Const(0)
    return merged[0] if len(merged) == 1 else Cat(tuple(merged))


def prod(factors: Iterable[Axis]) -> Axis:
    """Multiply axes in normal form, outermost first; a leading `Cat` is distributed.

    >>> str(prod([cat([Atom("a"), Atom("b")]), Const(4), Const(2)]))
    'a * 8 + b * 8'
    """
    flat: list[Axis] = []
    for factor in factors:
        for part in factor.factors if isinstance(factor, Prod) else (factor,):
            if isinstance(part, Const):
                if part.size == 1:
                    continue
                if flat and isinstance(flat[-1], Const):
                    flat[-1] = Const(flat[-1].size * part.size)
                    continue
            flat.append(part)
    if not flat:
        return ONE
    if len(flat) == 1:
        return flat[0]
    if isinstance(flat[0], Cat):
        rest = flat[1:]
        return cat(prod([part, *rest]) for part in flat[0].parts)
    return Prod(tuple(flat))


def reverse(axis: Axis) -> Axis:
    """Flip an axis; a constant is its own mirror image because it is never edited.

    >>> str(reverse(cat([Atom("a"), Const(3)])))
    '3 + reversed(a)'
    """
    match axis:
        case Atom():
            return Reversed(axis)
        case Const():
            return axis
        case Reversed(inner):
            return inner
        case Cat(parts):
            return cat(reverse(p) for p in reversed(parts))
        case Prod(factors):
            return prod(reverse(f) for f in factors)


def _copies(axis: Axis) -> tuple[int, Axis]:
    """Read an axis as `count` copies of a unit: 3 * a is (3, a)."""
    if isinstance(axis, Prod) and isinstance(axis.factors[0], Const):
        rest = axis.factors[1:]
        return axis.factors[0].size, rest[0] if len(rest) == 1 else Prod(rest)
    return 1, axis


def _repeat(count: int, unit: Axis) -> Axis:
    factors = unit.factors if isinstance(unit, Prod) else (unit,)
    return Prod((Const(count), *factors))


def atoms(axis: Axis) -> Iterator[Atom]:
    """Yield the atoms of an expression in order, repeated as they occur."""
    match axis:
        case Atom():
            yield axis
        case Reversed(inner):
            yield inner
        case Cat(parts) | Prod(parts):
            for part in parts:
                yield from atoms(part)


def substitute(axis: Axis, values: Mapping[str, Axis]) -> Axis:
    """Replace atoms by expressions, keeping the normal form."""
    match axis:
        case Atom(name):
            return values.get(name, axis)
        case Const():
            return axis
        case Reversed(inner):
            return reverse(substitute(inner, values))
        case Cat(parts):
            return cat(substitute(p, values) for p in parts)
        case Prod(factors):
            return prod(substitute(f, values) for f in factors)


def size_of(axis: Axis, sizes: Mapping[str, int]) -> int:
    """Return the number of entries of an expression, given the sizes of its atoms."""
    match axis:
        case Atom(name):
            return sizes[name]
        case Const(size):
            return size
        case Reversed(inner):
            return sizes[inner.name]
        case Cat(parts):
            return sum(size_of(p, sizes) for p in parts)
        case Prod(factors):
            return product(size_of(f, sizes) for f in factors)


# ---------------------------------------------------------------------------------------------------------------------
# edits


def in_full(m: IndexMap | None, size: int) -> IndexMap:
    """Return an index map; `None` is the identity on axes of this size.

    >>> in_full(None, 3)
    array([0, 1, 2])
    """
    return np.arange(size) if m is None else m


def keeps_all(m: IndexMap, size: int) -> bool:
    """Return whether an index map keeps every one of so many old units once.

    >>> keeps_all(np.array([1, -1, 0]), 2), keeps_all(np.array([0, 0]), 2)
    (True, False)
    """
    return np.array_equal(np.sort(m[m != NEW]), np.arange(size))


def index_map(axis: Axis, edits: Mapping[str, IndexMap], sizes: Mapping[str, int]) -> IndexMap | None:
    """Turn an edit of atoms into the edit of an expression.

    Args:
        axis: Any expression.
        edits: Per edited atom, new index -> old index or `NEW`.
        sizes: Sizes of the atoms *before* the edit.

    Returns:
        New index of the expression -> old index or `NEW`; `None` if no edited atom occurs in it.

    >>> grown = {"a": np.array([0, 1, NEW])}
    >>> index_map(cat([Atom("a"), Const(2)]), grown, {"a": 2}).tolist()
    [0, 1, -1, 2, 3]
    """
    if not any(a.name in edits for a in atoms(axis)):
        return None
    return _mapped(axis, edits, sizes)[0]


def _mapped(axis: Axis, edits: Mapping[str, IndexMap], sizes: Mapping[str, int]) -> tuple[IndexMap, int]:
    """Return the index map of an expression and its old size."""
    match axis:
        case Const(size):
            return np.arange(size, dtype=np.int64), size
        case Atom(name):
            old = sizes[name]
            edit = edits.get(name)
            return (np.arange(old, dtype=np.int64) if edit is None else edit), old
        case Reversed(inner):
            edit, old = _mapped(inner, edits, sizes)
            flipped = edit[::-1]
            return np.where(flipped == NEW, NEW, old - 1 - flipped), old
        case Cat(parts):
            pieces: list[IndexMap] = []
            offset = 0
            for part in parts:
                edit, old = _mapped(part, edits, sizes)
                pieces.append(np.where(edit == NEW, NEW, edit + offset))
                offset += old
            return np.concatenate(pieces), offset
        case Prod(factors):
            total, width = _mapped(factors[0], edits, sizes)
            for factor in factors[1:]:
                edit, old = _mapped(factor, edits, sizes)
                rows, columns = total[:, None], edit[None, :]
                total = np.where((rows == NEW) | (columns == NEW), NEW, rows * old + columns).reshape(-1)
                width *= old
            return total, width


@dataclass(frozen=True, slots=True, eq=False)
class Layout:
    """An index map taken apart: what is copied in blocks, and what is new.

    Args:
        size: The new size.
        blocks: Runs of consecutive old entries: (new start, old start, length).
        added: The new entries.
        run: Start and length of the new entries, if they are consecutive and there are any.
    """

    size: int
    blocks: tuple[tuple[int, int, int], ...]
    added: IndexMap
    run: tuple[int, int] | None


def layout(m: IndexMap) -> Layout:
    """Take an index map apart.

    >>> layout(np.array([0, 1, 3, NEW, NEW])).blocks, layout(np.array([0, 1, 3, NEW, NEW])).run
    (((0, 0, 2), (2, 3, 1)), (3, 2))
    """
    return _laid_out(np.asarray(m, dtype=np.int64).tobytes())


@lru_cache(maxsize=64)
def _laid_out(index_map: bytes) -> Layout:
    """Do so once: an edit gives the same map to many parameters."""
    m: IndexMap = np.frombuffer(index_map, dtype=np.int64)
    at, added = np.flatnonzero(m != NEW), np.flatnonzero(m == NEW)
    together = added.size > 0 and int(added[-1] - added[0]) == added.size - 1
    run = (int(added[0]), added.size) if together else None
    cuts = np.flatnonzero((np.diff(at) != 1) | (np.diff(m[at]) != 1)) + 1
    parts = np.split(at, cuts) if at.size else []
    return Layout(len(m), tuple((int(p[0]), int(m[p[0]]), len(p)) for p in parts), added, run)


def positions(axis: Axis, sizes: Mapping[str, int]) -> dict[str, list[NDArray[np.int64]]]:
    """Return, per atom and occurrence, the unit of that atom at each position (-1 where it takes no part).

    >>> {k: [o.tolist() for o in v] for k, v in positions(cat([Atom("a"), Const(1)]), {"a": 2}).items()}
    {'a': [[0, 1, -1]]}
    """
    match axis:
        case Const():
            return {}
        case Atom(name):
            return {name: [np.arange(sizes[name])]}
        case Reversed(inner):
            return {inner.name: [np.arange(sizes[inner.name])[::-1].copy()]}
        case Cat(parts):
            total = size_of(axis, sizes)
            found: dict[str, list[NDArray[np.int64]]] = {}
            offset = 0
            for part in parts:
                width = size_of(part, sizes)
                for name, units in positions(part, sizes).items():
                    for unit in units:
                        padded = np.full(total, NEW)
                        padded[offset : offset + width] = unit
                        found.setdefault(name, []).append(padded)
                offset += width
            return found
        case Prod(factors):
            widths = [size_of(f, sizes) for f in factors]
            found = {}
            for i, factor in enumerate(factors):
                outer, inner_width = product(widths[:i]), product(widths[i + 1 :])
                for name, units in positions(factor, sizes).items():
                    for unit in units:
                        found.setdefault(name, []).append(np.tile(np.repeat(unit, inner_width), outer))
            return found


def compose(second: IndexMap | None, first: IndexMap | None) -> IndexMap | None:
    """Compose two index maps: `second` is applied after `first`.

    >>> compose(np.array([1, NEW]), np.array([4, 7])).tolist()
    [7, -1]
    """
    if second is None or first is None:
        return first if second is None else second
    safe = np.where(second == NEW, 0, second)
    return np.where(second == NEW, NEW, first[safe] if len(first) else NEW)
