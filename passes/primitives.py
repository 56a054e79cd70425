"""The primitive edits that passes are made of; each lives here once.

resize      creation, removal, split, merge and permutation of units, on whatever the axis runs through
splice      new nodes on the edges behind a node; they may read other nodes as well, which makes new connections
bypass      a node's readers read one of the values before it instead; what then serves nobody goes
disconnect  a sum without one of its inputs; what then serves nobody goes
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from irgrow.axes import NEW, Atom, Axis, Const, IndexMap, atoms, index_map, substitute
from irgrow.edits import Impossible
from irgrow.fills import ZERO, Fill
from irgrow.graph import Graph, Node, Param, reachable, rebuilt
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
    reached = {name for node in graph.reached(edits) for name in graph.own_params[node]}
    transfers: dict[str, Transfer] = {}
    for name, param in graph.params.items():
        if name not in reached:
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


def by_role(
    makes: Fill,
    reads: Fill,
    bias: Fill = ZERO,
    chosen: Mapping[str, Fill] | None = None,
    given: Mapping[str, Fill] | None = None,
) -> FillOf:
    """Return fills by the role of a dimension.

    A dimension that makes units in one use of a tied parameter and reads them in another is zero if either asks for it.

    Args:
        makes: For new rows of weights and tables.
        reads: For new columns.
        bias: For new entries of biases.
        chosen: Fills of particular parameters' new rows, instead of `makes`.
        given: Fills of particular parameters, whatever the dimension does.
    """

    def fill(param: Param, dim: int) -> Fill:
        roles = param.roles(dim)
        if given and param.name in given:
            return given[param.name]
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
        nodes: The new nodes, inputs before uses; the others read the last of them wherever they read `after`.
        sizes: Sizes of the axes they declare.
        fills: What their parameters are filled with, by full name; those not named start as their op says.
        seed: Where random fills come from.
        summary: One line for people.

    Raises:
        Impossible: No order puts inputs before uses.
    """
    last = nodes[-1].name
    kept: list[Node] = []
    for node in graph:
        kept.append(_reading(node, {after: last}))
        if node.name == after:
            kept.extend(nodes)
    outputs = tuple(last if o == after else o for o in graph.outputs)
    new = rebuilt(graph, _ordered(kept), sizes, outputs)
    transfers: dict[str, Transfer] = {}
    for name, param in new.params.items():
        if name in graph.params:
            transfers[name] = Keep(name)
            continue
        first = new.specs[param.owner][0]
        fan_in = numel(first.dims[1:], new.widths) if len(first.dims) > 1 else None
        transfers[name] = New(fills.get(name, param.spec.init), fan_in)
    return Morphism(graph, new, transfers, {}, seed, summary)


def bypass(graph: Graph, node: str, instead: str, seed: int = 0, summary: str = "") -> Morphism:
    """Let whatever reads a node, and the outputs, read an earlier one instead; what then serves nobody goes.

    Args:
        graph: The network.
        node: The node that is not read any more.
        instead: The node read instead of it.
        seed: The seed of the rewrite.
        summary: One line for people.

    Raises:
        Impossible: An input of the network would not be read any more, or parameters would lose their owner.
    """
    nodes = [_reading(n, {node: instead}) for n in graph if n.name != node]
    return _without_unused(graph, nodes, tuple(instead if o == node else o for o in graph.outputs), seed, summary)


def disconnect(graph: Graph, node: str, position: int, seed: int = 0, summary: str = "") -> Morphism:
    """Take one of its inputs out of a sum; a sum of one value is that value.

    Args:
        graph: The network.
        node: The sum.
        position: Which of its inputs, from 0.
        seed: The seed of the rewrite.
        summary: One line for people.

    Raises:
        Impossible: What is left has another shape, an input of the network would not be read any more, or parameters
            would lose their owner.
    """
    old = graph[node]
    left = tuple(name for i, name in enumerate(old.inputs) if i != position)
    value = graph.types[node]
    if not any(graph.shape(n) == graph.shape(node) and graph.types[n].unit_dim == value.unit_dim for n in left):
        raise Impossible(f"`{old.inputs[position]}` gives `{node}` its shape; what is left has another one")
    if len(left) == 1:
        return bypass(graph, node, left[0], seed, summary)
    nodes = [Node(n.name, n.op, left, n.tied, n.span) if n.name == node else n for n in graph]
    return _without_unused(graph, nodes, graph.outputs, seed, summary)


def _without_unused(graph: Graph, nodes: Sequence[Node], outputs: tuple[str, ...], seed: int, summary: str) -> Morphism:
    """Leave out the nodes no output depends on; parameters are kept."""
    used = reachable(nodes, outputs)
    kept = []
    for node in nodes:
        if node.name not in used:
            if node.op.kind == "input":
                raise Impossible(f"the input `{node.name}` would not be read any more")
            continue
        tied = node.tied
        if tied is not None and tied not in used:
            tied = graph.typed.owners[node.name]
            if tied not in used:
                raise Impossible(f"`{node.name}` uses the parameters of `{tied}`, which would go")
        kept.append(node if tied == node.tied else Node(node.name, node.op, node.inputs, tied, node.span))
    new = rebuilt(graph, kept, None, outputs)
    homeless = tuple(name for name in new.sizes if name not in (*new.named, *_own_axes(kept)))
    if homeless:  # an axis called after a node that went becomes one the program names
        new = replace(new, named=(*new.named, *homeless))
    return Morphism(graph, new, {name: Keep(name) for name in new.params}, {}, seed, summary)


def _own_axes(nodes: Sequence[Node]) -> set[str]:
    """Return the names that the widths of nodes have unless the program gives them others."""
    return {n.name if attribute == "units" else f"{n.name}.{attribute}" for n in nodes for attribute in n.op.widths()}


def _reading(node: Node, instead: Mapping[str, str]) -> Node:
    """Return a node that reads other values, the node itself if it does not."""
    inputs = tuple(instead.get(i, i) for i in node.inputs)
    return node if inputs == node.inputs else Node(node.name, node.op, inputs, node.tied, node.span)


def _ordered(nodes: Sequence[Node]) -> list[Node]:
    """Return nodes with inputs, and owners of parameters, before uses; those that are in order stay in it.

    The inputs of the network come first, as they do in a program.
    """
    by_name = {n.name: n for n in nodes}
    done: dict[str, Node] = {}
    for node in sorted(nodes, key=lambda n: n.op.kind != "input"):
        path = [node]
        while path:
            current = path[-1]
            needed = (*current.inputs, *((current.tied,) if current.tied is not None else ()))
            waiting = next((by_name[name] for name in needed if name not in done), None)
            if waiting is None:
                done[current.name] = path.pop()
            elif any(waiting is n for n in path):
                raise Impossible(f"`{waiting.name}` would depend on itself")
            else:
                path.append(waiting)
    return list(done.values())


def unused_prefix(graph: Graph, stem: str) -> str:
    """Return a name for a group of new nodes, `stem` with a number, under which nothing stands yet.

    >>> from irgrow.grammar import parse
    >>> unused_prefix(parse("net n(x: [4]) { return x |> a: relu }"), "a_deep")
    'a_deep1'
    """
    taken = set(graph.by_name) | set(graph.typed.axes.sizes)
    stem = stem.replace(".", "_")
    number = 1
    while any(name == f"{stem}{number}" or name.startswith(f"{stem}{number}.") for name in taken):
        number += 1
    return f"{stem}{number}"
