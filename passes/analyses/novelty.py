"""How much new activity adds to what is there: distances from a row space, and ranks of bordered matrices."""

from __future__ import annotations

import numpy as np

from irgrow.shapes import Float64, Int64


def most_novel(
    existing: Float64[np.ndarray, "units n"],
    candidates: Float64[np.ndarray, "pool n"],
    count: int,
    by_rank: bool,
    greedy: bool,
    epsilon: float,
) -> Int64[np.ndarray, " count"]:
    """Return the indices of the candidates whose activity adds most to the existing one.

    Args:
        existing: Activity of the units there are, divided by sqrt(n).
        candidates: Activity of the candidates, divided by sqrt(n).
        count: How many to choose.
        by_rank: Score by the rank of [existing; candidate], ties by the nuclear norm, instead of by distance.
        greedy: Count those chosen already among the existing ones.
        epsilon: Singular values up to it count as zero.
    """
    score = _ranks if by_rank else _distances
    rounds = [1] * count if greedy else [count]
    free = np.arange(len(candidates))
    chosen: list[int] = []
    for wanted in rounds:
        best = free[np.argsort(-score(existing, candidates[free], epsilon), kind="stable")[:wanted]]
        chosen += best.tolist()
        existing = np.concatenate([existing, candidates[best]])
        free = np.setdiff1d(free, best)
    return np.array(chosen, dtype=np.int64)


def _distances(
    existing: Float64[np.ndarray, "units n"], candidates: Float64[np.ndarray, "pool n"], epsilon: float
) -> Float64[np.ndarray, " pool"]:
    """Return the squared distance of every candidate from the row space of the existing activity.

    Directions with singular values up to epsilon do not belong to the row space.
    """
    basis = row_space(existing, epsilon)
    rest = candidates - (candidates @ basis.T) @ basis
    return (rest**2).sum(1)


def row_space(existing: Float64[np.ndarray, "units n"], epsilon: float) -> Float64[np.ndarray, "rank n"]:
    """Return an orthonormal basis of the rows of existing activity; singular values up to epsilon count as zero."""
    values, vectors = np.linalg.eigh(existing @ existing.T)
    kept = values > epsilon**2
    basis: Float64[np.ndarray, "rank n"] = (vectors[:, kept] / np.sqrt(values[kept])).T @ existing
    return basis


def numerical_row_space(x: Float64[np.ndarray, "rows n"], rounding: float) -> Float64[np.ndarray, "rank n"]:
    """Return an orthonormal basis of the rows of a matrix whose entries are precise to a relative rounding."""
    _, values, vectors = np.linalg.svd(x, full_matrices=False)
    return vectors[values > values.max(initial=0.0) * max(x.shape) * rounding]


def _ranks(
    existing: Float64[np.ndarray, "units n"], candidates: Float64[np.ndarray, "pool n"], epsilon: float
) -> Float64[np.ndarray, " pool"]:
    """Return rank plus a fraction for the nuclear norm, so that it only decides between equal ranks."""
    gram = existing @ existing.T
    ranks, nuclear = np.empty(len(candidates)), np.empty(len(candidates))
    for i, h in enumerate(candidates):
        cross = existing @ h
        bordered = np.block([[gram, cross[:, None]], [cross[None, :], np.array([[h @ h]])]])
        values = np.sqrt(np.maximum(np.linalg.eigvalsh(bordered), 0.0))
        ranks[i], nuclear[i] = (values > epsilon).sum(), values.sum()
    return ranks + nuclear / (2.0 * max(nuclear.max(initial=0.0), 1e-300))


def matched(
    drawn: Float64[np.ndarray, "pool *fan_in"], weight: Float64[np.ndarray, "units *fan_in"]
) -> Float64[np.ndarray, "pool *fan_in"]:
    """Scale every candidate's fan-in to the mean norm of the existing units'."""
    return drawn * matching(drawn, weight).reshape(-1, *(1,) * (drawn.ndim - 1))


def matching(
    drawn: Float64[np.ndarray, "pool *fan_in"], weight: Float64[np.ndarray, "units *fan_in"]
) -> Float64[np.ndarray, " pool"]:
    """Return what gives every candidate's fan-in the mean norm of the existing units'; 1 where either is zero."""
    norms = np.sqrt((drawn.reshape(len(drawn), -1) ** 2).sum(1))
    target = np.sqrt((weight.reshape(len(weight), -1) ** 2).sum(1)).mean()
    return np.where(norms > 0, (target if target > 0 else norms) / np.where(norms > 0, norms, 1.0), 1.0)
