"""Well-formedness: every kind of violation is found, named and located."""

import pytest

from irgrow.axes import Atom, Const
from irgrow.backends import random_params
from irgrow.errors import OptionError, ProgramError
from irgrow.grammar import parse
from irgrow.graph import Graph, Node
from irgrow.ops import Activate, Add, Conv, Dense, Input
from irgrow.passes import Context, GrowUnits, plan
from irgrow.verify import (
    BadAttribute,
    BadName,
    BadOrder,
    BadWidth,
    NameClash,
    NoInterface,
    TooLarge,
    TypeViolation,
    Unused,
    ensure,
    verify,
)

X = Node("x", Input((4,)))


def graph(*nodes, outputs=None, sizes=None, named=()):
    return Graph("g", nodes, outputs or (nodes[-1].name,), sizes or {}, named)


def dense(name, *inputs):
    return Node(name, Dense(Atom(name)), inputs)


@pytest.mark.parametrize(
    ("violation", "broken", "offender"),
    [
        (BadName, graph(X, dense("a-b", "x"), sizes={"a-b": 2}), "a-b"),
        (BadName, graph(X, dense("import os", "x"), sizes={"import os": 2}), "import os"),
        (NameClash, graph(X, dense("a", "x"), dense("a", "x"), sizes={"a": 2}), "a"),
        (NameClash, graph(X, Node("d", Dense(Atom("d")), ("x",)), sizes={"d": 3}, named=("d",)), "d"),
        (NameClash, graph(X, dense("a", "x"), dense("a.weight", "a"), sizes={"a": 2, "a.weight": 2}), "a.weight"),
        (BadOrder, graph(X, Node("r", Activate("relu"), ("h",)), dense("h", "x"), sizes={"h": 2}), "r"),
        (BadOrder, graph(X, outputs=("nope",)), "nope"),
        (BadAttribute, graph(X, Node("c", Conv(Atom("c"), 0), ("x",)), sizes={"c": 2}), "c"),
        (BadAttribute, graph(X, Node("r", Activate("reluu"), ("x",))), "r"),
        (BadWidth, graph(X, dense("a", "x"), sizes={"a": 0}), None),
        (NoInterface, graph(Node("r", Add(), ()), outputs=("r",)), None),
        (Unused, graph(X, dense("a", "x"), dense("b", "x"), outputs=("a",), sizes={"a": 1, "b": 1}), "b"),
        (TypeViolation, graph(X, Node("c", Conv(Atom("c"), 3), ("x",)), sizes={"c": 2}), "c"),
        (TooLarge, graph(X, dense("a", "x"), dense("b", "a"), sizes={"a": 10**9, "b": 1000}), None),
        (TypeViolation, graph(X, dense("a", "x"), sizes={"a": 2**31}), "a"),
    ],
)
def test_violations(violation, broken, offender):
    found = [v for v in verify(broken) if isinstance(v, violation)]
    assert found, verify(broken)
    if offender is not None:
        assert offender in found[0].nodes
    assert str(found[0].diagnostic())


def test_a_good_graph_has_none():
    assert verify(graph(X, dense("a", "x"), sizes={"a": 3})) == []


def test_all_violations_are_reported_together():
    broken = graph(X, dense("a", "x"), dense("a", "x"), dense("b!", "x"), sizes={"a": 2, "b!": 1}, outputs=("a",))
    with pytest.raises(ProgramError) as error:
        ensure(broken)
    assert len(error.value.diagnostics) >= 2


def test_the_level_comes_from_the_environment(monkeypatch):
    broken = graph(X, dense("a", "x"), sizes={"a": 0})
    monkeypatch.setenv("IRGROW_CHECK", "0")
    assert ensure(broken) is broken
    monkeypatch.setenv("IRGROW_CHECK", "7")
    with pytest.raises(OptionError, match="IRGROW_CHECK"):
        ensure(broken)


def test_constant_widths_are_allowed():
    fixed = graph(X, Node("a", Dense(Const(3)), ("x",)))
    assert verify(fixed) == []
    assert parse(str(fixed)).shape("a") == (3,)


def test_parameters_of_another_network_are_noticed_from_level_two_on(monkeypatch):
    small = parse("net n(x: [3]) { return x |> h: dense(4) |> relu |> dense(2) }")
    params = random_params(small, 0)
    wrong = [({**params, "h.bias": params["h.bias"][:3]}, "`h.bias` has shape [3], the graph says [4]")]
    wrong += [({n: v for n, v in params.items() if n != "h.bias"}, "not those of `n`: h.bias")]
    for given, why in wrong:
        monkeypatch.setenv("IRGROW_CHECK", "1")
        assert plan(GrowUnits("h", 1), small, Context(given)).verdict.preserves
        monkeypatch.setenv("IRGROW_CHECK", "2")
        with pytest.raises(OptionError) as error:
            plan(GrowUnits("h", 1), small, Context(given))
        assert why in str(error.value)
        assert plan(GrowUnits("h", 1), small, Context(params)).verdict.preserves
