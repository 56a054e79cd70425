"""Outputs that are zero but for rounding: no law is broken there, and mistakes in small outputs still show."""

from dataclasses import dataclass

import numpy as np
import pytest
from broken import RandomFanOut, Scaled

from irgrow.backends import interpret
from irgrow.grammar import parse
from irgrow.passes import DuplicateUnits, Prover, SplitUnits
from irgrow.testing.laws import Broken, Case, gradients_follow, permuting_changes_nothing, verdict_is_sound
from irgrow.testing.numbers import NETWORK_BOUND, difference, output_error
from irgrow.verdict import Exact

CONSTANT = """
net n(x: [2]) {
  return x |> a: dense(1) |> layernorm(eps = 0.01) |> batchnorm(eps = 0.01, affine = false) |> dense(2, bias = false)
}
"""
"""A layer norm of one unit is its shift; in training the batch norm takes it off itself, and nothing is left."""


@pytest.mark.parametrize("copies", [2, 3, 5, 6])
@pytest.mark.parametrize("seed", range(4))
def test_a_constant_without_its_mean_is_zero_however_it_is_rounded(seed, copies):
    case = Case(parse(CONSTANT), DuplicateUnits("a", (0,), copies, noise=0.5), seed)
    result = case.plan()
    assert result.verdict == Exact()
    assert np.abs(interpret(case.graph, case.params, case.inputs, training=True).outputs[0]).max() < 1e-14
    for law in (verdict_is_sound, gradients_follow, permuting_changes_nothing):
        law(case)
    assert output_error(result.morphism, case.params, case.inputs, training=True) < 1e-10


def test_some_of_them_are_rounded_otherwise():
    """Without a floor below which nothing counts the law would be broken now and then."""
    found = []
    for seed in range(8):
        case = Case(parse(CONSTANT), DuplicateUnits("a", (0,), 5, noise=0.5), seed)
        error = output_error(case.plan().morphism, case.params, case.inputs, training=True)
        size = np.abs(interpret(case.graph, case.params, case.inputs, training=True).outputs[0]).max()
        found.append(error > NETWORK_BOUND * size)
    assert any(found)


# negative controls ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Small(Case):
    """A case whose outputs are about a millionth."""

    @property
    def params(self):
        """Random parameters, those of the last layer small."""
        found = super().params
        return found | {name: 1e-6 * value for name, value in found.items() if name.startswith("o.")}


@pytest.mark.parametrize("broken", [RandomFanOut, Scaled])
def test_mistakes_in_small_outputs_are_noticed(monkeypatch, broken):
    monkeypatch.setattr(Prover, "verdict", lambda self: Exact())
    graph = parse("net n(x: [4]) { return x |> a: dense(5) |> tanh |> b: dense(5) |> tanh |> o: dense(2) }")
    verdict_is_sound(Small(graph, SplitUnits("a")))
    with pytest.raises(Broken, match="the outputs differ"):
        verdict_is_sound(Small(graph, broken("a", 2)))


def test_what_differs_from_small_numbers_differs():
    one, other = np.array([1e-6, 2e-6]), np.array([1e-6, 2.0001e-6])
    assert difference((one,), (other,)) > NETWORK_BOUND
    assert difference((one,), (one,)) == 0.0
    assert difference((one,), (one * np.nan,)) == np.inf
    assert difference((np.array([1.0]),), (np.array([0.0]),)) > 1.0
