"""Random initialisation: Xavier, scaled to the norm of the units there are, zero bias."""

import pytest
import torch

from irgrow.fills import XavierUniform
from irgrow.network import build
from irgrow.passes import GrowUnits, Random


def test_norm_bias_and_spread():
    net = build("net n(x: [50]) { return x |> h: dense(20) |> relu |> dense(3) }", dtype=torch.float64)
    mean = net.params["h.weight"].norm(dim=1).mean().item()
    net.rewrite(GrowUnits("h", 30, Random()))
    new = net.params["h.weight"][20:]
    assert new.norm(dim=1).tolist() == pytest.approx([mean] * 30, rel=1e-12)
    assert net.params["h.bias"][20:].abs().max() == 0
    assert len({tuple(row.tolist()) for row in new}) == 30
    assert abs(new.mean().item()) < 0.02


def test_it_asks_for_nothing_and_is_the_default():
    assert GrowUnits("h").init == Random()
    assert Random().default() == XavierUniform(match=True)
    graph = build("net n(x: [4]) { return x |> h: dense(2) |> dense(1) }").graph
    assert Random().needs(graph, {}) == ()
    assert str(Random()) == "random"


def test_norms_of_zero_layers_are_left_alone():
    net = build("net n(x: [4]) { return x |> h: dense(2) |> dense(1) }")
    with torch.no_grad():
        net.params["h.weight"].zero_()
    net.rewrite(GrowUnits("h", 1))
    assert net.params["h.weight"][2].abs().max() > 0
