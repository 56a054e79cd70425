"""Taylor: against really masking units, where the loss is linear, and against finite differences where it is not."""

import numpy as np
import pytest
import torch

from irgrow.backends import interpret
from irgrow.network import build
from irgrow.ops import Role
from irgrow.passes import Context, PruneUnits, Taylor, plan
from irgrow.passes.analyses.entries import belonging


def faded(m, axis, unit, factor):
    """Return the parameters with every weight that reads a unit multiplied by a factor."""
    params = dict(m.params)
    for name, places in belonging(m.graph, axis, frozenset({Role.READS})).items():
        value = np.array(params[name])
        for dim, occurrences in places.items():
            at = np.flatnonzero(np.any([o == unit for o in occurrences], axis=0))
            value[(slice(None),) * dim + (at,)] *= factor
        params[name] = value
    return params


@pytest.mark.parametrize("name", ["dense", "flatten", "concat with itself", "heads", "masked"])
def test_it_is_what_masking_costs_where_the_loss_is_linear_in_the_readers(measured, programs, name):
    text, axis = programs[name]
    m = measured(text)
    whole = m.loss(m.params)
    wanted = [abs(m.loss(faded(m, axis, u, 0.0)) - whole) for u in range(m.graph.widths[axis])]
    np.testing.assert_allclose(m.scores(Taylor(), axis), wanted, rtol=1e-9, atol=1e-12)
    assert max(wanted) > 1e-2


@pytest.mark.parametrize("name", ["residual", "grouped", "layer on itself", "tokens mixed"])
def test_elsewhere_it_is_the_slope_of_the_loss_as_the_unit_fades(measured, programs, name):
    text, axis = programs[name]
    m, step = measured(text), 1e-6
    slopes = [
        (m.loss(faded(m, axis, u, 1 + step)) - m.loss(faded(m, axis, u, 1 - step))) / (2 * step)
        for u in range(m.graph.widths[axis])
    ]
    np.testing.assert_allclose(m.scores(Taylor(), axis), np.abs(slopes), rtol=1e-5, atol=1e-7)
    assert np.abs(slopes).max() > 1e-4


def test_the_pruned_network_pays_what_was_predicted(measured, programs):
    m = measured(programs["flatten"][0])
    scores = m.scores(Taylor(), "c")
    for unit in range(4):
        morphism = plan(PruneUnits("c", (unit,)), m.graph, Context(m.params)).morphism
        from irgrow.testing.numbers import carried

        after = interpret(morphism.after, carried(morphism, m.params), m.inputs).outputs[0]
        assert abs(float((m.weights * after).sum()) - m.loss(m.params)) == pytest.approx(scores[unit], rel=1e-9)


def test_fan_in_counts_weights_and_biases(measured, programs):
    m = measured(programs["dense"][0])
    context = m.context(Taylor("fan_in"), "h", curved=0.1)
    slope = {n: g.numpy() for n, g in context.gradients.items()}
    wanted = np.abs((slope["h.weight"] * m.params["h.weight"]).sum(1) + slope["h.bias"] * m.params["h.bias"])
    np.testing.assert_allclose(m.scores(Taylor("fan_in"), "h", curved=0.1), wanted, rtol=1e-12)


def test_fan_in_fan_out_and_activity_agree_on_a_rectifier(measured, programs):
    """A rectifier is homogeneous: weights in, activity and weights out carry the same sum."""
    m = measured(programs["dense"][0], batch=1)
    for of in ("fan_in", "samples"):
        np.testing.assert_allclose(m.scores(Taylor(of), "h"), m.scores(Taylor(), "h"), rtol=1e-9, atol=1e-14)


def test_samples_are_taken_one_by_one(measured, programs):
    m = measured(programs["flatten"][0], batch=4)
    reads = m.params["dense_1.weight"].reshape(3, 4, 36)
    activity = m.values["relu_1"].reshape(4, 4, 36)
    signal = np.einsum("no,ocp->ncp", m.weights, reads)
    wanted = np.abs((activity * signal).sum(2)).sum(0)
    np.testing.assert_allclose(m.scores(Taylor("samples"), "c"), wanted, rtol=1e-9)
    assert not np.allclose(wanted, m.scores(Taylor(), "c")), "signs cancel between samples"


def test_masked_synapses_count_as_zero(measured, programs):
    m = measured(programs["masked"][0])
    m.params["dense_1.weight"][:] = 0.5
    m.params["dense_1.mask"] = np.array([[1.0, 0.0, 1.0, 0.0, 1.0], [0.0, 0.0, 1.0, 1.0, 1.0]])
    scores = m.scores(Taylor(), "h")
    assert (scores == 0).tolist() == [False, True, False, False, False]


def test_refusals_name_what_to_pass(measured, programs):
    text, axis = programs["dense"]
    m = measured(text)
    for by, name in ((Taylor(), "dense_1.weight"), (Taylor("samples"), "r")):
        rewrite = PruneUnits(axis, by=by, count=1)
        reason = plan(rewrite, m.graph, Context(m.params)).verdict.reason
        assert f"of `{name}`: pass a `batch` and a `loss`" in reason
    context = m.without(Taylor("samples"), axis, signals=None)
    reason = plan(PruneUnits(axis, by=Taylor("samples"), count=1), m.graph, context).verdict.reason
    assert reason == "taylor needs the gradient of the loss by the values of `r`: pass a `loss`"
    broken = m.context(Taylor(), axis)
    broken.gradients["dense_1.weight"][0, 0] = torch.nan
    reason = plan(PruneUnits(axis, by=Taylor(), count=1), m.graph, broken).verdict.reason
    assert reason == "`dense_1.weight` or its gradient is not finite"


def test_on_a_live_network_with_frozen_parameters(programs):
    net = build(programs["flatten"][0], seed=2, dtype=torch.float64)
    for p in net.parameters():
        p.requires_grad_(False)
    x = torch.randn(6, 2, 6, 6, dtype=torch.float64)
    receipt = net.rewrite("prune_units(c, by = taylor, count = 2)", batch=x, loss=lambda y: y.square().mean())
    assert receipt.applied
    assert net.params["c.weight"].shape == (2, 2, 3, 3)
    assert not net.params["c.weight"].requires_grad
    assert net.rewrite("prune_units(c, by = taylor, count = 1)", batch=x).verdict.reason.endswith("and a `loss`")
