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

Depthwise convolutions, attention and products on the way are exact as well (`irgrow.passes.analyses.bridge`). Slopes of
activations are those where new units are at first: f'(0), or behind f(0) != 0 what it is there.

A unit can run in several lanes, one for every head or group. Their fan-in and their fan-out have nothing to do with one
another, so that A falls into blocks, one for every lane of the layer that makes them. Singular vectors of all of A
would let one lane live and the others die; so the best fan-outs of a unit are sought lane by lane.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

from irgrow.edits import Impossible
from irgrow.graph import Graph
from irgrow.ops import Conv
from irgrow.passes.analyses.bridge import Bridge, bridge
from irgrow.passes.analyses.kernels import by_kernel, by_reader, entries, entries_of_units
from irgrow.passes.analyses.lanes import lender, lent, plain
from irgrow.passes.analyses.routes import Route, Walk
from irgrow.shapes import Array

if TYPE_CHECKING:
    from torch import Tensor

BORDERS = ("exact", "kernel")
_MOST_ENTRIES = 1 << 24
"""Samples are taken together as long as there are fewer fan-in entries at all positions."""


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
    x = recorded(graph[found.maker].inputs[0], values, "the values")
    heard = {route.node: recorded(route.node, signals, "the gradient by the values") for route in found.routes}
    beside = {n: recorded(n, values, "the values") for node in found.attended for n in graph[node].inputs[:2]}
    for name, layer in found.borrowed:
        value = recorded(name, values, "the values")
        chosen = value.shape[1 + graph.types[name].unit_dim] == 1
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


def recorded(name: str, found: Mapping[str, Any] | None, what: str) -> Tensor:
    """Return what was recorded of a node as a tensor.

    Args:
        name: The node.
        found: What was recorded, by node, batch first.
        what: What it is called.

    Raises:
        Impossible: Nothing was, or a number is not finite, or there are no samples.
    """
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


def _home(x: Tensor) -> Any:
    """Return where sums in float64 can be kept."""
    return "cpu" if x.device.type == "mps" else x.device
