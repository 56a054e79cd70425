"""What the tests of data sources share."""

import numpy as np

from irgrow.errors import DataError

RNG = np.random.default_rng(3)


def rows(data):
    """Return all samples of a data set with their targets, sorted."""
    x = np.concatenate([data.train[0], data.test[0]]).reshape(len(data.train[0]) + len(data.test[0]), -1)
    y = np.concatenate([data.train[1], data.test[1]]).reshape(len(x), -1)
    both = np.concatenate([x, y], 1)
    return both[np.lexsort(both.T)]


def same(a, b):
    return all(
        np.array_equal(p, q) for x, y in ((a.train, b.train), (a.test, b.test)) for p, q in zip(x, y, strict=True)
    )


def message_of(act):
    """Return the message of a data error, empty if there was none; any other error is one of the test."""
    try:
        act()
    except DataError as error:
        return str(error)
    return ""
