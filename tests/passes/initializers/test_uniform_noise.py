"""Uniform noise: entries of the given size, on the side that is not zero, or on both."""

import numpy as np
import pytest

from irgrow.backends import random_params
from irgrow.errors import ProgramError
from irgrow.grammar import parse, parse_pass
from irgrow.passes import Context, GrowUnits, UniformNoise, plan
from irgrow.testing.checking import check_pass
from irgrow.testing.laws import LAWS, Case
from irgrow.testing.numbers import carried
from irgrow.verdict import Changes, Exact

MLP = "net n(x: [9]) { return x |> h: dense(4) |> tanh |> y: dense(3) }"


def grown(zero, count=40):
    graph = parse(MLP)
    params = random_params(graph, 0)
    result = plan(GrowUnits("h", count, UniformNoise(0.5), zero=zero), graph, Context(params))
    new = carried(result.morphism, params)
    return result.verdict, new["h.weight"][4:], new["y.weight"][:, 4:], new["h.bias"][4:]


@pytest.mark.parametrize(
    ("zero", "rows", "columns", "verdict"),
    [("fan_out", True, False, Exact), ("fan_in", False, True, Exact), ("neither", True, True, Changes)],
)
def test_the_side_that_is_not_zero_is_noise_of_the_size_asked_for(zero, rows, columns, verdict):
    found, fan_in, fan_out, bias = grown(zero)
    assert isinstance(found, verdict)
    assert not bias.any()
    for side, alive, entries in ((fan_in, rows, 9), (fan_out, columns, 44)):
        assert side.any() == alive
        if alive:
            bound = 0.5 / np.sqrt(entries)
            assert 0.9 * bound < np.abs(side).max() <= bound
            assert abs(side.mean()) < 0.15 * bound


def test_no_units_are_dead():
    with pytest.raises(ProgramError, match="at least 1e-06"):
        parse_pass("grow_units(h, 2, init = uniform_noise(scale = 0))")
    text = MLP.replace("tanh", "relu")
    result = plan(GrowUnits("h", 1, UniformNoise(), zero="fan_in"), parse(text), Context(random_params(parse(text), 0)))
    assert "never receive a gradient" in result.verdict.reason


@pytest.mark.parametrize("zero", ["fan_out", "fan_in", "neither"])
def test_it_obeys_the_laws(zero):
    for law in LAWS:
        law(Case(parse(MLP), GrowUnits("h", 2, UniformNoise(), zero=zero), 3, 4))
    check_pass(GrowUnits(init=UniformNoise(), zero=zero), examples=8)
