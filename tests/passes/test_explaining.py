"""Remarks say for every site what a pass would come to there, or why not."""

from dataclasses import dataclass

import pytest
import torch
from live import MLP

from irgrow.backends import random_params
from irgrow.errors import OptionError
from irgrow.grammar import parse
from irgrow.morphism import Keep, Morphism
from irgrow.ops import site
from irgrow.passes import Context, GrowUnits, InsertLayer, PruneUnits, plan, remarks
from irgrow.verdict import Changes, Exact

GRAPH = parse(MLP)


def test_remarks_say_for_every_site_what_a_pass_would_come_to():
    found = remarks(GrowUnits("a", 3), GRAPH)
    assert [r.site for r in found] == ["x", "a", "relu_1", "b", "relu_2", "head"]
    for row in found:
        assert row.rewrite == GrowUnits(row.site, 3)
        assert row.verdict == plan(row.rewrite, GRAPH).verdict
    assert found["a"].verdict == Exact()
    assert str(found["head"]) == "refused: axis `head` is locked: interface: `head` is an output of the network"
    table = str(found).splitlines()
    assert table[0].split() == ["site", "at", "verdict"]
    assert len(table) == 7
    assert len({line.index(str(r)) for line, r in zip(table[1:], found, strict=True)}) == 1
    with pytest.raises(KeyError):
        found["nowhere"]


def test_remarks_of_a_class_take_its_defaults():
    assert [r.rewrite for r in remarks(InsertLayer, GRAPH)] == [
        InsertLayer(s) for s in ("x", "a", "relu_1", "b", "relu_2", "head")
    ]

    @dataclass(frozen=True)
    class Demanding(GrowUnits):
        axis: str = site()

    with pytest.raises(OptionError, match="demanding needs axis"):
        remarks(Demanding, GRAPH)


def test_remarks_see_parameters():
    values = {n: torch.as_tensor(v) for n, v in random_params(GRAPH, 0).items()}
    values["b.weight"][:, 2] = 0.0
    pruned = PruneUnits("a", (2,))
    assert isinstance(remarks(pruned, GRAPH)["a"].verdict, Changes)
    assert remarks(pruned, GRAPH, Context(values))["a"].verdict == Exact()


def test_a_pass_that_chooses_its_place_has_one_remark():
    @dataclass(frozen=True)
    class Everywhere(GrowUnits):
        whole = True

        @property
        def site(self):
            return "a"

        def rewrite(self, graph, site, context):
            return Morphism(graph, graph, {n: Keep(n) for n in graph.params})

    (row,) = remarks(Everywhere("b"), GRAPH)
    assert (row.site, row.verdict) == ("a", Exact())
    assert row.to_json() == {
        "site": "a",
        "pass": "everywhere(b)",
        "kind": "exact",
        "verdict": "exact",
        "line": 1,
        "column": 34,
    }
