"""What the tests of the NORTH initializers share."""

import numpy as np

from irgrow.backends import interpret, random_params
from irgrow.grammar import parse
from irgrow.passes import GrowUnits
from irgrow.testing.numbers import carried, planned, random_inputs

WIDE = "net n(x: [9]) { return x |> h: dense(5) |> tanh |> y: dense(3) |> tanh |> dense(2) }"
NARROW = "net n(x: [3]) { return x |> h: dense(5) |> tanh |> y: dense(3) |> tanh |> dense(2) }"
CNN = "net n(x: [2, 6, 6]) { return x |> h: conv(4, kernel = 3, padding = 1) |> relu |> y: conv(3, kernel = 3) |> relu |> avgpool |> dense(2) }"


def grown(text, init, count=2, seed=0, batch=20, axis="h"):
    """Return graph, params, inputs, the plan, and the new parameters."""
    graph = parse(text)
    params, inputs = random_params(graph, 1), random_inputs(graph, 1, batch)
    result = planned(GrowUnits(axis, count, init), graph, params, inputs, seed)
    return graph, params, inputs, result, result.morphism and carried(result.morphism, params)


def values(morphism, params, inputs):
    return interpret(morphism.after, carried(morphism, params), inputs).values


def cosines(new, old):
    """Return the largest cosine between a new row and an old one."""
    unit = lambda x: x / np.linalg.norm(x, axis=1, keepdims=True)  # noqa: E731
    return np.abs(unit(new) @ unit(old).T).max()
