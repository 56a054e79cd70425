"""Named rules of linear algebra over old parameters: what folding, fusing and absorbing make of them.

A rule gets the old tensors in the order the transfer names them, in float64, and its options. It says nothing about
whether the result preserves a function; the prover knows that from where the rule is applied.
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


def _fold_norm_bias(mean: Tensor, var: Tensor, *rest: Tensor, eps: float, bias: bool, affine: bool) -> Tensor:
    """(b - mean) g / sqrt(var + eps) + shift; `rest` is gain and shift if affine, then b if there is one."""
    shifted = rest[-1] - mean if bias else -mean
    gain, shift = (rest[0], rest[1]) if affine else (torch.ones_like(mean), torch.zeros_like(mean))
    return shifted * gain / _deviation(var, eps) + shift


def _fuse_weight(outer: Tensor, inner: Tensor) -> Tensor:
    """W2 W1; W2 may be a 1 x 1 convolution behind any other, W1 a kernel."""
    made = outer.reshape(outer.shape[0], -1) @ inner.reshape(inner.shape[0], -1)
    return made.reshape(outer.shape[0], *inner.shape[1:])


def _fuse_bias(outer: Tensor, inner_bias: Tensor, *outer_bias: Tensor) -> Tensor:
    """W2 b1 + b2."""
    made = outer.reshape(outer.shape[0], -1) @ inner_bias
    return made + outer_bias[0] if outer_bias else made


def _scale_rows(values: Tensor, scale: Tensor) -> Tensor:
    """Rows times one number each."""
    return values * _rows(scale, values)


def _read_constants(weight: Tensor, *, units: tuple[int, ...], values: tuple[float, ...]) -> Tensor:
    """What rows read from units that are constant: sum over units and kernel positions of W c."""
    columns = weight[:, list(units)].flatten(2).sum(2) if weight.dim() > 2 else weight[:, list(units)]
    return columns @ torch.tensor(values, dtype=weight.dtype, device=weight.device)


RULES: Mapping[str, Rule] = {
    "fold_norm_weight": _fold_norm_weight,
    "fold_norm_bias": _fold_norm_bias,
    "fuse_weight": _fuse_weight,
    "fuse_bias": _fuse_bias,
    "scale_rows": _scale_rows,
    "read_constants": _read_constants,
}
"""The rules by name. To add one, write it above and name it here."""


def compute(
    rule: str, names: tuple[str, ...], options: tuple[tuple[str, Any], ...], old: Mapping[str, Tensor]
) -> Tensor:
    """Apply a rule to old tensors, in float64; the result has the precision of the first of them."""
    first = old[names[0]].detach()
    made = RULES[rule](*(old[name].detach().double() for name in names), **dict(options))
    return made.to(first.dtype)
