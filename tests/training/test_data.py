"""Data sources: what they give, that splits are disjoint and seeded, and that every broken file is one clear error."""

import sys

import numpy as np
import pytest
import torch
from sample_data import rows, same

from irgrow.errors import DataError
from irgrow.training.data import Digits, Npz, Spirals, ToyFeatures

pytestmark = pytest.mark.usefixtures("inside")

# generated data and digits -------------------------------------------------------------------------------------------


def test_digits_are_grey_images_in_the_unit_interval():
    data = Digits().load(0)
    assert data.train[0].shape == (1438, 1, 8, 8)
    assert data.test[0].shape == (359, 1, 8, 8)
    assert data.train[0].dtype == np.float32
    assert data.train[1].dtype == np.int64
    assert (data.train[0].min(), data.train[0].max()) == (0.0, 1.0)
    assert set(data.train[1]) == set(range(10))
    assert data.classes == 10


@pytest.mark.parametrize("size", [9, 16, 28])
def test_larger_digits_are_interpolated_linearly(size):
    small, large = Digits().load(0), Digits(size).load(0)
    assert large.test[0].shape == (359, 1, size, size)
    wanted = torch.nn.functional.interpolate(torch.from_numpy(small.test[0]), size=(size, size), mode="bilinear")
    np.testing.assert_allclose(large.test[0], wanted.numpy(), rtol=0, atol=1e-6)
    assert large.test[0].dtype == np.float32
    assert np.array_equal(small.test[1], large.test[1])


def test_digits_without_scikit_learn_say_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(DataError, match=r"digits ships with scikit-learn: pip install 'irgrow\[examples\]'"):
        Digits().load(0)


@pytest.mark.parametrize("source", [Digits(), Spirals(30), ToyFeatures(samples=200)], ids=str)
def test_splits_are_disjoint_complete_and_seeded(source):
    a, again, other = source.load(1), source.load(1), source.load(2)
    assert same(a, again)
    assert not same(a, other)
    everything = len(a.train[0]) + len(a.test[0])
    assert len(a.test[0]) == round(source.test * everything)
    assert (len(a.train[1]), len(a.test[1])) == (len(a.train[0]), len(a.test[0]))
    if not isinstance(source, ToyFeatures):  # there the seed draws the samples as well
        assert np.array_equal(rows(a), rows(other))
    assert len(np.unique(rows(Spirals(30).load(1)), axis=0)) == 60


def test_spirals_follow_their_formula():
    data = Spirals(points=50, turns=1.5).load(4)
    i = np.arange(50)
    r, phi = 0.5 + 1.5 * i / 50, 2 * np.pi * 1.5 * i / 50
    arm = np.stack([r * np.cos(phi), r * np.sin(phi)], 1)
    found = rows(data)
    wanted = np.concatenate([np.c_[arm, np.zeros(50)], np.c_[-arm, np.ones(50)]]).astype(np.float32)
    wanted = wanted[np.lexsort(wanted.T)]
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-6)
    assert data.train[0].dtype == np.float32
    assert data.classes == 2


def test_noise_has_the_standard_deviation_asked_for():
    clean, noisy, other = Spirals(2000).load(1), Spirals(2000, noise=0.25).load(1), Spirals(2000, noise=0.25).load(2)
    assert np.array_equal(clean.train[1], noisy.train[1]), "the split does not depend on the noise"
    off = noisy.train[0] - clean.train[0]
    assert off.std() == pytest.approx(0.25, rel=0.05)  # 3000 samples
    assert abs(off.mean()) < 0.02
    assert not np.array_equal(rows(noisy), rows(other))


def test_toy_features_have_the_rank_of_the_independent_ones():
    data = ToyFeatures(5, 12, 300).load(0)
    x = np.concatenate([data.train[0], data.test[0]]).astype(np.float64)
    assert x.shape == (300, 12)
    assert np.linalg.matrix_rank(x, tol=1e-3) == 5
    assert np.linalg.matrix_rank(ToyFeatures(12, 12, 300).load(0).train[0], tol=1e-3) == 12
    y = np.concatenate([data.train[1], data.test[1]])
    assert set(y) == {0, 1}
    assert (y == (x.sum(1) > x.sum(1).mean())).mean() > 0.9, "ten percent of noise turns few labels over"
    assert (y == (x.sum(1) > x.sum(1).mean())).mean() < 1


def test_toy_features_cannot_depend_on_more_than_there_are():
    with pytest.raises(DataError, match="toy_features: 9 independent features of 8"):
        ToyFeatures(9, 8).load(0)


def test_too_few_samples_to_split():
    with pytest.raises(DataError, match="too few to set 1 aside"):
        Npz(saved_pair(1)).load(0)
    with pytest.raises(DataError, match="npz has 0 samples"):
        Npz(saved_pair(0)).load(0)
    with pytest.raises(DataError, match="has 2 samples, too few to set 2 aside"):
        Npz(saved_pair(2), test=0.9).load(0)
    assert len(Npz(saved_pair(2), test=0.001).load(0).test[0]) == 1, "at least one is set aside"


def saved_pair(count, path="pair.npz"):
    np.savez(path, x=np.zeros((count, 3)), y=np.zeros(count, np.int64))
    return path


def test_toy_features_have_the_noise_of_the_reading_asked_for():
    """Ten percent of the sum turns arctan(0.1) / pi = 3.2 % over; of one feature, hardly any."""
    shares = {}
    for reading in ("score", "feature"):
        data = ToyFeatures(8, 64, 20000, noise_of=reading).load(0)
        x, y = np.concatenate([data.train[0], data.test[0]]), np.concatenate([data.train[1], data.test[1]])
        score = x.astype(np.float64).sum(1)
        shares[reading] = (y != (score > score.mean())).mean()
    assert shares["score"] == pytest.approx(np.arctan(0.1) / np.pi, abs=0.005)
    assert 0 < shares["feature"] < 0.01
    data = ToyFeatures(8, 64, 300, noise=0.0).load(0)
    x, y = np.concatenate([data.train[0], data.test[0]]), np.concatenate([data.train[1], data.test[1]])
    assert ((x.astype(np.float64).sum(1) > x.astype(np.float64).sum(1).mean()) == y).mean() > 0.99
