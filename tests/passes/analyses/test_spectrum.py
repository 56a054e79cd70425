"""Counting eigenvalues by inertia, and the streaming Gram matrix."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from irgrow.passes.analyses.spectrum import Gram, effective_rank, positive_eigenvalues


@given(st.integers(0, 10**6), st.integers(1, 40))
def test_inertia_counts_positive_eigenvalues(seed, n):
    rng = np.random.default_rng(seed)
    q, _ = np.linalg.qr(rng.normal(size=(n, n)))
    values = rng.normal(size=n)
    values[np.abs(values) < 1e-3] = 0.5
    matrix = torch.as_tensor((q * values) @ q.T)
    assert positive_eigenvalues((matrix + matrix.T) / 2) == int((values > 0).sum())


@pytest.mark.parametrize(
    "matrix", [[[0.0, 1.0], [1.0, 0.0]], [[0, 2, 0], [2, 0, 0], [0, 0, 1]], [[-1.0]], [[0, 1, 1], [1, 0, 1], [1, 1, 0]]]
)
def test_blocks_of_two_count_one(matrix):
    m = torch.tensor(matrix, dtype=torch.float64)
    assert positive_eigenvalues(m) == int((torch.linalg.eigvalsh(m) > 0).sum())
    assert positive_eigenvalues(torch.zeros(0, 0, dtype=torch.float64)) == 0


@given(st.integers(0, 10**6), st.integers(2, 30), st.integers(40, 90), st.floats(0.01, 3.0))
def test_the_rank_is_what_an_svd_says(seed, width, samples, epsilon):
    rng = np.random.default_rng(seed)
    h = rng.normal(size=(samples, width)) * rng.uniform(0, 3, width)
    gram = Gram(0, window=samples)
    gram.add(torch.as_tensor(h))
    for scale, divisor in (("columns", gram.count), ("neurons", width)):
        singular = np.linalg.svd(h / np.sqrt(divisor), compute_uv=False)
        if np.abs(singular - epsilon).min() > 1e-9:
            assert effective_rank(gram, epsilon, scale) == int((singular > epsilon).sum())


def test_float32_data_is_accumulated_in_float64():
    """A float32 Gram matrix miscounts when singular values span many decades; ours does not."""
    rng = np.random.default_rng(1)
    q, _ = np.linalg.qr(rng.normal(size=(4096, 64)))
    values = np.where(np.arange(64) < 20, 300.0, 1e-4)
    basis, _ = np.linalg.qr(rng.normal(size=(64, 64)))
    h = torch.as_tensor((np.sqrt(4096) * q * values) @ basis.T)
    gram = Gram(0, window=4096)
    gram.add(h)
    assert effective_rank(gram, 0.01) == 20
    rough = (h.float().T @ h.float()).double() / 4096
    assert positive_eigenvalues(rough - 1e-4 * torch.eye(64, dtype=torch.float64)) > 20, "negative control"


@pytest.mark.parametrize(("shape", "unit_dim"), [((12, 5), 0), ((3, 5, 4, 2), 0), ((3, 7, 5), 1)])
def test_units_are_told_from_positions(shape, unit_dim):
    h = torch.randn(*shape, dtype=torch.float64)
    gram = Gram(unit_dim, window=1000)
    gram.add(h)
    flat = h.movedim(1 + unit_dim, -1).reshape(-1, 5)
    torch.testing.assert_close(gram.mean * gram.count, flat.T @ flat)
    assert gram.count == len(flat)
    assert gram.units == 5


def test_the_window_fills_quickly_and_then_moves_in_quarters():
    gram = Gram(0, window=100)
    counts = []
    for _ in range(8):
        gram.add(torch.randn(64, 3))
        counts.append(gram.count)
    assert counts[:2] == [64, 128]
    assert all(100 <= c < 100 + 64 + 64 for c in counts[2:])
    assert gram.parts[-1][1] <= 32, "once full, a batch replaces at most about a quarter"


def test_the_window_forgets():
    gram = Gram(0, window=10)
    gram.add(torch.full((40, 2), 100.0))
    for _ in range(30):
        gram.add(torch.ones(40, 2))
    assert gram.mean.max() == pytest.approx(1.0, abs=1e-9)


def test_it_is_at_least_twice_as_wide_as_the_layer():
    gram = Gram(0, window=4)
    gram.add(torch.randn(64, 20))
    assert gram.count >= 32
    assert gram.ready


def test_a_change_of_width_starts_anew():
    gram = Gram(0)
    gram.add(torch.randn(9, 4))
    gram.add(torch.randn(9, 5))
    assert (gram.units, gram.count) == (5, 9)


def test_state_goes_out_and_in():
    gram = Gram(0, window=20)
    for _ in range(5):
        gram.add(torch.randn(16, 3))
    other = Gram(0, window=20)
    other.load(gram.state())
    x = torch.randn(16, 3)
    gram.add(x)
    other.add(x)
    assert torch.equal(gram.total, other.total)
    assert gram.count == other.count
    other.load({})
    assert other.count == 0
    assert Gram(0).state() == {}
    assert Gram(0).finite


# what waits, and what is remembered ---------------------------------------------------------------------------------


def test_columns_wait_until_an_eighth_is_new_and_somebody_looks():
    gram, looks = Gram(0, window=400), []

    def find(mean, count):
        looks.append(count)
        return count

    for _ in range(12):
        gram.add(torch.randn(10, 4, dtype=torch.float64))
        gram.known("count", find)
    assert looks == [10, 20, 30, 40, 50, 60, 70, 80, 100, 120], "below 80 every ten are an eighth of what there is"
    assert gram.count == 120
    assert gram.mean.shape == (4, 4)
    assert not gram.waiting, "whoever takes the matrix itself gets all of it"


def test_what_waits_is_bounded_without_anybody_looking():
    gram = Gram(0, window=400)
    for _ in range(500):
        gram.add(torch.randn(10, 4))
        assert 4 * sum(len(c) for c in gram.waiting) < 400
    assert 400 <= gram.count < 600
    assert len(gram.parts) <= 6


def test_what_was_found_is_said_again_and_a_lot_of_news_is_looked_at():
    gram = Gram(0, window=80)
    gram.add(torch.eye(8, dtype=torch.float64).repeat(10, 1)[:, :4])
    assert effective_rank(gram, 0.1) == 4
    gram.add(torch.full((1, 4), float("nan"), dtype=torch.float64))
    assert gram.finite, "one column of 81 is no news"
    gram.add(torch.full((20, 4), float("nan"), dtype=torch.float64))
    assert gram.finite, "of 20 a full window takes ten, and eleven of 91 are no news"
    gram.add(torch.full((20, 4), float("nan"), dtype=torch.float64))
    assert not gram.finite


def test_state_with_columns_that_wait_goes_on_bit_by_bit():
    generator = torch.Generator().manual_seed(1)
    gram, other = Gram(0, window=64), Gram(0, window=64)
    for i in range(40):
        x = torch.randn(5, 3, generator=generator, dtype=torch.float64)
        if i == 17:
            assert gram.waiting
            other.load(gram.state())
        gram.add(x)
        if i >= 17:
            other.add(x)
            assert effective_rank(gram, 0.9) == effective_rank(other, 0.9)
            assert gram.count == other.count
    assert torch.equal(gram.total, other.total)


def test_columns_are_taken_from_all_over_the_batch():
    """Not from one and the same position of every image, as equal steps would where they divide the positions."""
    value = torch.arange(32.0).reshape(1, 1, 4, 8).expand(64, 3, 4, 8)
    gram = Gram(0, window=64)
    gram.add(value)
    taken = torch.cat(gram.waiting)[:, 0] if gram.waiting else None
    assert taken is None, "a whole window is taken in at once"
    from irgrow.passes.analyses.spectrum import _columns

    columns = _columns(value, 0, 64)
    assert columns.shape == (64, 3)
    assert len(columns[:, 0].unique()) > 16
    assert len(value.movedim(1, -1).flatten(0, -2)[:: 64 * 32 // 64, 0].unique()) == 1, "negative control"


@pytest.mark.parametrize(("shape", "unit_dim"), [((40, 5, 3, 4), 0), ((40, 7, 5), 1), ((40, 3, 5, 4), 1), ((90, 5), 0)])
def test_columns_are_columns_of_the_value(shape, unit_dim):
    from irgrow.passes.analyses.spectrum import _columns

    value = torch.randn(*shape, dtype=torch.float64)
    rows = {tuple(r) for r in value.movedim(1 + unit_dim, -1).reshape(-1, 5).tolist()}
    columns = _columns(value, unit_dim, 37)
    assert columns.shape == (37, 5)
    found = {tuple(r) for r in columns.tolist()}
    assert len(found) == 37
    assert found <= rows
    images = value.dim() == 4
    like = value.to(memory_format=torch.channels_last) if images else value
    assert torch.equal(_columns(like, unit_dim, 37), columns)
