"""Data in files the user has: npz, MNIST and CIFAR, written by the tests, damaged too."""

import gzip
import random
import struct
import zipfile

import numpy as np
import pytest
from sample_data import RNG, message_of, rows, same

from irgrow.errors import DataError
from irgrow.training.data import SOURCES, Cifar, Mnist, Npz, read_cifar, read_idx

pytestmark = pytest.mark.usefixtures("inside")

# npz -----------------------------------------------------------------------------------------------------------------


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


def test_values_beyond_single_precision_are_an_error_of_the_data():
    np.savez("d.npz", x=np.full((9, 2), 1e300), y=np.zeros(9, np.int64))
    from irgrow.grammar import parse
    from irgrow.training.fitting import fitted

    graph = parse("net n(x: [2]) { return x |> dense(1) }")
    with pytest.raises(DataError, match="NaN or infinity|d.npz"):
        fitted(graph, Npz("d.npz").load(0), "cross_entropy")


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


# mnist ---------------------------------------------------------------------------------------------------------------

IMAGES = RNG.integers(0, 256, (5, 28, 28)).astype(np.uint8)
LABELS = np.array([3, 0, 9, 1, 1], np.uint8)


def idx(array):
    return bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


def mnist(folder, form="plain", images=IMAGES, labels=LABELS):
    """Write the four files; test data are the last two samples."""
    folder.mkdir(exist_ok=True)
    for prefix, part in (("train", slice(None)), ("t10k", slice(3, None))):
        for kind, array in (("images-idx3-ubyte", images[part]), ("labels-idx1-ubyte", labels[part])):
            name, data = f"{prefix}-{kind}", idx(array)
            match form:
                case "plain":
                    (folder / name).write_bytes(data)
                case "dotted":
                    (folder / name.replace("-idx", ".idx")).write_bytes(data)
                case "gzip":
                    (folder / f"{name}.gz").write_bytes(gzip.compress(data))
    return folder


@pytest.mark.parametrize("form", ["plain", "dotted", "gzip"])
def test_mnist_reads_idx_files(tmp_path, form):
    data = Mnist(str(mnist(tmp_path / "m", form))).load(0)
    assert data.train[0].shape == (5, 1, 28, 28)
    assert data.train[0].dtype == np.float32
    np.testing.assert_array_equal(data.train[0][:, 0], (IMAGES / 255.0).astype(np.float32))
    np.testing.assert_array_equal(data.test[0][:, 0], (IMAGES[3:] / 255.0).astype(np.float32))
    assert data.train[1].tolist() == LABELS.tolist()
    assert data.test[1].tolist() == [1, 1]
    assert data.train[1].dtype == np.int64
    assert data.classes == 10


@pytest.mark.parametrize("prefix", ["train", "t10k"])
@pytest.mark.parametrize("kind", ["images-idx3", "labels-idx1"])
def test_missing_mnist_files_are_named(tmp_path, prefix, kind):
    folder = mnist(tmp_path / "m")
    (folder / f"{prefix}-{kind}-ubyte").unlink()
    with pytest.raises(DataError, match=rf"m: expected a file `{prefix}-{kind}-ubyte` or `{prefix}-{kind}-ubyte.gz`"):
        Mnist(str(folder)).load(0)
    with pytest.raises(DataError, match="nowhere: expected a file `train-images-idx3-ubyte`"):
        Mnist("nowhere").load(0)


def test_as_many_labels_as_images(tmp_path):
    folder = mnist(tmp_path / "m")
    (folder / "t10k-labels-idx1-ubyte").write_bytes(idx(LABELS))
    with pytest.raises(DataError, match="m: 2 t10k images and 5 labels"):
        Mnist(str(folder)).load(0)


GOOD = idx(IMAGES)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "not an idx file of unsigned bytes with 3 dimensions"),
        (GOOD[:15], "not an idx file"),
        (b"\x00\x00\x09\x03" + GOOD[4:], "not an idx file"),
        (b"\x00\x01\x08\x03" + GOOD[4:], "not an idx file"),
        (idx(LABELS), "not an idx file"),
        (GOOD[:-1], "expected 3920 bytes after the header, found 3919"),
        (GOOD + b"\x00", "expected 3920 bytes after the header, found 3921"),
        (GOOD[:16], "expected 3920 bytes after the header, found 0"),
        (GOOD[:4] + struct.pack(">3I", 1 << 31, 1 << 31, 4), "bytes after the header, found 0"),
        (GOOD[:4] + struct.pack(">3I", 1 << 31, 1 << 31, 5) + GOOD[16:], "bytes after the header, found 3920"),
    ],
)
@pytest.mark.parametrize("packed", [False, True])
def test_broken_idx_files(tmp_path, data, message, packed):
    path = tmp_path / ("images.gz" if packed else "images")
    path.write_bytes(gzip.compress(data) if packed else data)
    with pytest.raises(DataError) as caught:
        read_idx(path, 3)
    assert str(path) in str(caught.value)
    assert message in str(caught.value)


def test_damage_in_a_packed_idx_file_is_an_error_of_the_file(tmp_path):
    path = tmp_path / "labels.gz"
    good = gzip.compress(idx(LABELS), mtime=0)
    path.write_bytes(good)
    assert read_idx(path, 1).tolist() == LABELS.tolist()
    refused = 0
    for place in range(len(good)):
        for broken in (good[:place], good[:place] + bytes([good[place] ^ 0x5B]) + good[place + 1 :]):
            path.write_bytes(broken)
            refused += message_of(lambda: read_idx(path, 1)).startswith(f"{path}: ")
    assert refused > len(good)
    path.write_bytes(idx(LABELS))
    with pytest.raises(DataError, match=r"labels\.gz: not a gzipped file"):
        read_idx(path, 1)


# cifar ---------------------------------------------------------------------------------------------------------------


def records(count, labels, classes, seed=0):
    rng = np.random.default_rng(seed)
    marks = rng.integers(0, classes, (count, labels)).astype(np.uint8)
    images = rng.integers(0, 256, (count, 3, 32, 32)).astype(np.uint8)
    return marks, images, np.concatenate([marks, images.reshape(count, -1)], 1).tobytes()


def test_cifar10_joins_its_batches_in_order(tmp_path):
    parts = [records(n, 1, 10, n) for n in (3, 2, 4)]
    for name, part in zip(("data_batch_2.bin", "data_batch_1.bin", "test_batch.bin"), parts, strict=True):
        (tmp_path / name).write_bytes(part[2])
    data = Cifar(str(tmp_path)).load(0)
    assert (data.name, data.classes) == ("cifar10", 10)
    assert data.train[1].tolist() == [*parts[1][0][:, 0], *parts[0][0][:, 0]]
    np.testing.assert_array_equal(data.test[0], parts[2][1].astype(np.float32) / np.float32(255))
    np.testing.assert_array_equal(data.train[0][:2], parts[1][1].astype(np.float32) / np.float32(255))
    assert data.train[0].shape == (5, 3, 32, 32)
    assert data.train[0].dtype == np.float32
    assert data.train[1].dtype == np.int64
    assert data.train[0].max() <= 1


def test_cifar100_takes_the_fine_labels(tmp_path):
    parts = [records(n, 2, 20, n) for n in (3, 2)]
    for name, part in zip(("train.bin", "test.bin"), parts, strict=True):
        (tmp_path / name).write_bytes(part[2])
    data = Cifar(str(tmp_path), 100).load(0)
    assert (data.name, data.classes) == ("cifar100", 100)
    assert data.train[1].tolist() == parts[0][0][:, 1].tolist()
    assert data.train[1].tolist() != parts[0][0][:, 0].tolist()
    np.testing.assert_array_equal(data.test[0], parts[1][1].astype(np.float32) / np.float32(255))


@pytest.mark.parametrize("labels", [1, 2])
@pytest.mark.parametrize("size", [0, 1, 3072, 3073 + 3074])
def test_cifar_files_are_whole_records(tmp_path, labels, size):
    path = tmp_path / "some.bin"
    path.write_bytes(bytes(size))
    with pytest.raises(DataError, match=rf"some\.bin: expected records of {3072 + labels} bytes, found {size} bytes"):
        read_cifar(path, labels)


def test_missing_cifar_files_are_named(tmp_path):
    (tmp_path / "data_batch_1.bin").write_bytes(bytes(3073))
    with pytest.raises(DataError, match=r"expected data_batch_\*\.bin and test_batch\.bin") as caught:
        Cifar(str(tmp_path)).load(0)
    assert str(tmp_path) in str(caught.value)
    with pytest.raises(DataError, match=r"expected train\.bin and test\.bin"):
        Cifar(str(tmp_path), 100).load(0)
    with pytest.raises(DataError, match="nowhere: expected data_batch"):
        Cifar("nowhere").load(0)
    with pytest.raises(DataError, match=r"gone\.bin: no such file"):
        read_cifar(tmp_path / "gone.bin", 1)
    with pytest.raises(DataError, match="cifar has 10 or 100 classes, found 20"):
        Cifar(str(tmp_path), 20).load(0)


def test_every_source_was_tested_here():
    assert {s.__name__ for s in SOURCES} == {"Digits", "Spirals", "ToyFeatures", "Npz", "Mnist", "Cifar"}
