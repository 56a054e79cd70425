"""Pure data movement: run the op itself on arrays of statuses, and see where they arrive."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from irgrow.axes import NEW, Axis, IndexMap, in_full, size_of
from irgrow.graph import Graph, Node
from irgrow.ops import Signature, Sizes
from irgrow.passes.preservation.known import ANY, MEAN, SAME, Known, uniform
from irgrow.passes.preservation.prover import Prover, mapped

_APART = 1 << 40
"""Distance between the numbers of units of different inputs."""


@dataclass
class _Stub:
    """What a movement op needs to be evaluated: sizes, no parameters."""

    signature: Signature
    sizes: Sizes
    training: bool = False

    def size(self, axis: Axis) -> int:
        return size_of(axis, self.sizes)

    def param(self, name: str) -> Any:
        raise KeyError(name)

    def update(self, name: str, value: Any) -> None:
        raise KeyError(name)


def _moved(graph: Graph, node: Node, units: list[NDArray[Any]], dims: list[int], out: int) -> NDArray[np.float64]:
    """Move one number per unit through the op; the rows of the result are the units of dimension `out`."""
    s = graph.signatures[node.name]
    everything = node.op.kind in ("flatten", "pixelshuffle")
    own = getattr(node.op, "dim", None)
    arrays = []
    for values, dim, t in zip(units, dims, s.inputs, strict=True):
        needed = {dim, t.unit_dim if own is None else own}
        shape = [graph.size(a) if everything or i in needed else 1 for i, a in enumerate(t.dims)]
        line = np.asarray(values, dtype=np.float64).reshape(-1, *(1,) * (t.rank - 1 - dim))
        arrays.append(np.broadcast_to(line, shape)[None])
    result = node.op.evaluate(_Stub(s, graph.widths), *arrays)
    return np.moveaxis(result[0], out, 0).reshape(result.shape[out + 1], -1)


def movement(p: Prover, node: Node, old: Node, inputs: list[Known]) -> Known:
    """Follow every unit to its new place; it must be the place the edit of the axes says."""
    s = p.before.signatures[node.name]
    why = next((k.why for k in inputs if k.why), None)
    edited = [d for d, axis in enumerate(s.output.dims) if p.map_of(axis) is not None]
    if len(edited) > 1 or p.op_changed(node, old):
        return uniform(node.name, ANY, why or f"`{node.name}` moves units along several edited dimensions")
    out = edited[0] if edited else s.output.unit_dim
    dims = [t.unit_dim if k.dim is None else k.dim for k, t in zip(inputs, s.inputs, strict=True)]
    axes = [t.dims[d] for t, d in zip(s.inputs, dims, strict=True)]
    sizes = [p.size(a) for a in axes]
    size, m = p.size(s.output.dims[out]), p.map_of(s.output.dims[out])

    def moved(lines: list[NDArray[Any]]) -> NDArray[np.float64]:
        return _moved(p.after, node, lines, dims, out)

    statuses = moved([k.spread(n) for k, n in zip(inputs, sizes, strict=True)])
    status = statuses.max(1).astype(np.int8)
    if len(inputs) > 1 or axes[0] != s.output.dims[out]:
        status[status == MEAN] = ANY  # the mean is over other units there
    status[(status == MEAN) & (statuses.min(1) != MEAN)] = ANY
    arrived = moved([_sources(k, n, i) for i, (k, n) in enumerate(zip(inputs, sizes, strict=True))])
    old_lines = [np.arange(p.before.size(a)) + 1 + i * _APART for i, a in enumerate(axes)]
    home = _moved(p.before, node, old_lines, dims, out)
    source = in_full(m, size)
    padding = (source != NEW) & (arrived == 0).all(1) & (home[np.maximum(source, 0)] == 0).all(1)
    status[padding] = SAME
    same = (status == SAME) & (source != NEW)
    strayed = same & ~(arrived == home[np.maximum(source, 0)]).all(1)
    status[strayed | ((status == SAME) & (source == NEW))] = ANY
    factor = None
    if any(k.factor is not None for k in inputs):
        factors = moved([k.factors(n) for k, n in zip(inputs, sizes, strict=True)])
        factor = np.where(same, factors.max(1), 1.0)
        status[same & (factors.min(1) != factors.max(1))] = ANY
    maker, rows = _rows(inputs, sizes, moved)
    why = why or f"`{node.name}` puts old units in other places"
    return mapped(inputs[0], status, node.name, out, m, factor, why, maker, rows)


def _sources(k: Known, size: int, index: int) -> NDArray[np.int64]:
    """Number the old units behind the new ones, each input apart; zero for new ones."""
    source = in_full(k.map, size)
    return np.where(source < 0, 0, source + 1 + index * _APART)


def _rows(
    inputs: list[Known], sizes: list[int], moved: Callable[[list[NDArray[Any]]], NDArray[np.float64]]
) -> tuple[str | None, IndexMap | None]:
    """Follow the rows of a maker, if all that is new comes from one."""
    makers = {k.maker for k in inputs if k.rows is not None}
    if len(makers) != 1:
        return None, None
    lines = [np.zeros(n) if k.rows is None else k.rows + 1 for k, n in zip(inputs, sizes, strict=True)]
    went = moved(lines)
    rows = np.where(went.min(1) == went.max(1), went[:, 0], 0).astype(np.int64) - 1
    return makers.pop(), rows
