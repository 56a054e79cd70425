"""Weight gradients that auxiliary gradients are made of: of a reader of fan-in entries, and of a printed bridge kernel.

Rows are fan-out entries, columns fan-in entries, with one block for every lane of the maker (`Route.origins`).
"""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

from irgrow.edits import Impossible
from irgrow.graph import Graph
from irgrow.ops import Conv
from irgrow.ops.conv import per_dim, taps
from irgrow.passes.analyses.carrying import both_sides
from irgrow.passes.analyses.lanes import plain
from irgrow.passes.analyses.routes import Route

if TYPE_CHECKING:
    from torch import Tensor


def windows(graph: Graph, node: str) -> tuple[tuple[int, ...], ...]:
    """Return kernel, stride, padding and dilation of a convolution."""
    op, rank = graph[node].op, graph.types[node].rank - 1
    assert isinstance(op, Conv)
    kernel, stride, padding, dilation = (per_dim(w, rank) for w in (op.kernel, op.stride, op.padding, op.dilation))
    return kernel, stride, padding, dilation


def entries(graph: Graph, maker: str, lanes: int, x: Tensor) -> Tensor:
    """Return what a unit reads, laid out as the output of its layer with one fan-in entry per unit.

    Shape (lanes * samples, ...). The lanes of a grouped convolution read their own groups, all others the same.
    """
    import torch

    if not isinstance(graph[maker].op, Conv):
        return x if lanes == 1 else x.expand(lanes, *x.shape).flatten(0, 1)
    kernel, stride, padding, dilation = windows(graph, maker)
    x = torch.nn.functional.pad(x, both_sides(padding))
    sliding: Any = taps(x, kernel, stride, dilation)  # type: ignore[arg-type]
    found = torch.stack(list(sliding), 2).flatten(1, 2)
    if lanes == 1:
        return found
    groups = 1 if plain(graph, maker) else graph.size(graph.signatures[maker].axes["groups"])
    read = found.unflatten(1, (groups, -1)).movedim(1, 0)
    return read.repeat_interleave(lanes // groups, 0).flatten(0, 1)


def by_reader(graph: Graph, route: Route, lanes: int, read: Tensor, signal: Tensor) -> Tensor:
    """Return the weight gradient of a reader for the fan-in entries as its channels, sorted.

    Args:
        graph: The network.
        route: The reader.
        lanes: How many the maker has.
        read: The fan-in entries where they are read, shape (lanes that reach the reader * samples, ...).
        signal: Gradient of the loss by what it gives.

    Returns:
        Shape (lanes, fan-out entries of a lane, fan-in entries).
    """
    count = len(route.origins)
    if isinstance(graph[route.node].op, Conv):
        kernel, stride, padding, dilation = windows(graph, route.node)
        x = read.unflatten(0, (count, -1)).transpose(0, 1).flatten(1, 2)
        shape = (signal.shape[1], x.shape[1] // route.groups, *kernel)
        found = _weight_gradient(x, shape, signal, stride, padding, dilation, route.groups)
        found = found.reshape(route.groups, -1, count // route.groups, read.shape[1], prod(kernel))
        found = found.permute(0, 2, 1, 4, 3).flatten(0, 1)
    else:
        found = (signal.flatten(0, -2).T @ read.unflatten(0, (count, -1)).flatten(1, -2)).unsqueeze(2)
    if count == 1:
        return found.flatten(1, 2)
    order = np.argsort(route.origins, kind="stable").tolist()
    found = found[order].unflatten(0, (lanes, -1))  # (lanes, lanes from there, outputs, taps, fan-in entries)
    return (found if route.groups > 1 else found.transpose(1, 2)).flatten(1, 3)


def entries_of_units(route: Route, rows: Tensor) -> Tensor:
    """Return fan-outs in the layout of the weight that reads them, shape (units, *route.shape).

    Args:
        route: The reader.
        rows: Shape (units, lanes, fan-out entries of a lane), in the order of the rows of `by_reader`.
    """
    import torch

    units, lanes = rows.shape[:2]
    outputs, count = route.shape[0], len(route.origins)
    if route.groups > 1:
        parts = rows.reshape(units, count, outputs // route.groups, -1)
    else:
        parts = rows.reshape(units, lanes, outputs, count // lanes, -1).transpose(2, 3).flatten(1, 2)
    back = torch.empty(count, dtype=torch.int64)
    back[np.argsort(route.origins, kind="stable").tolist()] = torch.arange(count)
    parts = parts[:, back.to(rows.device)].unflatten(1, (route.groups, -1))  # (units, groups, lanes, outputs, taps)
    return parts.transpose(2, 3).reshape(units, *route.shape)


def by_kernel(graph: Graph, maker: str, route: Route, x: Tensor, signal: Tensor) -> Tensor:
    """Return the gradient of the printed bridge kernel, unfolded, shape (fan-out entries, fan-in entries).

    Raises:
        Impossible: It gives other positions than the two layers.
    """
    import torch

    (k1, s1, p1, d1), (k2, s2, p2, d2) = windows(graph, maker), windows(graph, route.node)
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


def _weight_gradient(
    x: Tensor, shape: tuple[int, ...], signal: Tensor, stride: Any, padding: Any, dilation: Any, groups: int = 1
) -> Tensor:
    """Return the gradient of a kernel of this shape, given what it reads and the gradient by what it gives."""
    from torch.nn.grad import conv1d_weight, conv2d_weight

    rule: Any = conv1d_weight if x.dim() == 3 else conv2d_weight
    found: Tensor = rule(x, shape, signal, stride, padding, dilation, groups)
    return found
