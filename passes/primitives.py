"""The primitive edits that passes are made of; each lives here once.

resize    creation, removal, split, merge and permutation of units, on whatever the axis runs through
splice    new nodes on the edges behind a node
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from irgrow.axes import NEW, Atom, Axis, Const, IndexMap, atoms, index_map, substitute
from irgrow.edits import Impossible
from irgrow.fills import ZERO, Fill
from irgrow.graph import Graph, Node, Param, rebuilt
from irgrow.morphism import Keep, Morphism, New, Select, Transfer
from irgrow.ops import MASK, Op, Role, numel

FillOf = Callable[[Param, int], Fill]


def resize(
    graph: Graph,
    edits: Mapping[str, IndexMap],
    fill: FillOf,
    seed: int = 0,
    summary: str = "",
    ops: Mapping[str, Op] | None = None,
) -> Morphism:
    """Edit leaf atoms; every parameter whose dimensions contain them follows.

    Args:
        graph: The network.
        edits: Per atom, new index -> old index or `NEW`.
        fill: What the new entries of a parameter along a dimension are filled with.
        seed: Where random fills come from.
        summary: One line for people.
        ops: Ops, by node, that take the places of others of the same type and typing.

    Raises:
        Impossible: An axis would have no units left.
    """
    for name, m in edits.items():
        if len(m) == 0 and not _may_vanish(graph, name):
            raise Impossible(f"axis `{name}` would have no units left")
    after = graph.resized(edits, ops)
    transfers: dict[str, Transfer] = {}
    for name, param in graph.params.items():
        if all(graph.reach[node].isdisjoint(edits) for node, _ in param.uses):
            transfers[name] = Keep(name)
            continue
        maps = tuple(index_map(d, edits, graph.widths) for d in param.spec.dims)
        if all(m is None for m in maps):
            transfers[name] = Keep(name)
            continue
        fills = tuple(fill(param, d) if m is not None and (m == NEW).any() else ZERO for d, m in enumerate(maps))
        transfers[name] = Select(name, maps, fills)
    return Morphism(graph, after, transfers, dict(edits), seed, summary)


def _may_vanish(graph: Graph, name: str) -> bool:
    """Whether an atom may become empty: only if every axis of a value keeps other units."""
    gone: dict[str, Axis] = {name: Const(0)}
    for s in graph.signatures.values():
        for axis in (*s.output.dims, *(a for k, a in s.axes.items() if k in ("units", "take", "groups", "heads"))):
            if Atom(name) in atoms(axis) and graph.size(substitute(axis, gone)) == 0:
                return False
    return True


def by_role(makes: Fill, reads: Fill, bias: Fill = ZERO, chosen: Mapping[str, Fill] | None = None) -> FillOf:
    """Return fills by the role of a dimension.

    A dimension that makes units in one use of a tied parameter and reads them in another is zero if either asks for it.

    Args:
        makes: For new rows of weights and tables.
        reads: For new columns.
        bias: For new entries of biases.
        chosen: Fills of particular parameters' new rows, instead of `makes`.
    """

    def fill(param: Param, dim: int) -> Fill:
        roles = param.roles(dim)
        if param.spec.name == MASK:
            return param.spec.neutral
        if Role.PER_UNIT in roles:
            return (chosen or {}).get(param.name, param.spec.neutral)
        made = (chosen or {}).get(param.name, bias if len(param.spec.dims) == 1 else makes)
        if roles == {Role.READS} or (Role.READS in roles and reads.is_zero):
            return reads
        return made

    return fill


def splice(
    graph: Graph,
    after: str,
    nodes: Sequence[Node],
    sizes: Mapping[str, int],
    fills: Mapping[str, Fill],
    seed: int = 0,
    summary: str = "",
) -> Morphism:
    """Put new nodes behind a node: its users, and the outputs, read the last of them instead.

    Args:
        graph: The network.
        after: The node.
        nodes: The new nodes; the first reads `after`.
        sizes: Sizes of the axes they declare.
        fills: What their parameters are filled with, by full name; those not named start as their op says.
        seed: Where random fills come from.
        summary: One line for people.
    """
    last = nodes[-1].name
    kept: list[Node] = []
    for node in graph:
        inputs = tuple(last if i == after else i for i in node.inputs)
        kept.append(Node(node.name, node.op, inputs, node.tied, node.span))
        if node.name == after:
            kept.extend(nodes)
    outputs = tuple(last if o == after else o for o in graph.outputs)
    new = rebuilt(graph, kept, sizes, outputs)
    transfers: dict[str, Transfer] = {}
    for name, param in new.params.items():
        if name in graph.params:
            transfers[name] = Keep(name)
            continue
        first = new.specs[param.owner][0]
        fan_in = numel(first.dims[1:], new.widths) if len(first.dims) > 1 else None
        transfers[name] = New(fills.get(name, param.spec.init), fan_in)
    return Morphism(graph, new, transfers, {}, seed, summary)
