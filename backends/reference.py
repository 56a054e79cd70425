"""The reference interpreter: a graph evaluated with NumPy in float64. It is the semantics; simple and slow.

Every op defines itself in `Op.evaluate`; this file only walks the nodes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from irgrow.axes import Axis, size_of
from irgrow.errors import DataError
from irgrow.graph import Graph
from irgrow.ops import MASK, Signature, Sizes
from irgrow.shapes import Array, as_array


@dataclass
class _Evaluation:
    """What an op sees of the network while it is evaluated."""

    graph: Graph
    params: Mapping[str, Array]
    training: bool
    sizes: Sizes
    updates: dict[str, Array] = field(default_factory=dict)
    node: str = ""

    @property
    def signature(self) -> Signature:
        return self.graph.signatures[self.node]

    def size(self, axis: Axis) -> int:
        return size_of(axis, self.sizes)

    def param(self, name: str) -> Array:
        full = self.graph.param_name(self.node, name)
        return self.updates.get(full, self.params[full])

    def update(self, name: str, value: Array) -> None:
        self.updates[self.graph.param_name(self.node, name)] = value


@dataclass(frozen=True)
class Result:
    """What an evaluation gives: the outputs, every value by node, and the buffers it changed."""

    outputs: tuple[Array, ...]
    values: dict[str, Array]
    updates: dict[str, Array]


def interpret(
    graph: Graph, params: Mapping[str, Any], inputs: Mapping[str, Any] | Sequence[Any], training: bool = False
) -> Result:
    """Evaluate a graph in float64.

    Args:
        graph: The network.
        params: Every parameter and buffer by full name, NumPy or torch.
        inputs: One array for each input, batch first, by name or in order.
        training: Whether batch norms use the statistics of the batch.

    Raises:
        DataError: A parameter or input is missing or has the wrong shape, or an id is out of range.

    >>> from irgrow.grammar import parse
    >>> graph = parse("net twice(x: [2]) { return x + x }")
    >>> interpret(graph, {}, [[[1.0, 2.0]]]).outputs[0].tolist()
    [[2.0, 4.0]]
    """
    named = dict(inputs) if isinstance(inputs, Mapping) else dict(zip(graph.inputs, inputs, strict=True))
    arrays = {}
    for name in graph.params:
        shape = graph.param_shape(name)
        if name not in params:
            raise DataError(f"parameter `{name}` is missing")
        arrays[name] = as_array(params[name])
        if arrays[name].shape != shape:
            raise DataError(f"parameter `{name}`: expected shape {list(shape)}, found {list(arrays[name].shape)}")
    values = {name: check_input(graph, name, named.get(name)) for name in graph.inputs}
    evaluation = _Evaluation(graph, arrays, training, graph.widths)
    for node in graph:
        if node.name not in values:
            evaluation.node = node.name
            values[node.name] = node.op.evaluate(evaluation, *(values[i] for i in node.inputs))
    return Result(tuple(values[o] for o in graph.outputs), values, evaluation.updates)


def check_input(graph: Graph, name: str, value: Any) -> Array:
    """Return an input as an array after checking shape and range."""
    if value is None:
        raise DataError(f"input `{name}` is missing")
    array = as_array(value)
    shape = graph.shape(name)
    if array.shape[1:] != shape:
        raise DataError(f"input `{name}`: expected shape {['batch', *shape]}, found {list(array.shape)}")
    ids = graph.types[name].ids
    if ids is not None and array.size and not (array.min() >= 0 and array.max() < ids):
        raise DataError(f"input `{name}`: expected ids from 0 to {ids - 1}, found {array.min():g} to {array.max():g}")
    return array


def random_params(graph: Graph, seed: int) -> dict[str, Array]:
    """Draw parameters for tests: everything non-zero, gains around 1, running variances positive.

    Unlike a network's initial values these show mistakes: non-zero biases, non-trivial norm statistics.
    """
    rng = np.random.default_rng(seed)
    found = {}
    for name, param in graph.params.items():
        shape, local = graph.param_shape(name), param.spec.name
        fan_in = max(int(np.prod(shape[1:])), 1)
        if param.spec.integer:
            found[name] = np.zeros(shape)
        elif local == "running_var":
            found[name] = rng.uniform(0.5, 2.0, shape)
        elif local == MASK:
            found[name] = rng.choice([0.0, 1.0], shape, p=[0.3, 0.7])
            weight = f"{param.owner}.weight"
            found[weight] = found[weight] * found[name]
        elif local == "frequencies":
            found[name] = param.spec.init.draw(shape, rng)
        elif len(shape) == 1 and local == "weight":
            found[name] = rng.uniform(0.5, 1.5, shape) * rng.choice([-1.0, 1.0], shape)
        elif len(shape) == 1:
            found[name] = rng.normal(0.0, 0.5, shape)
        else:
            found[name] = rng.normal(0.0, 1.0 / np.sqrt(fan_in), shape)
    return found
