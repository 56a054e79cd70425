"""Data in npz files, written by the tests: what is read, and that every wrong or damaged file is one clear error."""

import random
import struct
import zipfile

import numpy as np
import pytest
from sample_data import RNG, message_of, rows, same

from irgrow.errors import DataError
from irgrow.training.data import Npz

pytestmark = pytest.mark.usefixtures("inside")


def test_npz_splits_x_and_y():
    x, y = RNG.normal(size=(40, 2, 3)), RNG.integers(0, 4, 40)
    y[0] = 3
    np.savez("d.npz", x=x, y=y, comment=np.zeros(2))
    data = Npz("d.npz", 0.25).load(5)
    assert (len(data.train[0]), len(data.test[0])) == (30, 10)
    assert data.train[0].shape[1:] == (2, 3)
    assert data.train[0].dtype == np.float32
    assert data.classes == 4
    wanted = np.concatenate([x.reshape(40, -1).astype(np.float32), y[:, None]], 1)
    assert np.array_equal(rows(data), wanted[np.lexsort(wanted.T)])
    assert same(data, Npz("d.npz", 0.25).load(5))
    assert not same(data, Npz("d.npz", 0.25).load(6))


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_npz_takes_a_given_split_as_it_is(save):
    arrays = {
        "x_train": RNG.normal(size=(6, 2)).astype(np.float32),
        "y_train": RNG.normal(size=(6, 1)).astype(np.float32),
        "x_test": RNG.normal(size=(3, 2)).astype(np.float32),
        "y_test": RNG.normal(size=(3, 1)).astype(np.float32),
    }
    save("d.npz", **arrays)
    data = Npz("d.npz").load(0)
    assert [np.array_equal(p, arrays[n]) for p, n in zip((*data.train, *data.test), arrays, strict=True)] == [True] * 4
    assert data.classes == 0, "float targets are values"
    assert same(data, Npz("d.npz").load(1)), "the seed has nothing to split"


def test_npz_counts_classes_over_both_parts():
    np.savez("d.npz", x_train=np.zeros((3, 1)), y_train=[0, 1, 0], x_test=np.zeros((2, 1)), y_test=[6, 0])
    assert Npz("d.npz").load(0).classes == 7


@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.int32, np.uint16, np.int64])
def test_npz_keeps_integers_whole(dtype):
    np.savez("d.npz", x=np.full((4, 2), 7, dtype), y=np.arange(4).astype(dtype))
    data = Npz("d.npz").load(0)
    assert {a.dtype for a in (*data.train, *data.test)} == {np.dtype(np.int64)}
    assert sorted(np.concatenate([data.train[1], data.test[1]])) == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"x": [[1.0]]}, "d.npz: expected arrays `x` and `y`, found x"),
        ({"X": [[1.0]], "Y": [1]}, "d.npz: expected arrays `x` and `y`, found X, Y"),
        ({"x_train": [[1.0]], "y_train": [0], "x_test": [[1.0]]}, "expected arrays `x` and `y`, found x_train"),
        ({}, "d.npz: expected arrays `x` and `y`, found none"),
        ({"x": np.zeros((5, 2)), "y": np.zeros(4)}, "d.npz: expected as many targets as samples, found 4 and 5"),
        ({"x": [["a"]] * 4, "y": [0] * 4}, "inputs must be numbers, found <U1"),
        ({"x": np.zeros((4, 1), complex), "y": [0] * 4}, "inputs must be numbers, found complex128"),
        ({"x": np.zeros((4, 1)), "y": np.array(["a"] * 4)}, "targets must be numbers, found <U1"),
        ({"x": np.zeros((4, 1)), "y": np.zeros(4, "M8[s]")}, "targets must be numbers, found datetime64"),
        ({"x": np.zeros((4, 1)), "y": np.zeros(4, bool)}, "targets must be numbers, found bool"),
    ],
)
def test_wrong_arrays_are_named(arrays, message):
    np.savez("d.npz", **arrays)
    with pytest.raises(DataError) as caught:
        Npz("d.npz").load(0)
    assert message in str(caught.value)


@pytest.mark.parametrize("layout", [("x", "y"), ("x_train", "y_train", "x_test", "y_test")], ids=len)
@pytest.mark.parametrize("which", ["x", "y"])
def test_wrong_types_name_the_file(layout, which):
    arrays = {n: np.full(4, "a") if n.startswith(which) else np.zeros(4) for n in layout}
    np.savez("d.npz", **arrays)
    with pytest.raises(DataError, match=r"d\.npz.* must be numbers, found <U1"):
        Npz("d.npz").load(0)


def test_single_numbers_are_no_samples():
    np.savez("d.npz", x=1.0, y=2.0)
    with pytest.raises(DataError, match=r"d\.npz"):
        Npz("d.npz").load(0)


@pytest.mark.parametrize(
    ("value", "what"),
    [
        (np.nan, "NaN or infinity"),
        (-np.inf, "NaN or infinity"),
        (1e300, "numbers beyond single precision"),
        (np.uint64(1 << 63), "integers of 2^63 or more"),
    ],
)
@pytest.mark.parametrize("name", ["x", "y"])
def test_numbers_that_cannot_be_learned_from_are_named_by_their_place_in_the_file(value, what, name):
    kind = np.asarray(value).dtype
    arrays = {"x": np.ones((20, 2, 3), kind), "y": np.ones((20, 1), kind)}
    arrays[name][7, ..., 0] = arrays[name][12] = value
    np.savez("d.npz", **arrays)
    message = message_of(lambda: Npz("d.npz").load(0))
    assert message == f"d.npz: `{name}` holds {what} in 2 of 20 samples, the first is `{name}[7]`"
    arrays[name][[7, 12]] = 1
    np.savez("d.npz", **arrays)
    assert len(Npz("d.npz").load(0).train[0]) == 16


def test_the_array_of_a_given_split_is_named():
    arrays = {f"{a}_{p}": np.ones((4, 1)) for p in ("train", "test") for a in "xy"}
    arrays["x_test"][3] = np.nan
    np.savez("d.npz", **arrays)
    assert message_of(lambda: Npz("d.npz").load(0)).endswith("in 1 of 4 samples, the first is `x_test[3]`")


@pytest.mark.parametrize("value", [0, 255, (1 << 63) - 1])
def test_large_integers_stay_what_they_are(value):
    np.savez("d.npz", x=np.full((4, 1), value, np.uint64), y=np.zeros(4, np.uint64))
    assert Npz("d.npz").load(0).train[0].tolist() == [[value]] * 3


# damaged files --------------------------------------------------------------------------------------------------------


def npy(descr, shape, payload):
    header = f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}".encode()
    header += b" " * (63 - (len(header) + 10) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + payload


def zipped(path, **members):
    with zipfile.ZipFile(path, "w") as file:
        for name, data in members.items():
            file.writestr(f"{name}.npy", data)


def test_object_arrays_are_refused_and_nothing_in_them_runs(tmp_path):
    planted = tmp_path / "planted"
    payload = f"cbuiltins\nopen\n(S'{planted}'\nS'w'\ntR.".encode()  # as text: would make a file when unpickled
    zipped("d.npz", x=npy("|O", (4,), payload), y=npy("<i8", (4,), bytes(32)))
    with pytest.raises(DataError, match=r"d\.npz: object arrays cannot be loaded"):
        Npz("d.npz").load(0)
    (tmp_path / "raw.npz").write_bytes(payload)
    with pytest.raises(DataError, match=r"raw\.npz"):
        Npz("raw.npz").load(0)
    assert not planted.exists()
    zipped("d.npz", x=npy("<f8", (4,), bytes(32)), y=npy("<i8", (4,), bytes(32)))
    assert len(Npz("d.npz").load(0).train[0]) == 3, "the same file with numbers in it is read"


def test_missing_files_and_folders():
    with pytest.raises(DataError, match=r"gone\.npz: no such file or directory"):
        Npz("gone.npz").load(0)
    with pytest.raises(DataError, match=r": is a directory"):
        Npz(".").load(0)


@pytest.mark.parametrize(
    "content", [b"", b"P", b"PK\x03\x04", b"not an archive", bytes(100), b"\x93NUMPY\x01"], ids=repr
)
def test_what_is_no_archive_is_an_error_of_the_file(tmp_path, content):
    (tmp_path / "d.npz").write_bytes(content)
    with pytest.raises(DataError, match=r"d\.npz"):
        Npz("d.npz").load(0)


def test_a_single_array_is_no_archive():
    np.save("d.npy", np.zeros(3))
    with pytest.raises(DataError, match=r"d\.npy"):
        Npz("d.npy").load(0)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_damage_anywhere_is_an_error_of_the_file_or_harmless(tmp_path, save):
    save("d.npz", x=RNG.normal(size=(6, 2)), y=np.arange(6))
    path = tmp_path / "d.npz"
    good, rng, refused = path.read_bytes(), random.Random(1), 0
    for number in range(400):
        broken = bytearray(good)
        place = rng.randrange(len(good))
        if number % 4:
            broken[place] ^= 1 << rng.randrange(8)
        else:
            del broken[place:]
        path.write_bytes(bytes(broken))
        refused += message_of(lambda: Npz("d.npz").load(0)).startswith("d.npz: ")
    assert refused > 200
