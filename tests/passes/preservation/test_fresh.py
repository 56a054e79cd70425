"""New nodes: what hands its input on, and what only looks like it."""

from dataclasses import replace

import numpy as np
import pytest
from helpers import net, verdict

from irgrow.axes import Atom
from irgrow.backends import random_params
from irgrow.fills import ONES, ZERO, Constant, Eye, Given
from irgrow.grammar import parse
from irgrow.graph import Node
from irgrow.morphism import New
from irgrow.ops import Activate, Add, BatchNorm, Conv, Dense, Identity, LayerNorm, LeakyReLU, Mul, Scale
from irgrow.passes import prove
from irgrow.passes.preservation.removed import put_back
from irgrow.passes.primitives import bypass, splice
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


# given numbers -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("weight", "exact"),
    [
        (np.eye(3), True),
        (np.eye(3)[[1, 0, 2]], False),
        (np.eye(3) + 1e-9, False),
        (np.diag([1.0, 1.0, 1.0 + 1e-9]), False),
        (np.diag([1.0, 0.0, 1.0]), False),
        (np.where(np.eye(3) > 0, np.nan, 0.0), False),
    ],
)
def test_given_weights_are_looked_at(weight, exact):
    found = prove(dense(Given(weight)))
    assert found == Exact() if exact else isinstance(found, Changes)


def test_given_kernels_are_looked_at():
    kernel = Eye().draw((3, 3, 3, 3), np.random.default_rng(0))
    assert verdict(conv(Given(kernel))) == Exact()
    assert isinstance(verdict(conv(Given(np.roll(kernel, 1, axis=2)))), Changes), "off the centre tap"
    kernel[0, 1, 0, 0] = 1e-3
    assert isinstance(verdict(conv(Given(kernel))), Changes)
    assert isinstance(verdict(conv(kernel=2, padding=1, dilation=2)), Changes), "no centre tap at all"


def test_groups_have_identities_of_their_own():
    def grouped(weight):
        net = parse("net n(x: [2, 5]) { return x |> c: conv(4, kernel = 1) |> r: relu |> flatten |> dense(2) }")
        node = Node("new", Conv(Atom("new"), 1, groups=Atom("new.groups")), ("r",))
        sizes = {"new": 4, "new.groups": 2}
        return verdict(splice(net, "r", [node], sizes, {"new.weight": weight, "new.bias": ZERO}))

    one = np.eye(2)
    assert grouped(Given(np.concatenate([one, one])[..., None])) == Exact()
    assert isinstance(grouped(Given(np.concatenate([one, -one])[..., None])), Changes)
    assert isinstance(grouped(Given(np.concatenate([one, one[::-1]])[..., None])), Changes)


@pytest.mark.parametrize(("mask", "exact"), [(ONES, True), (Given(np.eye(3)), True), (Given(1 - np.eye(3)), False)])
def test_masks_count(mask, exact):
    node = Node("new", Dense(Atom("new"), masked=True), ("r",))
    morphism = splice(MLP, "r", [node], {"new": 3}, {"new.weight": Eye(), "new.bias": ZERO, "new.mask": mask})
    found = verdict(morphism)
    assert found == Exact() if exact else isinstance(found, Changes)


# shapes --------------------------------------------------------------------------------------------------------------


def test_a_sum_that_spreads_a_vector_is_not_the_vector():
    net = parse("net n(x: [3], y: [3, 4]) { v = relu(x)  return v, conv(y, 3, kernel = 1) }")
    nodes = [Node("zero", Conv(Atom("zero"), 1), ("y",)), Node("sum", Add(), ("v", "zero"))]
    morphism = splice(net, "v", nodes, {"zero": 3}, {"zero.weight": ZERO, "zero.bias": ZERO})
    found = prove(morphism)
    assert isinstance(found, Changes)
    assert found.reason == "`sum` has another shape than `v`"


def test_a_layer_that_repeats_a_single_unit_is_no_identity():
    net = parse("net n(x: [4]) { h = dense(x, 1)  return h }")
    for weight in (Eye(), Given(np.ones((5, 1)))):
        node = Node("new", Dense(Atom("new")), ("h",))
        found = prove(splice(net, "h", [node], {"new": 5}, {"new.weight": weight, "new.bias": ZERO}))
        assert isinstance(found, Changes)


def test_a_stack_of_multiples_is_no_output():
    net = parse("net n(x: [4]) { h = dense(x, 3)  return h }")
    node = Node("new", Dense(Atom("new")), ("h",))
    fills = {"new.weight": Eye((1.0, -1.0)), "new.bias": ZERO}
    assert isinstance(prove(splice(net, "h", [node], {"new": 6}, fills)), Changes)


# zeros, scales and norms ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("op", "fills", "exact"),
    [
        (Scale(), {"weight": ONES}, True),
        (Scale(), {"weight": Given(np.array([1.0, 1.0, 1.001]))}, False),
        (Scale(), {"weight": ZERO}, False),
        (LeakyReLU(0.3), {}, True),
    ],
)
def test_scales(op, fills, exact):
    morphism = splice(MLP, "r", [Node("new", op, ("r",))], {}, {f"new.{k}": v for k, v in fills.items()})
    found = verdict(morphism)
    assert found == Exact() if exact else isinstance(found, Changes)


@pytest.mark.parametrize(
    ("op", "fills", "exact"),
    [
        (Scale(), {"weight": ZERO}, True),
        (Scale(), {"weight": Constant(0.1)}, False),
        (BatchNorm(), {"weight": ZERO, "bias": ZERO}, True),
        (BatchNorm(), {"weight": ZERO, "bias": ONES}, False),
        (LayerNorm(), {"weight": ZERO, "bias": ZERO}, True),
        (LayerNorm(), {"weight": ONES, "bias": ZERO}, False),
    ],
)
def test_branches_that_let_nothing_through(op, fills, exact):
    nodes = [
        Node("new", Dense(Atom("new")), ("r",)),
        Node("gain", op, ("new",)),
        Node("act", Activate("tanh"), ("gain",)),
        Node("sum", Add(), ("r", "act")),
    ]
    found = verdict(splice(MLP, "r", nodes, {"new": 3}, {f"gain.{k}": v for k, v in fills.items()}))
    assert found == Exact() if exact else isinstance(found, Changes)


def test_a_product_with_zero_is_zero():
    nodes = [
        Node("new", Dense(Atom("new")), ("r",)),
        Node("zero", Scale(0.0), ("new",)),
        Node("gated", Mul(), ("new", "zero")),
        Node("sum", Add(), ("r", "gated")),
    ]
    assert verdict(splice(MLP, "r", nodes, {"new": 3}, {})) == Exact()
    nodes[1] = Node("zero", Scale(0.5), ("new",))
    assert isinstance(verdict(splice(MLP, "r", nodes, {"new": 3}, {})), Changes)


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("weight", [2.0, 1.0, 0.5001]),
        ("bias", [0.3, -1.0, 1e-6]),
        ("running_mean", [0.3, -1.0, 1e-6]),
        ("running_var", [4.0, 1.0, 0.26]),
    ],
)
def test_a_batch_norm_undoes_itself_or_not(name, values):
    """Gain sqrt(v + eps) and shift m, entry by entry; one that is off is one too many."""
    mean, var = np.array([0.3, -1.0, 0.0]), np.array([4.0, 1.0, 0.25]) - 0.01
    numbers = {"running_mean": mean, "running_var": var, "weight": np.sqrt(var + 0.01), "bias": mean}
    net = parse("net n(x: [4]) { return x |> dense(3) |> r: tanh |> dense(2) }")

    def spliced():
        fills = {f"new.{k}": Given(v) for k, v in numbers.items()}
        return splice(net, "r", [Node("new", BatchNorm(0.01), ("r",))], {}, fills)

    assert prove(spliced()) == Exact("eval")
    numbers[name] = np.array(values)
    assert isinstance(verdict(spliced()), Changes)


# taking out ----------------------------------------------------------------------------------------------------------


def test_removal_is_proved_by_putting_back():
    inserted = dense(Eye())
    removal = bypass(inserted.after, "new", "r")
    params = {**random_params(MLP, 3), "new.weight": np.eye(3), "new.bias": np.zeros(3)}
    assert verdict(removal, params) == Exact()
    assert isinstance(verdict(removal, {**params, "new.weight": np.eye(3) * 1.0001}), Changes)
    assert prove(removal) == Changes("the bias of `new` is not known to be zero"), "nothing is known of the numbers"
    gated = splice(MLP, "r", [Node("g", Scale(0.0), ("r",)), Node("sum", Add(), ("r", "g"))], {}, {})
    assert verdict(gated) == Exact()
    assert isinstance(prove(bypass(gated.after, "sum", "r")), Changes), "it need not be zero any more"


def test_what_does_more_than_take_out_is_not_put_back():
    removal = bypass(dense(Eye()).after, "new", "r")
    params = {**random_params(MLP, 3), "new.weight": np.eye(3), "new.bias": np.zeros(3)}
    assert put_back(removal, params) is not None
    scaled = {**removal.transfers, "dense_1.bias": New(ZERO)}
    assert put_back(replace(removal, transfers=scaled), params) is None
    assert isinstance(prove(replace(removal, transfers=scaled), params), Changes)
    other = bypass(dense(Eye()).after, "r", "h")
    assert isinstance(verdict(other, params), Changes)
    assert put_back(inserted := dense(Eye()), params) is None
    assert prove(inserted, params) == Exact()
