"""One rewrite after another as one: bit for bit, for every kind of transfer on either side."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from irgrow.axes import NEW
from irgrow.backends import random_params
from irgrow.fills import ZERO, Given, Normal
from irgrow.grammar import parse
from irgrow.morphism import (
    Chain,
    Compute,
    Cut,
    Gather,
    Keep,
    Morphism,
    New,
    Select,
    predecessor,
    source_of,
)
from irgrow.passes import Context, GrowUnits, PruneUnits, plan
from irgrow.transfer import carried_params
from irgrow.transfer_json import transfer_from_json, transfer_to_json

GRAPH = parse("net n(x: [3]) { return x |> a: dense(5) |> relu |> b: dense(5) |> relu |> c: dense(5) }")
TURN = np.array([4, 2, 0, 1, 3])
GROWN = np.array([0, 1, 2, NEW, 4])
FACTORS = np.array([0.1, 0.7, 1.0 / 3.0, 1.3, 2.1])


def tensors(seed=0, dtype=torch.float64):
    return {n: torch.as_tensor(v).to(dtype) for n, v in random_params(GRAPH, seed).items()}


def rewrite(seed, **transfers):
    """Return a rewrite that keeps the graph and every parameter but those given (`b_weight` for `b.weight`)."""
    named = {name.replace("_", "."): t for name, t in transfers.items()}
    return Morphism(GRAPH, GRAPH, {name: named.get(name, Keep(name)) for name in GRAPH.params}, {}, seed)


def taken(name, m, **rest):
    return Select(name, (None, m), (ZERO, Normal(1.0)), **rest)


REWRITES = {
    "turned": rewrite(1, b_weight=taken("b.weight", TURN), c_weight=taken("c.weight", TURN)),
    "scaled": rewrite(2, b_weight=taken("b.weight", TURN, scale=(None, FACTORS), grad=(None, 1 / FACTORS))),
    "scaled rows": rewrite(3, b_weight=taken("b.weight", None, scale=(FACTORS, None), grad=(FACTORS, None))),
    "drawn": rewrite(4, b_weight=taken("b.weight", GROWN), c_weight=taken("c.weight", GROWN)),
    "parted": rewrite(5, b_weight=taken("b.weight", np.array([0, 0, 1, 1, 1]), noise=(0.0, 0.3))),
    "plus": rewrite(
        6,
        c_bias=Select(
            "c.bias",
            (None,),
            (ZERO,),
            plus=Compute("read_constants", ("b.weight",), (("units", (0, 3)), ("values", (0.5, 2.0)))),
        ),
    ),
    "given": rewrite(7, b_bias=Select("b.bias", (TURN,), (ZERO,), plus=Given(np.arange(5.0)))),
    "cut": rewrite(8, b_weight=Cut("b.weight", np.arange(25).reshape(5, 5) % 3 > 0)),
    "gathered": rewrite(9, b_weight=Gather("b.weight", np.arange(25)[::-1].copy(), (5, 5))),
    "fused": rewrite(10, b_weight=Compute("fuse_weight", ("c.weight", "b.weight"))),
    "fused bias": rewrite(11, b_bias=Compute("scale_rows", ("b.bias", "c.bias"))),
    "swapped": rewrite(
        12, b_weight=Keep("c.weight"), c_weight=Keep("b.weight"), b_bias=Keep("c.bias"), c_bias=Keep("b.bias")
    ),
    "fresh": rewrite(13, b_weight=New(Normal(1.0), 5)),
}


def stepwise(morphisms, old):
    for morphism in morphisms:
        old = carried_params(morphism, old)
    return old


def assert_same(found, wanted):
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        assert torch.equal(found[name], value), name


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("second", REWRITES)
@pytest.mark.parametrize("first", REWRITES)
def test_two_rewrites_are_one_bit_for_bit(first, second, dtype):
    pair = REWRITES[first], REWRITES[second]
    assert_same(carried_params(pair[0].then(pair[1]), tensors(dtype=dtype)), stepwise(pair, tensors(dtype=dtype)))


@pytest.mark.parametrize("seed", range(30))
def test_long_chains_however_they_are_bracketed(seed):
    rng = np.random.default_rng(seed)
    chosen = [list(REWRITES.values())[i] for i in rng.integers(0, len(REWRITES), 10)]
    wanted = stepwise(chosen, tensors(seed))
    left = chosen[0]
    for morphism in chosen[1:]:
        left = left.then(morphism)
    right = chosen[-1]
    for morphism in reversed(chosen[:-1]):
        right = morphism.then(right)
    middle = (chosen[0].then(chosen[1])).then(chosen[2].then(chosen[3].then(chosen[4])))
    for morphism in chosen[5:]:
        middle = middle.then(morphism)
    for morphism in (left, right, middle):
        assert_same(carried_params(morphism, tensors(seed)), wanted)
        assert {predecessor(t) for t in morphism.transfers.values()} - {None} <= set(GRAPH.params)


@pytest.mark.parametrize("first", REWRITES)
def test_what_is_composed_survives_json(first):
    both = REWRITES[first].then(REWRITES["plus"]).then(REWRITES["fused bias"])
    back = {n: transfer_from_json(json.loads(json.dumps(transfer_to_json(t)))) for n, t in both.transfers.items()}
    assert_same(carried_params(replace(both, transfers=back), tensors()), carried_params(both, tensors()))


def test_what_a_bias_takes_over_is_read_where_it_stands_then():
    """The weight that is read was moved by the rewrite before; the old one would give other numbers."""
    both = REWRITES["turned"].then(REWRITES["plus"])
    (step,) = both.transfers["c.bias"].steps
    assert [read.name for read in step.reads] == ["b.weight"]
    forgetful = Chain((replace(step, reads=()),))
    wrong = replace(both, transfers={**both.transfers, "c.bias": forgetful})
    right = stepwise((REWRITES["turned"], REWRITES["plus"]), tensors())["c.bias"]
    assert not torch.allclose(carried_params(wrong, tensors())["c.bias"], right)


def test_where_a_composed_parameter_comes_from():
    fused = REWRITES["swapped"].then(REWRITES["fused"]).then(REWRITES["scaled"]).transfers["b.weight"]
    assert predecessor(fused) == "b.weight"  # named `c.weight` in between
    assert source_of(fused) is None
    moved = REWRITES["swapped"].then(REWRITES["drawn"]).transfers["b.weight"]
    assert (predecessor(moved), source_of(moved)) == ("c.weight", "c.weight")
    fresh = REWRITES["fresh"].then(REWRITES["scaled"]).transfers["b.weight"]
    assert (predecessor(fresh), source_of(fresh)) == (None, None)


def test_what_was_blended_or_scaled_stays_so():
    """Also where only what a rule reads was."""
    for first, blends, scales in (("parted", True, False), ("scaled", False, True), ("turned", False, False)):
        both = REWRITES[first].then(REWRITES["fused"])
        assert (both.blends, both.scales) == (blends, scales), first


def test_joined_is_only_what_rounds_and_draws_nothing_twice():
    def made(first, second):
        return REWRITES[first].then(REWRITES[second]).transfers["b.weight"]

    assert isinstance(made("turned", "turned"), Select)
    assert isinstance(made("turned", "scaled"), Select)
    assert isinstance(made("scaled", "turned"), Select)
    assert isinstance(made("scaled", "scaled rows"), Chain)
    assert isinstance(made("turned", "parted"), Chain)
    assert isinstance(made("turned", "cut"), Chain)
    assert isinstance(made("fused", "turned"), Chain)


def test_joining_factors_would_round_anew(monkeypatch):
    """Negative control: products of factors are not what the factors do one after the other."""
    from irgrow import composing

    monkeypatch.setattr(composing, "_joinable", lambda first, second: True)
    monkeypatch.setattr(
        composing,
        "_either",
        lambda a, b, t, d: b if a is None else a if b is None else b * (a if t.maps[d] is None else a[t.maps[d]]),
    )
    pair = REWRITES["scaled"], REWRITES["scaled"]
    old = tensors(dtype=torch.float32)
    wrong = carried_params(pair[0].then(pair[1]), old)["b.weight"]
    right = stepwise(pair, old)["b.weight"]
    assert torch.allclose(wrong, right)
    assert not torch.equal(wrong, right)


def test_pruning_what_was_grown_reads_nothing_new():
    grown = plan(GrowUnits("a", 2), GRAPH, Context(seed=3)).morphism
    pruned = plan(PruneUnits("a", (5, 6)), grown.after).morphism
    assert_same(carried_params(grown.then(pruned), tensors()), tensors())


def test_notes_of_both_are_kept():
    first = replace(plan(GrowUnits("a", 1), GRAPH, Context(seed=1)).morphism, notes=("one",))
    second = replace(plan(GrowUnits("b", 1), first.after, Context(seed=2)).morphism, notes=("two",))
    assert first.then(second).notes == ("one", "two")
