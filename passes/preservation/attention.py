"""Dot-product attention: heads stay what they are if their products over the head dimension and their values do."""

from __future__ import annotations

from math import sqrt
from typing import Any

import numpy as np
from numpy.typing import NDArray

from irgrow.axes import NEW, in_full, keeps_all
from irgrow.graph import Node
from irgrow.passes.preservation.known import ANY, SAME, ZERO, Known, uniform
from irgrow.passes.preservation.prover import Prover, mapped


def _scale(node: Node, head_dim: int) -> float:
    """Return what the products are multiplied by."""
    given: float | None = getattr(node.op, "scale", None)
    return given or 1.0 / sqrt(head_dim)


def attention(p: Prover, node: Node, old: Node, inputs: list[Known]) -> Known:
    """Compare head by head; new entries of the head dimension must be zero in the query or in the key."""
    s = p.before.signatures[node.name]
    why = next((k.why for k in inputs if k.why), None)
    if any(k.dim not in (None, 1) for k in inputs):
        return uniform(node.name, ANY, why or f"`{node.name}` attends over positions that are edited")
    if p.op_changed(node, old, ("scale",)):
        return uniform(node.name, ANY, f"the attributes of `{node.name}` differ")
    axes = s.axes
    heads, groups = p.size(axes["heads"]), p.size(axes.get("kv_heads", axes["heads"]))
    size, m = p.size(s.output.units), p.map_of(s.output.units)
    q, k, v = inputs
    q_size, k_size, v_size = (p.size(t.units) for t in s.inputs)
    repeats = heads // groups
    by_head = {
        "q": q.spread(q_size).reshape(heads, -1),
        "k": np.repeat(k.spread(k_size).reshape(groups, -1), repeats, axis=0),
        "v": np.repeat(v.spread(v_size).reshape(groups, -1), repeats, axis=0),
    }
    same_scale = np.isclose(
        _scale(node, p.size(axes["head_dim"])), _scale(old, p.before.size(axes["head_dim"])), rtol=1e-12, atol=0.0
    )
    unscaled = all(known.factor is None for known in inputs)
    if not (same_scale and unscaled and _frequencies(p, node)):
        status = np.full(size, ANY, dtype=np.int8)
        return mapped(q, status, node.name, 1, m, why=why or f"`{node.name}` scales or turns its products otherwise")
    products, reason = _products(p, node, by_head, q, k)
    values = by_head["v"]
    source = in_full(m, size)
    new = (source == NEW).reshape(heads, -1)
    kept = products[:, None] & (values == SAME) & ~new
    status = np.where(kept, SAME, ANY).astype(np.int8)
    status[values == ZERO] = ZERO
    return mapped(q, status.reshape(-1), node.name, 1, m, why=why or reason)


def _frequencies(p: Prover, node: Node) -> bool:
    """Whether the rotary frequencies of the old pairs came over."""
    spec = p.spec(node.name, "frequencies")
    if spec is None:
        return True
    carried = p.carried(node.name, spec)
    if carried is None:
        return False
    size = p.size(spec.dims[0])
    m = p.map_of(spec.dims[0])
    new = np.zeros(size, dtype=bool) if m is None else m == NEW
    return bool((carried.intact(0, size) | new).all())


def _products(
    p: Prover, node: Node, status: dict[str, NDArray[np.int8]], q: Known, k: Known
) -> tuple[NDArray[np.bool_], str | None]:
    """Return for every head whether its products over the head dimension are the old ones."""
    axis = p.before.signatures[node.name].axes["head_dim"]
    size, old_size, m = p.size(axis), p.before.size(axis), p.map_of(axis)
    source = in_full(m, size)
    added = source == NEW
    complete = keeps_all(source, old_size)
    if not complete:
        return np.full(len(status["q"]), False), f"`{node.name}` loses part of its head dimension"
    old_fine = ((status["q"] == SAME) & (status["k"] == SAME))[:, ~added].all(1)
    harmless = (status["q"] == ZERO) | (status["k"] == ZERO)
    if p.spec(node.name, "frequencies") is not None:
        # Rotation mixes the two entries of a pair, so both must be zero.
        pairs = [(status[name] == ZERO).reshape(-1, 2, size // 2).all(1) for name in ("q", "k")]
        harmless = np.tile(pairs[0] | pairs[1], 2)
    new_fine = harmless[:, added].all(1)
    if not new_fine.all():
        _wish(p, q, np.tile(added, len(status["q"])))
    fine: NDArray[np.bool_] = old_fine & new_fine
    return fine, None if fine.all() else f"`{node.name}` gains products over new entries of its head dimension"


def _wish(p: Prover, q: Known, wanted: Any) -> None:
    """Note which new rows of the query's maker would have to be zero."""
    if q.maker is None or q.rows is None or len(q.rows) != len(wanted):
        return
    rows = q.rows[wanted & (q.rows >= 0)]
    p.wishes.setdefault(q.maker, set()).update(int(r) for r in rows)
