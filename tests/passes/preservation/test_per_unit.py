"""Ops that treat units one by one: norms over the batch, activations, scales, filters."""

from dataclasses import replace

import pytest
from helpers import net, resized, scaled, verdict

from irgrow.fills import ONES, Constant, Normal
from irgrow.morphism import Select
from irgrow.verdict import Changes, Exact


@pytest.mark.parametrize(
    "op", ["batchnorm(eps = 0.01)", "relu", "tanh", "scale", "leaky_relu(slope = 0.3)", "identity"]
)
def test_old_units_stay_what_they_are(op):
    assert verdict(resized(net(f"h: dense(3) |> {op} |> dense(2)"), Normal(1.0), h=[0, 1, 2, -1])) == Exact()


@pytest.mark.parametrize(
    ("op", "exact"),
    [("relu", True), ("gelu", True), ("sigmoid", False), ("softplus", False), ("batchnorm", True), ("scale", True)],
)
def test_zero_stays_zero_where_the_op_says_so(op, exact):
    found = verdict(resized(net(f"h: dense(3) |> {op} |> dense(2)"), reads=Normal(1.0), h=[0, 1, 2, -1]))
    assert found == Exact() if exact else isinstance(found, Changes)


def test_a_batch_norm_with_a_shift_for_new_units_is_not_zero():
    graph = net("h: dense(3) |> bn: batchnorm |> dense(2)")
    morphism = resized(graph, reads=Normal(1.0), h=[0, 1, 2, -1])
    for name, fill in (("bn.bias", ONES), ("bn.running_mean", Constant(0.5))):
        shifted = replace(morphism.transfers[name], fills=(fill,))
        assert isinstance(verdict(replace(morphism, transfers={**morphism.transfers, name: shifted})), Changes)


def test_parameters_of_units_must_come_along():
    graph = net("h: dense(3) |> bn: batchnorm(eps = 0.01) |> dense(2)")
    morphism = resized(graph, h=[2, 0, 1])
    swapped = {**morphism.transfers, "bn.weight": replace(morphism.transfers["bn.weight"], maps=(None,))}
    found = verdict(replace(morphism, transfers=swapped))
    assert isinstance(found, Changes)
    assert found.reason == "`weight` of `bn` is not carried over as it was"
    assert isinstance(verdict(scaled(morphism, "bn.running_var", 0, [1.1, 1, 1])), Changes)


def test_multipliers_and_filters():
    graph = net(
        "c: conv(3, kernel = 1) |> d: depthwise(kernel = 3, padding = 1, multiplier = 2) |> avgpool |> dense(2)",
        "x: [2, 4, 4]",
    )
    assert verdict(resized(graph, Normal(1.0), c=[0, 1, 2, -1])) == Exact()
    assert verdict(resized(graph, reads=Normal(1.0), c=[0, 1, 2, -1])) == Exact()
    assert isinstance(
        graph.params["d.weight"].spec.neutral.draw((1,), __import__("numpy").random.default_rng(0)), object
    )


def test_dropout_draws_other_numbers():
    graph = net("h: dense(3) |> dropout(p = 0.5) |> dense(2)")
    from irgrow.passes import Prover

    prover = Prover(resized(graph, Normal(1.0), h=[0, 1, 2, -1]))
    prover.run()
    assert prover.verdict() == Exact("eval")
    untouched = net("d: dropout(p = 0.5) |> h: dense(3) |> relu |> dense(2)")
    prover = Prover(resized(untouched, Normal(1.0), h=[0, 1, 2, -1]))
    prover.run()
    assert prover.verdict() == Exact(), "what the dropout sees has not changed"
    assert Select is not None
