"""What saliencies look at, on random parameters and inputs."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch

from irgrow.backends import interpret, random_params
from irgrow.backends.torch_fx import lower
from irgrow.grammar import parse
from irgrow.graph import Graph
from irgrow.passes import Context
from irgrow.passes.saliency.base import scored
from irgrow.probing import probe
from irgrow.testing.numbers import as_tensors, random_inputs


@dataclass
class Measured:
    """A program with random parameters and inputs, and a loss that is linear in its first output."""

    graph: Graph
    params: dict[str, Any]
    inputs: dict[str, Any]

    @property
    def weights(self):
        shape = interpret(self.graph, self.params, self.inputs).outputs[0].shape
        return np.random.default_rng(5).normal(size=shape)

    @property
    def values(self):
        return interpret(self.graph, self.params, self.inputs).values

    def loss(self, params):
        return float((self.weights * interpret(self.graph, params, self.inputs).outputs[0]).sum())

    def context(self, saliency, axis, curved=0.0):
        """Record what a saliency asks for, and no more."""
        tensors, weights = as_tensors(self.graph, self.params), torch.from_numpy(self.weights)
        batch = tuple(torch.as_tensor(self.inputs[name]) for name in self.graph.inputs)
        loss = (lambda y: (weights * (y + curved * y**2)).sum()) if saliency.wants_gradients else None
        nodes = saliency.needs(self.graph, axis)
        found = probe(self.graph, lower(self.graph, tensors), tensors, batch, nodes, loss)
        return Context(self.params, 3, found.values, found.gradients, found.signals)

    def scores(self, saliency, axis, **options):
        return scored(saliency, self.graph, axis, self.context(saliency, axis, **options))

    def without(self, saliency, axis, **changes):
        """Return the context with something missing or spoilt."""
        return replace(self.context(saliency, axis), **changes)


@pytest.fixture
def measured():
    def make(text, batch=5, seed=1):
        graph = parse(text)
        return Measured(graph, random_params(graph, seed), random_inputs(graph, seed, batch))

    return make


@pytest.fixture
def programs():
    """Idioms: the program and the leaf axis that is looked at."""
    image, tokens = "net n(x: [2, 6, 6]) {{ return x |> {} }}", "net n(x: ids(9)[5]) {{ return x |> {} }}"
    body = "c: conv(4, kernel = 3, padding = 1) |> batchnorm |> relu |> "
    residual = "residual { c2: conv(5, kernel = 3, padding = 1) |> relu |> conv(4, kernel = 1) |> batchnorm }"
    return {
        "dense": ("net n(x: [3]) { return x |> h: dense(5) |> r: relu |> dense(2) }", "h"),
        "flatten": (image.format(body + "flatten |> dense(3)"), "c"),
        "residual": (image.format(body + residual + " |> relu |> avgpool |> dense(2)"), "c"),
        "concat with itself": ("net n(x: [4]) { h = dense(x, 3)  return concat(h, h) |> dense(2) }", "h"),
        "grouped": (
            image.format("c: conv(6, kernel = 1) |> g: conv(6, kernel = 3, groups = 3) |> relu |> avgpool |> dense(2)"),
            "g.groups",
        ),
        "heads": (
            tokens.format("embedding(8) |> attn: attention(2, 4) |> avgpool |> dense(2)"),
            "attn.heads",
        ),
        "layer on itself": (
            "net n(x: [4]) { h = dense(x, 5)  return h + dense(h, 5) |> relu |> dense(2) }",
            "h",
        ),
        "masked": (
            "net n(x: [3]) { return x |> h: dense(5, masked = true) |> gelu |> dense(2, masked = true) }",
            "h",
        ),
        "tokens mixed": (
            tokens.format(
                "embedding(4) |> transpose |> m: dense(7) |> gelu |> dense(5) |> transpose |> avgpool |> dense(2)"
            ),
            "m",
        ),
    }
