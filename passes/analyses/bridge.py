"""The auxiliary gradient of an axis: what the fan-in of a new unit would receive, for every fan-out it could have.

Let x be what the first layer that makes the axis reads, and d the gradient of the loss by the output of a layer that
reads it. A bridge straight from x to that output, all zeros, would receive the gradient A = sum d x^T; a new unit with
zero fan-in and fan-out v receives f'(0) v^T A. So A has one row per fan-out entry of a unit and one column per fan-in
entry, in the order of the two weights, and its singular vectors are the best fan-outs (Evci et al. 2022, GradMax).

Between convolutions the printed bridge is one kernel of size k1 + k2 - 1 with padding p1 + p2 and stride s1 * s2; entry
(o, t2), (c, t1) of A is its gradient at tap t1 + t2 (`borders = kernel`). It is not what a unit receives where the
second layer pads: there the unit reads zeros and the bridge what lies beyond; nor where the first has a stride. With
`borders = exact` A is the weight gradient the reader would have if it read every fan-in entry of the first layer as a
channel of its own, which is the gradient of the product of the two kernels whatever their strides and paddings.

Pooling between the layers is applied to those channels, which is exact for means and not for maxima (through the first
of equals a maximum hands everything on); behind it, and behind a flatten, there is only the exact form. Norms count as
one. On a residual stream the rows of all that read it are put under one another, for its first layer.

What else new units pass is linear in them once it is known what they get there, and so it is exact: a depthwise
convolution in which they have unit filters, attention in which their queries are zero and their keys are not, and of
a product of units the factor that the others, at zero, do not make zero (`irgrow.passes.analyses.routes`). If all
make it zero, as in a gated layer (SwiGLU), new units borrow the other factor: they start with a copy of that of the old
unit with the largest fan-in there, and are zero on the side with the larger slope at zero, the first of equals. What
new units must be given for that, beside zero fan-in, `irgrow.passes.analyses.companions` says.

A unit can run in several lanes, one for every head or group. Their fan-in and their fan-out have nothing to do with one
another, so that A falls into blocks, one for every lane of the layer that makes them. Singular vectors of all of A
would let one lane live and the others die; so the best fan-outs of a unit are sought lane by lane.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from irgrow.axes import NEW, Atom, atoms, positions
from irgrow.edits import Impossible
from irgrow.graph import Graph, remembered
from irgrow.ops import Conv, Dense
from irgrow.passes.analyses.entries import effective
from irgrow.passes.analyses.kernels import by_kernel, by_reader, entries, entries_of_units, windows
from irgrow.passes.analyses.lanes import lanes, lender, lent, plain
from irgrow.passes.analyses.places import makers
from irgrow.passes.analyses.routes import Route, SecondOrder, Walk

if TYPE_CHECKING:
    from torch import Tensor

Array = NDArray[np.float64]
BORDERS = ("exact", "kernel")
_MOST_ENTRIES = 1 << 24
"""Samples are taken together as long as there are fewer fan-in entries at all positions."""


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


@dataclass(frozen=True)
class Auxiliary:
    """The auxiliary gradient of an axis.

    Args:
        blocks: Shape (lanes, fan-out entries of a lane, fan-in entries of a lane), float64; the fan-out entries of
            different weights one after the other.
        routes: One route for every weight that reads the units, in that order.
    """

    blocks: Tensor
    routes: tuple[Route, ...]

    @property
    def matrix(self) -> Tensor:
        """The auxiliary gradient as a matrix, shape (fan-out entries of a unit, fan-in entries), lane by lane."""
        import torch

        return self.blocks[0] if len(self.blocks) == 1 else torch.block_diag(*self.blocks)

    @property
    def parts(self) -> dict[str, tuple[int, ...]]:
        """By weight that reads the units the shape of one unit's entries."""
        return {route.weight: route.shape for route in self.routes}

    def fan_outs(self, rows: Array) -> dict[str, Array]:
        """Return fan-outs by weight, shape (units, *shape of one unit's entries).

        Args:
            rows: Shape (units, lanes, fan-out entries of a lane), in the order of the rows of the blocks.
        """
        import torch

        sizes = [prod(route.shape) // len(self.blocks) for route in self.routes]
        cut = torch.as_tensor(np.ascontiguousarray(rows)).split(sizes, 2)
        return {r.weight: entries_of_units(r, part).numpy() for r, part in zip(self.routes, cut, strict=True)}


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


def auxiliary(
    graph: Graph,
    axis: str,
    values: Mapping[str, Any],
    signals: Mapping[str, Any] | None,
    borders: str = "exact",
    sloped: bool = False,
    across: Bridge | None = None,
    bias: bool = False,
    params: Mapping[str, Any] | None = None,
) -> Auxiliary:
    """Return the auxiliary gradient of a leaf axis, in the precision of what was recorded, float32 at least.

    Args:
        graph: The network.
        axis: The axis.
        values: Values of the nodes `needed` names, batch first; of borrowed factors one unit is enough.
        signals: Gradient of the loss by the values of those nodes.
        borders: `exact`, or `kernel` as printed.
        sloped: Whether to count the slopes at zero on the way, so that the matrix times a fan-out is the gradient.
        across: The bridge, if it is not that of the graph: its routes may count fewer outputs, if the signals do.
        bias: Whether a last column stands for the bias of a new unit, as if the layer read a one beside the rest.
        params: Parameters: frequencies of rotary positions, and weights by which it is chosen who lends its factor.

    Raises:
        Impossible: There is no bridge, something was not recorded, or a number is not finite.
    """
    import torch

    found = across or bridge(graph, axis, sloped)
    x = _recorded(graph, graph[found.maker].inputs[0], values, "the values")
    heard = {route.node: _recorded(graph, route.node, signals, "the gradient by the values") for route in found.routes}
    beside = {n: _recorded(graph, n, values, "the values") for node in found.attended for n in graph[node].inputs[:2]}
    for name, layer in found.borrowed:
        value = _recorded(graph, name, values, "the values")
        chosen = value.shape[1 + graph.types[name].features] == 1
        beside[name] = value if chosen else lent(graph, name, value, lender(graph, layer, params or {}))
    rotary = {name: params[name] for n in found.attended for name in graph.own_params[n] if params and name in params}
    dtype = torch.promote_types(x.dtype, torch.float32)
    fan_in = prod(graph.param_shape(graph.param_name(found.maker, "weight"))[1:]) + bias
    routes = {route.weight: route for route in found.routes}
    rows = {weight: prod(route.shape) // found.lanes for weight, route in routes.items()}
    sums = {
        weight: torch.zeros((found.lanes, size, fan_in), dtype=torch.float64, device=_home(x))
        for weight, size in rows.items()
    }
    places = prod(graph.shape(found.maker)) // graph.widths[axis]
    step = max(1, _MOST_ENTRIES // (fan_in * places))
    for start in range(0, len(x), step):
        some = slice(start, start + step)
        told = {name: value[some].to(dtype) for name, value in heard.items()}
        near = rotary | {name: value[some] for name, value in beside.items()}
        for route, matrix in _blocks(graph, found, axis, x[some].to(dtype), told, near, borders, bias):
            sums[route.weight] += matrix.to(sums[route.weight])
    return Auxiliary(torch.cat(list(sums.values()), 1), tuple(routes.values()))


def contributions(graph: Graph, axis: str, value: Any, fan_in: Any, fan_outs: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return what new units would add to the outputs of the layers that read them, by layer, batch first.

    It is differentiable by fan-in and fan-outs.

    Args:
        graph: The network.
        axis: The axis.
        value: What its first layer reads on a batch.
        fan_in: One row of entries per new unit, shape (units, fan_in, *taps).
        fan_outs: By weight that reads them, one row of entries per new unit, shape (units, *shape).

    Raises:
        Impossible: There is no bridge, or the value is not finite.
    """
    import torch
    from torch.nn import functional as F

    found = bridge(graph, axis)
    maker, source = found.maker, graph[found.maker].inputs[0]
    if found.lanes > 1:
        raise Impossible(f"units of `{axis}` run in {found.lanes} lanes; candidates are not tried there")
    x = _recorded(graph, source, {source: value}, "the values")
    weight = torch.as_tensor(fan_in).to(x).flatten(1)
    dim = 1 if isinstance(graph[maker].op, Conv) else -1
    before = torch.tensordot(entries(graph, maker, 1, x).movedim(dim, -1), weight.T, 1).movedim(-1, dim)
    walk = Walk(graph, axis, maker, False, before, active=True, borrowing=bool(found.borrowed))
    added: dict[str, Tensor] = {}
    for route in walk.routes:
        count, out = len(route.origins), torch.as_tensor(fan_outs[route.weight]).to(x)
        read = walk.read[route.node].unflatten(0, (count, -1))
        out = out.reshape(len(out), route.shape[0], count, *route.shape[1 + (count > 1) :])
        if isinstance(graph[route.node].op, Conv):
            _, stride, padding, dilation = windows(graph, route.node)
            convolve: Any = F.conv1d if read.dim() == 4 else F.conv2d
            kernels = out.transpose(0, 2).transpose(0, 1).flatten(1, 2)
            added[route.node] = convolve(read.transpose(0, 1).flatten(1, 2), kernels, None, stride, padding, dilation)
        else:
            added[route.node] = torch.einsum("kn...u,uok->n...o", read, out)
    return added


def new_columns(graph: Graph, axis: str, weight: str, fan_outs: Array) -> Array:
    """Return what a weight gains along its second dimension, in the order of the new columns.

    Args:
        graph: The network before units are appended to the axis.
        axis: The axis.
        weight: Full name of a weight that reads it.
        fan_outs: One row of entries per new unit, shape (units, *shape) as `Auxiliary.parts` has it.

    Returns:
        Shape (outputs, new columns, *taps).
    """
    old, shape = graph.widths[axis], graph.param_shape(weight)
    widths = dict(graph.widths) | {axis: old + len(fan_outs)}
    (unit_at,) = positions(graph.params[weight].spec.dims[1], widths)[axis]
    entries = fan_outs.reshape(len(fan_outs), shape[0], -1, *shape[2:])
    seen = dict.fromkeys(range(len(fan_outs)), 0)
    found = []
    for unit in (unit_at[unit_at >= old] - old).tolist():
        found.append(entries[unit, :, seen[unit]])
        seen[unit] += 1
    return np.stack(found, 1)


def fan_out_norm(graph: Graph, axis: str, readers: Iterable[str], params: Mapping[str, Any]) -> float:
    """Return the mean norm of the fan-outs of the units of an axis, over all the weights that read them.

    It is 1 if they are all zero, so that it can be scaled to.
    """
    total = np.zeros(graph.widths[axis])
    for weight in readers:
        value = effective(params, weight)
        (unit_at,) = positions(graph.params[weight].spec.dims[1], graph.widths)[axis]
        squares = (value**2).sum(tuple(d for d in range(value.ndim) if d != 1))
        total += np.bincount(unit_at[unit_at != NEW], squares[unit_at != NEW], minlength=len(total))
    return float(np.sqrt(total).mean()) or 1.0


def _home(x: Tensor) -> Any:
    """Return where sums in float64 can be kept."""
    return "cpu" if x.device.type == "mps" else x.device


def _recorded(graph: Graph, name: str, found: Mapping[str, Any] | None, what: str) -> Tensor:
    import torch

    if found is None or name not in found:
        give = "give `batch` or `statistics`" if what == "the values" else "give `loss` and `batch` or `statistics`"
        raise Impossible(f"it takes {what} of `{name}` on a batch, none were recorded; {give}")
    value = torch.as_tensor(found[name]).detach()
    if not bool(torch.isfinite(value).all()):
        raise Impossible(f"{what} of `{name}` are not finite on the batch")
    if len(value) == 0:
        raise Impossible("the batch has no samples")
    return value


def _blocks(
    graph: Graph,
    found: Bridge,
    axis: str,
    x: Tensor,
    signals: Mapping[str, Tensor],
    beside: Mapping[str, Any],
    borders: str,
    bias: bool,
) -> Iterator[tuple[Route, Tensor]]:
    """Yield every route with its part of the auxiliary gradient, shape (lanes, fan-out entries, fan-in entries)."""
    import torch

    printed = {r.node for r in found.routes if borders == "kernel" and _two_kernels(graph, found.maker, r)}
    dim = 1 if isinstance(graph[found.maker].op, Conv) else -1
    exact = len(printed) < len(found.routes)
    read = entries(graph, found.maker, found.lanes, x) if exact or bias else x
    ones = [torch.ones_like(read.narrow(dim, 0, 1))] if bias else []
    aside = (
        Walk(graph, axis, found.maker, found.sloped, ones[0], False, beside, bool(found.borrowed))
        if printed and bias
        else None
    )
    for route in found.routes:
        if route.node in printed:
            matrix = route.slope * by_kernel(graph, found.maker, route, x, signals[route.node])[None]
            if aside is not None:
                last = by_reader(graph, route, 1, aside.read[route.node], signals[route.node])
                matrix = torch.cat([matrix, last], 2)
            yield route, matrix
    if not exact:
        return
    read = torch.cat([read, *ones], dim) if bias else read
    walk = Walk(graph, axis, found.maker, found.sloped, read, False, beside, bool(found.borrowed))
    for route in found.routes:
        if route.node not in printed:
            yield route, by_reader(graph, route, found.lanes, walk.read[route.node], signals[route.node])


def _two_kernels(graph: Graph, maker: str, route: Route) -> bool:
    both = isinstance(graph[maker].op, Conv) and isinstance(graph[route.node].op, Conv)
    return both and route.direct and plain(graph, maker)
