"""What the passes on synapses share: which weights, how many entries, which ones, and the switch itself.

`switched_off` and `switched_on` are the primitives: the mask changes, and the weight loses its entries together with
their slots (`Cut`), gets new ones (`Gather`), or stays as it is (`Keep`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from irgrow.attributes import show
from irgrow.axes import NEW
from irgrow.edits import Impossible
from irgrow.fills import ZERO, Fill, Given
from irgrow.graph import Graph, rebuilt
from irgrow.morphism import Cut, Gather, Keep, Morphism, New, Transfer
from irgrow.ops import MASK
from irgrow.passes.analyses.density import (
    Synapses,
    entries,
    erdos_renyi_kernel,
    maskable,
    share,
    split,
    synapses_of,
)
from irgrow.passes.base import Context
from irgrow.shapes import Array, as_array

Chosen = NDArray[np.bool_]

ALL = "all"
"""The word that means every weight which can be masked."""

ALLOCATIONS = ("uniform", "erk", "global")
SPARED = ("none", "first", "last", "ends")


# which weights -------------------------------------------------------------------------------------------------------


def chosen_weights(graph: Graph, where: str, spare: str = "none", kernels: bool = False) -> tuple[Synapses, ...]:
    """Return the weights a pass works on.

    Args:
        graph: The network.
        where: A node, or `all`.
        spare: Which of all weights are left out: `first`, `last`, both `ends` or `none`.
        kernels: Leave out of all weights those whose synapses are single entries.

    Raises:
        Impossible: There is none; carries the reason.
    """
    if where != ALL:
        return (_at_node(graph, where, kernels),)
    if ALL in graph:
        raise Impossible("`all` is a node here and also means all weights; give the node another name")
    found = maskable(graph)
    found = found[spare in ("first", "ends") :]
    found = found[: len(found) - (spare in ("last", "ends"))]
    found = tuple(s for s in found if s.has_kernels or not kernels)
    if not found:
        what = "weight with kernels" if kernels else "weight whose entries can be switched off"
        raise Impossible(f"there is no {what}" + ("" if spare == "none" else f" once spare = {spare} is left out"))
    return found


def _at_node(graph: Graph, node: str, kernels: bool) -> Synapses:
    if node not in graph:
        graph.axis(node)  # refuses what is neither
        raise Impossible(f"`{node}` is an axis; synapses belong to a node")
    found = synapses_of(graph, node)
    if isinstance(found, str):
        raise Impossible(found)
    if kernels and not found.has_kernels:
        raise Impossible(f"`{node}` has no kernels; leave `kernels` out")
    return found


def given(options: Any, *names: str) -> str:
    """Return which one of several options is given.

    Raises:
        Impossible: It is not exactly one.
    """
    found = [name for name in names if getattr(options, name) is not None]
    if len(found) != 1:
        listed = f"{', '.join(names[:-1])} or {names[-1]}"
        text = " and ".join(f"{n} = {show(getattr(options, n))}" for n in found) or "none"
        raise Impossible(f"exactly one of {listed} must be given, found {text}")
    return found[0]


# what they hold ------------------------------------------------------------------------------------------------------


def numbers(context: Context, name: str, why: str) -> Array:
    """Return a parameter as finite numbers.

    Raises:
        Impossible: There are none, or they are not finite.
    """
    if context.params is None:
        raise Impossible(f"{why} looks at the weights, and there are none yet")
    return _finite(context.params[name], name)


def gradient(context: Context, name: str, why: str) -> Array:
    """Return the gradient of a weight, masked entries as if they were on.

    Raises:
        Impossible: There is no gradient, or it is not finite.
    """
    if context.gradients is None:
        raise Impossible(
            f"{why} needs gradients: give a batch and a loss, `net.rewrite(..., batch=x, loss=function)` or "
            "`controller.step(x, value, criterion=function)`, where the function takes the outputs"
        )
    if name not in context.gradients:
        raise Impossible(f"{why} needs the gradient of `{name}`, and there is none")
    return _finite(context.gradients[name], f"the gradient of `{name}`")


def _finite(value: Any, name: str) -> Array:
    found = as_array(value)
    if not np.isfinite(found).all():
        raise Impossible(f"{name if ' ' in name else f'`{name}`'} has entries that are not finite")
    return found


def is_frozen(context: Context, synapses: Synapses) -> bool:
    """Return whether a weight does not learn."""
    value = None if context.params is None else context.params[synapses.weight]
    return not getattr(value, "requires_grad", True)


def on(context: Context, synapses: Synapses) -> Chosen:
    """Return which entries of a weight are on.

    Raises:
        Impossible: It has a mask whose numbers are not known.
    """
    if synapses.mask is not None:
        numbers(context, synapses.mask, "switching synapses")
    return synapses.on(context.params or {})


# how many and which --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Field:
    """The candidates of one weight: its entries, or its kernels, as flat arrays.

    Args:
        synapses: The weight.
        scores: A number for each.
        open: Which may be chosen.
        on: How many are on.
    """

    synapses: Synapses
    scores: Array
    open: Chosen
    on: int

    @property
    def size(self) -> int:
        """Entries or kernels in all."""
        return self.open.size


def field_of(synapses: Synapses, scores: Array, is_on: Chosen, among_on: bool, kernels: bool, norm: bool) -> Field:
    """Return the candidates of a weight among what is on, or what is off.

    Args:
        synapses: The weight.
        scores: A number for each entry.
        is_on: Which entries are on.
        among_on: Whether those that are on are looked for, or those that are off.
        kernels: Whether whole kernels are chosen; one is on if any of its entries is, and off if any is not.
        norm: Whether the score of a kernel is the norm of those of its entries, or their sum.
    """
    looked_at = is_on if among_on else ~is_on
    if not kernels:
        return Field(synapses, scores.reshape(-1), looked_at.reshape(-1), int(is_on.sum()))
    over = tuple(range(2, scores.ndim))
    counted = np.where(looked_at, scores, 0.0)
    combined = np.sqrt((counted**2).sum(over)) if norm else counted.sum(over)
    found = looked_at.any(over).reshape(-1)
    total = int(is_on.any(over).sum()) if among_on else int(is_on.all(over).sum())
    return Field(synapses, combined.reshape(-1), found, total)


def spread(field: Field, chosen: Chosen) -> Chosen:
    """Return chosen candidates as entries of the weight."""
    shape = field.synapses.shape
    if field.size == field.synapses.size:
        return chosen.reshape(shape)
    return np.broadcast_to(chosen.reshape(*shape[:2], *(1,) * (len(shape) - 2)), shape).copy()


def quotas(fields: Sequence[Field], amount: str, value: float, allocation: str, growing: bool) -> list[int]:
    """Return how many candidates of every weight to take.

    A `fraction` is one of the candidates, a `density` what is on afterwards, and a weight that is beyond it already
    gives nothing. With `global` the list holds one number, for all weights together.
    """
    open_, sizes = [int(f.open.sum()) for f in fields], [f.size for f in fields]
    together, all_on = sum(open_), sum(f.on for f in fields)
    if amount == "count" and int(value) > together:
        raise Impossible(f"{together} synapses are {'off' if growing else 'on'}, asked for {int(value)}")
    if allocation == "uniform":
        if amount == "count":
            return split(int(value), open_)
        if amount == "fraction":
            return [share(o, value) for o in open_]
        return [_towards(f, value, growing) for f in fields]
    if amount == "density":
        wanted = entries(sum(sizes), value)
    else:
        taken = int(value) if amount == "count" else share(together, value)
        wanted = all_on + taken if growing else all_on - taken
    if allocation == "global":
        return [max(0, wanted - all_on if growing else all_on - wanted)]
    shapes = [f.synapses.shape for f in fields]
    densities = erdos_renyi_kernel(shapes, wanted / max(sum(sizes), 1))
    return [_towards(f, d, growing) for f, d in zip(fields, densities, strict=True)]


def _towards(field: Field, density: float, growing: bool) -> int:
    missing = entries(field.size, density) - field.on
    return max(0, missing if growing else -missing)


def lowest(fields: Sequence[Field], counts: Sequence[int]) -> list[Chosen]:
    """Return the candidates with the lowest scores; of equal ones the first.

    With one number for several weights they compete with each other.
    """
    if len(counts) == len(fields):
        return [_lowest(f.scores, f.open, n) for f, n in zip(fields, counts, strict=True)]
    scores, open_ = (np.concatenate([getattr(f, name) for f in fields]) for name in ("scores", "open"))
    ends = np.cumsum([f.size for f in fields])[:-1]
    return np.split(_lowest(scores, open_, counts[0]), ends)


def _lowest(scores: Array, candidates: Chosen, count: int) -> Chosen:
    found = np.zeros(candidates.size, dtype=bool)
    places = np.flatnonzero(candidates)
    if count <= 0:
        return found
    values = scores[places]
    edge = np.partition(values, count - 1)[count - 1]
    below = places[values < edge]
    found[below] = True
    found[places[values == edge][: count - below.size]] = True
    return found


# the switch ----------------------------------------------------------------------------------------------------------

Entries = Mapping[Synapses, Chosen]
"""Entries of weights, by weight."""


def switched_off(graph: Graph, gone: Entries, context: Context, ephemeral: bool, summary: str) -> Morphism:
    """Return the morphism that switches entries off.

    Their weights and slots become zero, and stay zero under every optimizer whose update of a zero weight with zero
    gradient and zero slots is zero; if they are `ephemeral` they stay what they are.
    """

    def weight(synapses: Synapses, entries: Chosen) -> Transfer:
        return Keep(synapses.weight) if ephemeral else Cut(synapses.weight, ~entries)

    return _switched(graph, gone, context, 0.0, weight, summary)


def switched_on(
    graph: Graph, come: Entries, context: Context, fills: Mapping[Synapses, Fill] | None, summary: str
) -> Morphism:
    """Return the morphism that switches entries on.

    Args:
        graph: The network.
        come: Which.
        context: The numbers of the masks.
        fills: What the new weights are filled with, zero for those not named; `None` leaves them what they are.
        summary: One line for people.
    """

    def weight(synapses: Synapses, entries: Chosen) -> Transfer:
        if fills is None:
            return Keep(synapses.weight)
        index = np.arange(synapses.size)
        index[entries.reshape(-1)] = NEW
        return Gather(synapses.weight, index, synapses.shape, fills.get(synapses, ZERO))

    return _switched(graph, come, context, 1.0, weight, summary)


def _switched(
    graph: Graph,
    entries: Entries,
    context: Context,
    value: float,
    weight: Callable[[Synapses, Chosen], Transfer],
    summary: str,
) -> Morphism:
    touched = {s: e for s, e in entries.items() if e.any()}
    after = _masked(graph, {n for s in touched if s.mask is None for n in s.nodes})
    transfers: dict[str, Transfer] = {name: Keep(name) for name in after.params}
    for synapses, chosen in touched.items():
        mask = np.ones(synapses.shape)
        if synapses.mask is not None:
            mask = as_array((context.params or {})[synapses.mask]).copy()
        mask[chosen] = value
        transfers[after.param_name(synapses.nodes[0], MASK)] = New(Given(mask))
        transfers[synapses.weight] = weight(synapses, chosen)
    return Morphism(graph, after, transfers, {}, context.seed, summary)


def _masked(graph: Graph, nodes: set[str]) -> Graph:
    """Return the graph with these nodes masked."""
    if not nodes:
        return graph
    option: dict[str, Any] = {"masked": True}  # which ops have it is asked before, not by type
    return rebuilt(graph, [replace(n, op=replace(n.op, **option)) if n.name in nodes else n for n in graph])
