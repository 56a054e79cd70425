"""The few torch modules and functions that stock torch lacks; they hold sizes so that no lowered code does."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def first_rows(table: Tensor, x: Tensor) -> Tensor:
    """Return the rows of a (positions, units) table for the positions of `x`, (batch, positions, units)."""
    return table[: x.shape[1]]


def prepend_rows(rows: Tensor, x: Tensor) -> Tensor:
    """Put (count, units) rows in front of every sample of (batch, positions, units)."""
    return torch.cat((rows.expand(x.shape[0], -1, -1), x), 1)


def along(values: Tensor, after: int) -> Tensor:
    """Shape one number per unit for a value with `after` dimensions behind the units."""
    return values.reshape(-1, *(1,) * after)


def spread(values: Tensor, before: int, after: int) -> Tensor:
    """Shape (batch, units) for a value with dimensions before and behind the units."""
    return values.reshape(values.shape[0], *(1,) * before, -1, *(1,) * after)


class RightReLU(nn.Module):
    """The positive part, with gradient 1 at zero (Evci et al. 2022, GradMax, 4); that of `nn.ReLU` is 0 there."""

    def forward(self, x: Tensor) -> Tensor:
        """Return the positive part."""
        return x.clamp(min=0)


class Part(nn.Module):
    """Take `length` entries from `start` on along `dim`."""

    def __init__(self, dim: int, start: int, length: int) -> None:
        super().__init__()
        self.dim, self.start, self.length = dim, start, length

    def forward(self, x: Tensor) -> Tensor:
        """Return a view of the input."""
        return x.narrow(self.dim, self.start, self.length)

    def extra_repr(self) -> str:
        """Show what is taken."""
        return f"dim={self.dim}, start={self.start}, length={self.length}"


class Pad(nn.Module):
    """Zero padding, pairs from the last dimension backwards."""

    def __init__(self, sizes: tuple[int, ...]) -> None:
        super().__init__()
        self.sizes = sizes

    def forward(self, x: Tensor) -> Tensor:
        """Return the padded value."""
        return F.pad(x, self.sizes)


class ChannelShuffle(nn.Module):
    """Exchange groups and members; unlike `nn.ChannelShuffle` it takes one or two position dimensions."""

    def __init__(self, groups: int) -> None:
        super().__init__()
        self.groups = groups

    def forward(self, x: Tensor) -> Tensor:
        """Return the shuffled value, channels first."""
        return x.unflatten(1, (self.groups, -1)).transpose(1, 2).flatten(1, 2)


class MaskedLinear(nn.Linear):
    """A dense layer whose weight is multiplied by a mask."""

    mask: Tensor

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.register_buffer("mask", torch.ones_like(self.weight, requires_grad=False))

    def forward(self, x: Tensor) -> Tensor:
        """Return the layer's output."""
        return F.linear(x, self.weight * self.mask, self.bias)


class MaskedConv1d(nn.Conv1d):
    """A convolution whose weight is multiplied by a mask."""

    mask: Tensor

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.register_buffer("mask", torch.ones_like(self.weight, requires_grad=False))

    def forward(self, x: Tensor) -> Tensor:
        """Return the layer's output."""
        return self._conv_forward(x, self.weight * self.mask, self.bias)


class MaskedConv2d(nn.Conv2d):
    """A convolution whose weight is multiplied by a mask."""

    mask: Tensor

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.register_buffer("mask", torch.ones_like(self.weight, requires_grad=False))

    def forward(self, x: Tensor) -> Tensor:
        """Return the layer's output."""
        return self._conv_forward(x, self.weight * self.mask, self.bias)


class DotProductAttention(nn.Module):
    """Scaled dot-product attention over (batch, positions, heads * head_dim) values."""

    frequencies: Tensor | None

    def __init__(self, heads: int, groups: int, causal: bool, scale: float | None, pairs: int | None) -> None:
        super().__init__()
        self.heads, self.groups, self.causal, self.scale = heads, groups, causal, scale
        self.register_buffer("frequencies", None if pairs is None else torch.empty(pairs, device="meta"))

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Return (batch, positions, heads * value_dim)."""
        q = q.unflatten(-1, (self.heads, -1)).transpose(1, 2)
        k = k.unflatten(-1, (self.groups, -1)).transpose(1, 2)
        v = v.unflatten(-1, (self.groups, -1)).transpose(1, 2)
        if self.frequencies is not None:
            position = torch.arange(max(q.shape[2], k.shape[2]), device=q.device, dtype=self.frequencies.dtype)
            angle = torch.outer(position, self.frequencies)
            cos, sin = angle.cos().to(q.dtype), angle.sin().to(q.dtype)
            q, k = _rotate(q, cos, sin), _rotate(k, cos, sin)
        if self.groups != self.heads:
            repeats = self.heads // self.groups
            k, v = k.repeat_interleave(repeats, 1), v.repeat_interleave(repeats, 1)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=self.causal, scale=self.scale)
        return y.transpose(1, 2).flatten(2)

    def extra_repr(self) -> str:
        """Show the heads."""
        return f"heads={self.heads}, kv_heads={self.groups}, causal={self.causal}"


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate the pairs (i, i + half) of the last dimension."""
    cos, sin = cos[: x.shape[-2]], sin[: x.shape[-2]]
    a, b = x.chunk(2, -1)
    return torch.cat((a * cos - b * sin, b * cos + a * sin), -1)
