"""Well-formedness: a list of rules, each with its own kind of violation.

`verify` runs after parsing and around every pass. `IRGROW_CHECK` in the environment sets how much construction checks:

    0  nothing          1  the rules below (default)
    2  also the parameters that a rewrite is worked out with against the graph
    3  also everything that is carried over, against the same computed from scratch
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from math import prod
from typing import Any, ClassVar

from irgrow.errors import Diagnostic, OptionError, ProgramError, Span
from irgrow.graph import NAME, Graph, declared, reachable
from irgrow.typing import LARGEST_NETWORK


def check_level() -> int:
    """Return the level set by `IRGROW_CHECK`."""
    text = os.environ.get("IRGROW_CHECK", "1")
    if text not in ("0", "1", "2", "3"):
        raise OptionError(f"IRGROW_CHECK must be 0, 1, 2 or 3, found {text!r}")
    return int(text)


@dataclass(frozen=True)
class Violation:
    """Something that is not well-formed; `nodes` names the offenders."""

    code: ClassVar[str] = "violation"

    message: str
    nodes: tuple[str, ...] = ()
    span: Span | None = None
    help: str | None = None

    def diagnostic(self) -> Diagnostic:
        """Return the located message."""
        return Diagnostic(self.message, self.span, (), self.help, self.code, self.nodes)


class BadName(Violation):
    """A name that is not a dotted identifier."""

    code = "bad-name"


class NameClash(Violation):
    """One name for two things."""

    code = "name-clash"


class BadOrder(Violation):
    """A node that reads one that is not before it."""

    code = "bad-order"


class BadAttribute(Violation):
    """An attribute out of range."""

    code = "bad-attribute"


class BadWidth(Violation):
    """An axis without a size, or with one below one."""

    code = "bad-width"


class NoInterface(Violation):
    """A network without inputs or outputs."""

    code = "no-interface"


class Unused(Violation):
    """A node no output depends on."""

    code = "unused"


class TypeViolation(Violation):
    """A typing rule that does not hold."""

    code = "type-error"


class TooLarge(Violation):
    """A network beyond the bounds."""

    code = "bound"


def _names(graph: Graph) -> Iterator[Violation]:
    seen: set[str] = set()
    for node in graph:
        if not NAME.fullmatch(node.name):
            yield BadName(f"`{node.name}` is not a dotted identifier", (node.name,), node.span)
        if node.name in seen:
            yield NameClash(f"two nodes are called `{node.name}`", (node.name,), node.span)
        seen.add(node.name)
    for axis in graph.named:
        if not NAME.fullmatch(axis):
            yield BadName(f"`{axis}` is not a dotted identifier")
        if axis in seen:
            yield NameClash(f"a node and a declared axis are both called `{axis}`", (axis,))


def _order(graph: Graph) -> Iterator[Violation]:
    seen: set[str] = set()
    for node in graph:
        for name in node.inputs:
            if name not in seen:
                yield BadOrder(f"`{node.name}` reads `{name}`, which is not before it", (node.name, name), node.span)
        seen.add(node.name)
    for name in graph.outputs:
        if name not in seen:
            yield BadOrder(f"the output `{name}` is not a node", (name,))


def _attributes(graph: Graph, fine: frozenset[int] = frozenset()) -> Iterator[Violation]:
    for node in graph:
        problem = None if id(node.op) in fine else node.op.problem()
        if problem:
            yield BadAttribute(problem, (node.name,), node.span)


def _widths(graph: Graph) -> Iterator[Violation]:
    for name in sorted(declared(graph.nodes)):
        size = graph.sizes.get(name, graph.typed.axes.sizes.get(name))
        if size is None or size < 1:
            yield BadWidth(f"axis `{name}` must have at least one unit, found {size}")


def _interface(graph: Graph) -> Iterator[Violation]:
    if not graph.inputs:
        yield NoInterface("a network needs at least one input")
    if not graph.outputs:
        yield NoInterface("a network needs at least one output")


def _unused(graph: Graph) -> Iterator[Violation]:
    used = reachable(graph.nodes, graph.outputs)
    for node in graph:
        if node.name not in used:
            yield Unused(f"`{node.name}` is never used", (node.name,), node.span, "remove it or return it")


def _types(graph: Graph) -> Iterator[Violation]:
    for d in graph.typed.diagnostics:
        yield TypeViolation(d.message, d.nodes, d.span, d.help)


def _parameters(graph: Graph) -> Iterator[Violation]:
    names = {n.name for n in graph}
    for full, param in graph.params.items():
        if full in names:
            yield NameClash(f"`{full}` is both a node and a parameter of `{param.owner}`", (full, param.owner))
    total = sum(map(prod, graph.param_shapes.values()))
    if total > LARGEST_NETWORK:
        yield TooLarge(f"a network may have at most {LARGEST_NETWORK} parameters, found {total}")


Rule = Callable[[Graph], Iterator[Violation]]
WIRING: tuple[Rule, ...] = (_names, _order, _interface, _unused)


def _wired_alike(a: Graph, b: Graph) -> bool:
    if (len(a), a.outputs, a.named) != (len(b), b.outputs, b.named):
        return False
    return all(
        x is y or (x.name, x.inputs, type(x.op)) == (y.name, y.inputs, type(y.op)) for x, y in zip(a, b, strict=True)
    )


def verify(graph: Graph, before: Graph | None = None) -> list[Violation]:
    """Return all violations; an empty list means the graph is well-formed.

    Types are only looked at when names, order and attributes are fine, parameters when types are.

    Args:
        graph: The network.
        before: A well-formed one; where this one is wired alike, its wiring is not looked at again, nor is an op of it.
    """
    wiring = () if before is not None and _wired_alike(graph, before) else WIRING
    found = [v for rule in wiring for v in rule(graph)]
    found += _attributes(graph, frozenset(id(n.op) for n in before or ()))
    found += _widths(graph)
    if not found or all(isinstance(v, Unused | NoInterface) for v in found):
        types = list(_types(graph))
        found += types or list(_parameters(graph))
    return found


def ensure(graph: Graph) -> Graph:
    """Return the graph if it is well-formed.

    Raises:
        ProgramError: It is not; carries every violation.
    """
    if check_level() > 0 and (found := verify(graph)):
        raise ProgramError([v.diagnostic() for v in found])
    return graph


def check_params(graph: Graph, params: Mapping[str, Any]) -> None:
    """Check that parameters are those of a graph.

    Raises:
        OptionError: One is missing or unknown, or has another shape.
    """
    if unlike := params.keys() ^ graph.param_shapes.keys():
        raise OptionError(f"the parameters are not those of `{graph.name}`: {', '.join(sorted(unlike))}")
    for name, shape in graph.param_shapes.items():
        if tuple(params[name].shape) != tuple(shape):
            found = list(params[name].shape)
            raise OptionError(f"`{name}` has shape {found}, the graph says {list(shape)}")
