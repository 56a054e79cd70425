"""What the numbers of a new node are: zeros, ones, signed identity blocks.

Only what a fill says for certain counts: constants, identity blocks and given numbers, which are looked at one by one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from irgrow.fills import Constant, Eye, Fill, Given
from irgrow.ops import MASK
from irgrow.shapes import Array

if TYPE_CHECKING:
    from irgrow.passes.preservation.prover import Prover


_EPS = {"float64": 2.0**-52, "float32": 2.0**-23}


def has(p: Prover, node: str, name: str) -> bool:
    """Return whether a new node has a parameter."""
    return any(spec.name == name for spec in p.after.specs[node])


def fill_of(p: Prover, node: str, name: str) -> Fill | None:
    """Return what a parameter of a new node is filled with, `None` if it is no fresh tensor."""
    new = p.fresh(node, name)
    return None if new is None else new.fill


def is_zero(p: Prover, node: str, name: str) -> bool:
    """Return whether every entry of a parameter is zero."""
    fill = fill_of(p, node, name)
    return fill is not None and fill.is_zero


def is_all(p: Prover, node: str, name: str, value: float) -> bool:
    """Return whether every entry of a parameter is this number."""
    fill = fill_of(p, node, name)
    if isinstance(fill, Constant):
        return fill.value == value
    return isinstance(fill, Given) and bool((fill.values == value).all())


def numbers(p: Prover, node: str, name: str) -> Array | None:
    """Return the entries of a parameter, `None` where they are drawn at random or come from old ones."""
    fill = fill_of(p, node, name)
    if not isinstance(fill, Constant | Eye | Given):
        return None
    shape = p.after.param_shape(p.after.param_name(node, name))
    return fill.draw(shape, np.random.default_rng(0))


def unshifted(p: Prover, node: str) -> bool:
    """Return whether a new node adds nothing: it has no bias, or one of zeros."""
    return not has(p, node, "bias") or is_zero(p, node, "bias")


def weight_is_zero(p: Prover, node: str) -> bool:
    """Return whether the weight of a new node, times its mask, is zero."""
    return is_zero(p, node, "weight") or (has(p, node, MASK) and is_zero(p, node, MASK))


def eye_of(p: Prover, node: str) -> Eye | None:
    """Return the identity blocks that the weight of a new node, times its mask, is made of; `None` if of none."""
    fill = fill_of(p, node, "weight")
    masked = has(p, node, MASK)
    if isinstance(fill, Eye) and (not masked or is_all(p, node, MASK, 1.0)):
        rows, columns = p.after.param_shape(p.after.param_name(node, "weight"))[:2]
        many, few = (rows, columns) if fill.side == "rows" else (columns, rows)
        return fill if many == len(fill.blocks) * few else None
    weight, mask = numbers(p, node, "weight"), numbers(p, node, MASK) if masked else None
    if weight is None or (masked and mask is None):
        return None
    return recognised(weight if mask is None else weight * mask)


def recognised(weight: Array) -> Eye | None:
    """Return the identity blocks that a weight `(fan_out, fan_in, *kernel)` is, at its centre tap; `None` if it is not.

    >>> recognised(np.concatenate([np.eye(2), -np.eye(2)]))
    Eye(blocks=(1.0, -1.0), side='rows')
    >>> recognised(np.ones((2, 2)))
    """
    matrix = weight[(..., *(size // 2 for size in weight.shape[2:]))]
    rows, columns = matrix.shape
    few = min(rows, columns)
    if not few or max(rows, columns) % few or np.count_nonzero(weight) != np.count_nonzero(matrix):
        return None
    side = "rows" if columns == few else "columns"
    blocks = tuple(float(c) for c in (matrix[::few, 0] if side == "rows" else matrix[0, ::few]))
    wanted = Eye(blocks, side).draw(matrix.shape, np.random.default_rng(0))
    return Eye(blocks, side) if np.array_equal(matrix, wanted) else None


def rounding(p: Prover) -> float:
    """Return the relative error of a number that was computed and then stored with the network's precision.

    Networks in half precision are held to single precision.
    """
    found = [str(value.dtype).rpartition(".")[2] for value in (p.params or {}).values()]
    return 4 * max((_EPS.get(name, _EPS["float32"]) for name in found if "float" in name), default=_EPS["float64"])
