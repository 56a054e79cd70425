"""Density: which synapses of a network are on, and how a density of the whole is shared out among its weights.

`density` counts. The Erdős-Rényi-kernel allocation gives the weight of shape (out, in, k1, ...) the density

    min(1, e (out + in + k1 + ...) / (out in k1 ...)),

with e such that the total is the one asked for; what is cut off at 1 goes to the other weights, so e is found again
until no weight is above 1.

Source: Mocanu et al. (2018), eq. 4; Evci et al. (2020), RigL, 3 (1) and appendix.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import floor, prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from irgrow.attributes import attributes
from irgrow.graph import Graph, remembered
from irgrow.ops import MASK
from irgrow.shapes import as_array

_ROUNDING = 1e-9
"""0.29 times 100 is 28.999999999999996 and means 29."""


@dataclass(frozen=True)
class Synapses:
    """A weight whose entries can be switched on and off.

    Args:
        weight: Its full name.
        nodes: The nodes that use it, its owner first.
        shape: `(fan_out, fan_in, ...)`; the fan-in of a depthwise filter is 1.
        mask: The full name of its mask; `None` if it has none yet.
    """

    weight: str
    nodes: tuple[str, ...]
    shape: tuple[int, ...]
    mask: str | None

    @property
    def size(self) -> int:
        """Number of entries."""
        return prod(self.shape)

    @property
    def has_kernels(self) -> bool:
        """Whether a synapse between two units has several entries."""
        return len(self.shape) > 2

    def on(self, params: Mapping[str, Any]) -> NDArray[np.bool_]:
        """Return which entries are on."""
        return np.ones(self.shape, dtype=bool) if self.mask is None else as_array(params[self.mask]) != 0


@remembered
def maskable(graph: Graph) -> tuple[Synapses, ...]:
    """Return the weights that are masked or could be, in program order.

    A tied weight counts once; it is one of them if all its uses can share one mask.
    """
    return tuple(s for name in graph.params if not isinstance(s := _synapses(graph, name), str))


def _synapses(graph: Graph, name: str) -> Synapses | str:
    """Return the synapses of a parameter, or why it has none."""
    param = graph.params[name]
    nodes = tuple(node for node, _ in param.uses)
    if param.spec.name != "weight" or not _can_be_masked(graph, param.owner):
        return f"`{param.owner}` has no weight whose entries can be switched off"
    if stuck := [n for n in nodes if not _can_be_masked(graph, n)]:
        return f"`{name}` is tied to `{stuck[0]}`, which would lose the synapses as well and cannot be masked"
    masks = {_mask(graph, n) for n in nodes}
    if len(masks) > 1:
        return f"`{name}` is tied and its uses have different masks: {', '.join(nodes)}"
    return Synapses(name, nodes, graph.param_shape(name), masks.pop())


def _can_be_masked(graph: Graph, node: str) -> bool:
    return any(a.name == "masked" for a in attributes(type(graph[node].op)))


def _mask(graph: Graph, node: str) -> str | None:
    masked = any(spec.name == MASK for spec in graph.specs[node])
    return graph.param_name(node, MASK) if masked else None


def synapses_of(graph: Graph, node: str) -> Synapses | str:
    """Return the synapses of the weight a node uses, or why it has none that can be switched."""
    if not any(spec.name == "weight" for spec in graph.specs[node]):
        return f"`{node}` has no weight"
    owner = graph.params[graph.param_name(node, "weight")].owner
    if owner != node and not _can_be_masked(graph, owner):
        return f"`{node}` uses the weight of `{owner}`, which cannot be masked"
    return _synapses(graph, graph.param_name(node, "weight"))


# how many there are --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Count:
    """Synapses of one weight that are on, of all it has."""

    on: int
    size: int

    @property
    def density(self) -> float:
        """The share that is on."""
        return self.on / self.size if self.size else 0.0


@dataclass(frozen=True)
class Density:
    """Synapses of a network that are on; `weights` in program order."""

    weights: dict[str, Count]

    @property
    def on(self) -> int:
        """Synapses that are on."""
        return sum(c.on for c in self.weights.values())

    @property
    def size(self) -> int:
        """All synapses."""
        return sum(c.size for c in self.weights.values())

    @property
    def density(self) -> float:
        """The share that is on."""
        return self.on / self.size if self.size else 0.0

    def __str__(self) -> str:
        rows = [*((n, c.on, c.size, c.density) for n, c in self.weights.items()), ("total", *self._total)]
        width = max(len(row[0]) for row in rows)
        return "\n".join(f"{n:{width}}  {on:>9,} of {size:>9,}  {d:7.2%}" for n, on, size, d in rows)

    @property
    def _total(self) -> tuple[int, int, float]:
        return self.on, self.size, self.density


def density(graph: Graph, params: Mapping[str, Any]) -> Density:
    """Count the synapses that are on, per weight and in all; a weight without a mask has all of them on.

    >>> from irgrow.grammar import parse
    >>> graph = parse("net n(x: [2]) { return x |> f: dense(3, masked = true) |> relu |> dense(1) }")
    >>> print(density(graph, {"f.mask": [[1, 0], [0, 0], [1, 1]]}))
    f.weight                3 of         6   50.00%
    dense_1.weight          3 of         3  100.00%
    total                   6 of         9   66.67%
    """
    return Density({s.weight: Count(int(s.on(params).sum()), s.size) for s in maskable(graph)})


# how a number is shared out ------------------------------------------------------------------------------------------


def erdos_renyi_kernel(shapes: Sequence[tuple[int, ...]], density: float) -> tuple[float, ...]:
    """Return the density of every weight so that all of them together have this density.

    >>> [round(d, 4) for d in erdos_renyi_kernel([(10, 10), (5, 5)], 0.5)]
    [0.4167, 0.8333]
    """
    sizes = np.array([prod(shape) for shape in shapes], dtype=np.float64)
    scale = np.array([sum(shape) / prod(shape) if prod(shape) else 0.0 for shape in shapes])
    full = np.zeros(len(shapes), dtype=bool)
    found = np.ones(len(shapes))
    while not full.all():
        left = density * sizes.sum() - sizes[full].sum()
        found[~full] = scale[~full] * left / (scale * sizes)[~full].sum()
        above = ~full & (found > 1.0)
        if not above.any():
            break
        full |= above
        found[full] = 1.0
    return tuple(found.tolist())


def entries(size: int, density: float) -> int:
    """Return how many entries are on at a density; the number of those that are off is rounded down."""
    return size - share(size, 1.0 - density)


def share(count: int, fraction: float) -> int:
    """Return a fraction of a number, rounded down."""
    return floor(count * fraction + _ROUNDING)


def split(count: int, sizes: Sequence[int]) -> list[int]:
    """Part a number in proportion to sizes, none above its size; the largest remainders are rounded up.

    >>> split(5, [4, 4, 1])
    [2, 2, 1]
    """
    total = sum(sizes)
    exact = [count * size / total if total else 0.0 for size in sizes]
    parts = [floor(e + _ROUNDING) for e in exact]
    order = sorted(range(len(sizes)), key=lambda i: parts[i] - exact[i])
    for i in order[: count - sum(parts)]:
        parts[i] += 1
    return parts
