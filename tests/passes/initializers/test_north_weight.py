"""NORTH-Weight: the fan-in of new units is orthogonal to that of the units there are."""

import numpy as np
import pytest
import torch

from irgrow.fills import XavierUniform
from irgrow.grammar import parse
from irgrow.network import build
from irgrow.passes import Context, GrowUnits, NorthWeight, Random, plan
from irgrow.testing.checking import check_pass
from irgrow.testing.laws import LAWS, Case
from irgrow.verdict import Exact

from .north import CNN, NARROW, WIDE, cosines, grown


def rows(weight):
    return weight.reshape(len(weight), -1)


@pytest.mark.parametrize("text", [WIDE, CNN])
def test_orthogonal_and_of_the_mean_norm(text):
    graph, params, _, result, new = grown(text, NorthWeight())
    assert result.verdict == Exact()
    old = graph.widths["h"]
    weight = rows(new["h.weight"])
    assert cosines(weight[old:], weight[:old]) < 1e-14
    mean = np.linalg.norm(rows(params["h.weight"]), axis=1).mean()
    np.testing.assert_allclose(np.linalg.norm(weight[old:], axis=1), mean, rtol=1e-12)
    assert not new["h.bias"][old:].any()
    control = rows(grown(text, Random())[4]["h.weight"])
    assert cosines(control[old:], control[:old]) > 0.05


def test_it_is_the_printed_projection():
    _, params, _, _, new = grown(WIDE, NorthWeight(), count=1)
    drawn = XavierUniform().draw((1, 9), Context(seed=0).generator("north_weight", "h"))[0]
    w = params["h.weight"]
    wanted = drawn - np.linalg.pinv(w) @ w @ drawn
    wanted *= np.linalg.norm(w, axis=1).mean() / np.linalg.norm(wanted)
    np.testing.assert_allclose(new["h.weight"][5], wanted, rtol=1e-10)


def test_units_are_apart_from_one_another_only_if_asked():
    alike = rows(grown(WIDE, NorthWeight(), count=3)[4]["h.weight"])[5:]
    apart = rows(grown(WIDE, NorthWeight(apart=True), count=3)[4]["h.weight"])[5:]
    gram = lambda x: np.abs(x @ x.T - np.diag(np.diag(x @ x.T))).max()  # noqa: E731
    assert gram(apart) < 1e-13
    assert gram(alike) > 1e-3
    more = rows(grown(WIDE, NorthWeight(apart=True), count=7)[4]["h.weight"])
    assert cosines(more[5:], more[:5]) < 1e-13
    assert np.linalg.norm(more[5:], axis=1).min() > 0


def test_a_trivial_kernel_falls_back_to_random_and_the_receipt_says_so():
    _, _, _, result, new = grown(NARROW, NorthWeight())
    assert result.morphism.notes == (
        "north_weight: the units of `h` span all 3 directions, so nothing is orthogonal to them; new units are random",
    )
    np.testing.assert_array_equal(new["h.weight"], grown(NARROW, Random())[4]["h.weight"])
    assert not grown(WIDE, NorthWeight())[3].morphism.notes


def test_synapses_that_are_off_do_not_count():
    text = WIDE.replace("h: dense(5)", "h: dense(5, masked = true)")
    graph = parse(text)
    _, params, *_ = grown(text, NorthWeight())
    params["h.mask"] = (np.arange(45).reshape(5, 9) % 2).astype(float)
    result = plan(GrowUnits("h", 1, NorthWeight()), graph, Context(params))
    new = result.morphism.transfers["h.weight"].fills[0].values
    assert cosines(new, params["h.weight"] * params["h.mask"]) < 1e-13
    assert cosines(new, params["h.weight"]) > 1e-3


def test_it_needs_parameters_and_no_batch():
    assert "needs the parameters" in plan(GrowUnits("h", 1, NorthWeight()), parse(WIDE)).verdict.reason
    net = build(WIDE, seed=2)
    assert net.rewrite(GrowUnits("h", 1, NorthWeight())).verdict == Exact()
    with torch.no_grad():
        net.params["h.weight"][0, 0] = float("nan")
    assert "`h.weight` is not finite" in net.rewrite(GrowUnits("h", 1, NorthWeight())).verdict.reason


def test_it_obeys_the_laws():
    for law in LAWS:
        law(Case(parse(CNN), GrowUnits("h", 2, NorthWeight()), 3, 4))
    check_pass(GrowUnits(init=NorthWeight()), examples=10)
