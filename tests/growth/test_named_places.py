"""Rules whose pass says itself where it works: what it may say, where it is asked, and when its place is gone."""

from dataclasses import dataclass

import pytest

from irgrow.errors import OptionError
from irgrow.grammar import parse, parse_pass, parse_program
from irgrow.growth import GrowthProgram, Rule, Where
from irgrow.growth.controller import Controller
from irgrow.network import build
from irgrow.passes import (
    FuseLinear,
    GrowUnits,
    InsertLayer,
    Magnitude,
    PruneEdges,
    PruneGlobally,
    PruneUnits,
    RemoveLayer,
    Schedule,
    SplitUnits,
)

MLP = "net mlp(x: [6]) { return x |> fc1: dense(8) |> relu |> fc2: dense(7) |> relu |> fc3: dense(5) |> head: dense(3) }\n"


def rule(apply, where=None, when=None, **more):
    return Rule("r", apply, when or Schedule(2), where=where or Where(), require="any", **more)


@pytest.mark.parametrize(
    ("apply", "where", "sites"),
    [
        (GrowUnits("fc2"), None, ("fc2",)),
        (GrowUnits("relu_2"), None, ("fc2",)),
        (PruneUnits("fc1", (0,)), None, ("fc1",)),
        (SplitUnits("fc1", (0, 1)), None, ("fc1",)),
        (InsertLayer("relu_1"), None, ("fc1",)),
        (InsertLayer("relu_1"), ("fc2",), ("fc2",)),
        (InsertLayer(), ("fc2", "fc3"), ("fc2", "fc3")),
        (PruneEdges("fc1"), None, ("fc1",)),
    ],
    ids=str,
)
def test_a_pass_may_name_its_place(apply, where, sites):
    """What the trigger is asked about is the axis there, or the one that is named."""
    made = rule(apply, where and Where(where))
    assert made.sites(parse(MLP)) == sites
    assert parse_program(f"{MLP}\n{GrowthProgram((made,))}").growth == GrowthProgram((made,))


def test_a_layer_is_inserted_once_where_the_pass_says():
    controller = Controller(build(MLP), GrowthProgram((rule(InsertLayer("relu_1")),)))
    assert [r.applied for r in controller.step()] == [True]
    assert next(n.name for n in controller.net.graph if n.name.startswith("relu_1_")) == "relu_1_deep1.layer"


@pytest.mark.parametrize(
    ("apply", "where", "why"),
    [
        (GrowUnits("fc1"), ("fc2",), "`grow_units(fc1)` names its site, and so does `where = fc2`"),
        (SplitUnits("fc1"), ("fc2",), "names its site"),
        (
            GrowUnits("fc1", 4),
            None,
            "how many units it is comes from `when = schedule(2)`; leave `count = 4` out of `grow_units(fc1, 4)`",
        ),
        (PruneUnits(by=Magnitude(), count=3), None, "leave `count = 3` out"),
        (PruneGlobally(by=Magnitude(), count=3), None, "leave `count = 3` out"),
    ],
    ids=str,
)
def test_what_the_rule_says_the_pass_does_not(apply, where, why):
    with pytest.raises(OptionError) as error:
        rule(apply, where and Where(where))
    assert why in str(error.value)


@pytest.mark.parametrize(
    ("apply", "where", "why"),
    [
        (InsertLayer("nowhere"), None, "`insert_layer(nowhere)` matches no axis"),
        (
            InsertLayer("relu_1"),
            ("fc1", "fc2"),
            "`insert_layer(relu_1)` works at one place, `where = [fc1, fc2]` are 2",
        ),
        (InsertLayer("relu_1"), ("*",), "works at one place"),
    ],
    ids=str,
)
def test_a_place_is_one(apply, where, why):
    with pytest.raises(OptionError) as error:
        rule(apply, where and Where(where)).sites(parse(MLP))
    assert why in str(error.value)


GONE = "net n(x: [4]) { return x |> a: dense(6) |> id: identity |> relu |> b: dense(5) |> c: dense(4) |> dense(2) }"


@pytest.mark.parametrize("apply", [RemoveLayer("id"), FuseLinear("b")], ids=str)
def test_a_rule_whose_place_is_gone_has_nothing_left_to_do(apply):
    beside = Rule("beside", GrowUnits(), Schedule(1), where=Where(("a", "b")), require="any")
    program = GrowthProgram((rule(apply, when=Schedule(1)), beside))
    net = build(GONE)
    controller = Controller(net, program)
    first, *_ = controller.step()
    assert first.applied
    assert {r.sites[0] for r in controller.step()} <= {"a", "b"}
    again = Controller(net, program)
    assert {r.sites[0] for r in again.step()} <= {"a", "b"}, "as a run that is taken up again"
    with pytest.raises(OptionError, match="matches no axis"):
        Controller(build(MLP), program)


@pytest.mark.parametrize(
    ("text", "apply", "named"),
    [
        ("x |> c: conv(3, kernel = 1) |> bn: batchnorm |> relu |> avgpool |> dense(2)", "fold_batch_norm(bn)", "bn"),
        ("x |> c: conv(3, kernel = 1) |> sc: scale |> relu |> avgpool |> dense(2)", "fold_scale(sc)", "sc"),
        (
            "x |> stem: conv(3, kernel = 1, masked = true) |> residual { relu |> c2: conv(3, kernel = 1, masked = true) } |> avgpool |> dense(2)",
            "bake_mask(c2)",
            "c2",
        ),
    ],
)
def test_a_pass_on_a_node_works_there(text, apply, named):
    net = build(f"net n(x: [2, 4, 4]) {{ return {text} }}").eval()
    (receipt,) = Controller(net, GrowthProgram((rule(parse_pass(apply), when=Schedule(1)),))).step()
    assert receipt.applied
    assert receipt.rewrite == apply
    if named == "c2":
        assert "stem.mask" in net.params
        assert "c2.mask" not in net.params


def test_what_agrees_with_the_pass_may_be_said():
    assert rule(GrowUnits("fc1"), Where(("fc1",))).sites(parse(MLP)) == ("fc1",)
    assert rule(PruneUnits(by=Magnitude(), count=1)).apply.count == 1


def test_passes_of_others_need_not_declare_their_options():
    @dataclass(frozen=True)
    class Mine(GrowUnits):
        count: int = 2

    assert rule(Mine()).sites(parse(MLP)) == ("fc1", "fc2")


def test_edges_say_how_many_themselves():
    assert rule(PruneEdges("fc1", count=3)).apply.at("fc1", 1).count == 3
