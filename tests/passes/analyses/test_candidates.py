"""What candidate units read and do."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from irgrow.attributes import textual_name
from irgrow.backends import interpret, random_params
from irgrow.edits import Impossible
from irgrow.grammar import parse
from irgrow.passes import Context, GrowUnits, NorthOpt, NorthPre, NorthSelect, NorthWeight, plan
from irgrow.passes.analyses.candidates import candidate_activity, flat_units, receptive_fields, untried
from irgrow.testing.numbers import random_inputs

CNN = parse(
    "net n(x: [2, 6, 7]) { return x |> c: conv(3, kernel = [3, 2], stride = 2, padding = [1, 0], dilation = 1) |> batchnorm |> relu |> avgpool |> dense(2) }"
)


def test_a_convolution_is_a_matrix_on_its_receptive_fields():
    rng = np.random.default_rng(0)
    x, weight = rng.normal(size=(4, 2, 6, 7)), rng.normal(size=(3, 2, 3, 2))
    fields = receptive_fields(CNN, "c", x)
    wanted = F.conv2d(torch.as_tensor(x), torch.as_tensor(weight), stride=2, padding=(1, 0))
    np.testing.assert_allclose(weight.reshape(3, -1) @ fields, wanted.movedim(1, 0).reshape(3, -1).numpy(), rtol=1e-12)
    assert flat_units(wanted, 0).shape == (3, fields.shape[1])


def test_activity_goes_through_norm_and_activation():
    before = torch.as_tensor(np.random.default_rng(1).normal(3.0, 2.0, size=(5, 100)))
    after = candidate_activity(CNN, "c", before)
    assert after.min() == 0.0
    assert 0.3 < (after > 0).double().mean() < 0.7, "a norm has centred it first"
    plain = parse("net n(x: [4]) { return x |> h: dense(3) |> leaky_relu(slope = 0.1) |> dense(1) }")
    torch.testing.assert_close(candidate_activity(plain, "h", -before), F.leaky_relu(-before, 0.1))
    none = parse("net n(x: [4]) { return x |> h: dense(3) |> dense(1) }")
    assert torch.equal(candidate_activity(none, "h", before), before)


@pytest.mark.parametrize("eps", [1e-5, 0.5])
@pytest.mark.parametrize("function", ["relu", "tanh", "gelu", "leaky_relu(slope = 0.1)"])
def test_activity_of_the_units_there_are_is_what_the_network_computes(eps, function):
    graph = parse(
        f"net n(x: [2, 6, 7]) {{ return x |> c: conv(3, kernel = 3) |> batchnorm(eps = {eps}) |> r: {function} |> avgpool |> dense(2) }}"
    )
    params, inputs = random_params(graph, 0), random_inputs(graph, 0)
    params |= {
        name: np.full_like(params[name], name.endswith("weight")) for name in graph.own_params["batchnorm_1"][:2]
    }
    values = interpret(graph, params, inputs, training=True).values
    before = torch.as_tensor(flat_units(values["c"], 0))
    np.testing.assert_allclose(
        candidate_activity(graph, "c", before), flat_units(values["r"], 0), rtol=1e-9, atol=1e-12
    )


@pytest.mark.parametrize("node", ["instancenorm", "depthwise(kernel = 1)"])
@pytest.mark.parametrize("init", [NorthSelect(9), NorthOpt(9), NorthPre(candidates=9)], ids=str)
def test_what_is_not_known_of_candidates_is_refused(node, init):
    """Both are known of the units there are; where they stand behind the activation they are not asked about."""
    text = "net n(x: [2, 6, 7]) {{ return x |> c: conv(3, kernel = 3) |> {} |> avgpool |> dense(2) }}"
    graph = parse(text.format(f"unknown: {node} |> tanh"))
    assert untried(graph, "c") == "unknown"
    reason = plan(GrowUnits("c", 1, init), graph).verdict.reason
    assert reason == f"{textual_name(type(init))} does not know what `unknown` makes of units that are not there yet"
    assert untried(parse(text.format(f"tanh |> {node}")), "c") is None
    assert plan(GrowUnits("c", 1, NorthWeight()), graph, Context(random_params(graph, 0))).verdict.preserves


def test_grouped_convolutions_have_no_common_field():
    graph = parse(
        "net n(x: [4, 3, 3]) { return x |> g: conv(4, kernel = 1, groups = 2) |> relu |> avgpool |> dense(1) }"
    )
    with pytest.raises(Impossible, match="grouped"):
        receptive_fields(graph, "g", np.zeros((1, 4, 3, 3)))
