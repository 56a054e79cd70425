"""Counting singular values without computing them, and the streaming Gram matrix they are counted from.

The number of singular values of X / sqrt(N) above epsilon is the number of eigenvalues of X X^T / N above epsilon^2.
By Sylvester's law of inertia that is the number of positive pivots of a factorisation L D L^T of
X X^T / N - epsilon^2 I. The Gram matrix is accumulated in float64: in float32 it miscounts as soon as the largest
singular value is about 100.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from irgrow.graph import Graph
from irgrow.passes.records.base import WINDOW, Record, Wanted
from irgrow.shapes import Float, Float64


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
    cost of a step does not grow with the window.

    Args:
        features: Index of the dimension of the units, the batch not counted.
        window: How many columns to keep; at least twice the number of units are.
        node: Whose values they are.
    """

    def __init__(self, features: int, window: int = WINDOW, node: str = "") -> None:
        self.features, self.window, self.node = features, window, node
        self.parts: deque[tuple[Tensor, int]] = deque()
        self.total: Tensor | None = None
        self.count = 0

    def attach(self, leaves: Mapping[str, nn.Module], wanted: Wanted) -> list[Any]:
        def record(module: nn.Module, inputs: Any, output: Tensor) -> None:
            if wanted(module):
                self.add(output)

        # A compiled network breaks its graph here; what is counted stays out of it.
        return [leaves[self.node].register_forward_hook(torch.compiler.disable(record))]

    def fits(self, graph: Graph) -> bool:
        return self.units in (0, graph.size(graph.types[self.node].units))

    @property
    def lead(self) -> int:
        if not self.parts:
            return 64
        return 4 + max(self.window, 2 * self.units) // max(self.parts[-1][1], 1)

    @torch.no_grad()
    def add(self, value: Float[Tensor, "batch *dims"]) -> None:
        """Take the columns of a batch, (batch, ...)."""
        columns = value.detach().movedim(1 + self.features, -1).flatten(0, -2)
        units = columns.shape[1]
        window = max(self.window, 2 * units)
        room = window if self.count < window else -(-window // 8)
        if columns.shape[0] > room:
            columns = columns[:: -(-columns.shape[0] // room)]
        wide = columns.double()
        part = wide.T @ wide
        if self.total is None or self.total.shape != part.shape:
            self.clear()
            self.total = torch.zeros_like(part)
        self.parts.append((part, columns.shape[0]))
        self.total += part
        self.count += columns.shape[0]
        while self.count - self.parts[0][1] >= window:
            old, size = self.parts.popleft()
            self.total -= old
            self.count -= size

    def clear(self) -> None:
        self.parts.clear()
        self.total, self.count = None, 0

    @property
    def ready(self) -> bool:
        """Whether there are more columns than units, so that a rank says something."""
        return self.total is not None and self.count > self.total.shape[0]

    @property
    def units(self) -> int:
        """Number of units."""
        return 0 if self.total is None else self.total.shape[0]

    @property
    def finite(self) -> bool:
        """Whether all that was recorded is finite; no entry is larger than those of the diagonal."""
        return self.total is None or bool(torch.isfinite(self.total.diagonal()).all())

    @property
    def mean(self) -> Float64[Tensor, "units units"]:
        """The Gram matrix divided by the number of columns."""
        assert self.total is not None
        return self.total / self.count

    def state(self) -> dict[str, Tensor]:
        if not self.parts or self.total is None:
            return {}
        sizes = torch.tensor([size for _, size in self.parts])
        return {"parts": torch.stack([part for part, _ in self.parts]), "sizes": sizes, "total": self.total}

    def load(self, state: dict[str, Tensor]) -> None:
        self.clear()
        if state:
            self.parts.extend((p.clone(), int(n)) for p, n in zip(state["parts"], state["sizes"], strict=True))
            self.total, self.count = state["total"].clone(), int(state["sizes"].sum())


def effective_rank(gram: Gram, epsilon: float) -> int:
    """Return the number of singular values of X / sqrt(N) above epsilon (Maile 2023, 6.2.1)."""
    shifted = gram.mean
    shifted.diagonal().sub_(epsilon**2)
    return positive_eigenvalues(shifted)
