"""Type inference: one pass over the nodes in order, tying axes as the typing rules ask.

`Typer` takes nodes one at a time, so that the elaborator knows every width as soon as it is written. `Typed` is the
settled result.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING

from irgrow.axes import Atom, Axis, IndexMap, atoms, size_of
from irgrow.errors import Diagnostic, Note, Span, did_you_mean
from irgrow.ops import Coupling, ParamSpec, Signature, TensorType, TypeFailure, Typing, attributes
from irgrow.unify import Axes, SizeConflict, Why

if TYPE_CHECKING:
    from irgrow.graph import Node

LARGEST_SIZE = 2**31 - 1
LARGEST_NETWORK = 10**11
MOST_EDGES = 10**5
_MAKERS = frozenset({Coupling.MIXING, Coupling.SOURCE, Coupling.ATTENTION})


@dataclass(frozen=True, slots=True)
class Rough:
    """What is known of a node while typing goes on; axes are not resolved yet."""

    node: Node
    inputs: tuple[TensorType, ...]
    output: TensorType
    axes: dict[str, Axis]


class Typer:
    """Types nodes one after the other.

    Args:
        sizes: Sizes of the declared atoms; may grow while nodes are added.
        fixed: Axes locked by the program, with the place of the declaration.
        named: Axes the program names; they keep their names when tied.
    """

    def __init__(self, sizes: Mapping[str, int], fixed: Mapping[str, Span | None], named: set[str]) -> None:
        self.axes = Axes()
        self.sizes, self.fixed, self.named = sizes, fixed, named
        self.rough: dict[str, Rough] = {}
        self.owners: dict[str, str] = {}
        self.shared: dict[str, frozenset[str]] = {}
        self.failed: set[str] = set()
        self.diagnostics: list[Diagnostic] = []

    def _declare(self, axis: Axis, implied: bool) -> None:
        for atom in atoms(axis):
            if atom.name in self.axes.sizes:
                continue
            made = Axes.IMPLIED if implied else Axes.MADE
            rank = Axes.NAMED if atom.name in self.named else made
            self.axes.atom(atom.name, self.sizes[atom.name], rank)
            if atom.name in self.fixed:
                why = Why(f"`{atom.name}` is declared fixed", None, self.fixed[atom.name])
                self.axes.lock(atom, why)

    def add(self, node: Node) -> TensorType | None:
        """Type a node whose inputs are typed; `None` and a diagnostic if its rule does not hold.

        A node behind one that failed is skipped without a message of its own.
        """
        roughs = [self.rough.get(i) for i in node.inputs]
        inputs = tuple(r.output for r in roughs if r is not None)
        if len(inputs) < len(roughs):
            self.failed.add(node.name)
            return None
        widths = node.op.widths()
        for attribute in attributes(type(node.op)) if widths else ():
            if attribute.name in widths:
                self._declare(widths[attribute.name], attribute.implied)
        rule = Typing(self.axes, node.name, node.span, node.inputs, self.origin)
        try:
            arity = node.op.arity
            if arity is not None and len(inputs) != arity:
                noun = "value" if arity == 1 else "values"
                rule.fail(f"{node.op.kind} takes {arity} {noun}, found {len(inputs)}", code="arity")
            if len(inputs) > MOST_EDGES:
                rule.fail(f"a node takes at most {MOST_EDGES} values, found {len(inputs)}", code="bound")
            output = node.op.infer(rule, *inputs)
            for dim in output.dims:
                if (size := self.axes.size(dim)) > LARGEST_SIZE:
                    rule.fail(f"a dimension must be at most {LARGEST_SIZE}, found {size}", code="bound")
            self.rough[node.name] = Rough(node, inputs, output, widths | rule.named)
            if node.tied is not None:
                self._tie(node, rule)
        except TypeFailure as failure:
            self.rough.pop(node.name, None)
            self.failed.add(node.name)
            self.diagnostics.append(failure.diagnostic)
            return None
        return output

    def specs(self, name: str) -> tuple[ParamSpec, ...]:
        """Return the parameters of a node with unresolved axes."""
        rough = self.rough[name]
        return rough.node.op.params(Signature(rough.inputs, rough.output, rough.axes))

    def _tie(self, node: Node, rule: Typing) -> None:
        """Give a node the parameters another one owns, and tie their axes."""
        assert node.tied is not None
        if node.tied not in self.rough or node.tied == node.name:
            known = did_you_mean(node.tied, self.rough)
            rule.fail(f"`tied` names no earlier node: `{node.tied}`", known, code="unknown-name")
        root = self.owners.get(node.tied, node.tied)
        theirs = {s.name: s for s in self.specs(root)}
        mine = {s.name: s for s in self.specs(node.name) if s.name in theirs}
        if not mine:
            rule.fail(f"`{node.name}` and `{root}` have no parameter in common")
        for name, spec in mine.items():
            if len(spec.dims) != len(theirs[name].dims):
                rule.fail(f"`{name}` of `{root}` has {len(theirs[name].dims)} dimensions, expected {len(spec.dims)}")
            for a, b in zip(theirs[name].dims, spec.dims, strict=True):
                try:
                    self.axes.unify(a, b, Why(f"`{node.name}` is tied to `{root}`", node.name, node.span))
                except SizeConflict as conflict:
                    rule.fail(
                        f"`{node.name}` is tied to `{root}`: expected {conflict.left} entries in `{name}`, "
                        f"found {conflict.right}",
                        code="shape-conflict",
                        notes=(Note(f"`{root}` is here", self.rough[root].node.span),),
                    )
        self.owners[node.name] = root
        self.shared[node.name] = frozenset(mine)

    def origin(self, name: str) -> tuple[str, Span | None]:
        """Return the node that made the units a value carries, and its place."""
        node = self.rough[name].node
        while node.op.coupling not in _MAKERS and node.inputs:
            node = self.rough[node.inputs[0]].node
        return node.name, node.span

    def settle(self, outputs: tuple[str, ...]) -> Typed:
        """Lock the outputs, whatever their axes stand for, name the pieces and resolve every axis."""
        for name in outputs:
            if name in self.rough:
                why = Why(f"interface: `{name}` is an output of the network", name, self.rough[name].node.span)
                for dim in self.rough[name].output.dims:
                    self.axes.lock(dim, why)
        self.axes.settle()
        return Typed(self.axes, self.rough, dict(self.owners), dict(self.shared), tuple(self.diagnostics))


@dataclass(frozen=True)
class Typed:
    """Settled types of a graph.

    Args:
        axes: The settled system of axes.
        rough: Types as they were inferred.
        owners: Node -> the node that owns the parameters it is tied to.
        shared: Node -> the parameters it takes from the owner.
        diagnostics: What did not hold.
    """

    axes: Axes
    rough: dict[str, Rough] = field(repr=False)
    owners: dict[str, str]
    shared: dict[str, frozenset[str]]
    diagnostics: tuple[Diagnostic, ...] = ()

    @cached_property
    def types(self) -> dict[str, TensorType]:
        """The type of every node's output."""
        return {name: self._settled(r.output) for name, r in self.rough.items()}

    @cached_property
    def signatures(self) -> dict[str, Signature]:
        """The signature of every node."""
        resolve = self.axes.resolve
        return {
            name: Signature(
                tuple(self.types[i] for i in r.node.inputs),
                self.types[name],
                {k: resolve(a) for k, a in r.axes.items()},
            )
            for name, r in self.rough.items()
        }

    def _settled(self, value: TensorType) -> TensorType:
        return TensorType(tuple(map(self.axes.resolve, value.dims)), value.unit_dim, value.ids)

    def resized(self, edits: Mapping[str, IndexMap], changed: Mapping[str, Node]) -> Typed:
        """Return the same types after an edit of leaf atoms that leaves none of them empty and exchanged some nodes."""
        axes = Axes()
        axes.__dict__.update(self.axes.__dict__)
        leaves = dict(self.axes.sizes) | {name: len(m) for name, m in edits.items()}
        axes.sizes = {n: size_of(self.axes.resolve(Atom(n)), leaves) for n in leaves}
        rough = {name: replace(self.rough[name], node=node) for name, node in changed.items()}
        typed = Typed(axes, self.rough | rough, self.owners, self.shared)
        for name in ("types", "signatures"):
            if name in self.__dict__:
                typed.__dict__[name] = self.__dict__[name]
        return typed
