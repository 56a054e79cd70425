"""What a network costs: parameters and multiply-accumulate operations, per node and in all."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

from irgrow.graph import Graph, remembered


@dataclass(frozen=True, slots=True)
class NodeCost:
    """Cost of one node: trainable parameters it owns, buffer entries, and MACs for one sample."""

    parameters: int
    buffers: int
    macs: int


@dataclass(frozen=True, slots=True)
class Cost:
    """Cost of a network; `nodes` in program order."""

    nodes: dict[str, NodeCost]

    @property
    def parameters(self) -> int:
        """Trainable parameters, tied ones counted once."""
        return sum(n.parameters for n in self.nodes.values())

    @property
    def buffers(self) -> int:
        """Entries of buffers."""
        return sum(n.buffers for n in self.nodes.values())

    @property
    def macs(self) -> int:
        """Multiply-accumulate operations for one sample (one multiplication and one addition count as one)."""
        return sum(n.macs for n in self.nodes.values())


@remembered
def cost(graph: Graph) -> Cost:
    """Count parameters and operations of a graph; nothing is allocated. Counted once for each graph."""
    owned: dict[str, list[int]] = {n.name: [0, 0] for n in graph}
    for name, param in graph.params.items():
        owned[param.owner][0 if param.spec.trainable else 1] += prod(graph.param_shapes[name])
    nodes = {}
    for node in graph:
        parameters, buffers = owned[node.name]
        nodes[node.name] = NodeCost(parameters, buffers, node.op.macs(graph.signatures[node.name], graph.widths))
    return Cost(nodes)
