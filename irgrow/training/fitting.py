"""Fitting data to a network: shapes, types, labels and finite values, with errors that say what to change.

Values take another shape only where their order is beyond doubt: flat ones become an array, an array becomes flat, and
axes of size one come and go. Images with their channels last are not those with their channels first.
"""

from __future__ import annotations

from dataclasses import replace
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from irgrow.errors import DataError, OptionError
from irgrow.graph import Graph
from irgrow.training.data import Dataset

Shape = tuple[int, ...]


def fitted(graph: Graph, data: Dataset, loss: str) -> Dataset:
    """Return the data in the shape the network takes.

    Raises:
        DataError: The network has several inputs or outputs, or the data does not fit them.
    """
    if len(graph.inputs) != 1 or len(graph.outputs) != 1:
        found = f"{len(graph.inputs)} inputs and {len(graph.outputs)} outputs"
        raise DataError(f"training takes a network with one input and one output, `{graph.name}` has {found}")
    parts = []
    for which, (x, y) in (("training", data.train), ("test", data.test)):
        if len(x) == 0:
            raise DataError(f"{data.name}: no {which} samples")
        if len(x) != len(y):
            raise DataError(f"{data.name}: {len(x)} {which} samples and {len(y)} targets")
        inputs = _inputs(graph, data.name, which, x)
        targets = _labels(graph, data.name, y) if loss == "cross_entropy" else _values(graph, data.name, which, y)
        parts.append((inputs, targets))
    return replace(data, train=parts[0], test=parts[1])


def _inputs(graph: Graph, name: str, which: str, x: NDArray[Any]) -> NDArray[Any]:
    input_name = graph.inputs[0]
    shape, ids = graph.shape(input_name), graph.types[input_name].ids
    if not _same_order(x.shape[1:], shape):
        remedy = _other_size(shape) if name == "digits" else _transposed("x", x.shape[1:], shape)
        raise DataError(f"the input `{input_name}` takes {list(shape)}, {name} has {list(x.shape[1:])}{remedy}")
    x = x.reshape(len(x), *shape)
    if ids is not None:
        if x.dtype.kind not in "iu":
            raise DataError(f"the input `{input_name}` takes integer ids, {name} has {x.dtype}")
        if x.size and (x.min() < 0 or x.max() >= ids):
            raise DataError(
                f"the input `{input_name}` takes ids from 0 to {ids - 1}, {name} has {x.min()} to {x.max()}"
            )
        return x.astype(np.int64)
    x = x.astype(np.float32) if x.dtype.kind in "iu" else x
    _check_finite(name, which, "", x)
    return x


def _labels(graph: Graph, name: str, y: NDArray[Any]) -> NDArray[Any]:
    output = graph.outputs[0]
    shape = graph.shape(output)
    whole = y.dtype.kind in "iu" or bool((np.isfinite(y) & (y == np.floor(y))).all())
    if not whole:
        raise DataError(f"cross_entropy takes integer labels, {name} has {y.dtype}; use `loss = mse` for values")
    if len(shape) != 1:
        raise DataError(f"cross_entropy takes one number per class, the output `{output}` has {list(shape)}")
    if y.size != len(y):
        one_hot = y.ndim == 2 and ((y == 0) | (y == 1)).all() and (y.sum(1) == 1).all()
        remedy = "; `y.argmax(1)` makes labels of these one-hot rows" if one_hot else ""
        raise DataError(f"cross_entropy takes one label for each sample, {name} has {list(y.shape[1:])}{remedy}")
    if y.dtype.kind not in "iu":
        remedy = "`y.astype(int)` makes labels of them, `loss = mse` takes them as values"
        raise DataError(f"cross_entropy takes integer labels, {name} has whole numbers of type {y.dtype}; {remedy}")
    if y.min() < 0 or y.max() >= shape[0]:
        found = f"{name} has labels from {y.min()} to {y.max()}"
        raise DataError(f"the output `{output}` has {shape[0]} classes, {found}")
    return y.astype(np.int64).reshape(len(y))


def _values(graph: Graph, name: str, which: str, y: NDArray[Any]) -> NDArray[Any]:
    output = graph.outputs[0]
    shape, found = graph.shape(output), y.shape[1:]
    _check_finite(name, which, "targets of ", y)
    if not _same_order(found, shape):
        remedy = _transposed("y", found, shape)
        raise DataError(f"the output `{output}` gives {list(shape)}, {name} has targets of {list(found)}{remedy}")
    return y.astype(np.float32).reshape(len(y), *shape)


def _check_finite(name: str, which: str, what: str, array: NDArray[Any]) -> None:
    bad = ~np.isfinite(array).all(tuple(range(1, array.ndim)))
    if bad.any():
        first = f"the first is {which} sample {int(bad.argmax())}"
        raise DataError(f"{name}: {what}{int(bad.sum())} {which} samples hold NaN or infinity, {first}")


def _same_order(found: Shape, wanted: Shape) -> bool:
    """Whether two shapes hold the same values in the same order: equal but for ones, or one of them flat."""
    a, b = (tuple(n for n in shape if n != 1) for shape in (found, wanted))
    return a == b or (prod(a) == prod(b) and min(len(a), len(b)) == 1)


def _transposed(name: str, found: Shape, wanted: Shape) -> str:
    """Return the transpose that gives the shape wanted, as a remedy; empty if there is none."""
    if sorted(found) != sorted(wanted):
        return ""
    left = list(range(len(found)))
    order = []
    for size in wanted:
        order.append(next(i for i in left if found[i] == size))
        left.remove(order[-1])
    return f"; `{name}.transpose({', '.join(str(i) for i in (0, *(i + 1 for i in order)))})` has that order"


def _other_size(wanted: Shape) -> str:
    """Return the size of digits that gives the shape wanted, as a remedy; empty if there is none."""
    size = round(prod(wanted) ** 0.5)
    if size < 8 or not _same_order((1, size, size), wanted):
        return ""
    return f"; `digits(size = {size})` makes images of {size}x{size}"


def check_batches(graph: Graph, samples: int, batch: int) -> None:
    """Refuse a batch of one value for each unit where a node normalises over the batch.

    Raises:
        OptionError: There is one; names the node and the setting.
    """
    if batch > 1 and samples % batch != 1:
        return
    for node in graph:
        value = graph.types[node.name]
        positions = prod(s for i, s in enumerate(graph.shape(node.name)) if i != value.unit_dim)
        if node.op.facts.batch_statistics and positions == 1:
            raise OptionError(
                f"`{node.name}` normalises over the batch, and one batch of {samples} samples by {batch} "
                "has a single sample; use another `batch`"
            )
