"""Morphisms: what happens to every number of a network in one rewrite.

A rewrite touches no tensor. It returns a `Morphism`: the graph before and after and, for every parameter of the new
graph, one *transfer* from a closed, serialisable set. The same transfers carry weights, buffers, gradients, optimizer
slots, averages and masks; `irgrow.transfer` applies them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from irgrow.axes import NEW, IndexMap, Layout, layout
from irgrow.errors import CompilerBug
from irgrow.fills import ZERO, Fill, Given
from irgrow.graph import Graph

Scale = NDArray[np.float64]


@dataclass(frozen=True)
class Keep:
    """The same object."""

    name: str


@dataclass(frozen=True, eq=False)
class Select:
    """Gather along axes, scale per unit, fill the new entries.

    Args:
        name: The old parameter.
        maps: Per dimension new index -> old index or `NEW`; `None` leaves the dimension as it is.
        scale: Per dimension a factor for every new index; `None` for ones.
        grad: Per dimension the factor of the *gradient*; it is not the factor of the value (splitting a unit into
            shares r, 1 - r scales the fan-in gradients by r, 1 - r and leaves the fan-out gradients as they are).
        fills: Per dimension what new entries along it are filled with. Where several dimensions are new at once, a
            fill that is zero wins, else the last one.
        noise: Per dimension the size of the noise added to the copies of an entry, relative to the root mean square
            of the tensor; over the copies of one entry it sums to zero. Values only.
        drawn: What the noise is drawn from: `normal`, every entry of that standard deviation; or `uniform`, added to
            one copy and taken from another, the vector of every unit as long as that times its norm.
        plus: What is added to the values, such as what a bias takes over from units that go. Values only.
    """

    name: str
    maps: tuple[IndexMap | None, ...]
    fills: tuple[Fill, ...]
    scale: tuple[Scale | None, ...] = ()
    grad: tuple[Scale | None, ...] = ()
    noise: tuple[float, ...] = ()
    plus: Compute | Given | None = None
    drawn: str = "normal"

    @cached_property
    def layouts(self) -> tuple[Layout | None, ...]:
        """Per dimension the blocks and the new entries of its map."""
        return tuple(None if m is None else layout(m) for m in self.maps)

    @cached_property
    def added(self) -> dict[int, Layout]:
        """The dimensions that have new entries."""
        return {dim: found for dim, found in enumerate(self.layouts) if found is not None and found.added.size}

    def factor(self, dim: int) -> Scale | None:
        """Return the factors along a dimension."""
        return self.scale[dim] if self.scale else None

    def grad_factor(self, dim: int) -> Scale | None:
        """Return the gradient's factors along a dimension."""
        return self.grad[dim] if self.grad else None


@dataclass(frozen=True, eq=False)
class Gather:
    """General re-indexing: every entry from a flat index into the old tensor, or `NEW`."""

    name: str
    index: IndexMap
    shape: tuple[int, ...]
    fill: Fill = ZERO


@dataclass(frozen=True, eq=False)
class Cut:
    """The old tensor with entries zeroed, in its slots as well: synapses that go."""

    name: str
    kept: NDArray[np.bool_]


@dataclass(frozen=True)
class Compute:
    """A named rule of linear algebra over old parameters; see `irgrow.computing`."""

    rule: str
    names: tuple[str, ...]
    options: tuple[tuple[str, Any], ...] = ()


@dataclass(frozen=True)
class New:
    """A fresh tensor; `fan_in` is that of its node, for tensors that do not show it."""

    fill: Fill
    fan_in: int | None = None


@dataclass(frozen=True)
class Step:
    """One transfer of a chain: the tensor it makes, and the seed of the rewrite it comes from.

    `reads` says, for the parameters it reads beside the one it continues, where those come from in the first graph;
    a parameter it does not list is the old one of that name.
    """

    transfer: Transfer
    seed: int
    name: str
    shape: tuple[int, ...]
    reads: tuple[Step, ...] = ()


@dataclass(frozen=True)
class Chain:
    """Transfers one after the other; each continues what the one before it made."""

    steps: tuple[Step, ...]


Transfer = Keep | Select | Gather | Cut | Compute | New | Chain


@dataclass(frozen=True)
class Morphism:
    """One rewrite.

    Args:
        before: The old graph.
        after: The new graph.
        transfers: For every parameter of the new graph where it comes from.
        edits: The edit of axes, by leaf atom of the old graph; empty if only the nodes changed.
        seed: What the random fills are drawn from, together with the name of the parameter.
        summary: One line about what it does.
        by_numbers: Whether the proof may look at all the numbers, which takes as long as reading the whole network.
        notes: What people should know of how it was done, such as that a method fell back on another.
    """

    before: Graph
    after: Graph
    transfers: Mapping[str, Transfer]
    edits: Mapping[str, IndexMap] = field(default_factory=dict)
    seed: int = 0
    summary: str = ""
    by_numbers: bool = False
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        missing = self.after.params.keys() ^ self.transfers.keys()
        if missing:
            raise CompilerBug(f"a morphism must say where every new parameter comes from: {sorted(missing)}")

    def __str__(self) -> str:
        lines = [self.summary or "rewrite"]
        lines += [f"  {name}: {describe(t)}" for name, t in self.transfers.items() if t != Keep(name)]
        return "\n".join(lines)

    @cached_property
    def touched(self) -> tuple[str, ...]:
        """Names of the new parameters that are not kept as they are."""
        return tuple(name for name, t in self.transfers.items() if not (isinstance(t, Keep) and t.name == name))

    @cached_property
    def blends(self) -> bool:
        """Whether copies were moved apart by noise, new units average old ones, or entries took over what others did.

        The gradients of old entries are then not multiples of the old gradients, even if the function is the same.
        """
        return any(_blends(t) for t in self.transfers.values())

    @cached_property
    def scales(self) -> bool:
        """Whether old entries were multiplied, so that an adaptive optimizer takes other steps."""
        return any(_scales(t) for t in self.transfers.values())

    def then(self, second: Morphism) -> Morphism:
        """Return the rewrite that does this one and then another.

        Raises:
            CompilerBug: The other does not start where this one ends.
        """
        if second.before != self.after:
            raise CompilerBug("morphisms compose only end to end")
        from irgrow.composing import composed

        summary = f"{self.summary}; {second.summary}"
        numbers = self.by_numbers or second.by_numbers
        transfers, notes = composed(self, second), self.notes + second.notes
        return Morphism(self.before, second.after, transfers, {}, self.seed, summary, numbers, notes)

    def inverse(self) -> Morphism | None:
        """Return the rewrite that undoes this one, where nothing old was lost: it prunes what was added."""
        transfers: dict[str, Transfer] = {}
        origin = {source_of(t): (name, t) for name, t in self.transfers.items() if source_of(t) is not None}
        for name in self.before.params:
            found = origin.get(name)
            back = found and _inverse(found[0], found[1])
            if back is None:
                return None
            transfers[name] = back
        edits = {}
        for atom, m in self.edits.items():
            inverse = _inverse_map(m, self.before.widths[atom])
            if inverse is None:
                return None
            edits[atom] = inverse
        return Morphism(self.after, self.before, transfers, edits, self.seed, f"undo: {self.summary}")


def with_notes(morphism: Morphism, notes: Sequence[str]) -> Morphism:
    """Return a rewrite with more to tell people."""
    return replace(morphism, notes=(*morphism.notes, *notes)) if notes else morphism


def _blends(t: Transfer) -> bool:
    if isinstance(t, Chain):
        return any(_blends(part.transfer) for step in t.steps for part in (step, *step.reads))
    return isinstance(t, Select) and (any(t.noise) or any(f.averages for f in t.fills) or t.plus is not None)


def _scales(t: Transfer) -> bool:
    if isinstance(t, Chain):
        return any(_scales(part.transfer) for step in t.steps for part in (step, *step.reads))
    return isinstance(t, Select) and any(f is not None for f in t.scale)


def source_of(t: Transfer) -> str | None:
    """Return the old parameter whose entries, gradients and slots a new one continues; `None` if it starts afresh."""
    return source_of(t.steps[0].transfer) if isinstance(t, Chain) else getattr(t, "name", None)


def predecessor(t: Transfer) -> str | None:
    """Return the old parameter whose place in an optimizer's groups a new one takes, and whether it is frozen."""
    if not isinstance(t, Chain):
        return t.names[0] if isinstance(t, Compute) else source_of(t)
    first = t.steps[0]
    reads = {read.name: read.transfer for read in first.reads}
    found = predecessor(first.transfer)
    return predecessor(reads[found]) if isinstance(first.transfer, Compute) and found in reads else found


def _inverse(name: str, t: Transfer) -> Transfer | None:
    """Return the transfer back to the old parameter, if every old entry is still there as it was."""
    if isinstance(t, Keep):
        return Keep(name)
    if not isinstance(t, Select) or any(f is not None for f in (*t.scale, *t.grad)):
        return None
    if any(t.noise) or t.plus is not None:
        return None
    maps = []
    for m in t.maps:
        back = None if m is None else _inverse_map(m, None)
        if m is not None and back is None:
            return None
        maps.append(back)
    return Select(name, tuple(maps), (ZERO,) * len(maps))


def _inverse_map(m: IndexMap, old: int | None) -> IndexMap | None:
    kept = m[m != NEW]
    size = len(kept) if old is None else old
    if len(kept) != size or not np.array_equal(np.sort(kept), np.arange(size)):
        return None
    back = np.empty(size, dtype=np.int64)
    back[kept] = np.flatnonzero(m != NEW)
    return back


def describe(t: Transfer) -> str:
    """Say in a few words where a parameter comes from."""
    match t:
        case Keep(name):
            return f"kept from {name}"
        case Select(name, maps, fills):
            parts = []
            for d, m in enumerate(maps):
                if m is None:
                    continue
                new, kept = int((m == NEW).sum()), len(m) - int((m == NEW).sum())
                parts.append(f"dim {d}: {kept} kept" + (f", {new} new ({fills[d]})" if new else ""))
            if t.plus is not None:
                parts.append(f"plus {t.plus if isinstance(t.plus, Given) else describe(t.plus)}")
            if any(t.noise):
                kind = "" if t.drawn == "normal" else f"{t.drawn} "
                parts.append(f"{kind}noise {max(t.noise):g} between copies")
            return f"from {name}, " + "; ".join(parts or ["scaled"])
        case Cut(name, kept):
            return f"from {name}, {int((~kept).sum())} entries zeroed"
        case Gather(name, index):
            return f"re-indexed from {name}, {int((index == NEW).sum())} new"
        case Compute(rule, names):
            return f"{rule} of {', '.join(names)}"
        case New(fill):
            return f"new ({fill})"
        case Chain(steps):
            return ", then ".join(describe(step.transfer) for step in steps)
