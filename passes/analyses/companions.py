"""What new units must be given between the two layers of a bridge, so that the bridge is theirs."""

from __future__ import annotations

import numpy as np

from irgrow.axes import Atom, atoms
from irgrow.fills import Fill, Given, XavierUniform
from irgrow.graph import Graph
from irgrow.ops import Conv, Coupling, Dense, Depthwise, DotProductAttention
from irgrow.passes.analyses.bridge import bridge
from irgrow.passes.analyses.carrying import unit_filters
from irgrow.passes.analyses.routes import lanes


def companions(graph: Graph, axis: str, count: int) -> dict[str, Fill]:
    """Return what new units must be given on the way for the bridge to be theirs, by parameter.

    Those are the filters of depthwise convolutions, and keys that are not zero where queries are, lest both stay zero
    for ever; all else that makes them is zero.

    Args:
        graph: The network before they are there.
        axis: The axis.
        count: How many units are appended.

    Raises:
        Impossible: There is no bridge.
    """
    found: dict[str, Fill] = {}
    for name in bridge(graph, axis).passed:
        node = graph[name]
        if isinstance(node.op, Depthwise):
            filters = unit_filters(node.op, graph.types[name].rank - 1)
            rows = count * lanes(graph, graph.types[name].units, axis) // len(filters)
            found[graph.param_name(name, "weight")] = Given(np.tile(filters, (rows, *(1,) * (filters.ndim - 1))))
        elif isinstance(node.op, DotProductAttention) and (key := _key_weight(graph, node.inputs[1], axis)):
            found[key] = XavierUniform(match=True)
    return found


def _key_weight(graph: Graph, node: str, axis: str) -> str | None:
    """Return the weight that makes keys along an axis, if it makes nothing else."""
    while graph[node].op.coupling is Coupling.PER_UNIT and len(graph[node].inputs) == 1:
        node = graph[node].inputs[0]
    if not isinstance(graph[node].op, Dense | Conv):
        return None
    weight = graph.params[graph.param_name(node, "weight")]
    makes = Atom(axis) in atoms(weight.spec.dims[0]) and Atom(axis) not in atoms(weight.spec.dims[1])
    return weight.name if makes and len(weight.uses) == 1 else None
