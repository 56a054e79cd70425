"""What new units are at a node while all that makes them is zero, and the slopes of activations there."""

from __future__ import annotations

from collections.abc import Sequence
from math import inf, prod
from typing import TYPE_CHECKING

from irgrow.axes import Atom, atoms
from irgrow.graph import Graph, Node, remembered
from irgrow.ops import Conv, Coupling, Dense, Op
from irgrow.passes.analyses.carrying import done
from irgrow.passes.analyses.lanes import lanes, plain

if TYPE_CHECKING:
    from torch import Tensor


@remembered
def at_rest(graph: Graph, name: str, axis: str) -> float | None:
    """Return what new units of an axis are at a node while all that makes them is zero; `None` if it is not known.

    >>> from irgrow.grammar import parse
    >>> g = parse("net n(x: [2]) { return x |> h: dense(6) |> s: sigmoid |> y: dense(1) }")
    >>> at_rest(g, "h", "h"), at_rest(g, "s", "h"), at_rest(g, "y", "h")
    (0.0, 0.5, None)
    """
    node = graph[name]
    if isinstance(node.op, Dense | Conv):
        made = lanes(graph, graph.types[name].dims[node.op.mixes(graph.signatures[name])], axis)
        handed_on = carries(graph, node.inputs[0], axis)
        return 0.0 if made and (plain(graph, name) or not handed_on) else None
    return passed_on(graph, node, [at_rest(graph, i, axis) for i in node.inputs if carries(graph, i, axis)])


def carries(graph: Graph, name: str, axis: str) -> bool:
    """Return whether units of an axis stand in a value."""
    return any(Atom(axis) in atoms(d) for d in graph.types[name].dims)


def passed_on(graph: Graph, node: Node, before: Sequence[float | None]) -> float | None:
    """Return what a node that has no weights makes of new units; `None` if it is not known.

    Args:
        graph: The network.
        node: The node.
        before: What they are at its inputs that have them, in order.
    """
    known = [b for b in before if b is not None]
    match node.op.coupling:
        case Coupling.SOURCE:
            return 0.0
        case Coupling.PRODUCT if 0.0 in known:
            return 0.0
        case Coupling.SUM | Coupling.PRODUCT if len(known) == len(before):
            return sum(known) if node.op.coupling is Coupling.SUM else prod(known)
        case Coupling.ATTENTION:
            return before[-1]  # the weights of values add up to one
        case Coupling.MOVEMENT if known.count(0.0) == len(before):
            return 0.0
        case Coupling.PER_UNIT if len(known) == len(before) == 1:
            return _of_one(graph, node, known[0])
    return None


def _of_one(graph: Graph, node: Node, before: float) -> float | None:
    """Return what a per-unit op makes of a number, given what new units have there."""
    if before != 0.0:
        return float(_function(node.op, _scalar(before))) if node.op.facts.entrywise else None
    if node.op.zero_if is None:
        return node.op.facts.at_zero
    neutral = {spec.name: spec.neutral for spec in graph.specs[node.name]}
    return 0.0 if all(neutral[name].is_zero for name, _ in node.op.zero_if) else None


def slope(op: Op, at: float | None) -> float | None:
    """Return the slope of a per-unit op at a number, that of norms and gains as one; `None` if it is not known.

    >>> from irgrow.ops import Activate
    >>> slope(Activate("tanh"), 0.0), round(slope(Activate("sigmoid"), 1.0), 4), slope(Activate("tanh"), None)
    (1.0, 0.1966, None)
    """
    if at == 0.0 or not op.facts.entrywise or op.facts.fixed_on == (-inf, inf):
        return op.facts.slope_at_zero
    if at is None:
        return None
    import torch

    with torch.enable_grad():
        x = _scalar(at).requires_grad_()
        (found,) = torch.autograd.grad(_function(op, x), x)
    return float(found)


def _function(op: Op, x: Tensor) -> Tensor:
    found = done(op, x, 1)
    assert found is not None, "activations are known"
    return found


def _scalar(value: float) -> Tensor:
    import torch

    return torch.tensor(value, dtype=torch.float64)
