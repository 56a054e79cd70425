"""The typed graph of a network: nodes in program order, their axes and their parameters.

A `Graph` is frozen. A rewrite makes a new one; what was not touched is shared.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property, wraps
from math import prod
from typing import TYPE_CHECKING, Any, TypeVar

from irgrow import registry
from irgrow.axes import Atom, Axis, Const, IndexMap, atoms, size_of, substitute
from irgrow.errors import Diagnostic, OptionError, ProgramError, Span, did_you_mean
from irgrow.ops import Op, ParamSpec, Role, Signature, TensorType
from irgrow.typing import Typed, Typer
from irgrow.unify import Why

if TYPE_CHECKING:
    import networkx as nx

NAME = re.compile(r"[A-Za-z_]\w*(\.\w+)*", re.ASCII)


@dataclass(frozen=True, slots=True)
class Node:
    """One op at work: a node is identified by its name.

    Args:
        name: Dotted name.
        op: What it computes.
        inputs: Names of the nodes it reads.
        tied: A node whose parameters it uses instead of its own.
        span: Where it was written.
    """

    name: str
    op: Op
    inputs: tuple[str, ...] = ()
    tied: str | None = None
    span: Span | None = field(default=None, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Param:
    """A parameter or buffer of a network.

    Args:
        name: Full name, such as `c1.weight`; also its name in a state dict.
        spec: Its axes, roles and initial values, as its owner declares them.
        owner: The node that owns it.
        uses: Every node that uses it with the roles it gives to the dimensions, the owner first.
    """

    name: str
    spec: ParamSpec
    owner: str
    uses: tuple[tuple[str, tuple[Role, ...]], ...]

    def roles(self, dim: int) -> frozenset[Role]:
        """Return the roles a dimension has in any of its uses."""
        return frozenset(roles[dim] for _, roles in self.uses)


@dataclass(frozen=True, repr=False)
class Graph:
    """A network.

    Args:
        name: Name of the network.
        nodes: Nodes, inputs before uses.
        outputs: Names of the nodes whose values are returned.
        sizes: Sizes of the axes the nodes declare.
        named: Axes the program names, in order.
        fixed: Those of them it locks.
    """

    name: str
    nodes: tuple[Node, ...]
    outputs: tuple[str, ...]
    sizes: Mapping[str, int]
    named: tuple[str, ...] = ()
    fixed: frozenset[str] = frozenset()

    def __hash__(self) -> int:
        return hash((self.name, self.nodes, self.outputs))

    def __deepcopy__(self, memo: dict[int, Any]) -> Graph:
        return self

    def __str__(self) -> str:
        return str(registry.call("print", self))

    def __repr__(self) -> str:
        return f'parse("""\n{self}""")'

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        """Print as a program in Hypothesis and IPython."""
        printer.text(repr(self))

    def __iter__(self) -> Iterator[Node]:
        return iter(self.nodes)

    def __len__(self) -> int:
        return len(self.nodes)

    def __getitem__(self, name: str) -> Node:
        return self.by_name[name]

    def __contains__(self, name: object) -> bool:
        return name in self.by_name

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the printed program."""
        return hashlib.sha256(str(self).encode()).hexdigest()

    @cached_property
    def by_name(self) -> dict[str, Node]:
        """Nodes by name."""
        return {n.name: n for n in self.nodes}

    @cached_property
    def inputs(self) -> tuple[str, ...]:
        """Names of the network's inputs, in order."""
        return tuple(n.name for n in self.nodes if n.op.kind == "input")

    @cached_property
    def users(self) -> dict[str, tuple[str, ...]]:
        """For every node the nodes that read it, each once, in order."""
        found: dict[str, dict[str, None]] = {n.name: {} for n in self.nodes}
        for node in self.nodes:
            for name in node.inputs:
                found[name][node.name] = None
        return {name: tuple(users) for name, users in found.items()}

    @cached_property
    def analyses(self) -> dict[Any, Any]:
        """What analyses found in this graph; see `remembered`."""
        return {}

    # types ----------------------------------------------------------------------------------------------------------

    @cached_property
    def typed(self) -> Typed:
        """Types, axes and locks."""
        typer = Typer(self.sizes, dict.fromkeys(self.fixed), set(self.named))
        for node in self.nodes:
            typer.add(node)
        return typer.settle(self.outputs)

    @property
    def types(self) -> dict[str, TensorType]:
        """The type of every node's output."""
        return self.typed.types

    @property
    def signatures(self) -> dict[str, Signature]:
        """The signature of every node."""
        return self.typed.signatures

    @property
    def widths(self) -> Mapping[str, int]:
        """Sizes of all atoms, declared and derived."""
        return self.typed.axes.sizes

    def size(self, axis: Axis) -> int:
        """Return the size of an axis."""
        return size_of(axis, self.widths)

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the shape of a node's output, without the batch."""
        return tuple(self.size(d) for d in self.types[name].dims)

    def axis(self, site: str) -> Axis:
        """Return an axis by its name, or the axis of the units a node carries.

        Raises:
            OptionError: There is no such axis or node.
        """
        if site in self.typed.axes.sizes:
            return self.typed.axes.resolve(Atom(site))
        if site in self.types:
            return self.types[site].units
        known = [*self.by_name, *self.typed.axes.sizes]
        close = did_you_mean(site, known)
        raise OptionError(f"no axis or node is called `{site}`" + (f"; {close}" if close else ""))

    def locked(self, axis: Axis) -> Why | None:
        """Return why an axis cannot be edited, or `None`."""
        return self.typed.axes.locked(axis)

    @cached_property
    def leaves(self) -> tuple[str, ...]:
        """Names of the atoms that edits speak of, in program order."""
        found: dict[str, None] = {}
        for signature in self.signatures.values():
            for axis in (*signature.output.dims, *signature.axes.values()):
                found.update((a.name, None) for a in atoms(axis))
        return tuple(found)

    @cached_property
    def reach(self) -> dict[str, frozenset[str]]:
        """For every node the leaf atoms in its signature: what an edit must contain to concern it."""
        return {name: frozenset(_atoms_of(signature)) for name, signature in self.signatures.items()}

    @cached_property
    def carriers(self) -> dict[str, set[str]]:
        """For every leaf atom the nodes whose signatures it is in."""
        found: dict[str, set[str]] = {}
        for name, held in self.reach.items():
            for atom in held:
                found.setdefault(atom, set()).add(name)
        return found

    def reached(self, edits: Iterable[str]) -> set[str]:
        """Return the nodes that an edit of these leaf atoms concerns."""
        return set().union(*(self.carriers.get(atom, ()) for atom in edits))

    # parameters -----------------------------------------------------------------------------------------------------

    @cached_property
    def specs(self) -> dict[str, tuple[ParamSpec, ...]]:
        """The parameters of every node, under their own names."""
        return {n.name: n.op.params(self.signatures[n.name]) for n in self.nodes}

    def param_name(self, node: str, local: str) -> str:
        """Return the full name of a node's parameter, which another node may own."""
        owned = local not in self.typed.shared.get(node, ())
        return f"{node if owned else self.typed.owners[node]}.{local}"

    @cached_property
    def params(self) -> dict[str, Param]:
        """All parameters and buffers by full name, in program order."""
        uses: dict[str, list[tuple[str, tuple[Role, ...]]]] = {}
        specs: dict[str, tuple[str, ParamSpec]] = {}
        for name, own in self.specs.items():
            for spec in own:
                full = self.param_name(name, spec.name)
                specs.setdefault(full, (name, spec))
                uses.setdefault(full, []).append((name, spec.roles))
        return {full: Param(full, spec, owner, tuple(uses[full])) for full, (owner, spec) in specs.items()}

    @cached_property
    def own_params(self) -> dict[str, tuple[str, ...]]:
        """For every node the full names of the parameters it uses, its own and tied ones."""
        return {n: tuple(self.param_name(n, s.name) for s in specs) for n, specs in self.specs.items()}

    @cached_property
    def param_shapes(self) -> dict[str, tuple[int, ...]]:
        """The shape of every parameter."""
        return {name: tuple(map(self.size, p.spec.dims)) for name, p in self.params.items()}

    def param_shape(self, name: str) -> tuple[int, ...]:
        """Return the shape of a parameter."""
        return self.param_shapes[name]

    def count(self, trainable: bool = True) -> int:
        """Return the number of trainable parameters, or with `trainable=False` of all entries, buffers included."""
        return sum(prod(self.param_shapes[n]) for n, p in self.params.items() if p.spec.trainable or not trainable)

    # edits ----------------------------------------------------------------------------------------------------------

    def resized(self, edits: Mapping[str, IndexMap], ops: Mapping[str, Op] | None = None) -> Graph:
        """Return the graph after an edit of leaf atoms.

        Args:
            edits: New index -> old index or `NEW`, by atom.
            ops: Ops, by node, that take the places of others of the same type and typing.
        """
        leaves = {name: len(m) for name, m in edits.items()}
        new = dict(self.widths) | leaves
        resolve = self.typed.axes.resolve
        sizes = {n: size_of(resolve(Atom(n)), new) for n in self.sizes}
        reached = self.reached(edits)
        changed: dict[str, Node] = {}
        for node in self.nodes:
            if node.name not in reached:
                continue
            op = (ops or {}).get(node.name, node.op).resized(self.signatures[node.name], self.widths, new)
            gone = {a.name for axis in op.widths().values() for a in atoms(axis) if sizes.get(a.name) == 0}
            if gone:
                op = _without(op, gone)
            if op is not node.op:
                changed[node.name] = Node(node.name, op, node.inputs, node.tied, node.span)
        sizes = {n: size for n, size in sizes.items() if size}
        nodes = tuple(changed.get(n.name, n) for n in self.nodes) if changed else self.nodes
        graph = Graph(self.name, nodes, self.outputs, sizes, self.named, self.fixed)
        if all(leaves.values()):
            graph.__dict__["typed"] = self.typed.resized(edits, changed)
            names = () if changed else ("by_name",)
            for kept in (*names, "users", "inputs", "leaves", "reach", "carriers", "specs", "params", "own_params"):
                if kept in self.__dict__:
                    graph.__dict__[kept] = self.__dict__[kept]
            if "param_shapes" in self.__dict__:
                graph.__dict__["param_shapes"] = graph._shapes_after(self.param_shapes, reached)
        return graph

    def _shapes_after(self, shapes: Mapping[str, tuple[int, ...]], reached: Iterable[str]) -> Any:
        """Return the shapes of the parameters, given those before an edit; only what it reached is looked at again."""
        changed = {name for node in reached for name in self.own_params[node]}
        return {**shapes, **{name: tuple(map(self.size, self.params[name].spec.dims)) for name in changed}}

    def to_networkx(self) -> nx.DiGraph:
        """Return a view for algorithms: one vertex per node, with its op, and one edge per input."""
        import networkx

        view = networkx.DiGraph()
        for node in self.nodes:
            view.add_node(node.name, op=node.op)
            view.add_edges_from((source, node.name) for source in node.inputs)
        return view


def _atoms_of(signature: Signature) -> Iterator[str]:
    """Yield the leaf atoms of a signature."""
    for value in (signature.output, *signature.inputs):
        for dim in value.dims:
            yield from (a.name for a in atoms(dim))
    for axis in signature.axes.values():
        yield from (a.name for a in atoms(axis))


def _without(op: Op, gone: set[str]) -> Op:
    """Return an op with empty atoms taken out of its widths."""
    empty: dict[str, Axis] = dict.fromkeys(gone, Const(0))
    return replace(op, **{name: substitute(axis, empty) for name, axis in op.widths().items()})


def reachable(nodes: Iterable[Node], outputs: Iterable[str]) -> set[str]:
    """Return the names of the nodes that an output depends on."""
    by_name = {n.name: n for n in nodes}
    found: set[str] = set()
    pending = list(outputs)
    while pending:
        name = pending.pop()
        if name not in found and name in by_name:
            found.add(name)
            pending.extend(by_name[name].inputs)
    return found


def declared(nodes: Iterable[Node]) -> set[str]:
    """Return the names of the atoms that nodes declare."""
    return {a.name for n in nodes for axis in n.op.widths().values() for a in atoms(axis)}


T = TypeVar("T")


def remembered(analysis: Callable[..., T]) -> Callable[..., T]:
    """Keep what an analysis finds with the graph it found it in; a graph never changes, so it is asked once."""

    @wraps(analysis)
    def ask(graph: Graph, *options: Any) -> T:
        key = (analysis, *options)
        if key not in graph.analyses:
            graph.analyses[key] = analysis(graph, *options)
        found: T = graph.analyses[key]
        return found

    return ask


def rebuilt(
    graph: Graph,
    nodes: Iterable[Node],
    sizes: Mapping[str, int] | None = None,
    outputs: tuple[str, ...] | None = None,
) -> Graph:
    """Return a graph with other nodes, keeping of the declared axes those still in use.

    Raises:
        ProgramError: The result is not well-formed.
    """
    kept = tuple(nodes)
    used = declared(kept)
    widths = dict(graph.sizes) | dict(sizes or {})
    new = Graph(
        graph.name,
        kept,
        graph.outputs if outputs is None else outputs,
        {n: s for n, s in widths.items() if n in used},
        tuple(n for n in graph.named if n in used),
        frozenset(n for n in graph.fixed if n in used),
    )
    problems: tuple[Diagnostic, ...] = new.typed.diagnostics
    if problems:
        raise ProgramError(problems)
    return new
