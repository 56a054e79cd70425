"""What several passes do to the transfers of a resize: share what is read of copies, and make up for wider norms."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from math import sqrt

import numpy as np
from numpy.typing import NDArray

from irgrow.axes import NEW, Axis, IndexMap, index_map, positions
from irgrow.edits import Impossible
from irgrow.graph import Graph, Param
from irgrow.morphism import Morphism, Select
from irgrow.ops import MASK, Coupling, Op, Role

Shares = Mapping[str, NDArray[np.float64]]


def factors(axis: Axis, shares: Shares, sizes: Mapping[str, int]) -> NDArray[np.float64] | None:
    """Return the share of every position of an expression, given those of the units of its atoms.

    Args:
        axis: The expression.
        shares: One number per new unit, by atom.
        sizes: Sizes after the edit.
    """
    found: NDArray[np.float64] | None = None
    for name, occurrences in positions(axis, sizes).items():
        for units in occurrences if name in shares else ():
            values = np.where(units == NEW, 1.0, shares[name][np.maximum(units, 0)])
            found = values if found is None else found * values
    return found


def shared(
    morphism: Morphism, shares: Shares, noise: float = 0.0, between: Role = Role.READS, drawn: str = "normal"
) -> Morphism:
    """Return a resize that copies units with what is read of each copy multiplied by its share.

    The gradient of what makes a copy is the old one times its share; that of what reads it is the old one. (Behind a
    norm over units only the gradients of all copies together are the old one, unless the shares are equal.) Noise that
    sums to zero over the copies of a unit parts those that read them, or those that make them; see `Select.drawn`.

    Raises:
        Impossible: A tied parameter both makes and reads the units.
    """
    graph, after = morphism.before, morphism.after
    transfers = dict(morphism.transfers)
    for name, transfer in transfers.items():
        param = graph.params.get(name)
        if param is None or not isinstance(transfer, Select) or param.spec.name == MASK:
            continue
        scale, grad, apart = [], [], []
        for dim, axis in enumerate(param.spec.dims):
            values = None if transfer.maps[dim] is None else factors(axis, shares, after.widths)
            reads = values is not None and _reads(param, dim)
            scale.append(values if reads else None)
            grad.append(None if reads else values)
            wanted = values is not None and len(param.spec.dims) > 1 and reads == (between is Role.READS)
            apart.append(noise if wanted and param.spec.trainable else 0.0)
        transfers[name] = replace(
            transfer, scale=tuple(scale), grad=tuple(grad), noise=tuple(apart) if any(apart) else (), drawn=drawn
        )
    return replace(morphism, transfers=transfers)


def _reads(param: Param, dim: int) -> bool:
    roles = param.roles(dim)
    if Role.READS in roles and len(roles) > 1:
        raise Impossible(f"`{param.name}` is tied: it makes and reads the units, so copies cannot share what is read")
    return Role.READS in roles


def filled_up(graph: Graph, edits: Mapping[str, IndexMap]) -> dict[str, tuple[Op, float]]:
    """Return the norms that would notice units that join theirs and do nothing, with what makes up for them.

    By node: the norm with its eps scaled, and the factor of its old gains.
    """
    found = {}
    for node in graph:
        if node.op.coupling is not Coupling.STATISTICS:
            continue
        axis = graph.types[node.name].dims[node.op.normalises(graph.signatures[node.name])[0]]
        m = index_map(axis, edits, graph.widths)
        if m is None or not (m == NEW).any():
            continue
        ratio = graph.size(axis) / len(m)
        op = node.op.filled_up(ratio)
        if op is not None:
            found[node.name] = (op, sqrt(ratio))
    return found


def regained(morphism: Morphism, norms: Mapping[str, tuple[Op, float]]) -> Morphism:
    """Return a resize with the old gains of norms multiplied, their gradients divided."""
    graph = morphism.before
    transfers = dict(morphism.transfers)
    for node, (_, factor) in norms.items():
        name = graph.param_name(node, "weight")
        transfer = transfers[name]
        if not isinstance(transfer, Select) or len(graph.params[name].uses) > 1:
            raise Impossible(f"`{name}` is tied and cannot be scaled for `{node}` alone")
        assert transfer.maps[0] is not None
        scale = np.where(transfer.maps[0] == NEW, 1.0, factor)
        transfers[name] = replace(transfer, scale=(scale,), grad=(1.0 / scale,))
    return replace(morphism, transfers=transfers)
