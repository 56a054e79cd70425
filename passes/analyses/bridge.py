"""The bridge of an axis: from what the first layer that makes its units reads, to all layers that read them.

A bridge straight across, all zeros, would receive the gradient that tells what new units would learn
(`irgrow.passes.analyses.auxiliary`). On a residual stream it is that of its first layer, to all that reads the stream.

What new units pass beside activations, norms and pooling is linear in them once it is known what they get there: a
depthwise convolution in which they have unit filters, attention in which their queries are zero and their keys are not,
and of a product of units the factor that the others, at zero, do not make zero (`irgrow.passes.analyses.routes`). If
all make it zero, as in a gated layer (SwiGLU), new units borrow the other factor: they start with a copy of that of the
old unit with the largest fan-in there, and are zero on the side with the larger slope at zero, the first of equals.
What new units must be given for that, beside zero fan-in, `irgrow.passes.analyses.companions` says.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass

from irgrow.axes import Atom, atoms
from irgrow.edits import Impossible
from irgrow.graph import Graph, remembered
from irgrow.ops import Conv, Dense
from irgrow.passes.analyses.lanes import lanes
from irgrow.passes.analyses.places import makers
from irgrow.passes.analyses.routes import Route, SecondOrder, Walk


@dataclass(frozen=True)
class Bridge:
    """From what the first layer that makes an axis reads to all layers that read the axis.

    Args:
        maker: The first layer from which there is a bridge.
        routes: The layers that read its units, in program order.
        sloped: Whether the slopes at zero of the activations on the way are counted; else they are ones.
        lanes: In how many lanes it makes a unit.
        passed: The depthwise convolutions and the attentions on the way.
        attended: Those of the attentions whose weights are looked at.
        borrowed: The factors of products that are those of an old unit, by node: the layers that make them.
    """

    maker: str
    routes: tuple[Route, ...]
    sloped: bool
    lanes: int = 1
    passed: tuple[str, ...] = ()
    attended: tuple[str, ...] = ()
    borrowed: tuple[tuple[str, str], ...] = ()

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Return by weight that reads the units the shape of one unit's entries."""
        return {route.weight: route.shape for route in self.routes}


def needed(graph: Graph, axis: str) -> tuple[str, ...]:
    """Return the nodes whose values and signals `auxiliary` looks at; none where there is no bridge.

    >>> from irgrow.grammar import parse
    >>> g = parse("net n(x: [2]) { return x |> h: dense(6) |> relu |> y: dense(1) }")
    >>> needed(g, "h")
    ('x', 'y')
    """
    try:
        found = bridge(graph, axis)
    except Impossible:
        return ()
    beside = [name for node in found.attended for name in graph[node].inputs[:2]] + [name for name, _ in found.borrowed]
    return tuple(dict.fromkeys((graph[found.maker].inputs[0], *(route.node for route in found.routes), *beside)))


@remembered
def bridge(graph: Graph, axis: str, sloped: bool = False) -> Bridge:
    """Return the first layer that makes a leaf axis and the layers that read it.

    Where the units of the first have no gradient of first order, as queries, it is the next that has; if none has
    unless another factor is borrowed, the one with the largest slope at zero.

    Raises:
        Impossible: The axis is made or read by something else, or passes through something that has no bridge.
    """
    found = [m for m in makers(graph, axis) if isinstance(graph[m].op, Dense | Conv)]
    if not found:
        raise Impossible(f"no dense layer or convolution makes `{axis}`")
    reasons: list[Impossible] = []
    for maker in found:
        try:
            return _from(graph, axis, maker, sloped)
        except Impossible as reason:
            if not (reasons or isinstance(reason, SecondOrder)):
                raise
            reasons.append(reason)
    slopes: dict[str, float] = {}
    for maker in found:
        with suppress(Impossible):
            slopes[maker] = max(abs(r.slope) for r in _from(graph, axis, maker, True, borrowing=True).routes)
    if not slopes:
        raise next((r for r in reasons if not isinstance(r, SecondOrder)), reasons[0])
    return _from(graph, axis, max(slopes, key=slopes.__getitem__), sloped, borrowing=True)


def _from(graph: Graph, axis: str, maker: str, sloped: bool, borrowing: bool = False) -> Bridge:
    """Return the bridge from one of the layers that make an axis."""
    weight = graph.params[graph.param_name(maker, "weight")]
    if len(weight.uses) > 1:
        raise Impossible(f"`{weight.name}` is tied; there is no bridge around one of its uses")
    count = lanes(graph, weight.spec.dims[0], axis)
    if Atom(axis) in atoms(weight.spec.dims[1]) or any(
        Atom(axis) in atoms(d) for d in graph.types[graph[maker].inputs[0]].dims
    ):
        raise Impossible(f"`{maker}` makes units of `{axis}` and reads them")
    if not count:
        raise Impossible(f"`{maker}` makes other units beside those of `{axis}`")
    walk = Walk(graph, axis, maker, sloped, borrowing=borrowing)
    if not walk.routes:
        raise Impossible(f"no dense layer or convolution reads `{axis}`")
    for weight_name in (route.weight for route in walk.routes):
        if len({(r.shape, r.origins, r.groups) for r in walk.routes if r.weight == weight_name}) > 1:
            raise Impossible(f"`{weight_name}` is tied and reads units of `{axis}` in two ways")
    borrowed = tuple((name, _layer(graph, name)) for name in dict.fromkeys(walk.borrowed))
    return Bridge(maker, tuple(walk.routes), sloped, count, tuple(walk.passed), tuple(walk.attended), borrowed)


def _layer(graph: Graph, node: str) -> str:
    """Return the layer behind which a borrowed factor stands."""
    while not isinstance(graph[node].op, Dense | Conv):
        node = graph[node].inputs[0]
    return node
