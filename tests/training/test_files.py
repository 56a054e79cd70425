"""Data in files the user has: MNIST and CIFAR, written by the tests, damaged too; digests and places of all files."""

import gzip
import struct

import numpy as np
import pytest
from sample_data import RNG, message_of

from irgrow.errors import DataError
from irgrow.training.data import SOURCES, Cifar, Digits, Mnist, Npz, Spirals, ToyFeatures, read_cifar, read_idx
from irgrow.training.derived import HeldOut, Only

pytestmark = pytest.mark.usefixtures("inside")

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


# what tells files from one another, and where they are ----------------------------------------------------------------


def test_the_digest_is_that_of_what_was_read_however_it_is_split_or_packed():
    x, y = RNG.normal(size=(10, 2)), np.arange(10)
    np.savez("a.npz", x=x, y=y)
    np.savez_compressed("b.npz", x=x, y=y)
    digest = Npz("a.npz").load(0).digest
    assert len(digest) == 64
    assert {Npz(p, share).load(seed).digest for p in ("a.npz", "b.npz") for share in (0.2, 0.5) for seed in (0, 1)} == {
        digest
    }
    assert HeldOut(Only(Npz("a.npz"), tuple(range(10)))).load(0).digest == digest
    for other in (
        {"x": x + 1e-6, "y": y},
        {"x": x, "y": y[::-1]},
        {"x": x[:, :, None], "y": y},
        {"x": x[:9], "y": y[:9]},
    ):
        np.savez("c.npz", **other)
        assert Npz("c.npz").load(0).digest != digest


def test_every_source_that_reads_has_a_digest(tmp_path):
    mnist(tmp_path / "m")
    for name, count in (("data_batch_1.bin", 2), ("test_batch.bin", 1)):
        (tmp_path / name).write_bytes(records(count, 1, 10)[2])
    found = [Digits(), Digits(9), Mnist("m"), Cifar(".")]
    digests = [source.load(0).digest for source in found]
    assert digests[0] == digests[1], "sizes are made, not read"
    assert len(set(digests)) == 3
    assert all(len(d) == 64 for d in digests)
    assert Spirals(9).load(0).digest == ToyFeatures().load(0).digest == ""
    (tmp_path / "test_batch.bin").write_bytes(records(1, 1, 10, seed=1)[2])
    mnist(tmp_path / "m", images=IMAGES[::-1])
    assert not {source.load(0).digest for source in found[2:]} & set(digests)


def test_relative_paths_are_taken_from_a_folder_in_what_is_made_of_them_too(tmp_path):
    (tmp_path / "sub").mkdir()
    np.savez("sub/d.npz", x=np.zeros((9, 2)), y=np.arange(9))
    assert Npz("d.npz", 0.5).beside("sub") == Npz("sub/d.npz", 0.5)
    assert Npz("/data/d.npz").beside("sub") == Npz("/data/d.npz")
    assert Mnist("m").beside("sub") == Mnist("sub/m")
    assert Cifar("c", 100).beside(tmp_path) == Cifar(f"{tmp_path}/c", 100)
    assert HeldOut(Only(Npz("d.npz"), (0, 1))).beside("sub") == HeldOut(Only(Npz("sub/d.npz"), (0, 1)))
    assert Digits(9).beside("sub") == Digits(9)
    assert len(Npz("d.npz").beside("sub").load(0).test[0]) == 2
    with pytest.raises(DataError, match="quotation mark or line break"):
        Npz("d.npz").beside('a "folder"')


def test_every_source_was_tested_here():
    assert {s.__name__ for s in SOURCES} == {"Digits", "Spirals", "ToyFeatures", "Npz", "Mnist", "Cifar"}
