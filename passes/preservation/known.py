"""What the prover knows of a value: unit by unit, how it compares with the same value of the old network."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from irgrow.axes import NEW, IndexMap

ZERO, SAME, MEAN, ANY = 0, 1, 2, 3
"""Status of a unit: always zero; equal to the old unit it is mapped to; new and the mean of all old ones; unknown."""

Status = NDArray[np.int8]


@dataclass(frozen=True)
class Known:
    """Knowledge of one value.

    Args:
        base: The old value it is compared with.
        dim: The dimension along which units are told apart; `None` if all entries have one status.
        status: Per unit along `dim`, or a single entry.
        map: New unit -> old unit along `dim`; `None` where nothing was added, removed or moved.
        factor: What the old unit is multiplied by, per unit; `None` for ones.
        maker: The node whose new rows these units are, and the row of each unit (-1: none).
        forms: For a value that stacks multiples of the base along its units: each multiple with the activation
            applied to it.
        why: The reason of the first unit that is no longer the old one.
    """

    base: str
    dim: int | None = None
    status: Status = field(default_factory=lambda: np.array([SAME], dtype=np.int8))
    map: IndexMap | None = None
    factor: NDArray[np.float64] | None = None
    maker: str | None = None
    rows: IndexMap | None = None
    forms: tuple[tuple[float, object], ...] = ()
    why: str | None = None

    @property
    def same(self) -> bool:
        """Whether the whole value equals the old one, nothing added, removed or scaled."""
        return self.dim is None and not self.forms and bool((self.status == SAME).all())

    @property
    def zero(self) -> bool:
        """Whether the whole value is zero."""
        return not self.forms and bool((self.status == ZERO).all())

    @property
    def new(self) -> NDArray[np.bool_]:
        """Which units did not exist before."""
        return np.zeros(len(self.status), dtype=bool) if self.map is None else self.map == NEW

    @property
    def old_intact(self) -> bool:
        """Whether every unit that existed before and still does is the old one."""
        return bool((self.status[~self.new] == SAME).all()) and self.factor is None

    def lost(self, old_size: int) -> NDArray[np.int64]:
        """Return the old units that are not there any more."""
        if self.map is None:
            return np.empty(0, dtype=np.int64)
        return np.setdiff1d(np.arange(old_size), self.map[self.map != NEW])

    def changed(self, why: str) -> Known:
        """Return the same place with nothing known of it."""
        status = np.full(len(self.status), ANY, dtype=np.int8)
        return Known(self.base, self.dim, status, self.map, why=self.why or why)

    def without_means(self) -> Known:
        """Return this knowledge for an op that has no use for means."""
        if not (self.status == MEAN).any():
            return self
        return replace(self, status=np.where(self.status == MEAN, ANY, self.status).astype(np.int8))

    def named(self, base: str) -> Known:
        """Return this knowledge for another value."""
        return replace(self, base=base)

    def spread(self, size: int) -> Status:
        """Return the status per unit of a dimension of this size."""
        return np.full(size, self.status[0]) if len(self.status) == 1 else self.status

    def factors(self, size: int) -> NDArray[np.float64]:
        """Return the factor per unit of a dimension of this size."""
        return np.ones(size) if self.factor is None else np.broadcast_to(self.factor, (size,))


def uniform(base: str, status: int, why: str | None = None) -> Known:
    """Return knowledge that is the same for all entries."""
    return Known(base, status=np.array([status], dtype=np.int8), why=why)
