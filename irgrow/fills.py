"""Fills: where the numbers of a fresh tensor, or of the new entries of a grown one, come from.

A fill is data: it prints, compares and goes into the journal. `Fill.draw` makes the numbers, always on the CPU and in
float64 from the generator it is given, so that one seed means the same tensor on every device and in every precision.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from math import prod, sqrt
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from irgrow.errors import OptionError
from irgrow.shapes import Array

WriteArray = Callable[[NDArray[Any]], Any]
"""Returns what is written for an array."""

ReadArray = Callable[[Any], NDArray[Any]]
"""Returns the array for what was written."""


def generator(seed: int, *names: object) -> np.random.Generator:
    """Return a generator that depends only on a seed and names, not on any global state."""
    text = "\0".join(map(str, (seed, *names)))
    return np.random.default_rng(np.frombuffer(hashlib.sha256(text.encode()).digest(), dtype=np.uint32))


@dataclass(frozen=True, slots=True)
class Fill:
    """Base of all fills.

    `draw` gets the whole new shape, laid out `(fan_out, fan_in, ...)`, and the fan-in of the node where the tensor
    itself does not show it (a bias).
    """

    kind: ClassVar[str] = ""

    @property
    def is_zero(self) -> bool:
        """Whether every number it gives is exactly zero."""
        return False

    @property
    def by_position(self) -> bool:
        """Whether a number depends on where it stands, so that a part cannot be drawn alone."""
        return False

    @property
    def matched(self) -> bool:
        """Whether new units are scaled to the mean norm of the old ones."""
        return False

    @property
    def averages(self) -> bool:
        """Whether new units are the mean of the old ones."""
        return False

    def draw(self, shape: tuple[int, ...], rng: np.random.Generator, fan_in: int | None = None) -> Array:
        """Return an array of this shape."""
        raise TypeError(f"{type(self).__name__} draws nothing")

    def slab(self, shape: tuple[int, ...], dim: int, new: NDArray[np.int64], rng: np.random.Generator) -> Array:
        """Return the entries with these indices along a dimension of a tensor of this shape."""
        if self.by_position:
            return np.take(self.draw(shape, rng), new, axis=dim)
        part = (*shape[:dim], len(new), *shape[dim + 1 :])
        return self.draw(part, rng, prod(shape[1:]) if len(shape) > 1 else None)

    def __str__(self) -> str:
        inner = ", ".join(f"{f.name}={getattr(self, f.name)!r}" for f in fields(self))
        return f"{self.kind}({inner})" if inner else self.kind


def _fan_in(shape: tuple[int, ...]) -> int:
    return prod(shape[1:]) if len(shape) > 1 else (shape[0] if shape else 1)


@dataclass(frozen=True, slots=True)
class Constant(Fill):
    """One value everywhere."""

    kind = "constant"
    value: float = 0.0

    @property
    def is_zero(self) -> bool:
        return self.value == 0.0

    def draw(self, shape: tuple[int, ...], rng: np.random.Generator, fan_in: int | None = None) -> Array:
        return np.full(shape, self.value)


ZERO = Constant(0.0)
ONES = Constant(1.0)


@dataclass(frozen=True, slots=True)
class FanInUniform(Fill):
    """Uniform in +-gain/sqrt(fan_in), what `nn.Linear` and `nn.Conv2d` start from, weight and bias."""

    kind = "fan_in_uniform"
    gain: float = 1.0

    def draw(self, shape: tuple[int, ...], rng: np.random.Generator, fan_in: int | None = None) -> Array:
        bound = self.gain / sqrt(max(fan_in or _fan_in(shape), 1))
        return rng.uniform(-bound, bound, shape)


@dataclass(frozen=True, slots=True)
class XavierUniform(Fill):
    """Uniform in +-gain*sqrt(6 / (fan_in + fan_out)) (Glorot and Bengio 2010).

    With `match`, new units are then scaled to the mean norm of the old ones (Maile 2023, 6.2.2).
    """

    kind = "xavier_uniform"
    gain: float = 1.0
    match: bool = False

    @property
    def matched(self) -> bool:
        return self.match

    def draw(self, shape: tuple[int, ...], rng: np.random.Generator, fan_in: int | None = None) -> Array:
        fan_out = shape[0] * prod(shape[2:]) if shape else 1
        bound = self.gain * sqrt(6.0 / max((fan_in or _fan_in(shape)) + fan_out, 1))
        return rng.uniform(-bound, bound, shape)


@dataclass(frozen=True, slots=True)
class Normal(Fill):
    """Normal with mean 0."""

    kind = "normal"
    std: float = 1.0

    def draw(self, shape: tuple[int, ...], rng: np.random.Generator, fan_in: int | None = None) -> Array:
        return rng.normal(0.0, self.std, shape)


@dataclass(frozen=True, slots=True)
class Eye(Fill):
    """Signed identity blocks: one block per coefficient, stacked along rows (`side="rows"`) or columns.

    A kernel has its block at the centre tap. `Eye()` is the identity, `Eye((1, -1))` is [I; -I].
    """

    kind = "eye"
    blocks: tuple[float, ...] = (1.0,)
    side: str = "rows"

    @property
    def by_position(self) -> bool:
        return True

    def draw(self, shape: tuple[int, ...], rng: np.random.Generator, fan_in: int | None = None) -> Array:
        value = np.zeros(shape)
        centre: tuple[Any, ...] = (..., *(size // 2 for size in shape[2:]))
        matrix = value[centre]
        units = matrix.shape[1] if self.side == "rows" else matrix.shape[0]
        eye = [c * np.eye(units) for c in self.blocks]
        matrix[...] = np.concatenate(eye, axis=0 if self.side == "rows" else 1)
        return value


@dataclass(frozen=True, slots=True)
class Sinusoid(Fill):
    """Sinusoidal positions, shape (positions, units): sine on even units, cosine on odd (Vaswani et al. 2017, 3.5)."""

    kind = "sinusoid"
    base: float = 10000.0
    units: int | None = None

    @property
    def by_position(self) -> bool:
        return True

    def draw(self, shape: tuple[int, ...], rng: np.random.Generator, fan_in: int | None = None) -> Array:
        position, unit = np.arange(shape[0])[:, None], np.arange(shape[1])[None, :]
        angle = position / self.base ** (2 * (unit // 2) / (self.units or shape[1]))
        return np.where(unit % 2 == 0, np.sin(angle), np.cos(angle))


@dataclass(frozen=True, slots=True)
class Frequencies(Fill):
    """Rotary frequencies base^(-i / pairs) (Su et al. 2021); `pairs` is kept when pairs are added."""

    kind = "frequencies"
    base: float = 10000.0
    pairs: int | None = None

    @property
    def by_position(self) -> bool:
        return True

    def draw(self, shape: tuple[int, ...], rng: np.random.Generator, fan_in: int | None = None) -> Array:
        return self.base ** (-np.arange(shape[0]) / (self.pairs or shape[0]))


@dataclass(frozen=True, slots=True, eq=False)
class Given(Fill):
    """Numbers somebody computed: the whole tensor, or the new entries of a grown one."""

    kind = "given"
    values: Array

    @property
    def is_zero(self) -> bool:
        return not self.values.any()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Given) and np.array_equal(self.values, other.values)

    def __hash__(self) -> int:
        return hash(self.values.tobytes())

    def __str__(self) -> str:
        return f"given(shape={list(self.values.shape)})"

    def draw(self, shape: tuple[int, ...], rng: np.random.Generator, fan_in: int | None = None) -> Array:
        if self.values.shape != shape:
            raise OptionError(f"the given values have shape {list(self.values.shape)}, the tensor has {list(shape)}")
        return self.values.copy()  # a tensor made of them is trained


@dataclass(frozen=True, slots=True)
class Mean(Fill):
    """New units that are the mean of the old ones along their dimension; for grown tensors only."""

    kind = "mean"

    @property
    def averages(self) -> bool:
        return True

    def slab(self, shape: tuple[int, ...], dim: int, new: NDArray[np.int64], rng: np.random.Generator) -> Array:
        return np.zeros((*shape[:dim], len(new), *shape[dim + 1 :]))


@dataclass(frozen=True, slots=True)
class Masked(Fill):
    """Another fill, but zero in the new rows named here."""

    kind = "masked"
    inner: Fill
    zeros: tuple[int, ...]

    @property
    def matched(self) -> bool:
        return self.inner.matched

    def draw(self, shape: tuple[int, ...], rng: np.random.Generator, fan_in: int | None = None) -> Array:
        return self.slab(shape, 0, np.arange(shape[0]), rng)

    def slab(self, shape: tuple[int, ...], dim: int, new: NDArray[np.int64], rng: np.random.Generator) -> Array:
        values = self.inner.slab(shape, dim, new, rng)
        keep = ~np.isin(new, self.zeros)
        return values * keep.reshape((-1, *(1,) * (len(shape) - 1 - dim)))


FILLS: dict[str, type[Fill]] = {
    f.kind: f for f in (Constant, FanInUniform, XavierUniform, Normal, Eye, Sinusoid, Frequencies, Given, Mean, Masked)
}


def fill_to_json(fill: Fill, array: WriteArray = np.ndarray.tolist) -> dict[str, Any]:
    """Return a JSON form of a fill; `array` says how arrays are written."""
    values = {f.name: getattr(fill, f.name) for f in fields(fill)}
    if isinstance(fill, Given):
        values = {"values": array(fill.values), "shape": list(fill.values.shape)}
    if isinstance(fill, Masked):
        values = {"inner": fill_to_json(fill.inner, array), "zeros": list(fill.zeros)}
    return {"kind": fill.kind, **values}


def fill_from_json(data: Mapping[str, Any], array: ReadArray = np.array) -> Fill:
    """Read a fill back; `array` says how arrays were written."""
    options: dict[str, Any] = {k: tuple(v) if k in ("blocks", "zeros") else v for k, v in data.items() if k != "kind"}
    if data["kind"] == "masked":
        options["inner"] = fill_from_json(options["inner"], array)
    if data["kind"] == "given":
        shape = options.pop("shape")
        options["values"] = np.array(array(options["values"]), dtype=np.float64).reshape(shape)
    return FILLS[data["kind"]](**options)
