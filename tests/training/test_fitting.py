"""Fitting data to networks: what fits goes through unchanged, what does not is an error that says what and where."""

import numpy as np
import pytest

from irgrow.errors import DataError
from irgrow.grammar import parse
from irgrow.training.data import Dataset, Digits
from irgrow.training.fitting import fitted

NET = "net n(x: [4]) { return x |> h: dense(3) |> relu |> head: dense(2) }"
TOKENS = "net t(tokens: ids(7)[5]) { return tokens |> embedding(4) |> flatten |> head: dense(2) }"
VALUES = "net v(x: [4]) { return x |> head: dense(1) }"
IMAGE = "net i(x: [1, 2, 2]) { return x |> flatten |> head: dense(2) }"


def data(x=None, y=None, train=None, test=None, name="some"):
    """Return data whose two parts are the same unless given."""
    x = np.ones((6, 4), np.float32) if x is None else np.asarray(x)
    y = np.arange(len(x)) % 2 if y is None else np.asarray(y)
    return Dataset(name, train or (x, y), test or (x, y), 2)


def refused(net, given, loss="cross_entropy"):
    with pytest.raises(DataError) as caught:
        fitted(parse(net), given, loss)
    return str(caught.value)


def test_what_fits_goes_through():
    given = data()
    found = fitted(parse(NET), given, "cross_entropy")
    for (x, y), (was, labels) in ((found.train, given.train), (found.test, given.test)):
        assert np.array_equal(x, was)
        assert np.array_equal(y, labels)
        assert (x.dtype, y.dtype) == (np.float32, np.int64)
    assert (found.name, found.classes) == ("some", 2)


def test_whole_numbers_become_floats():
    found = fitted(parse(NET), data(np.full((6, 4), 3)), "cross_entropy")
    assert found.train[0].dtype == np.float32
    assert (found.train[0] == 3).all()


@pytest.mark.parametrize(
    ("net", "shape"),
    [
        (NET, (6, 2, 2)),
        (NET, (6, 4, 1)),
        (IMAGE, (6, 4)),
        (IMAGE, (6, 2, 2)),
        (IMAGE, (6, 2, 2, 1)),
        (IMAGE, (6, 4, 1)),
    ],
)
def test_flat_values_arrays_and_axes_of_size_one_fit(net, shape):
    x = np.arange(24, dtype=np.float32).reshape(shape)
    found = fitted(parse(net), data(x), "cross_entropy")
    assert found.train[0].shape[1:] == parse(net).shape("x")
    assert np.array_equal(found.train[0].ravel(), x.ravel())


COLOUR = "net c(x: [3, 4, 4]) { return x |> flatten |> head: dense(2) }"
TALL = "net t(x: [1, 4, 2]) { return x |> flatten |> head: dense(2) }"


@pytest.mark.parametrize(
    ("net", "shape", "remedy"),
    [
        (COLOUR, (4, 4, 3), "0, 3, 1, 2"),
        (COLOUR, (4, 3, 4), "0, 2, 1, 3"),
        (TALL, (1, 2, 4), "0, 1, 3, 2"),
        (TALL, (2, 4, 1), "0, 3, 2, 1"),
        (COLOUR, (6, 8), None),
        (COLOUR, (3, 2, 8), None),
        (TALL, (2, 4), None),
    ],
)
def test_values_in_another_order_are_refused_with_the_transpose_that_mends_them(net, shape, remedy):
    graph = parse(net)
    wanted = graph.shape("x")
    x = np.arange(6 * np.prod(shape), dtype=np.float32).reshape(6, *shape)
    message = refused(net, data(x))
    named = f"; `x.transpose({remedy})` has that order" if remedy else ""
    assert message == f"the input `x` takes {list(wanted)}, some has {list(shape)}{named}"
    if remedy:
        turned = x.transpose(*map(int, remedy.split(", ")))
        assert np.array_equal(fitted(graph, data(turned), "cross_entropy").train[0], turned)


def test_values_to_learn_in_another_order_are_refused_too():
    net = "net i(x: [3, 4, 4]) { return x |> conv(3, kernel = 1) }"
    x = np.ones((6, 3, 4, 4), np.float32)
    y = np.arange(6 * 48, dtype=np.float32).reshape(6, 4, 4, 3)
    assert refused(net, data(x, y), "mse") == (
        "the output `conv_1` gives [3, 4, 4], some has targets of [4, 4, 3]; `y.transpose(0, 3, 1, 2)` has that order"
    )
    flat = fitted(parse(net), data(x, y.reshape(6, -1)), "mse").train[1]
    assert np.array_equal(flat.ravel(), y.ravel())


@pytest.mark.parametrize("shape", [(6, 3), (6, 5), (6, 2, 3), (6,)])
def test_a_wrong_shape_names_both(shape):
    assert refused(NET, data(np.ones(shape, np.float32))) == f"the input `x` takes [4], some has {list(shape[1:])}"


@pytest.mark.parametrize(
    ("shape", "size", "remedy"),
    [("1, 28, 28", 8, 28), ("64", 9, 8), ("27, 27", 28, 27), ("3, 8, 8", 8, None), ("65", 8, None), ("7, 7", 8, None)],
)
def test_digits_of_the_size_wanted_are_the_remedy(shape, size, remedy):
    net = f"net n(image: [{shape}]) {{ return image |> flatten |> dense(10) }}"
    if "," not in shape:
        net = net.replace("flatten |> ", "")
    named = f"; `digits(size = {remedy})` makes images of {remedy}x{remedy}" if remedy else ""
    message = refused(net, Digits(size).load(0))
    assert message == f"the input `image` takes [{shape}], digits has [1, {size}, {size}]{named}"
    if remedy:
        assert fitted(parse(net), Digits(remedy).load(0), "cross_entropy").train[0].shape[1:] == parse(net).shape(
            "image"
        )


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("part", ["train", "test"])
def test_inputs_are_finite(value, part):
    x = np.ones((6, 4), np.float32)
    x[3, 1] = x[3, 2] = x[5, 0] = value
    message = refused(NET, data(**{part: (x, np.zeros(6, np.int64))}))
    which = "training" if part == "train" else "test"
    assert message == f"some: 2 {which} samples hold NaN or infinity, the first is {which} sample 3"


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_targets_are_finite(value):
    message = refused(VALUES, data(y=np.array([0, value, 0, 0, 0, 0])), "mse")
    assert message == "some: targets of 1 training samples hold NaN or infinity, the first is training sample 1"


@pytest.mark.parametrize(("labels", "found"), [([0, 1, 2, 0, 0, 0], "0 to 2"), ([0, -1, 0, 0, 0, 0], "-1 to 0")])
@pytest.mark.parametrize("part", ["train", "test"])
def test_labels_are_classes_of_the_output(labels, found, part):
    message = refused(NET, data(**{part: (np.ones((6, 4), np.float32), np.array(labels))}))
    assert message == f"the output `head` has 2 classes, some has labels from {found}"


def test_labels_are_whole_numbers():
    message = refused(NET, data(y=np.full(6, 0.5, np.float32)))
    assert message == "cross_entropy takes integer labels, some has float32; use `loss = mse` for values"


def test_whole_numbers_that_are_floats_are_labels_of_the_wrong_type():
    message = refused(NET, data(y=np.array([0, 1, 1, 0, 0, 1], np.float32)))
    remedy = "`y.astype(int)` makes labels of them, `loss = mse` takes them as values"
    assert message == f"cross_entropy takes integer labels, some has whole numbers of type float32; {remedy}"


def test_labels_may_stand_in_a_column():
    y = np.array([[0], [1], [0], [1], [1], [0]])
    assert fitted(parse(NET), data(y=y), "cross_entropy").train[1].tolist() == [0, 1, 0, 1, 1, 0]


def test_one_label_for_each_sample():
    message = "cross_entropy takes one label for each sample, some has [2]"
    for kind in (np.int64, np.float32):
        hot = np.eye(2, dtype=kind)[[0, 1, 0, 1, 1, 0]]
        assert refused(NET, data(y=hot)) == f"{message}; `y.argmax(1)` makes labels of these one-hot rows"
        assert refused(NET, data(y=1 - hot + np.eye(6, 2, dtype=kind))) == message


def test_cross_entropy_needs_one_number_per_class():
    message = refused("net n(x: [2, 4]) { return x |> head: dense(2) }", data(np.ones((6, 2, 4), np.float32)))
    assert message == "cross_entropy takes one number per class, the output `head` has [2, 2]"


def test_mse_takes_whole_numbers_as_values():
    found = fitted(parse(VALUES), data(y=np.arange(6)), "mse")
    assert found.train[1].dtype == np.float32
    assert found.train[1].tolist() == [[0], [1], [2], [3], [4], [5]]


@pytest.mark.parametrize("shape", [(6,), (6, 1), (6, 1, 1)])
def test_values_take_the_shape_of_the_output(shape):
    y = np.arange(6, dtype=np.float32)
    found = fitted(parse(VALUES), data(y=y.reshape(shape)), "mse")
    assert found.train[1].shape == (6, 1)
    assert found.train[1].ravel().tolist() == y.tolist()


def test_values_of_another_shape_name_both():
    message = refused(VALUES, data(y=np.zeros((6, 3), np.float32)), "mse")
    assert message == "the output `head` gives [1], some has targets of [3]"


def test_ids_are_whole_numbers_in_range():
    x = np.tile(np.array([0, 1, 2, 3, 6], np.int32), (6, 1))
    found = fitted(parse(TOKENS), data(x), "cross_entropy")
    assert found.train[0].dtype == np.int64
    for value in (-1, 7):
        broken = x.copy()
        broken[2, 3] = value
        low, high = min(value, 0), max(value, 6)
        message = refused(TOKENS, data(broken))
        assert message == f"the input `tokens` takes ids from 0 to 6, some has {low} to {high}"
    assert refused(TOKENS, data(x.astype(np.float32))) == "the input `tokens` takes integer ids, some has float32"


@pytest.mark.parametrize(
    ("net", "found"),
    [
        ("net n(a: [4], b: [4]) { return a + b |> dense(2) }", "2 inputs and 1 outputs"),
        ("net n(a: [4]) { return a |> dense(2), a |> dense(3) }", "1 inputs and 2 outputs"),
    ],
)
def test_one_input_and_one_output(net, found):
    assert refused(net, data()) == f"training takes a network with one input and one output, `n` has {found}"


@pytest.mark.parametrize(("part", "word"), [("train", "training"), ("test", "test")])
def test_both_parts_hold_samples_with_targets(part, word):
    empty = (np.ones((0, 4), np.float32), np.zeros(0, np.int64))
    assert refused(NET, data(**{part: empty})) == f"some: no {word} samples"
    uneven = (np.ones((6, 4), np.float32), np.zeros(5, np.int64))
    assert refused(NET, data(**{part: uneven})) == f"some: 6 {word} samples and 5 targets"


def test_what_was_given_is_not_changed():
    x = np.ones((6, 2, 2), np.float32)
    given = data(x)
    fitted(parse(NET), given, "cross_entropy")
    assert given.train[0].shape == (6, 2, 2)
