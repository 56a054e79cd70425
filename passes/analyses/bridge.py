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
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from irgrow.axes import NEW, Atom, atoms, positions
from irgrow.edits import Impossible
from irgrow.graph import Graph, remembered
from irgrow.ops import Conv, Dense
from irgrow.ops.conv import per_dim, taps
from irgrow.passes.analyses.entries import effective
from irgrow.passes.analyses.places import makers
from irgrow.passes.analyses.routes import Route, Walk, plain

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
        maker: The first layer.
        routes: The layers that read its units, in program order.
        sloped: Whether the slopes at zero of the activations on the way are counted; else they are ones.
    """

    maker: str
    routes: tuple[Route, ...]
    sloped: bool


@dataclass(frozen=True)
class Auxiliary:
    """The auxiliary gradient of an axis.

    Args:
        matrix: Shape (fan-out entries of a unit, fan-in entries of a unit), float64; the fan-out entries of different
            weights one after the other.
        parts: By weight that reads the units the shape of one unit's entries, in the order of the rows.
    """

    matrix: Tensor
    parts: Mapping[str, tuple[int, ...]]


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
    return (graph[found.maker].inputs[0], *(route.node for route in found.routes))


@remembered
def bridge(graph: Graph, axis: str, sloped: bool = False) -> Bridge:
    """Return the first layer that makes a leaf axis and the layers that read it.

    Raises:
        Impossible: The axis is made or read by something else, or passes through something that has no bridge.
    """
    maker = next((m for m in makers(graph, axis) if isinstance(graph[m].op, Dense | Conv)), None)
    if maker is None:
        raise Impossible(f"no dense layer or convolution makes `{axis}`")
    weight = graph.params[graph.param_name(maker, "weight")]
    if len(weight.uses) > 1:
        raise Impossible(f"`{weight.name}` is tied; there is no bridge around one of its uses")
    if graph.signatures[maker].axes["units"] != Atom(axis) or not plain(graph, maker):
        raise Impossible(f"`{maker}` is a grouped convolution or does not make all of `{axis}`")
    if Atom(axis) in atoms(weight.spec.dims[1]):
        raise Impossible(f"`{maker}` makes units of `{axis}` and reads them")
    walk = Walk(graph, axis, maker, sloped)
    if not walk.routes:
        raise Impossible(f"no dense layer or convolution reads `{axis}`")
    return Bridge(maker, tuple(walk.routes), sloped)


def auxiliary(
    graph: Graph,
    axis: str,
    values: Mapping[str, Any],
    signals: Mapping[str, Any] | None,
    borders: str = "exact",
    sloped: bool = False,
    across: Bridge | None = None,
    bias: bool = False,
) -> Auxiliary:
    """Return the auxiliary gradient of a leaf axis, in the precision of what was recorded, float32 at least.

    Args:
        graph: The network.
        axis: The axis.
        values: Values of the nodes `needed` names, batch first.
        signals: Gradient of the loss by the values of those nodes.
        borders: `exact`, or `kernel` as printed.
        sloped: Whether to count the slopes at zero on the way, so that the matrix times a fan-out is the gradient.
        across: The bridge, if it is not that of the graph: its routes may count fewer outputs, if the signals do.
        bias: Whether a last column stands for the bias of a new unit, as if the layer read a one beside the rest.

    Raises:
        Impossible: There is no bridge, something was not recorded, or a number is not finite.
    """
    import torch

    found = across or bridge(graph, axis, sloped)
    x = _recorded(graph, graph[found.maker].inputs[0], values, "the values")
    heard = {route.node: _recorded(graph, route.node, signals, "the gradient by the values") for route in found.routes}
    dtype = torch.promote_types(x.dtype, torch.float32)
    fan_in = prod(graph.param_shape(graph.param_name(found.maker, "weight"))[1:]) + bias
    parts = {route.weight: route.shape for route in found.routes}
    sums = {w: torch.zeros((prod(s), fan_in), dtype=torch.float64, device=_home(x)) for w, s in parts.items()}
    places = prod(graph.shape(found.maker)) // graph.widths[axis]
    step = max(1, _MOST_ENTRIES // (fan_in * places))
    for start in range(0, len(x), step):
        part = x[start : start + step].to(dtype)
        told = {name: value[start : start + step].to(dtype) for name, value in heard.items()}
        for route, matrix in _matrices(graph, found, axis, part, told, borders, bias):
            sums[route.weight] += matrix.to(sums[route.weight])
    return Auxiliary(torch.cat(list(sums.values())), parts)


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

    maker = bridge(graph, axis).maker
    source = graph[maker].inputs[0]
    x = _recorded(graph, source, {source: value}, "the values")
    weight = torch.as_tensor(fan_in).to(x).flatten(1)
    dim = 1 if isinstance(graph[maker].op, Conv) else -1
    before = torch.tensordot(_unfolded(graph, maker, x).movedim(dim, -1), weight.T, 1).movedim(-1, dim)
    walk = Walk(graph, axis, maker, False, before, active=True)
    added: dict[str, Tensor] = {}
    for route in walk.routes:
        read, out = walk.read[route.node], torch.as_tensor(fan_outs[route.weight]).to(x)
        if isinstance(graph[route.node].op, Conv):
            _, stride, padding, dilation = _windows(graph, route.node)
            convolve: Any = F.conv1d if read.dim() == 3 else F.conv2d
            added[route.node] = convolve(read, out.transpose(0, 1), None, stride, padding, dilation)
        elif len(route.shape) > 1:
            added[route.node] = torch.einsum("nup,uop->no", read, out)
        else:
            added[route.node] = read @ out
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


def _matrices(
    graph: Graph, found: Bridge, axis: str, x: Tensor, signals: Mapping[str, Tensor], borders: str, bias: bool
) -> Iterator[tuple[Route, Tensor]]:
    """Yield every route with its part of the auxiliary gradient, shape (fan-out entries, fan-in entries)."""
    import torch

    printed = {r.node for r in found.routes if borders == "kernel" and _two_kernels(graph, found.maker, r)}
    dim = 1 if isinstance(graph[found.maker].op, Conv) else -1
    exact = len(printed) < len(found.routes)
    entries = _unfolded(graph, found.maker, x) if exact or bias else x
    ones = [torch.ones_like(entries.narrow(dim, 0, 1))] if bias else []
    beside = Walk(graph, axis, found.maker, found.sloped, ones[0]) if printed and bias else None
    for route in found.routes:
        if route.node in printed:
            matrix = route.slope * _by_kernel(graph, found.maker, route, x, signals[route.node])
            if beside is not None:
                last = _by_reader(graph, route, beside.read[route.node], signals[route.node])
                matrix = torch.cat([matrix, last], 1)
            yield route, matrix
    if not exact:
        return
    entries = torch.cat([entries, *ones], dim) if bias else entries
    walk = Walk(graph, axis, found.maker, found.sloped, entries)
    for route in found.routes:
        if route.node not in printed:
            yield route, _by_reader(graph, route, walk.read[route.node], signals[route.node])


def _two_kernels(graph: Graph, maker: str, route: Route) -> bool:
    both = isinstance(graph[maker].op, Conv) and isinstance(graph[route.node].op, Conv)
    return both and route.direct


# both forms ----------------------------------------------------------------------------------------------------------


def _windows(graph: Graph, node: str) -> tuple[tuple[int, ...], ...]:
    """Return kernel, stride, padding and dilation of a convolution."""
    op, rank = graph[node].op, graph.types[node].rank - 1
    assert isinstance(op, Conv)
    kernel, stride, padding, dilation = (per_dim(w, rank) for w in (op.kernel, op.stride, op.padding, op.dilation))
    return kernel, stride, padding, dilation


def _unfolded(graph: Graph, maker: str, x: Tensor) -> Tensor:
    """Return what a unit reads, laid out as the output of its layer with one fan-in entry per unit."""
    import torch

    if not isinstance(graph[maker].op, Conv):
        return x
    kernel, stride, padding, dilation = _windows(graph, maker)
    x = torch.nn.functional.pad(x, [p for size in reversed(padding) for p in (size, size)])
    sliding: Any = taps(x, kernel, stride, dilation)  # type: ignore[arg-type]
    return torch.stack(list(sliding), 2).flatten(1, 2)


def _weight_gradient(
    x: Tensor, shape: tuple[int, ...], signal: Tensor, stride: Any, padding: Any, dilation: Any
) -> Tensor:
    """Return the gradient of a kernel of this shape, given what it reads and the gradient by what it gives."""
    from torch.nn.grad import conv1d_weight, conv2d_weight

    rule: Any = conv1d_weight if x.dim() == 3 else conv2d_weight
    found: Tensor = rule(x, shape, signal, stride, padding, dilation)
    return found


def _by_reader(graph: Graph, route: Route, read: Tensor, signal: Tensor) -> Tensor:
    """Return the weight gradient of a reader for the fan-in entries as its channels, sorted."""
    import torch

    if isinstance(graph[route.node].op, Conv):
        kernel, stride, padding, dilation = _windows(graph, route.node)
        shape = (route.shape[0], read.shape[1], *kernel)
        found = _weight_gradient(read, shape, signal, stride, padding, dilation)
        return found.movedim(1, -1).reshape(-1, read.shape[1])
    if len(route.shape) > 1:  # behind a flatten: (samples, fan-in entries, positions)
        return torch.einsum("no,nip->opi", signal, read).flatten(0, 1)
    return signal.flatten(0, -2).T @ read.flatten(0, -2)


def _by_kernel(graph: Graph, maker: str, route: Route, x: Tensor, signal: Tensor) -> Tensor:
    """Return the gradient of the printed bridge kernel, unfolded."""
    import torch

    (k1, s1, p1, d1), (k2, s2, p2, d2) = _windows(graph, maker), _windows(graph, route.node)
    reach = tuple(da * (a - 1) + db * (b - 1) + 1 for a, da, b, db in zip(k1, d1, k2, d2, strict=True))
    stride = tuple(a * b for a, b in zip(s1, s2, strict=True))
    padding = tuple(a + b for a, b in zip(p1, p2, strict=True))
    sizes = (n + 2 * p - r for n, p, r in zip(x.shape[2:], padding, reach, strict=True))
    gives = [size // s + 1 for size, s in zip(sizes, stride, strict=True)]
    if gives != list(signal.shape[2:]):
        raise Impossible(
            f"the bridge kernel around `{maker}` and `{route.node}` gives {gives} positions, `{route.node}` "
            f"{list(signal.shape[2:])}; use `borders = exact`"
        )
    shape = (route.shape[0], x.shape[1], *reach)
    found = _weight_gradient(x, shape, signal, stride, padding, (1,) * len(k1))
    for dim, (a, da, b, db) in enumerate(zip(k1, d1, k2, d2, strict=True)):
        at = db * torch.arange(b)[:, None] + da * torch.arange(a)[None, :]
        found = found.movedim(2 + dim, -1)[..., at.to(found.device)].movedim((-2, -1), (2 + dim, 2 + dim + 1))
        found = found.movedim(2 + dim + 1, -1)  # second taps stay in front, first taps go to the end
    rank = len(k1)
    order = (0, *range(2, 2 + rank), 1, *range(2 + rank, 2 + 2 * rank))
    return found.permute(order).reshape(prod(route.shape), -1)
