"""Tie axes to each other: sizes, substitutions and locks, found by unification.

`Axes.unify` ties two expressions: an atom is substituted by what it is tied to, or cut into pieces where its partner
ends in the middle of it; what cannot be expressed that way is locked, with the reason. `Axes.settle` names the pieces.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from irgrow.axes import Atom, Axis, Cat, Const, Prod, Reversed, atoms, prod, reverse, size_of, substitute
from irgrow.errors import Span

MAX_SEGMENTS = 1 << 14
"""The longest `Cat` that is kept in parts; a tie that would need more is a lock."""


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
            if self.size(x) > self.size(y):
                x, y, lefts, rights = y, x, rights, lefts
            size_x, size_y = self.size(x), self.size(y)
            if size_x == size_y:
                tied = self._tie(x, y, why)
            elif size_x == 1 and any(self.leaves(y).keys() & self.leaves(rest).keys() for rest in lefts):
                self.lock(x, why)  # `x * y` would have to be `y`: split for ever, and never longer
                rights.appendleft(y)
                tied = True
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
