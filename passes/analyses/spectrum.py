"""Counting singular values without computing them, and the streaming Gram matrix they are counted from.

The number of singular values of X / sqrt(N) above epsilon is the number of eigenvalues of X X^T / N above epsilon^2.
By Sylvester's law of inertia that is the number of positive pivots of a factorisation L D L^T of
X X^T / N - epsilon^2 I. The Gram matrix is accumulated in float64: in float32 it miscounts as soon as the largest
singular value is about 100.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from irgrow.graph import Graph
from irgrow.passes.records.base import WINDOW, Record, Wanted, added
from irgrow.shapes import Float, Float64, Int64

Number = TypeVar("Number", int, float)


def positive_eigenvalues(matrix: Float64[Tensor, "n n"]) -> int:
    """Return how many eigenvalues of a symmetric float64 matrix are positive, by inertia.

    >>> positive_eigenvalues(torch.tensor([[0.0, 1.0], [1.0, 0.0]], dtype=torch.float64))
    1
    """
    if matrix.shape[0] == 0:
        return 0
    factor, pivots = torch.linalg.ldl_factor(matrix)
    diagonal = factor.diagonal()
    single = pivots > 0
    count = int(((diagonal > 0) & single).sum())
    # A 2x2 block has two negative pivots and, by construction, a negative determinant: one positive eigenvalue.
    return count + int((~single).sum()) // 2


class Gram(Record):
    """Sum of h h^T over the latest columns of a value, units first, in float64.

    While the window is not full every column is taken; after that each batch replaces up to an eighth of it, so the
    cost of a step does not grow with the window. The columns come from all over the batch, at places that do not
    depend on it. They are summed by quarters of the window, and a whole quarter is forgotten at a time, so no rounding
    error is carried along.

    New columns wait until somebody looks and an eighth of all are new, or until they are a quarter of the window; to
    whoever looks before that, fewer than an eighth of the columns could say anything new, and what was found then is
    said again (`known`).

    Args:
        unit_dim: Index of the dimension of the units, the batch not counted.
        window: How many columns to keep; at least twice the number of units are.
        node: Whose values they are.
    """

    def __init__(self, unit_dim: int, window: int = WINDOW, node: str = "") -> None:
        self.unit_dim, self.window, self.node = unit_dim, window, node
        self.parts: deque[tuple[Tensor, int]] = deque()
        self.waiting: list[Tensor] = []
        self.count = 0
        self._latest = 0
        self._sum: Tensor | None = None
        self._known: dict[object, Any] = {}

    def attach(self, leaves: Mapping[str, nn.Module], wanted: Wanted) -> list[Any]:
        def record(module: nn.Module, inputs: Any, output: Tensor) -> None:
            if wanted(module):
                self.add(output)

        # A compiled network breaks its graph here; what is counted stays out of it.
        return [leaves[self.node].register_forward_hook(torch.compiler.disable(record))]

    def fits(self, graph: Graph) -> bool:
        return self.units in (0, graph.size(graph.types[self.node].dims[self.unit_dim]))

    @property
    def lead(self) -> int:
        return 4 + self._columns(self.units) // self._latest if self._latest else 64

    def _columns(self, units: int) -> int:
        return max(self.window, 2 * units)

    @torch.no_grad()
    def add(self, value: Float[Tensor, "batch *dims"]) -> None:
        """Take the columns of a batch, (batch, ...)."""
        units = value.shape[1 + self.unit_dim]
        if self.units not in (0, units):
            self.clear()
        window = self._columns(units)
        columns = _columns(value.detach(), self.unit_dim, window if self.count < window else -(-window // 8))
        self.waiting.append(columns)
        self._latest = columns.shape[0]
        self.count += self._latest
        if 4 * sum(len(c) for c in self.waiting) >= window:
            self.take_in()

    @torch.no_grad()
    def take_in(self) -> None:
        """Add the columns that wait to the sums."""
        if not self.waiting:
            return
        wide = torch.cat(self.waiting).double()
        self.waiting.clear()
        size, units = wide.shape
        window = self._columns(units)
        if self.parts and 4 * self.parts[-1][1] < window:
            part, before = self.parts.pop()
            self.parts.append((part.addmm_(wide.T, wide), before + size))
        else:
            self.parts.append((wide.T @ wide, size))
        while self.count - self.parts[0][1] >= window:
            self.count -= self.parts.popleft()[1]
        self._add_up()

    def _add_up(self) -> None:
        self._known.clear()
        (first, _), *others = self.parts
        self._sum = first.clone()
        for part, _ in others:
            self._sum += part

    def clear(self) -> None:
        self.parts.clear()
        self.waiting.clear()
        self._known.clear()
        self._sum, self.count, self._latest = None, 0, 0

    @property
    def ready(self) -> bool:
        """Whether there are more columns than units, so that a rank says something."""
        return self.count > self.units > 0

    @property
    def units(self) -> int:
        """Number of units; 0 if there is nothing yet."""
        if self._sum is not None:
            return self._sum.shape[0]
        return self.waiting[0].shape[1] if self.waiting else 0

    @property
    def stale(self) -> bool:
        """Whether an eighth of the columns are not in the sums, or these are too few to say something."""
        waiting = sum(len(c) for c in self.waiting)
        return waiting > 0 and (8 * waiting >= self.count or self.count - waiting <= self.units)

    @property
    def finite(self) -> bool:
        """Whether all that is in the sums is finite; no entry is larger than those of the diagonal."""
        return not self.count or self.known("finite", lambda mean, _: int(torch.isfinite(mean.diagonal()).all())) > 0

    @property
    def total(self) -> Float64[Tensor, "units units"] | None:
        """The sum over all columns, those that wait included."""
        self.take_in()
        return self._sum

    @property
    def mean(self) -> Float64[Tensor, "units units"]:
        """The Gram matrix divided by the number of columns, those that wait included."""
        total = self.total
        assert total is not None
        return total / self.count

    def known(self, what: object, find: Callable[[Tensor, int], Number]) -> Number:
        """Return what `find` says of the mean Gram matrix and its number of columns, once for the same columns.

        Args:
            what: What it is called.
            find: Takes a matrix of its own, (units, units), and the number of columns.
        """
        if self.stale:
            self.take_in()
        if what not in self._known:
            if self._sum is None:
                raise ValueError(f"nothing was recorded at `{self.node}`")
            count = self.count - sum(len(c) for c in self.waiting)
            self._known[what] = find(self._sum / count, count)
        found: Number = self._known[what]
        return found

    def told(self) -> dict[str, Tensor]:
        total = self.total
        return {} if total is None else {"total": total, "count": torch.tensor(self.count)}

    def merged(self, told: Sequence[Mapping[str, Tensor]]) -> Gram:
        found, heard = Gram(self.unit_dim, self.window, self.node), [part for part in told if part]
        if heard:
            found.count = sum(int(part["count"]) for part in heard)
            found.parts.append((added(part["total"] for part in heard), found.count))
            found._add_up()
        return found

    def state(self) -> dict[str, Tensor]:
        found = {}
        if self.parts:
            found["sizes"] = torch.tensor([size for _, size in self.parts])
            found["parts"] = torch.stack([part for part, _ in self.parts])
        if self.waiting:
            found["waiting"] = torch.cat(self.waiting)
        return found | ({"latest": torch.tensor(self._latest)} if found else {})

    def load(self, state: dict[str, Tensor]) -> None:
        self.clear()
        if "parts" in state:
            self.parts.extend((p.clone(), int(n)) for p, n in zip(state["parts"], state["sizes"], strict=True))
            self._add_up()
        if "waiting" in state:
            self.waiting.append(state["waiting"].clone())
        self.count = sum(n for _, n in self.parts) + sum(len(c) for c in self.waiting)
        self._latest = int(state["latest"]) if state else 0


def _columns(value: Tensor, unit_dim: int, most: int) -> Tensor:
    """Return up to `most` of the columns of a value, one row each: a copy, of nothing but them."""
    batch, units = value.shape[0], value.shape[1 + unit_dim]
    positions = value.numel() // max(1, batch * units)
    if batch * positions <= most:
        return value.movedim(1 + unit_dim, -1).reshape(-1, units).clone()
    places = _places(batch * positions, most).to(value.device)
    dims = value.shape[1 : 1 + unit_dim], value.shape[2 + unit_dim :]
    inner = dims[1].numel()
    spread = value.reshape(batch, dims[0].numel(), units, inner)
    sample, place = places // positions, places % positions
    return spread[sample, place // inner, :, place % inner]


@lru_cache(maxsize=64)
def _places(of: int, most: int) -> Int64[Tensor, " most"]:
    """Return `most` places of `of` in ascending order, one in each of as many equal stretches, all over it.

    Where in its stretch one lies goes by multiples of the golden ratio, so that they do not all fall on the same
    position of their samples; stretches of less than two are left alone, so that all places are different.
    """
    cell = torch.arange(most, dtype=torch.float64)
    inside = (cell * 0.6180339887498949) % 1.0 if of >= 2 * most else 0.0
    return ((cell + inside) * (of / most)).long().clamp(max=of - 1)


def rank_of(matrix: Float[Tensor, "rows columns"], epsilon: float) -> int:
    """Return the number of singular values of X / sqrt(columns) above epsilon.

    >>> rank_of(torch.diag(torch.tensor([2.0, 1.0, 0.01])), 0.1)
    2
    """
    wide = matrix.double()
    rows, columns = wide.shape
    if columns == 0:
        return 0
    gram = wide @ wide.T if rows <= columns else wide.T @ wide
    shifted = gram / columns
    shifted.diagonal().sub_(epsilon**2)
    return positive_eigenvalues(shifted)


def effective_rank(gram: Gram, epsilon: float, scale: str = "columns") -> int:
    """Return the number of singular values of X / sqrt(N) above epsilon (Maile 2023, 6.2.1).

    Args:
        gram: The activity X.
        epsilon: Singular values up to it count as zero.
        scale: Whether N is the number of `columns`; or of `neurons`, so that the rank rises with the columns.
    """

    def find(mean: Tensor, count: int) -> int:
        mean.diagonal().sub_(epsilon**2 * (1.0 if scale == "columns" else len(mean) / count))
        return positive_eigenvalues(mean)

    return gram.known(("rank", epsilon, scale), find)


def orthogonality(gram: Gram) -> float:
    """Return 1 - ||H^T H / ||H||_F^2 - I_n / n||_F of the n columns H (Maile 2023, eq. 29); 0 if all are zero."""

    def find(mean: Tensor, count: int) -> float:
        trace = float(mean.diagonal().sum())
        if trace <= 0.0:
            return 0.0
        return 1.0 - max(0.0, float((mean / trace).square().sum()) - 1.0 / count) ** 0.5

    return gram.known("orthogonality", find)


def singular_values_above(matrix: Float64[Tensor, "rows columns"], bound: float, strict: bool = False) -> int:
    """Return how many singular values are at least a bound, or above it if `strict`; zeros never count.

    Two values whose squares differ by less than rounding errors of the largest square are the same.

    >>> singular_values_above(torch.diag(torch.tensor([3.0, 2.0, 0.0], dtype=torch.float64)), 2.0)
    2
    """
    largest = float(matrix.norm())
    if largest == 0.0 or bound > largest:
        return 0
    rows, columns = matrix.shape
    scaled = matrix / largest
    gram = scaled @ scaled.T if rows <= columns else scaled.T @ scaled
    rounding = torch.finfo(torch.float64).eps * max(rows, columns)
    if bound / largest <= rounding:
        return int((torch.linalg.svdvals(scaled) > rounding).sum())
    share = (bound / largest) ** 2 + (rounding if strict else -rounding)
    gram.diagonal().sub_(share)
    return positive_eigenvalues(gram)
