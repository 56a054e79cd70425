"""Data made from other data: some of its classes, its images shifted, or a part of its training data to choose by.

`only(of = digits, labels = [5, 6])`, `shifted(of = digits, rotate = 30.0)` and `held_out(of = digits)` stand wherever a
source does, one inside the other too. What is test data stays test data.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from math import cos, radians, sin
from typing import Any

import numpy as np
from numpy.typing import NDArray

from irgrow.attributes import flag, integers, plan
from irgrow.errors import DataError
from irgrow.ops import real
from irgrow.training.data import Dataset, DataSource, Floats, split

Pair = tuple[NDArray[Any], NDArray[Any]]


def _both(data: Dataset, change: Callable[[Pair, int], Pair]) -> Dataset:
    """Return the data with its training part (0) and its test part (1) changed."""
    return replace(data, train=change(data.train, 0), test=change(data.test, 1))


@dataclass(frozen=True)
class Only(DataSource):
    """Some classes of labelled data, called 0, 1, ... in the order given.

    Args:
        of: The data.
        labels: The labels that are kept, each once.
    """

    of: DataSource = plan("data")
    labels: tuple[int, ...] = integers()

    def load(self, seed: int) -> Dataset:
        data = self.of.load(seed)
        if not data.classes:
            raise DataError(f"only: {data.name} has no labels to choose from")
        if len(set(self.labels)) < len(self.labels):
            raise DataError(f"only: a label is named twice in {list(self.labels)}")
        if max(self.labels) >= data.classes:
            raise DataError(f"only: {data.name} has labels from 0 to {data.classes - 1}, asked for {list(self.labels)}")
        place = np.full(data.classes, -1, np.int64)
        place[list(self.labels)] = np.arange(len(self.labels))

        def kept(pair: Pair, part: int) -> Pair:
            x, y = pair
            chosen = place[y] >= 0
            return x[chosen], place[y[chosen]]

        return replace(_both(data, kept), classes=len(self.labels))


@dataclass(frozen=True)
class Shifted(DataSource):
    """Images under another distribution: turned about their centre, inverted, noisy, in this order.

    Args:
        of: The images, shape (channels, height, width), values in [0, 1].
        rotate: Degrees, anticlockwise; what comes from outside is 0, values between pixels are interpolated.
        invert: Whether x becomes 1 - x.
        noise: Standard deviation of what is added to every pixel; values are then cut to [0, 1].
    """

    of: DataSource = plan("data")
    rotate: float = real(30.0)
    invert: bool = flag(True)
    noise: float = real(0.2, low=0.0)

    def load(self, seed: int) -> Dataset:
        data = self.of.load(seed)
        shape = data.train[0].shape[1:]
        if len(shape) != 3:
            raise DataError(f"shifted takes images (channels, height, width), {data.name} has {list(shape)}")

        def shift(pair: Pair, part: int) -> Pair:
            x = rotated(pair[0], self.rotate)
            x = 1 - x if self.invert else x
            if self.noise:
                rng = np.random.default_rng([seed, 0x5417, part])
                x = np.clip(x + self.noise * rng.normal(size=x.shape).astype(np.float32), 0, 1)
            return x, pair[1]

        return _both(data, shift)


def rotated(images: Floats, degrees: float) -> Floats:
    """Turn images (samples, channels, height, width) anticlockwise about their centre, bilinearly, zeros outside.

    >>> rotated(np.array([[[[1.0, 2.0], [3.0, 4.0]]]], np.float32), 90.0)[0, 0].round(6).tolist()
    [[2.0, 4.0], [1.0, 3.0]]
    """
    height, width = images.shape[-2:]
    c, s = cos(radians(degrees)), sin(radians(degrees))
    down, right = np.meshgrid(np.arange(height) - (height - 1) / 2, np.arange(width) - (width - 1) / 2, indexing="ij")
    rows = c * down + s * right + (height - 1) / 2  # where a pixel comes from: turned back, rows point down
    columns = c * right - s * down + (width - 1) / 2
    around = np.pad(images, [(0, 0)] * (images.ndim - 2) + [(1, 1), (1, 1)])
    rows, columns = np.clip(rows + 1, 0, height + 1), np.clip(columns + 1, 0, width + 1)
    top = np.minimum(rows.astype(np.int64), height)
    left = np.minimum(columns.astype(np.int64), width)
    below, beside = (rows - top).astype(np.float32), (columns - left).astype(np.float32)
    upper = around[..., top, left] * (1 - beside) + around[..., top, left + 1] * beside
    lower = around[..., top + 1, left] * (1 - beside) + around[..., top + 1, left + 1] * beside
    return upper * (1 - below) + lower * below


@dataclass(frozen=True)
class HeldOut(DataSource):
    """A part of the training data to measure on, the rest to learn from: to choose settings without the test data.

    Args:
        of: The data; its test part is left alone.
        share: The share of its training data that is measured on.
    """

    of: DataSource = plan("data")
    share: float = real(0.25, low=0.0, high=0.9, open_low=True)

    def load(self, seed: int) -> Dataset:
        data = self.of.load(seed)
        return split(data.name, *data.train, self.share, seed, data.classes, data.digest)


DERIVED: tuple[type[DataSource], ...] = (Only, Shifted, HeldOut)
