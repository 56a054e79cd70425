"""Morphisms: what happens to every number of a network in one rewrite.

A rewrite touches no tensor. It returns a `Morphism`: the graph before and after and, for every parameter of the new
graph, one *transfer* from a closed, serialisable set. The same transfers carry weights, buffers, gradients, optimizer
slots, averages and masks; `irgrow.transfer` applies them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from irgrow.axes import NEW, IndexMap, compose
from irgrow.errors import CompilerBug
from irgrow.fills import ZERO, Fill, Given, fill_from_json, fill_to_json
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
        plus: What is added to the values, such as what a bias takes over from units that go. Values only.
    """

    name: str
    maps: tuple[IndexMap | None, ...]
    fills: tuple[Fill, ...]
    scale: tuple[Scale | None, ...] = ()
    grad: tuple[Scale | None, ...] = ()
    noise: tuple[float, ...] = ()
    plus: Compute | Given | None = None

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
    """One transfer of a chain: the tensor it makes, and the seed of the rewrite it comes from."""

    transfer: Transfer
    seed: int
    name: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Chain:
    """Transfers one after the other."""

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
    """

    before: Graph
    after: Graph
    transfers: Mapping[str, Transfer]
    edits: Mapping[str, IndexMap] = field(default_factory=dict)
    seed: int = 0
    summary: str = ""

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
        """Whether copies were moved apart by noise, or new units average old ones.

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
        transfers = {}
        for name, later in second.transfers.items():
            steps = _steps(second, name, later)
            first = steps[0].transfer
            source = _source(first)
            if source is not None:
                steps = (*_steps(self, source, self.transfers[source]), *steps)
            elif isinstance(first, Compute):
                steps = (replace(steps[0], transfer=self._computed(first)), *steps[1:])
            transfers[name] = _simplified(steps)
        return Morphism(self.before, second.after, transfers, {}, self.seed, f"{self.summary}; {second.summary}")

    def _computed(self, later: Compute) -> Compute:
        sources = [self.transfers[name] for name in later.names]
        if not all(isinstance(s, Keep) for s in sources):
            raise CompilerBug("a computed parameter cannot follow a rewrite of its sources in one morphism")
        return replace(later, names=tuple(s.name for s in sources if isinstance(s, Keep)))

    def inverse(self) -> Morphism | None:
        """Return the rewrite that undoes this one, where nothing old was lost: it prunes what was added."""
        transfers: dict[str, Transfer] = {}
        origin = {_source(t): (name, t) for name, t in self.transfers.items() if _source(t) is not None}
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


def _blends(t: Transfer) -> bool:
    if isinstance(t, Chain):
        return any(_blends(step.transfer) for step in t.steps)
    return isinstance(t, Select) and (any(t.noise) or any(f.averages for f in t.fills))


def _scales(t: Transfer) -> bool:
    if isinstance(t, Chain):
        return any(_scales(step.transfer) for step in t.steps)
    return isinstance(t, Select) and any(f is not None for f in t.scale)


def predecessor(t: Transfer) -> str | None:
    """Return the old parameter whose place in an optimizer's groups a new one takes, and whether it is frozen."""
    return t.names[0] if isinstance(t, Compute) else _source(t)


def _source(t: Transfer) -> str | None:
    return t.name if isinstance(t, Keep | Select | Gather | Cut) else None


def _steps(morphism: Morphism, name: str, t: Transfer) -> tuple[Step, ...]:
    """Return a transfer of a morphism as steps."""
    return t.steps if isinstance(t, Chain) else (Step(t, morphism.seed, name, morphism.after.param_shape(name)),)


def _simplified(steps: tuple[Step, ...]) -> Transfer:
    """Drop what only keeps, join selections that draw nothing, and unwrap a chain of one."""
    done: list[Step] = []
    for step in steps:
        t, previous = step.transfer, done[-1].transfer if done else None
        if isinstance(previous, Keep) and isinstance(t, Keep | Select | Gather):
            done[-1] = replace(step, transfer=replace(t, name=previous.name))
        elif isinstance(t, Keep) and previous is not None:
            continue
        elif isinstance(previous, Select) and isinstance(t, Select) and _settled(previous) and _settled(t):
            done[-1] = replace(step, transfer=_joined(previous, t))
        else:
            done.append(step)
    if len(done) == 1 and _settled(done[0].transfer):
        return done[0].transfer
    return Chain(tuple(done))


def _settled(t: Transfer) -> bool:
    """Whether a transfer draws no numbers, so that its seed does not matter."""
    if isinstance(t, Select):
        drawn = any(t.noise) or t.plus is not None
        return not drawn and not any(m is not None and bool((m == NEW).any()) for m in t.maps)
    return isinstance(t, Keep | Compute | Cut) or (isinstance(t, Gather) and not bool((t.index == NEW).any()))


def _joined(first: Select, second: Select) -> Select:
    dims = range(len(second.maps))
    maps = tuple(compose(second.maps[d], first.maps[d]) for d in dims)
    scale = tuple(_product(second.factor(d), first.factor(d), second.maps[d]) for d in dims)
    grad = tuple(_product(second.grad_factor(d), first.grad_factor(d), second.maps[d]) for d in dims)
    return Select(first.name, maps, second.fills, scale, grad)


def _product(second: Scale | None, first: Scale | None, m: IndexMap | None) -> Scale | None:
    moved = first if first is None or m is None else first[m]
    if second is None or moved is None:
        return moved if second is None else second
    return second * moved


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
                parts.append(f"noise {max(t.noise):g} between copies")
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


# JSON ----------------------------------------------------------------------------------------------------------------


def transfer_to_json(t: Transfer) -> dict[str, Any]:
    """Return a JSON form of a transfer."""
    match t:
        case Keep(name):
            return {"kind": "keep", "name": name}
        case Select():
            return {
                "kind": "select",
                "name": t.name,
                "maps": [_list(m) for m in t.maps],
                "fills": [fill_to_json(f) for f in t.fills],
                "scale": [_list(s) for s in t.scale],
                "grad": [_list(g) for g in t.grad],
                "noise": list(t.noise),
                "plus": _plus_to_json(t.plus),
            }
        case Cut(name, kept):
            return {"kind": "cut", "name": name, "kept": kept.tolist()}
        case Gather():
            fill = fill_to_json(t.fill)
            return {"kind": "gather", "name": t.name, "index": t.index.tolist(), "shape": list(t.shape), "fill": fill}
        case Compute(rule, names, options):
            return {"kind": "compute", "rule": rule, "names": list(names), "options": dict(options)}
        case New(fill, fan_in):
            return {"kind": "new", "fill": fill_to_json(fill), "fan_in": fan_in}
        case Chain(steps):
            listed = [[transfer_to_json(s.transfer), s.seed, s.name, list(s.shape)] for s in steps]
            return {"kind": "chain", "steps": listed}


def transfer_from_json(data: Mapping[str, Any]) -> Transfer:
    """Read a transfer back."""
    match data["kind"]:
        case "keep":
            return Keep(data["name"])
        case "select":
            maps = tuple(None if m is None else np.array(m, dtype=np.int64) for m in data["maps"])
            fills = tuple(fill_from_json(f) for f in data["fills"])
            scale, grad = (tuple(None if s is None else np.array(s) for s in data[k]) for k in ("scale", "grad"))
            plus = _plus_from_json(data["plus"])
            return Select(data["name"], maps, fills, scale, grad, tuple(data["noise"]), plus)
        case "cut":
            return Cut(data["name"], np.array(data["kept"], dtype=bool))
        case "gather":
            index = np.array(data["index"], dtype=np.int64)
            return Gather(data["name"], index, tuple(data["shape"]), fill_from_json(data["fill"]))
        case "compute":
            options = tuple((k, tuple(v) if isinstance(v, list) else v) for k, v in data["options"].items())
            return Compute(data["rule"], tuple(data["names"]), options)
        case "new":
            return New(fill_from_json(data["fill"]), data["fan_in"])
        case "chain":
            return Chain(
                tuple(Step(transfer_from_json(t), seed, name, tuple(shape)) for t, seed, name, shape in data["steps"])
            )
    raise CompilerBug(f"unknown transfer {data['kind']!r}")


def _plus_to_json(plus: Compute | Given | None) -> dict[str, Any] | None:
    if plus is None:
        return None
    return fill_to_json(plus) if isinstance(plus, Given) else transfer_to_json(plus)


def _plus_from_json(data: Mapping[str, Any] | None) -> Any:
    if data is None:
        return None
    return fill_from_json(data) if data["kind"] == "given" else transfer_from_json(data)


def _list(values: NDArray[Any] | None) -> list[Any] | None:
    return None if values is None else values.tolist()
