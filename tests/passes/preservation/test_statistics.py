"""Norms over units: their company must stay, or be zeros that the gain and eps make up for."""

from math import sqrt

import pytest
from helpers import net, resized, scaled, verdict, with_op

from irgrow.fills import Normal
from irgrow.passes import Prover
from irgrow.passes.preservation.known import ZERO
from irgrow.verdict import Changes, Exact


@pytest.mark.parametrize("norm", ["layernorm(eps = 0.01)", "rmsnorm(eps = 0.01)", "softmax"])
def test_zero_features_change_what_is_normalised(norm):
    graph = net(f"h: dense(4) |> n: {norm} |> dense(2)")
    found = verdict(resized(graph, h=[0, 1, 2, 3, -1]))
    assert isinstance(found, Changes)
    assert "`n` normalises over units of `h`, which gains 1" in found.reason
    assert "loses 1" in verdict(resized(graph, h=[0, 1, 2])).reason


@pytest.mark.parametrize("norm", ["layernorm", "rmsnorm", "softmax"])
def test_a_permutation_of_the_company_is_fine(norm):
    assert verdict(resized(net(f"h: dense(4) |> {norm} |> dense(2)"), h=[3, 1, 0, 2])) == Exact()


def test_rms_norm_with_scaled_gain_and_eps():
    """Row 20 of the preservation table: both are needed."""
    graph = net("h: dense(4) |> n: rmsnorm(eps = 0.01) |> dense(2)")
    grown = resized(graph, reads=Normal(1.0), h=[0, 1, 2, 3, -1])
    gain = [sqrt(4 / 5)] * 4 + [1.0]
    assert isinstance(verdict(grown), Changes)
    assert isinstance(verdict(scaled(grown, "n.weight", 0, gain)), Changes), "eps is not scaled"
    assert isinstance(verdict(with_op(grown, "n", eps=0.01 * 4 / 5)), Changes), "the gain is not scaled"
    assert verdict(with_op(scaled(grown, "n.weight", 0, gain), "n", eps=0.01 * 4 / 5)) == Exact()
    wrong = scaled(grown, "n.weight", 0, [sqrt(5 / 4)] * 4 + [1.0])
    assert isinstance(verdict(with_op(wrong, "n", eps=0.01 * 4 / 5)), Changes)


def test_rms_norm_of_new_features_that_are_not_zero():
    graph = net("h: dense(4) |> n: rmsnorm(eps = 0.01) |> dense(2)")
    grown = resized(graph, Normal(1.0), h=[0, 1, 2, 3, -1])
    fixed = with_op(scaled(grown, "n.weight", 0, [sqrt(4 / 5)] * 4 + [1.0]), "n", eps=0.01 * 4 / 5)
    assert isinstance(verdict(fixed), Changes)


def test_group_norm_by_whole_groups_only():
    graph = net("c: conv(6, kernel = 1) |> gn: groupnorm(3, eps = 0.01) |> relu |> avgpool |> dense(2)", "x: [2, 4, 4]")
    assert verdict(resized(graph, Normal(1.0), gn_DOT_groups=[0, 1, 2, -1])) == Exact()
    assert verdict(resized(graph, gn_DOT_groups=[2, 0, 1])) == Exact()
    assert verdict(resized(graph, gn_DOT_members=[1, 0])) == Exact()
    assert isinstance(verdict(resized(graph, Normal(1.0), gn_DOT_members=[0, 1, -1])), Changes)


def test_beside_the_normalised_dimension():
    graph = net(
        "c: conv(3, kernel = 1) |> flatten(start = 1) |> layernorm(eps = 0.01) |> rmsnorm |> transpose |> dense(2)",
        "x: [2, 2, 3]",
    )
    assert verdict(resized(graph, Normal(1.0), c=[0, 1, 2, -1])) == Exact()


def test_a_zero_in_a_live_group_does_not_stay_zero():
    """A group norm subtracts the mean of the group from it as well."""
    graph = net("c: conv(6, kernel = 1) |> gn: groupnorm(3, affine = false) |> flatten |> dense(2)", "x: [2, 2, 3]")
    prover = Prover(resized(graph, gn_DOT_members=[0, 1, -1]))
    prover.run()
    assert ZERO in prover.known["c"].status
    assert ZERO not in prover.known["gn"].status
