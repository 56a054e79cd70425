"""New nodes: what hands its input on, and what only looks like it."""

import pytest
from helpers import net, verdict

from irgrow.axes import Atom
from irgrow.fills import ONES, ZERO, Constant, Eye
from irgrow.graph import Node
from irgrow.ops import Activate, Add, BatchNorm, Conv, Dense, Identity, LayerNorm
from irgrow.passes.primitives import splice
from irgrow.verdict import Changes, Exact

MLP = net("h: dense(3) |> r: relu |> dense(2)")
CNN = net("c: conv(3, kernel = 3) |> r: relu |> flatten |> dense(2)", "x: [2, 6, 6]")


def dense(weight, bias=ZERO, size=3):
    node = Node("new", Dense(Atom("new")), ("r",))
    return splice(MLP, "r", [node], {"new": size}, {"new.weight": weight, "new.bias": bias})


def conv(weight=None, **options):
    node = Node("new", Conv(Atom("new"), **{"kernel": 3, "padding": 1, **options}), ("r",))
    return splice(CNN, "r", [node], {"new": 3}, {"new.weight": weight or Eye(), "new.bias": ZERO})


def test_identities():
    assert verdict(dense(Eye())) == Exact()
    assert verdict(conv()) == Exact()
    assert verdict(conv(kernel=5, padding=2)) == Exact()
    assert verdict(conv(dilation=2, padding=2)) == Exact()


@pytest.mark.parametrize(
    "morphism",
    [dense(Eye(), ONES), dense(Eye((2.0,))), dense(Constant(0.1)), dense(ZERO), conv(Constant(0.1))],
    ids=["bias", "twice", "constant", "zero", "constant kernel"],
)
def test_what_only_looks_like_one(morphism):
    assert isinstance(verdict(morphism), Changes)


@pytest.mark.parametrize(
    ("op", "exact"),
    [
        (Activate("relu"), True),
        (Identity(), True),
        (Activate("tanh"), False),
        (Activate("relu6"), False),
        (BatchNorm(), False),
        (LayerNorm(), False),
    ],
)
def test_new_ops_without_weights(op, exact):
    found = verdict(splice(MLP, "r", [Node("new", op, ("r",))], {}, {}), spread=10.0)  # beyond the corner of relu6
    assert found == Exact() if exact else isinstance(found, Changes)


def test_a_zero_branch_adds_nothing():
    nodes = [Node("new", Dense(Atom("new")), ("r",)), Node("sum", Add(), ("r", "new"))]
    assert verdict(splice(MLP, "r", nodes, {"new": 3}, {"new.weight": ZERO, "new.bias": ZERO})) == Exact()
    assert isinstance(verdict(splice(MLP, "r", nodes, {"new": 3}, {"new.weight": ZERO, "new.bias": ONES})), Changes)


@pytest.mark.parametrize(
    ("rows", "columns", "function", "exact"),
    [
        ((1.0, -1.0), (1.0, -1.0), "gelu", True),
        ((1.0, -1.0), (0.5, -0.5), "gelu", False),
        ((1.0, -1.0), (1.0, 1.0), "gelu", False),
        ((1.0, 1.0), (1.0, -1.0), "gelu", False),
        ((1.0, -1.0), (1.0, -1.0), "tanh", False),
        ((1.0, -1.0), (0.5, -0.5), "identity", True),
    ],
)
def test_pairs(rows, columns, function, exact):
    middle = Identity() if function == "identity" else Activate(function)
    nodes = [
        Node("up", Dense(Atom("up")), ("r",)),
        Node("mid", middle, ("up",)),
        Node("down", Dense(Atom("down")), ("mid",)),
    ]
    fills = {"up.weight": Eye(rows), "up.bias": ZERO, "down.weight": Eye(columns, "columns"), "down.bias": ZERO}
    morphism = splice(MLP, "r", nodes, {"up": 6, "down": 3}, fills)
    assert isinstance(verdict(morphism), Exact) == exact
