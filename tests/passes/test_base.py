"""Planning a pass: guard first, no mutation, verdicts derived, refusals named."""

from dataclasses import dataclass, replace

import pytest

from irgrow.attributes import site
from irgrow.edits import Impossible, growth, removal, step_of
from irgrow.errors import ProgramError
from irgrow.grammar import parse
from irgrow.graph import Node, rebuilt
from irgrow.morphism import Keep, Morphism
from irgrow.ops import Activate
from irgrow.passes import Context, GrowUnits, Pass, needs, plan
from irgrow.verdict import Exact, Refused

GRAPH = parse("net n(x: [4]) { return x |> a: dense(6) |> relu |> b: dense(6) |> relu |> dense(2) }")


@dataclass(frozen=True)
class Custom(Pass):
    where: str = site("a")
    failure: BaseException | None = None

    @property
    def site(self):
        return self.where

    def match(self, graph, site):
        return "not today" if site == "b" else None

    def rewrite(self, graph, site, context):
        if self.failure:
            raise self.failure
        return Morphism(graph, graph, {n: Keep(n) for n in graph.params}, {}, context.seed, "nothing")


def test_doing_nothing_is_exact():
    assert plan(Custom(), GRAPH).verdict == Exact()


def test_a_failed_match_is_a_refusal_with_its_reason_and_place():
    verdict = plan(Custom("b"), GRAPH).verdict
    assert verdict == Refused("not today", "b")
    assert str(verdict.span) == "<text>:1:55"
    assert str(verdict) == "<text>:1:55: refused `b`: not today"


def test_what_turns_out_impossible_is_a_refusal():
    assert plan(Custom(failure=Impossible("too late")), GRAPH).verdict.reason == "too late"
    broken = ProgramError([])
    with pytest.raises(IndexError):
        plan(Custom(failure=broken), GRAPH)


def test_a_result_that_is_not_well_formed_is_refused(monkeypatch):
    @dataclass(frozen=True)
    class Malformed(Custom):
        def rewrite(self, graph, site, context):
            bad = rebuilt(graph, [*graph.nodes, Node("loose", Activate("relu"), ("a",))])
            return Morphism(graph, bad, {n: Keep(n) for n in bad.params})

    verdict = plan(Malformed(), GRAPH).verdict
    assert "would not be well-formed: `loose` is never used" in verdict.reason


def test_needs_are_asked_only_where_a_pass_applies():
    from irgrow.passes import NorthSelect

    assert needs(GrowUnits("a", 1, NorthSelect()), GRAPH) == (("x", "relu_1"), False)
    assert needs(GrowUnits("nope", 1, NorthSelect()), GRAPH) == ((), False)
    assert needs(GrowUnits("a", 1), GRAPH) == ((), False)


def test_contexts_give_each_name_its_own_numbers():
    context = Context(seed=3)
    assert context.generator("a").integers(100) == context.generator("a").integers(100)
    assert context.generator("a").integers(1 << 40) != context.generator("b").integers(1 << 40)


@pytest.mark.parametrize(
    ("text", "place", "count", "edited"),
    [
        ("dense(6)", "h", 2, {"h": 2}),
        ("dense(6) |> flip", "flip_1", 2, {"h": 2}),
        ("dense(6) |> concat { identity ; dense(3) }", "concat_1", 2, {"dense_1": 2}),
        ("dense(6) |> concat { identity ; identity }", "concat_1", 4, {"h": 2}),
    ],
)
def test_growth_finds_the_atom(text, place, count, edited):
    graph = parse(f"net n(x: [4]) {{ return x |> h: {text} |> dense(2) }}")
    assert {n: len(m) - graph.widths[n] for n, m in growth(graph, graph.axis(place), count).items()} == edited


def test_growth_says_in_which_steps():
    graph = parse("net n(x: [4]) { return x |> h: dense(6) |> concat { identity ; identity } |> dense(2) }")
    with pytest.raises(Impossible, match=r"grows in steps of 2 \(`h`\), asked for 3"):
        growth(graph, graph.axis("concat_1"), 3)
    assert step_of(graph, graph.axis("concat_1"), "h") == 2
    with pytest.raises(Impossible, match="is a constant size"):
        growth(graph, parse("net n(x: [4, 5]) { return transpose(x) }").types["transpose_1"].dims[0], 1)


def test_removal_of_tied_positions():
    graph = parse("net n(x: [4]) { return x |> h: dense(6) |> c: concat { identity ; identity } |> dense(2) }")
    edits = removal(graph, graph.axis("c"), [1, 7])
    assert edits["h"].tolist() == [0, 2, 3, 4, 5]
    with pytest.raises(Impossible, match=r"units \[1\] of `2 \* h` cannot go alone"):
        removal(graph, graph.axis("c"), [1])
    with pytest.raises(Impossible, match="no units were named"):
        removal(graph, graph.axis("c"), [])
    with pytest.raises(Impossible, match="has units 0 to 11, found 12"):
        removal(graph, graph.axis("c"), [12])
    flat = parse("net n(x: [2, 3, 3]) { return x |> h: conv(4, kernel = 1) |> flatten |> dense(2) }")
    assert removal(flat, flat.axis("flatten_1"), list(range(9, 18)))["h"].tolist() == [0, 2, 3]
    with pytest.raises(Impossible, match="cannot go alone"):
        removal(flat, flat.axis("flatten_1"), [9])


def test_replacing_options_makes_another_pass():
    assert GrowUnits("a", 1).at("b", 3) == GrowUnits("b", 3)
    assert replace(GrowUnits("a"), zero="fan_in") != GrowUnits("a")
