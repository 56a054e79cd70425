"""The shape of an output is part of the interface, whichever layers its axes come from."""

import numpy as np
import pytest

from irgrow.fills import ZERO
from irgrow.grammar import parse
from irgrow.passes import GrowUnits, PruneUnits, SplitUnits, plan, prove
from irgrow.passes.primitives import by_role, resize
from irgrow.testing.laws import Case, verdict_is_sound
from irgrow.verdict import Changes, Exact, Refused

TURNED = """
net n(x: ids(7)[2]) {
  return x |> embedding(4) |> transpose |> h: dense(5) |> relu |> o: dense(3) |> transpose |> last: dense(2)
}
"""
"""The units of `o` are the positions of the output."""


@pytest.mark.parametrize("rewrite", [GrowUnits("o", 2), PruneUnits("o", (0,)), SplitUnits("o")], ids=str)
def test_positions_of_an_output_that_are_units_of_a_layer_are_locked(rewrite):
    graph = parse(TURNED)
    assert graph.shape("last") == (3, 2)
    verdict = plan(rewrite, graph).verdict
    assert isinstance(verdict, Refused)
    assert "interface: `last` is an output of the network" in verdict.reason


def test_other_axes_are_free():
    graph = parse(TURNED)
    result = plan(GrowUnits("h", 2), graph)
    assert result.verdict == Exact()
    verdict_is_sound(Case(graph, GrowUnits("h", 2)))


@pytest.mark.parametrize("name", ["o", "last"])
def test_the_prover_calls_no_output_of_another_shape_the_same(name):
    """Negative control: an edit that pays no regard to locks."""
    graph = parse(TURNED)
    more = np.append(np.arange(graph.widths[name]), -1)
    found = prove(resize(graph, {name: more}, by_role(ZERO, ZERO)))
    assert isinstance(found, Changes)
    assert "shape" in found.reason
