"""Products of fan-outs with the auxiliary gradient, against that gradient."""

import pytest
import torch

from irgrow.grammar import parse
from irgrow.passes.analyses.auxiliary import auxiliary
from irgrow.passes.analyses.received import received, way

KNOWN = {
    "dense": "x: [6]) { return x |> a: dense(8) |> relu |> b: dense(7)",
    "tokens": "x: [5, 6]) { return x |> a: dense(8) |> layernorm |> gelu |> b: dense(7)",
    "strides": "x: [3, 9, 8]) { return x |> a: conv(5, kernel = 3, padding = 1, stride = 2) |> batchnorm |> relu"
    " |> b: conv(4, kernel = [2, 3], stride = 2, padding = 1)",
    "maximum": "x: [3, 9, 8]) { return x |> a: conv(5, kernel = 3, padding = 1) |> relu |> maxpool(2)"
    " |> b: conv(4, kernel = [2, 3], dilation = 2, padding = 2)",
    "overlapping": "x: [3, 9, 8]) { return x |> a: conv(5, kernel = 3, dilation = 2) |> relu |> maxpool(3, stride = 2)"
    " |> flatten |> b: dense(4)",
    "mean": "x: [3, 9, 8]) { return x |> a: conv(5, kernel = [3, 1], padding = 1) |> avgpool([2, 3]) |> flatten"
    " |> b: dense(4)",
    "one dimension": "x: [3, 9]) { return x |> a: conv(5, kernel = 3, padding = 1) |> relu |> maxpool(2)"
    " |> b: conv(6, kernel = 2)",
    "flat": "x: [3, 4, 5]) { return x |> a: conv(5, kernel = 3, stride = 2, padding = 2) |> relu |> flatten |> b: dense(4)",
}
UNKNOWN = {
    "everything": "x: [3, 9, 8]) { return x |> a: conv(5, kernel = 3) |> avgpool |> b: dense(6)",
    "padded": "x: [3, 9, 8]) { return x |> a: conv(5, kernel = 3) |> maxpool(3, padding = 1) |> b: conv(6, kernel = 1)",
    "strided": "x: [3, 9, 8]) { return x |> a: conv(5, kernel = 3, stride = 2) |> maxpool(2) |> b: conv(6, kernel = 1)",
    "twice": "x: [3, 9, 8]) { return x |> a: conv(5, kernel = 3) |> maxpool(2) |> maxpool(2) |> b: conv(6, kernel = 1)",
    "sum": "x: [6]) { return x |> a: dense(8) |> residual { dense(4) |> relu |> dense(8) } |> b: dense(7)",
}


def drawn(text, batch):
    graph = parse("net n(" + text + " }")
    generator = torch.Generator().manual_seed(0)
    x, s = (torch.randn(batch, *graph.shape(n), generator=generator, dtype=torch.float64) for n in ("x", "b"))
    return graph, x, s


@pytest.mark.parametrize("batch", [1, 4])
@pytest.mark.parametrize("name", KNOWN)
def test_it_is_the_product_with_the_auxiliary_gradient(name, batch):
    graph, x, s = drawn(KNOWN[name], batch)
    matrix = auxiliary(graph, "a", {"x": x}, {"b": s}).matrix
    fan_outs = torch.randn(matrix.shape[0], 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    along = way(graph, "a")
    assert along is not None
    found = received(graph, along, x, s, fan_outs)
    torch.testing.assert_close(found, fan_outs.T @ matrix, rtol=1e-12, atol=1e-12)
    assert found.norm() > 0.1
    wrong = received(graph, along, x, s, fan_outs.flip(0))
    assert (wrong - fan_outs.T @ matrix).norm() > 0.1 * found.norm(), "negative control: the order of the rows matters"


@pytest.mark.parametrize("name", UNKNOWN)
def test_what_it_does_not_know_it_says(name):
    assert way(parse("net n(" + UNKNOWN[name] + " }"), "a") is None
