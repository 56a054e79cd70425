"""Fitting data to a network: shapes, types, labels and finite values, with errors that say what to change."""

from __future__ import annotations

from dataclasses import replace
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from irgrow.errors import DataError, OptionError
from irgrow.graph import Graph
from irgrow.training.data import Dataset


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
        parts.append((_inputs(graph, data.name, x), _targets(graph, data.name, y, loss)))
    return replace(data, train=parts[0], test=parts[1])


def _inputs(graph: Graph, name: str, x: NDArray[Any]) -> NDArray[Any]:
    input_name = graph.inputs[0]
    shape, ids = graph.shape(input_name), graph.types[input_name].ids
    if x.shape[1:] != shape:
        if prod(x.shape[1:]) != prod(shape):
            found = f"{name} has {list(x.shape[1:])}"
            help = "; `digits(size = 28)` makes images of 28x28" if name == "digits" else ""
            raise DataError(f"the input `{input_name}` takes {list(shape)}, {found}{help}")
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
    bad = ~np.isfinite(x).reshape(len(x), -1).all(1)
    if bad.any():
        raise DataError(
            f"{name}: {int(bad.sum())} samples hold NaN or infinity, the first is sample {int(bad.argmax())}"
        )
    return x


def _targets(graph: Graph, name: str, y: NDArray[Any], loss: str) -> NDArray[Any]:
    output = graph.outputs[0]
    shape = graph.shape(output)
    if loss == "cross_entropy":
        if y.dtype.kind not in "iu":
            raise DataError(f"cross_entropy takes integer labels, {name} has {y.dtype}; use `loss = mse` for values")
        if len(shape) != 1:
            raise DataError(f"cross_entropy takes one number per class, the output `{output}` has {list(shape)}")
        if y.size != len(y):
            raise DataError(f"cross_entropy takes one label for each sample, {name} has {list(y.shape[1:])}")
        if y.min() < 0 or y.max() >= shape[0]:
            found = f"{name} has labels from {y.min()} to {y.max()}"
            raise DataError(f"the output `{output}` has {shape[0]} classes, {found}")
        return y.astype(np.int64).reshape(len(y))
    if not np.isfinite(y).all():
        raise DataError(f"{name}: targets hold NaN or infinity")
    if prod(y.shape[1:]) != prod(shape):
        raise DataError(f"the output `{output}` gives {list(shape)}, {name} has targets of {list(y.shape[1:])}")
    return y.astype(np.float32).reshape(len(y), *shape)


def check_batches(graph: Graph, samples: int, batch: int) -> None:
    """Refuse a batch of one value for each unit where a node normalises over the batch.

    Raises:
        OptionError: There is one; names the node and the setting.
    """
    if batch > 1 and samples % batch != 1:
        return
    for node in graph:
        value = graph.types[node.name]
        positions = prod(s for i, s in enumerate(graph.shape(node.name)) if i != value.features)
        if node.op.facts.batch_statistics and positions == 1:
            raise OptionError(
                f"`{node.name}` normalises over the batch, and one batch of {samples} samples by {batch} "
                "has a single sample; use another `batch`"
            )
