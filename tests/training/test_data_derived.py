"""Data made from other data: what each keeps and changes, that test data stays test data, and clear errors."""

import numpy as np
import pytest
from sample_data import rows, same

from irgrow.errors import DataError, OptionError, ProgramError
from irgrow.grammar import parse_program
from irgrow.training.data import Dataset, DataSource, Digits, Npz, Spirals, ToyFeatures
from irgrow.training.derived import HeldOut, Only, Shifted, rotated

pytestmark = pytest.mark.usefixtures("inside")


def rows_of(pair):
    return {x.tobytes() for x in np.ascontiguousarray(pair[0])}


def test_only_keeps_the_samples_of_its_labels_in_their_order():
    whole, some = Digits().load(3), Only(Digits(), (7, 2)).load(3)
    assert some.classes == 2
    for (x, y), (kept, labels) in ((whole.train, some.train), (whole.test, some.test)):
        chosen = np.isin(y, [7, 2])
        assert np.array_equal(kept, x[chosen])
        assert np.array_equal(labels, np.where(y[chosen] == 7, 0, 1))
        assert labels.dtype == np.int64
    assert len(some.train[0]) + len(some.test[0]) == 179 + 177  # sevens and twos among the 1797


def test_only_of_all_labels_changes_nothing_and_two_halves_are_the_whole():
    assert same(Only(Digits(), tuple(range(10))).load(1), Digits().load(1))
    low, high = (Only(Digits(), labels).load(1) for labels in ((0, 1, 2, 3, 4), (5, 6, 7, 8, 9)))
    assert not rows_of(low.train) & rows_of(high.train)
    assert len(rows(low)) + len(rows(high)) == 1797


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ((3, 3), r"only: a label is named twice in \[3, 3\]"),
        ((1, 10), r"only: digits has labels from 0 to 9, asked for \[1, 10\]"),
    ],
)
def test_only_refuses_labels_that_are_not_there(labels, message):
    with pytest.raises(DataError, match=message):
        Only(Digits(), labels).load(0)


def test_only_takes_a_label_at_least():
    with pytest.raises(OptionError, match="`only`: `labels`"):
        Only(Digits(), ())


def test_only_refuses_data_without_labels():
    np.savez("values.npz", x=np.zeros((9, 2)), y=np.linspace(0, 1, 9))
    with pytest.raises(DataError, match="only: npz has no labels to choose from"):
        Only(Npz("values.npz"), (0,)).load(0)


class Ramp(DataSource):
    """Images of 5x5 that rise to the right."""

    def load(self, seed):
        x = np.broadcast_to(np.linspace(0, 1, 5, dtype=np.float32), (6, 1, 5, 5)).copy()
        y = np.arange(6, dtype=np.int64)
        return Dataset("ramp", (x[:4], y[:4]), (x[4:], y[4:]), 6)


def test_quarter_turns_are_exact_and_anticlockwise():
    x = Digits().load(0).test[0]
    for quarters in range(-3, 5):
        wanted = np.rot90(x, quarters, axes=(2, 3))
        np.testing.assert_allclose(rotated(x, 90.0 * quarters), wanted, rtol=0, atol=1e-6)
    assert not np.allclose(rotated(x, 90.0), np.rot90(x, -1, axes=(2, 3)), rtol=0, atol=0.1)


@pytest.mark.parametrize("degrees", [17.0, -120.0])
def test_turning_is_bilinear_with_zeros_outside(degrees):
    """Against SciPy, on images that are not square, and forth and back where nothing leaves the image."""
    ndimage = pytest.importorskip("scipy.ndimage")
    x = np.random.default_rng(0).random((3, 2, 7, 10)).astype(np.float32)
    wanted = ndimage.rotate(x, degrees, axes=(3, 2), reshape=False, order=1, mode="grid-constant", cval=0.0)
    other = ndimage.rotate(x, -degrees, axes=(3, 2), reshape=False, order=1, mode="grid-constant", cval=0.0)
    assert min(np.abs(rotated(x, degrees) - w).max() for w in (wanted, other)) < 1e-5
    ramp = Ramp().load(0).train[0]
    inside = rotated(ramp, degrees)[0, 0, 1:4, 1:4]
    rise = np.cos(np.radians(degrees)) / 4, np.sin(np.radians(degrees)) / 4  # to the right, upwards
    np.testing.assert_allclose(np.diff(inside, axis=1), rise[0], atol=1e-6)
    np.testing.assert_allclose(-np.diff(inside, axis=0), rise[1], atol=1e-6)


def test_shifted_images_are_turned_inverted_and_noisy_in_this_order():
    plain, seed = Digits().load(5), 5
    turned = Shifted(Digits(), 30.0, invert=False, noise=0.0).load(seed)
    assert np.array_equal(turned.test[0], rotated(plain.test[0], 30.0))
    inverted = Shifted(Digits(), 30.0, invert=True, noise=0.0).load(seed)
    assert np.array_equal(inverted.test[0], 1 - turned.test[0])
    assert same(Shifted(Digits(), 0.0, invert=False, noise=0.0).load(seed), plain)
    noisy = Shifted(Digits(), 30.0, invert=True, noise=0.05).load(seed)
    middle = (inverted.train[0] > 0.3) & (inverted.train[0] < 0.7)  # nothing is cut there
    off = (noisy.train[0] - inverted.train[0])[middle]
    assert off.std() == pytest.approx(0.05, rel=0.03)
    assert abs(off.mean()) < 0.002
    assert (noisy.train[0].min(), noisy.train[0].max()) == (0.0, 1.0)
    assert noisy.train[0].dtype == np.float32
    assert np.array_equal(noisy.train[1], plain.train[1])
    assert not np.array_equal(noisy.train[0][0] - inverted.train[0][0], noisy.test[0][0] - inverted.test[0][0])


def test_shifted_is_seeded():
    source = Shifted(Digits())
    assert same(source.load(1), source.load(1))
    assert not same(source.load(1), source.load(2))


def test_shifted_takes_images():
    with pytest.raises(DataError, match=r"shifted takes images \(channels, height, width\), spirals has \[2\]"):
        Shifted(Spirals(30)).load(0)


@pytest.mark.parametrize("source", [Digits(), ToyFeatures(samples=200)], ids=str)
def test_held_out_never_looks_at_test_data(source):
    whole, held = source.load(2), HeldOut(source, 0.25).load(2)
    count = len(whole.train[0])
    assert (len(held.train[0]), len(held.test[0])) == (count - round(0.25 * count), round(0.25 * count))
    assert len(np.concatenate([held.train[0], held.test[0]])) == count
    assert rows_of(held.train) | rows_of(held.test) == rows_of(whole.train)
    seen = rows_of(whole.train) & rows_of(whole.test)  # digits has a few images twice
    assert (rows_of(held.train) | rows_of(held.test)) & rows_of(whole.test) == seen
    assert same(held, HeldOut(source, 0.25).load(2))


def test_sources_stand_in_one_another_in_programs():
    text = "net n(x: [4]) { return x |> dense(2) } train { data = held_out(of = shifted(only(digits, [1, 0]), 5.0)) }"
    assert parse_program(text).training.data == HeldOut(Shifted(Only(Digits(), (1, 0)), 5.0))
    with pytest.raises(ProgramError, match="held_out"):
        _ = parse_program(text.replace("(of = shifted(only(digits, [1, 0]), 5.0))", "")).training
