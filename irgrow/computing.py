"""Named rules of linear algebra over old parameters: what folding, fusing and absorbing make of them.

A rule gets the old tensors in the order the transfer names them, in float64, and its options. It says nothing about
whether the result preserves a function; the prover knows that from where the rule is applied.

The first tensor that is named gives the result its precision and, where it is a parameter, its place in the groups of
an optimizer; so a bias names first the bias it continues. What is made of buffers alone is frozen, as buffers are.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

Rule = Callable[..., Tensor]


def _rows(values: Tensor, like: Tensor) -> Tensor:
    return values.reshape(-1, *(1,) * (like.dim() - 1))


def _deviation(var: Tensor, eps: float) -> Tensor:
    return (var + eps).sqrt()


def _fold_norm_weight(weight: Tensor, var: Tensor, gain: Tensor | None = None, *, eps: float) -> Tensor:
    """W g / sqrt(var + eps), row by row."""
    factor = 1.0 / _deviation(var, eps)
    return weight * _rows(factor if gain is None else gain * factor, weight)


def _fold_norm_bias(*values: Tensor, eps: float, bias: bool, affine: bool) -> Tensor:
    """(b - mean) g / sqrt(var + eps) + shift; the values are shift and g if affine, b if there is one, mean, var."""
    *learned, mean, var = values
    shift, gain = learned[:2] if affine else (torch.zeros_like(mean), torch.ones_like(mean))
    shifted = learned[-1] - mean if bias else -mean
    return shifted * gain / _deviation(var, eps) + shift


def _fuse_weight(outer: Tensor, inner: Tensor) -> Tensor:
    """W2 W1; W2 may be a 1 x 1 convolution behind any other, W1 a kernel."""
    made = outer.reshape(outer.shape[0], -1) @ inner.reshape(inner.shape[0], -1)
    return made.reshape(outer.shape[0], *inner.shape[1:])


def _fuse_bias(*values: Tensor) -> Tensor:
    """W2 b1 + b2; the values are b2 if there is one, b1, W2."""
    *outer_bias, inner_bias, outer = values
    made = outer.reshape(outer.shape[0], -1) @ inner_bias
    return made + outer_bias[0] if outer_bias else made


def _scale_rows(values: Tensor, scale: Tensor) -> Tensor:
    """Rows times one number each."""
    return values * _rows(scale, values)


def _scale_columns(weight: Tensor, scale: Tensor) -> Tensor:
    """Columns times one number each."""
    return weight * scale.reshape(1, -1, *(1,) * (weight.dim() - 2))


def _bake_mask(weight: Tensor, mask: Tensor) -> Tensor:
    """A weight without the entries that are off."""
    return weight * mask


def _read_constants(
    weight: Tensor,
    mask: Tensor | None = None,
    *,
    units: tuple[int, ...],
    values: tuple[float, ...],
    rows: tuple[int, ...] | None = None,
) -> Tensor:
    """What rows, all or those named, read from units that are constant: sum over units and kernel positions of W c."""
    columns = _rows_of(weight if mask is None else weight * mask, rows)[:, list(units)]
    columns = columns.flatten(2).sum(2) if weight.dim() > 2 else columns
    return columns @ torch.tensor(values, dtype=weight.dtype, device=weight.device)


def _merge_columns(
    weight: Tensor,
    mask: Tensor | None = None,
    *,
    units: tuple[int, ...],
    into: tuple[int, ...],
    times: tuple[float, ...],
    columns: int,
    rows: tuple[int, ...] | None = None,
) -> Tensor:
    """Columns of units, times a number each, at the new columns that take them over; zeros elsewhere."""
    old = _rows_of(weight if mask is None else weight * mask, rows)
    factors = torch.tensor(times, dtype=weight.dtype, device=weight.device)
    part = old[:, list(units)] * factors.reshape(1, -1, *(1,) * (weight.dim() - 2))
    made = torch.zeros(len(old), columns, *weight.shape[2:], dtype=weight.dtype, device=weight.device)
    return made.index_add_(1, torch.tensor(into, device=weight.device), part)


def _rows_of(weight: Tensor, rows: tuple[int, ...] | None) -> Tensor:
    return weight if rows is None else weight[list(rows)]


RULES: Mapping[str, Rule] = {
    "fold_norm_weight": _fold_norm_weight,
    "fold_norm_bias": _fold_norm_bias,
    "fuse_weight": _fuse_weight,
    "fuse_bias": _fuse_bias,
    "scale_rows": _scale_rows,
    "scale_columns": _scale_columns,
    "bake_mask": _bake_mask,
    "read_constants": _read_constants,
    "merge_columns": _merge_columns,
}
"""The rules by name. To add one, write it above and name it here."""


def compute(
    rule: str, names: tuple[str, ...], options: tuple[tuple[str, Any], ...], old: Mapping[str, Tensor]
) -> Tensor:
    """Apply a rule to old tensors, in float64; the result has the precision of the first of them."""
    first = old[names[0]].detach()
    made = RULES[rule](*(old[name].detach().double() for name in names), **dict(options))
    return made.to(first.dtype)
