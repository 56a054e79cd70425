"""Building a graph node by node, typed as it grows."""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Sequence

from irgrow.axes import Atom, Axis, Reversed, atoms, size_of
from irgrow.errors import Diagnostic, ProgramError, Span
from irgrow.graph import Graph, Node, declared, reachable
from irgrow.ops import Op, TensorType
from irgrow.typing import Typer
from irgrow.verify import ensure


class GraphBuilder:
    """Collects nodes, inputs before uses.

    >>> from irgrow.ops import Dense, Input
    >>> build = GraphBuilder("tiny")
    >>> _ = build.add("x", Input((4,)))
    >>> _ = build.add("y", Dense(build.width("y", 3)), ["x"])
    >>> build.finish(["y"]).shape("y")
    (3,)
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.nodes: list[Node] = []
        self.names: set[str] = set()
        self.sizes: dict[str, int] = {}
        self.named: dict[str, None] = {}
        self.fixed: dict[str, Span | None] = {}
        self._typer = Typer(self.sizes, self.fixed, set())

    def width(self, name: str, size: int) -> Atom:
        """Declare the width of one node."""
        self.sizes[name] = size
        return Atom(name)

    def axis(self, name: str, size: int, fixed: bool = False, span: Span | None = None) -> Atom:
        """Declare a named axis."""
        self.named[name] = None
        self._typer.named.add(name)
        if fixed:
            self.fixed[name] = span
        return self.width(name, size)

    @property
    def diagnostics(self) -> list[Diagnostic]:
        """What has gone wrong so far; may be edited."""
        return self._typer.diagnostics

    def type_of(self, name: str) -> TensorType | None:
        """Return the type of a node, `None` if its typing rule did not hold."""
        rough = self._typer.rough.get(name)
        return None if rough is None else rough.output

    def known_axis(self, name: str) -> Atom | None:
        """Return an axis that a node has declared or implied, by its own name."""
        return Atom(name) if name in self._typer.axes.sizes else None

    def writable(self, axis: Axis) -> bool:
        """Return whether an axis can be written in a program: no flipped ones, no pieces of split ones."""
        reversed_part = isinstance(axis, Reversed) or "reversed(" in str(axis)
        return not reversed_part and all(a.name in self.sizes or "'" not in a.name for a in atoms(axis))

    def axis_size(self, axis: Axis) -> int:
        """Return the size of an axis of declared atoms or of a node's type."""
        return size_of(axis, ChainMap(self._typer.axes.sizes, self.sizes))

    def add(
        self,
        name: str,
        op: Op,
        inputs: Sequence[str] = (),
        tied: str | None = None,
        span: Span | None = None,
    ) -> TensorType | None:
        """Add a node; `None` if its typing rule does not hold, with a diagnostic kept for `finish`."""
        node = Node(name, op, tuple(inputs), tied, span)
        if name in self.names:
            self.diagnostics.append(Diagnostic(f"two nodes are called `{name}`", span, code="name-clash"))
            return None
        self.nodes.append(node)
        self.names.add(name)
        return self._typer.add(node)

    def finish(self, outputs: Sequence[str]) -> Graph:
        """Return the verified graph; nodes without parameters that nothing reads are left out.

        Raises:
            ProgramError: It is not well-formed; carries everything that was found.
        """
        if self.diagnostics:
            raise ProgramError(self.diagnostics)
        used = reachable(self.nodes, outputs)
        kept = [n for n in self.nodes if n.name in used or n.op.kind == "input" or self._typer.specs(n.name)]
        names = declared(kept)
        graph = Graph(
            self.name,
            tuple(kept),
            tuple(outputs),
            {n: s for n, s in self.sizes.items() if n in names},
            tuple(n for n in self.named if n in names),
            frozenset(n for n in self.fixed if n in names),
        )
        if len(kept) == len(self.nodes):
            graph.__dict__["typed"] = self._typer.settle(graph.outputs)
        return ensure(graph)
