"""Bridges against autograd: real new units with zero fan-in and given fan-outs, and what their fan-in receives."""

import numpy as np
import pytest
import torch

from irgrow.axes import NEW, positions
from irgrow.backends import interpret, random_params
from irgrow.backends.torch_fx import lower
from irgrow.edits import Impossible
from irgrow.fills import ZERO, Given
from irgrow.grammar import parse
from irgrow.passes.analyses.auxiliary import auxiliary
from irgrow.passes.analyses.bridge import bridge, needed
from irgrow.passes.analyses.companions import companions
from irgrow.passes.analyses.fan_outs import new_columns
from irgrow.passes.primitives import by_role, resize
from irgrow.probing import probe
from irgrow.testing.numbers import as_tensors, carried, difference, random_inputs

ATTENTION = "net n(x: [5, 4]) {{ return x |> transpose |> a: attention({0}) |> tanh |> flatten |> dense(2) }}"
WAYS = {
    "depthwise": (
        "net n(x: [3, 6, 5]) { return x |> h: conv(4, kernel = 3) |> tanh |> depthwise(3, multiplier = 2) |> silu "
        "|> y: conv(9, kernel = 1) |> tanh |> avgpool |> dense(2) }",
        "h",
    ),
    "head_dim": (ATTENTION.format("heads = 3, head_dim = 2, units = 9"), "a.head_dim"),
    "causal": (ATTENTION.format("heads = 4, head_dim = 3, kv_heads = 2, causal = true, units = 9"), "a.head_dim"),
    "rotary": (ATTENTION.format("heads = 2, head_dim = 4, rotary = true"), "a.mix.pairs"),
    "units last": (
        "net n(x: [4, 5]) { return x |> h: dense(3) |> tanh |> flatten |> y: dense(9) |> tanh |> dense(2) }",
        "h",
    ),
    "heads": (ATTENTION.format("heads = 3, head_dim = 2, causal = true"), "a.heads"),
    "groups": (
        "net n(x: [3, 6, 6]) { return x |> h: conv(4, kernel = 3) |> tanh |> y: conv(18, kernel = 2, groups = 2) "
        "|> tanh |> avgpool |> dense(2) }",
        "y.reads",
    ),
    "gate": (
        "net n(x: [4]) { b = x |> h: dense(5) |> sigmoid a = x |> g: dense(5) |> tanh "
        "return mul(b, a) |> y: dense(9) |> tanh |> dense(2) }",
        "h",
    ),
    "swiglu": (
        "net n(x: [4]) { a = x |> h: dense(5, masked = true) |> silu b = x |> g: dense(5, bias = false) "
        "return mul(a, b) |> y: dense(9) |> tanh |> dense(2) }",
        "h",
    ),
    "swiglu, the gate last": (
        "net n(x: [4]) { b = x |> h: dense(5, bias = false) a = x |> g: dense(5) |> silu "
        "return mul(a, b) |> y: dense(9) |> tanh |> dense(2) }",
        "h",
    ),
}
"""Programs and an axis of each, by what its units go through."""


def refused(text, axis, reason):
    """See that there is no bridge around an axis, and that the reason says so."""
    graph = parse(text)
    assert needed(graph, axis) == ()
    with pytest.raises(Impossible) as error:
        bridge(graph, axis)
    assert reason in str(error.value)


def loss_of(seed):
    def loss(outputs):
        w = torch.as_tensor(np.random.default_rng(seed).normal(size=tuple(outputs.shape)))
        return (w * (outputs + 0.3 * outputs**2)).sum()

    return loss


def probed(text, axis, batch=3, seed=0, loss=None):
    """Return a network with random parameters, a batch, and what one pass recorded for a bridge."""
    graph = parse(text)
    params, inputs = random_params(graph, seed), random_inputs(graph, seed, batch)
    tensors = as_tensors(graph, params)
    loaded = tuple(torch.as_tensor(inputs[n]) for n in graph.inputs)
    found = probe(graph, lower(graph, tensors), tensors, loaded, needed(graph, axis), loss or loss_of(seed))
    return graph, params, inputs, found


def grown(graph, axis, params, fan_outs, others=None, count=2):
    """Return the rewrite that appends units with zero fan-in and these fan-outs."""
    given = {w: Given(new_columns(graph, axis, w, part)) for w, part in fan_outs.items()}
    given |= companions(graph, axis, count, params) if others is None else others
    edits = {axis: np.append(np.arange(graph.widths[axis]), np.full(count, NEW))}
    return resize(graph, edits, by_role(ZERO, ZERO, given=given))


def of_new(graph, axis, morphism, params, inputs, loss=None):
    """Return what autograd gives the fan-in of the new units, shape (units, lanes, fan-in entries)."""
    maker, after = bridge(graph, axis).maker, morphism.after
    tensors = as_tensors(after, carried(morphism, params))
    (loss or loss_of(0))(lower(after, tensors).eval()(*(torch.as_tensor(inputs[n]) for n in graph.inputs))).backward()
    (units,) = positions(after.params[f"{maker}.weight"].spec.dims[0], after.widths)[axis]
    gradient = tensors[f"{maker}.weight"].grad.numpy()
    return np.stack(
        [gradient[units == u].reshape((units == u).sum(), -1) for u in range(graph.widths[axis], after.widths[axis])]
    )


def check(text, axis="h", batch=3):
    """Compare the auxiliary gradient with what autograd gives new units, and see that they change nothing."""
    graph, params, inputs, found = probed(text, axis, batch)
    a = auxiliary(graph, axis, found.values, found.signals, sloped=True, params=params)
    rows = np.random.default_rng(1).normal(size=(2, *a.blocks.shape[:2]))
    fan_outs = a.fan_outs(rows)
    assert {w: part.shape[1:] for w, part in fan_outs.items()} == a.parts
    morphism = grown(graph, axis, params, fan_outs)
    before, after = (
        interpret(g, p, inputs).outputs for g, p in ((graph, params), (morphism.after, carried(morphism, params)))
    )
    assert difference(after, before) < 1e-12, "new units change nothing"
    wanted = of_new(graph, axis, morphism, params, inputs)
    assert (np.abs(wanted).max((0, 2)) > 1e-6).all(), "every lane receives something"
    np.testing.assert_allclose(
        np.einsum("ucr,cre->uce", rows, a.blocks), wanted, rtol=0, atol=1e-11 * np.abs(wanted).max()
    )
    return graph, params, inputs, found, a, fan_outs
