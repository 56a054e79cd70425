"""Fisher: against a loop over samples and the definition written out."""

import numpy as np
import pytest
import torch

from irgrow.backends.torch_fx import lower
from irgrow.network import build
from irgrow.passes import Context, Fisher, PruneUnits, plan
from irgrow.probing import probe
from irgrow.testing.numbers import as_tensors


def by_loop(m, nodes):
    """Half the mean of (sum over nodes and positions of activity x gradient)^2, one backward pass for each sample."""
    tensors, found = as_tensors(m.graph, m.params), []
    module, weights = lower(m.graph, tensors), torch.from_numpy(m.weights)
    for n in range(len(weights)):
        batch = tuple(torch.as_tensor(m.inputs[name][n : n + 1]) for name in m.graph.inputs)
        probed = probe(m.graph, module, tensors, batch, nodes, lambda y, n=n: (weights[n] * y[0]).sum())
        parts = [(probed.values[k] * probed.signals[k])[0].reshape(len(probed.values[k][0]), -1).sum(1) for k in nodes]
        found.append(sum(parts).numpy())
    return 0.5 * (np.array(found) ** 2).mean(0)


@pytest.mark.parametrize(
    ("name", "nodes"), [("dense", ("r",)), ("flatten", ("relu_1",)), ("residual", ("relu_1", "batchnorm_2"))]
)
def test_one_sample_at_a_time(measured, programs, name, nodes):
    text, axis = programs[name]
    m = measured(text, batch=4)
    assert Fisher().needs(m.graph, axis) == nodes
    scores = m.scores(Fisher(), axis)
    np.testing.assert_allclose(scores, by_loop(m, nodes), rtol=1e-9, atol=1e-15)
    assert (scores >= 0).all()
    assert scores.max() > 1e-4


def test_by_hand(measured):
    m = measured(
        "net n(x: [1]) { return x |> h: dense(2, bias = false) |> r: relu |> dense(1, bias = false) }", batch=2
    )
    m.params |= {"h.weight": np.array([[1.0], [-1.0]]), "dense_1.weight": np.array([[2.0, 3.0]])}
    m.inputs["x"] = np.array([[1.0], [2.0]])
    context = Context(
        m.params, 0, {"r": np.array([[1.0, 0.0], [2.0, 0.0]])}, {}, {"r": np.array([[2.0, 3.0], [2.0, 3.0]])}
    )
    assert Fisher().scores(m.graph, "h", context).tolist() == [0.5 * (4.0 + 16.0) / 2, 0.0]


def test_the_scale_of_the_loss_does_not_change_the_order(measured, programs):
    text, axis = programs["flatten"]
    m = measured(text)
    context = m.context(Fisher(), axis)
    small = m.without(Fisher(), axis, signals={k: v / 5 for k, v in context.signals.items()})
    np.testing.assert_allclose(25 * Fisher().scores(m.graph, axis, small), m.scores(Fisher(), axis), rtol=1e-12)


def test_refusals(measured, programs):
    text, axis = programs["dense"]
    m = measured(text)
    rewrite = PruneUnits(axis, by=Fisher(), count=1)
    reason = plan(rewrite, m.graph, Context(m.params)).verdict.reason
    assert reason == "fisher needs the values of `r`: pass a `batch` and a `loss`"
    context = m.context(Fisher(), axis)
    context.signals["r"][0, 0] = torch.inf
    assert plan(rewrite, m.graph, context).verdict.reason == "what was recorded at `r` is not finite"


def test_on_a_live_network(programs):
    net = build(programs["residual"][0], seed=2)
    receipt = net.rewrite(PruneUnits("c", by=Fisher(), count=1), batch=torch.randn(6, 2, 6, 6), loss=lambda y: y.sum())
    assert receipt.applied
    assert net.graph.widths["c"] == 3
