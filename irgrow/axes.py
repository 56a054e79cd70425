"""Axes: the dimensions of tensors as expressions over named widths.

A dimension is never a bare integer that somebody must keep in step. It is an expression::

    Atom(name)          a width that may be edited
    Const(n)            a size that is never edited
    Cat(a, b, ...)      concatenation, in order
    Prod(a, b, ...)     row-major product, outermost first
    Reversed(a)         a flipped axis

`Axes` holds the sizes of the atoms, what they were substituted by, and which of them are locked and why.
`unify` ties two expressions; `index_map` turns an edit of atoms into the edit of any expression and is the only
place where offsets are computed.

Expressions are kept in a normal form by the constructors `cat`, `prod` and `reverse`: no `Cat` in a `Cat`, no `Prod`
in a `Prod`, no factor of one, equal neighbours in a `Cat` gathered into a `Prod` with a constant, and `Reversed` only
around atoms. Two expressions in normal form that are equal have the same index map under every edit.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from math import prod as product

import numpy as np
from numpy.typing import NDArray

from irgrow.errors import Span

IndexMap = NDArray[np.int64]
"""New index -> old index, or `NEW`; shape (new size,)."""

NEW = -1
"""The entry of an index map for a unit that did not exist before."""

MAX_SEGMENTS = 1 << 14
"""The longest `Cat` that is kept in parts; a tie that would need more is a lock."""


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


# ---------------------------------------------------------------------------------------------------------------------
# the system of axes


@dataclass(frozen=True, slots=True)
class Why:
    """Why two axes were tied or one was locked: a reason, the node and the place in the text."""

    reason: str
    node: str | None = None
    span: Span | None = field(default=None, compare=False)

    def __str__(self) -> str:
        return self.reason


class SizeConflict(Exception):
    """Two expressions of different sizes were to be tied; the typing rule turns it into a diagnostic."""

    def __init__(self, left: int, right: int) -> None:
        super().__init__(f"{left} against {right}")
        self.left, self.right = left, right


class Axes:
    """Sizes, substitutions and locks of a set of atoms.

    Atoms carry a rank. When two atoms are tied the one of lower rank keeps its name, so that an axis is called what
    the program calls it, else after the first node that makes its units.
    """

    NAMED, MADE, DERIVED, IMPLIED, PIECE = range(5)
    """Ranks: named in the program; made by a node; what a node's typing rule names (members of a group); only cut out
    of an axis that others make (the rest of a slice); a piece of a split atom."""

    def __init__(self) -> None:
        self.sizes: dict[str, int] = {}
        self._rank: dict[str, tuple[int, int]] = {}
        self._bound: dict[str, Axis] = {}
        self._locks: dict[str, Why] = {}
        self._settled: set[str] = set()

    def atom(self, name: str, size: int, rank: int = MADE) -> Atom:
        """Declare an atom, or return it if it exists already with this size."""
        known = self.sizes.get(name)
        if known is None:
            self.sizes[name] = size
            self._rank[name] = (rank, len(self._rank))
        elif known != size:
            raise SizeConflict(known, size)
        return Atom(name)

    def _piece(self, parent: str, size: int) -> Atom:
        name = f"{parent}'{len(self._rank)}"
        piece = self.atom(name, size, Axes.PIECE)
        if parent in self._locks:
            self._locks[name] = self._locks[parent]
        return piece

    def size(self, axis: Axis) -> int:
        """Return the number of entries of an expression."""
        if type(axis) is Atom:
            return self.sizes[axis.name]
        return size_of(axis, self.sizes)

    def resolve(self, axis: Axis) -> Axis:
        """Return the expression with all substitutions carried out, in normal form."""
        if type(axis) is Atom:
            bound = self._bound.get(axis.name)
            if bound is None:
                return axis
            resolved = self.resolve(bound)
            self._bound[axis.name] = resolved
            return resolved
        if type(axis) is Const:
            return axis
        names = {a.name for a in atoms(axis)}
        values = {n: self.resolve(Atom(n)) for n in names if n in self._bound}
        return substitute(axis, values) if values else axis

    def leaves(self, axis: Axis) -> dict[str, None]:
        """Return the names of the atoms an expression resolves to, in order, each once."""
        return dict.fromkeys(a.name for a in atoms(self.resolve(axis)))

    # locks ----------------------------------------------------------------------------------------------------------

    def lock(self, axis: Axis, why: Why) -> None:
        """Lock every atom of an expression; the first reason given for an atom stays."""
        for name in self.leaves(axis):
            self._locks.setdefault(name, why)

    def locked(self, axis: Axis) -> Why | None:
        """Return the reason why an atom of the expression is locked, or `None`."""
        for name in self.leaves(axis):
            if name in self._locks:
                return self._locks[name]
        return None

    # ties -----------------------------------------------------------------------------------------------------------

    def unify(self, left: Axis, right: Axis, why: Why) -> None:
        """Tie two expressions of equal size, refining or locking what they are made of.

        Raises:
            SizeConflict: The sizes differ; nothing was changed.
        """
        if left == right:
            return
        if type(left) is Const and type(right) is Const:
            if left.size != right.size:
                raise SizeConflict(left.size, right.size)
            return
        sizes = self.size(left), self.size(right)
        if sizes[0] != sizes[1]:
            raise SizeConflict(*sizes)
        if not self._tie(left, right, why):
            self.lock(left, why)
            self.lock(right, why)

    def _tie(self, left: Axis, right: Axis, why: Why) -> bool:
        """Tie two expressions segment by segment; `False` if a part of them could not be tied."""
        lefts, rights = deque([left]), deque([right])
        budget = 2 * MAX_SEGMENTS
        while lefts and rights:
            budget -= 1
            a, b = self._next(lefts), self._next(rights)
            size_a, size_b = self.size(a), self.size(b)
            if budget < 0:
                return False
            if size_a == size_b:
                tied = self._tie_segments(a, b, why)
            elif size_a > size_b:
                tied = self._cut(a, size_b, lefts)
                rights.appendleft(b)
            else:
                tied = self._cut(b, size_a, rights)
                lefts.appendleft(a)
            if not tied:
                return False
        return True

    def _next(self, queue: deque[Axis]) -> Axis:
        """Take the next segment, resolved, off a queue of expressions."""
        axis = self.resolve(queue.popleft())
        while isinstance(axis, Cat):
            queue.extendleft(reversed(axis.parts))
            axis = self.resolve(queue.popleft())
        return axis

    def _cut(self, axis: Axis, at: int, queue: deque[Axis]) -> bool:
        """Put a segment back on its queue in two parts, the first of size `at`."""
        parts = self._split(axis, at)
        if parts is None:
            return False
        queue.extendleft(reversed(parts))
        return True

    def _split(self, axis: Axis, at: int) -> tuple[Axis, ...] | None:
        """Part a segment at a position, binding atoms to their pieces; `None` if it cannot be parted there."""
        match axis:
            case Const(size):
                return Const(at), Const(size - at)
            case Atom(name):
                pieces = self._piece(name, at), self._piece(name, self.sizes[name] - at)
                self._bound[name] = Cat(pieces)
                return pieces
            case Reversed(inner):
                size = self.sizes[inner.name]
                halves = self._split(inner, size - at)
                return halves and (reverse(halves[1]), reverse(halves[0]))
            case Prod((first, *rest)):
                inner_size = self.size(prod(rest))
                whole, remainder = divmod(at, inner_size)
                if remainder == 0:
                    halves = self._split(first, whole)
                    return halves and tuple(prod([half, *rest]) for half in halves)
                if isinstance(first, Const):
                    counts = (whole, 1, first.size - whole - 1)
                    return tuple(prod([Const(n), *rest]) for n in counts if n)
        return None

    def _tie_segments(self, a: Axis, b: Axis, why: Why) -> bool:
        """Tie two resolved segments of equal size, neither of them a `Cat`."""
        if a == b:
            return True
        match a, b:
            case Const(), _:
                self.lock(b, why)
                return True
            case _, Const():
                self.lock(a, why)
                return True
            case Atom(x), Atom(y):
                return self._bind(x, b) if self._rank[y] < self._rank[x] else self._bind(y, a)
            case Atom(x), _:
                return self._bind(x, b)
            case _, Atom(y):
                return self._bind(y, a)
            case Reversed(inner), _:
                return self._bind(inner.name, reverse(b))
            case _, Reversed(inner):
                return self._bind(inner.name, reverse(a))
            case Prod(), Prod():
                return self._tie_factors(a, b, why)
        return False

    def _bind(self, name: str, axis: Axis) -> bool:
        """Substitute an atom by an expression that does not contain it."""
        inside = self.leaves(axis)
        if name in inside:
            return axis == Atom(name)
        reason = self._locks.get(name)
        if reason is not None:
            self.lock(axis, reason)
        self._bound[name] = axis
        return True

    def _tie_factors(self, a: Prod, b: Prod, why: Why) -> bool:
        """Tie two products of equal size, splitting a factor in two where the other side has more of them."""
        lefts, rights = deque(a.factors), deque(b.factors)
        while lefts and rights:
            x, y = self._next_factor(lefts), self._next_factor(rights)
            size_x, size_y = self.size(x), self.size(y)
            if size_x == size_y:
                tied = self._tie(x, y, why)
            elif size_y and size_x % size_y == 0:
                tied = self._factor(x, y, lefts)
                rights.appendleft(y)
            elif size_x and size_y % size_x == 0:
                tied = self._factor(y, x, rights)
                lefts.appendleft(x)
            else:
                tied = False
            if not tied:
                return False
        for rest in (*lefts, *rights):
            self.lock(rest, why)
        return True

    def _next_factor(self, queue: deque[Axis]) -> Axis:
        axis = self.resolve(queue.popleft())
        while isinstance(axis, Prod):
            queue.extendleft(reversed(axis.factors))
            axis = self.resolve(queue.popleft())
        return axis

    def _factor(self, axis: Axis, like: Axis, queue: deque[Axis]) -> bool:
        """Put a factor back on its queue as a product, the first factor of the size of another axis."""
        outer = self.size(like)
        match axis:
            case Const(size):
                queue.extendleft((Const(size // outer), Const(outer)))
                return True
            case Atom(name) | Reversed(Atom(name)):
                first = like if isinstance(like, Const) else self._piece(name, outer)
                self._bound[name] = prod([first, self._piece(name, self.sizes[name] // outer)])
                queue.appendleft(axis)
                return True
        return False

    # names ----------------------------------------------------------------------------------------------------------

    def settle(self) -> None:
        """Give every cut or piece a name after the first atom that contains it, such as `up[0]`.

        Called once, when all ties are known; the names do not depend on the order of the ties.
        """
        ranked = sorted((rank, name) for name, rank in self._rank.items() if rank[0] < Axes.IMPLIED)
        for _, name in ranked:
            if name not in self._bound:
                continue
            for count, leaf in enumerate(self.leaves(Atom(name))):
                if self._rank[leaf][0] < Axes.IMPLIED or leaf in self._settled:
                    continue
                fresh = f"{name}[{count}]"
                self.atom(fresh, self.sizes[leaf], Axes.PIECE)
                if leaf in self._locks:
                    self._locks[fresh] = self._locks[leaf]
                self._bound[leaf] = Atom(fresh)
                self._settled.add(fresh)
