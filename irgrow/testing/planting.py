"""Random parameters with something planted in them that they would hardly ever have: dead units, copies of units."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from irgrow.axes import index_map
from irgrow.backends import random_params
from irgrow.graph import Graph
from irgrow.ops import MASK, Role
from irgrow.passes.analyses.places import editable_axes
from irgrow.testing.laws import Case

Params = dict[str, NDArray[Any]]


def with_dead_units(graph: Graph, seed: int, share: float = 0.4) -> Params:
    """Return random parameters in which rows, gains and columns of tables are zero or all alike here and there.

    Args:
        graph: The network.
        seed: Where the numbers come from.
        share: The share of units that are made dead in each parameter.
    """
    params, rng = random_params(graph, seed), np.random.default_rng([seed, 0xDEAD])
    for name, param in graph.params.items():
        value, local = params[name], param.spec.name
        for dim in range(value.ndim) if param.spec.trainable or local == "running_mean" else ():
            roles = param.roles(dim)
            units = np.flatnonzero(rng.random(value.shape[dim]) < share)
            if value.ndim == 1 and local == "bias":
                value[units] = rng.choice([0.0, -3.0, 0.7], len(units))
            elif roles & {Role.MAKES, Role.PER_UNIT}:
                part = (slice(None),) * dim + (units,)
                shape = tuple(1 if d != dim else len(units) for d in range(value.ndim))
                value[part] = rng.normal(size=shape) if dim else 0.0
    return params


def with_copies(graph: Graph, seed: int, multiples: Iterable[float] = (1.0, 2.5)) -> Params:
    """Return random parameters in which, on every axis that can be edited, the last unit is made as the first one is.

    Args:
        graph: The network.
        seed: Where the numbers come from.
        multiples: By what weights and biases that make the copy are multiplied, one of them for each axis.
    """
    params, rng = random_params(graph, seed), np.random.default_rng([seed, 0xC0])
    for leaf in editable_axes(graph):
        size, times = graph.widths[leaf], float(rng.choice(tuple(multiples)))
        copied = np.append(np.arange(size - 1), 0)
        for name, param in graph.params.items():
            for dim, axis in enumerate(param.spec.dims):
                m, roles = index_map(axis, {leaf: copied}, graph.widths), param.roles(dim)
                if m is None or size < 2 or Role.READS in roles:
                    continue
                other = (slice(None),) * dim + (m != np.arange(len(m)),)
                params[name] = np.take(params[name], m, axis=dim)
                if Role.MAKES in roles and param.spec.name != MASK:
                    params[name][other] *= times
    return params


@dataclass(frozen=True)
class DeadUnits(Case):
    """A case whose parameters hold dead units."""

    @property
    def params(self) -> dict[str, Any]:
        """Random parameters with dead units."""
        return with_dead_units(self.graph, self.seed)


@dataclass(frozen=True)
class CopiedUnits(Case):
    """A case whose parameters hold copies of units."""

    @property
    def params(self) -> dict[str, Any]:
        """Random parameters with copies of units."""
        return with_copies(self.graph, self.seed)
