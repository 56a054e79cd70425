"""What new units must be given between the two layers of a bridge, so that the bridge is theirs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from irgrow.axes import Atom, atoms
from irgrow.fills import Fill, Given, XavierUniform
from irgrow.graph import Graph
from irgrow.ops import MASK, Depthwise, DotProductAttention
from irgrow.passes.analyses.bridge import bridge
from irgrow.passes.analyses.carrying import unit_filters
from irgrow.passes.analyses.entries import effective
from irgrow.passes.analyses.lanes import key_weight, lender, occurrences


def companions(graph: Graph, axis: str, count: int, params: Mapping[str, Any]) -> dict[str, Fill]:
    """Return what new units must be given on the way for the bridge to be theirs, by parameter.

    Those are the filters of depthwise convolutions, keys that are not zero where queries are, lest both stay zero for
    ever, and the other factor of a product if it is borrowed; all else that makes them is zero.

    Args:
        graph: The network before they are there.
        axis: The axis.
        count: How many units are appended.
        params: Parameters; only what is borrowed is looked at.

    Raises:
        Impossible: There is no bridge.
    """
    found: dict[str, Fill] = {}
    across = bridge(graph, axis)
    for last, layer in across.borrowed:
        found |= _copies(graph, axis, last, layer, count, params)
    for name in across.passed:
        node = graph[name]
        if isinstance(node.op, Depthwise):
            filters = unit_filters(node.op, graph.types[name].rank - 1)
            rows = count * occurrences(graph, graph.types[name].units, axis) // len(filters)
            found[graph.param_name(name, "weight")] = Given(np.tile(filters, (rows, *(1,) * (filters.ndim - 1))))
        elif isinstance(node.op, DotProductAttention) and (key := key_weight(graph, name, axis)):
            found[key] = XavierUniform(match=True)
    return found


def _copies(graph: Graph, axis: str, last: str, layer: str, count: int, params: Mapping[str, Any]) -> dict[str, Fill]:
    """Return copies of the unit that lends its factor, of all parameters from the layer to the last node."""
    unit = int(lender(graph, layer, params))
    nodes = [last]
    while nodes[-1] != layer:
        nodes.append(graph[nodes[-1]].inputs[0])
    found: dict[str, Fill] = {}
    for name in (name for node in nodes for name in graph.own_params[node]):
        spec = graph.params[name].spec
        if spec.name != MASK and any(Atom(axis) in atoms(d) for d in spec.dims):
            found[name] = Given(np.repeat(effective(params, name)[unit : unit + 1], count, 0))
    return found
