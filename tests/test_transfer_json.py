"""The JSON form of transfers: every kind comes back as it was, from text and from a message."""

import json
from dataclasses import fields, is_dataclass, replace
from typing import get_args

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from irgrow.axes import NEW
from irgrow.computing import RULES
from irgrow.errors import CompilerBug
from irgrow.fills import ONES, ZERO, Constant, Eye, Given, Masked, Mean, Normal, Sinusoid, XavierUniform
from irgrow.grammar import parse
from irgrow.growth.messages import Message, morphism_message, morphism_of
from irgrow.morphism import Chain, Compute, Cut, Gather, Keep, Morphism, New, Select, Step, Transfer, describe
from irgrow.passes import Context, GrowUnits, PruneUnits, RemoveDeadUnits, plan
from irgrow.testing import graphs, rewrites
from irgrow.transfer_json import transfer_from_json, transfer_to_json

GRAPH = parse("net n(x: [3]) { return x |> a: dense(5) |> relu |> dense(2) }")
NUMBERS = np.random.default_rng(0).normal(size=(2, 6)) * 1e-300
GROWN = np.append(np.arange(4), [NEW, NEW])
READ = Compute("read_constants", ("w", "mask"), (("units", (1, 2)), ("values", (0.1, 1 / 3)), ("rows", None)))
SELECT = Select(
    "w",
    (GROWN, None),
    (Given(NUMBERS), Masked(Normal(0.3), (1,))),
    (np.linspace(0, 1, 6) / 3, None),
    (None, np.arange(6.0)),
    (0.0, 0.1),
    None,
    "uniform",
)
TRANSFERS = {
    "keep": Keep("w"),
    "select": SELECT,
    "select nothing": Select("w", (None, None), (ZERO, ZERO)),
    "select no entries": Select("w", (np.zeros(0, dtype=np.int64),), (Given(np.zeros((0, 3))),), (np.zeros(0),)),
    "select and add numbers": replace(SELECT, plus=Given(NUMBERS[0, :3])),
    "select and add a rule": replace(SELECT, plus=READ),
    "gather": Gather("w", np.array([[3, NEW], [1, 0]]), (2, 2), Given(NUMBERS[:1, :1])),
    "gather and draw": Gather("w", np.array([3, NEW, 1]), (3,), Constant(0.1)),
    "cut": Cut("w", np.arange(56).reshape(7, 8) % 3 == 0),
    "cut all of a scalar": Cut("w", np.array(False)),
    "compute": READ,
    "new": New(Normal(0.1), 8),
    "new of numbers": New(Given(NUMBERS)),
    "new of one number": New(Given(np.array(1 / 3))),
    "new of masked numbers": New(Masked(Given(NUMBERS), (0,))),
    "new of a block": New(Eye((1.0, -1.0), "columns")),
    "new of averages": New(Mean()),
    "chain": Chain((Step(Keep("w"), 1, "w", (4, 3)), Step(SELECT, 2**62 + 1, "x", (6, 3)))),
    "chain that reads": Chain(
        (
            Step(SELECT, 5, "x", (6, 3), (Step(Cut("m", np.eye(2) > 0), 6, "y", (2, 2)),)),
            Step(READ, 7, "z", (6,), (Step(Chain((Step(New(Given(NUMBERS)), 8, "v", (2, 6)),)), 9, "v", (2, 6)),)),
        )
    ),
}


def alike(one, two):
    """Whether two transfers are the same to the last bit, the types of numbers and of arrays included."""
    if type(one) is not type(two):
        return False
    if isinstance(one, np.ndarray):
        return one.dtype == two.dtype and one.shape == two.shape and one.tobytes() == two.tobytes()
    if isinstance(one, tuple):
        return len(one) == len(two) and all(map(alike, one, two))
    if is_dataclass(one):
        return all(alike(getattr(one, f.name), getattr(two, f.name)) for f in fields(one))
    return one == two


def written(transfer):
    return transfer_from_json(json.loads(json.dumps(transfer_to_json(transfer))))


def sent(transfer):
    morphism = Morphism(GRAPH, GRAPH, dict.fromkeys(GRAPH.params, transfer))
    found = morphism_of(Message.unpacked(morphism_message(morphism).packed()), GRAPH).transfers
    assert all(alike(t, found["a.bias"]) for t in found.values())
    return found["a.bias"]


WAYS = pytest.mark.parametrize("way", [written, sent])


def test_every_kind_of_transfer_has_an_example():
    assert {type(t) for t in TRANSFERS.values()} == set(get_args(Transfer))


@WAYS
@pytest.mark.parametrize("name", TRANSFERS)
def test_transfers_come_back_as_they_were(name, way):
    transfer = TRANSFERS[name]
    back = way(transfer)
    assert alike(back, transfer)
    assert describe(back) == describe(transfer)
    others = [t for other, t in TRANSFERS.items() if other != name]
    assert not any(alike(back, other) for other in others), "negative control: it is no other"


def test_what_is_not_alike_is_seen():
    """Negative control of the comparison."""
    assert not alike(Cut("w", np.array([True])), Cut("w", np.array([1])))
    assert not alike(New(Given(np.ones((1, 2)))), New(Given(np.ones(2))))
    assert not alike(replace(SELECT, maps=(GROWN.astype(np.int32), None)), SELECT)
    assert not alike(New(Given(np.nextafter(NUMBERS, 1.0))), New(Given(NUMBERS)))
    assert not alike(Compute("r", ("w",), (("values", (1,)),)), Compute("r", ("w",), (("values", (1.0,)),)))


@WAYS
@pytest.mark.parametrize("key", ["values", "kept", "index", "maps", "scale", "grad", "kind"])
def test_options_of_rules_are_no_arrays_whatever_they_are_called(key, way):
    rule = Compute("rule", ("w",), ((key, (0.5, 2.0)), ("deep", ((1, 2), (3, ("x", None)))), ("flag", True)))
    for transfer in (rule, replace(SELECT, plus=rule), Chain((Step(rule, 1, "w", (2,)),))):
        assert alike(way(transfer), transfer)


@WAYS
def test_what_a_pass_takes_over_from_constant_units_has_such_options(way):
    graph = parse("net n(x: [3]) { return x |> a: dense(4) |> relu |> b: dense(2) }")
    weight = np.ones((4, 3))
    weight[[1, 2]] = 0.0
    params = {"a.weight": weight, "a.bias": np.ones(4), "b.weight": np.ones((2, 4)), "b.bias": np.zeros(2)}
    (plus,) = [
        t.plus
        for t in plan(RemoveDeadUnits("a"), graph, Context(params)).morphism.transfers.values()
        if isinstance(t, Select) and t.plus is not None
    ]
    assert plus.rule in RULES
    assert dict(plus.options)["values"] == (1.0, 1.0)
    assert alike(way(plus), plus)


@WAYS
@given(data=st.data())
def test_transfers_of_random_rewrites_come_back(way, data):
    graph = data.draw(graphs(steps=3))
    morphism = plan(data.draw(rewrites(graph)), graph, Context(seed=3)).morphism
    for transfer in {} if morphism is None else morphism.transfers.values():
        assert alike(way(transfer), transfer)


@WAYS
def test_so_do_those_of_composed_rewrites(way):
    first = plan(GrowUnits("a", 2), GRAPH).morphism
    both = first.then(plan(PruneUnits("a", (0, 5)), first.after).morphism)
    assert any(isinstance(t, Chain) for t in both.transfers.values())
    for transfer in both.transfers.values():
        assert alike(way(transfer), transfer)


def test_arrays_are_written_as_the_caller_says():
    kept = []
    data = transfer_to_json(TRANSFERS["chain that reads"], lambda array: kept.append(array) or len(kept) - 1)
    assert len(kept) == 6, "a map, given numbers and two kinds of factors; entries that stay; given numbers"
    assert alike(transfer_from_json(data, kept.__getitem__), TRANSFERS["chain that reads"])
    other = transfer_from_json(data, lambda i: 0 * kept[i])
    assert not alike(other, TRANSFERS["chain that reads"]), "negative control: of other arrays it is another"


@pytest.mark.parametrize("name", TRANSFERS)
def test_what_is_read_shares_no_memory_with_what_was_written(name):
    kept = []
    data = transfer_to_json(TRANSFERS[name], lambda array: kept.append(array) or len(kept) - 1)
    back = transfer_from_json(data, kept.__getitem__)
    found = []
    transfer_to_json(back, lambda array: found.append(array) or 0)
    assert len(found) == len(kept)
    assert not any(np.shares_memory(one, two) for one, two in zip(found, kept, strict=True))


def test_an_unknown_kind_is_a_bug():
    with pytest.raises(CompilerBug, match="unknown transfer 'stir'"):
        transfer_from_json({"kind": "stir"})


def test_older_forms_are_read():
    data = {k: v for k, v in transfer_to_json(SELECT).items() if k != "drawn"}
    assert alike(transfer_from_json(data), replace(SELECT, drawn="normal"))
    step = transfer_to_json(TRANSFERS["chain"])
    step["steps"] = [s[:4] for s in step["steps"]]
    assert alike(transfer_from_json(step), TRANSFERS["chain"]), "steps that read nothing else"


def test_fills_that_hold_no_array_are_written_plainly():
    for fill in (ONES, XavierUniform(match=True), Sinusoid(units=8)):
        assert alike(transfer_from_json(transfer_to_json(New(fill), None), None), New(fill))
    with pytest.raises(TypeError):
        transfer_to_json(New(Given(NUMBERS)), None)  # negative control
