"""Morphisms: transfers, composition, inverse and JSON."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from irgrow.axes import NEW
from irgrow.backends import random_params
from irgrow.errors import CompilerBug, OptionError
from irgrow.fills import ONES, ZERO, Constant, Given, XavierUniform
from irgrow.grammar import parse
from irgrow.morphism import (
    Gather,
    Keep,
    Morphism,
    Select,
)
from irgrow.passes import Context, GrowUnits, InsertLayer, PruneUnits, plan
from irgrow.testing import graphs, rewrites
from irgrow.transfer import Kind, carried_params, move

NET = "net n(x: [3]) { return x |> a: dense(5) |> relu |> b: dense(4) |> relu |> dense(2) }"


def tensors(graph, seed=0):
    return {n: torch.as_tensor(v) for n, v in random_params(graph, seed).items()}


def select(*maps, fills=None, **rest):
    arrays = tuple(None if m is None else np.array(m, dtype=np.int64) for m in maps)
    return Select("w", arrays, fills or (ZERO,) * len(maps), **rest)


def test_select_gathers_scales_and_fills():
    old = {"w": torch.arange(6.0).reshape(2, 3)}
    new = move(select([1, NEW, 0], None, fills=(Constant(9.0), ZERO)), old, (3, 3), "w", 0)
    assert new.tolist() == [[3, 4, 5], [9, 9, 9], [0, 1, 2]]
    scaled = select([0, 1], None, scale=(np.array([2.0, -1.0]), None), grad=(np.array([3.0, 0.5]), None))
    assert move(scaled, old, (2, 3), "w", 0)[1].tolist() == [-3, -4, -5]
    assert move(scaled, old, (2, 3), "w", 0, Kind.GRADIENT)[0].tolist() == [0, 3, 6]
    assert move(scaled, old, (2, 3), "w", 0, Kind.SQUARE)[0].tolist() == [0, 9, 18]
    assert move(scaled, old, (2, 3), "w", 0, Kind.MAGNITUDE)[1].tolist() == [1.5, 2, 2.5]
    assert move(scaled, old, (2, 3), "w", 0, Kind.FREE).tolist() == old["w"].tolist()


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_given_numbers_of_another_shape_are_an_error_whatever_they_are(value):
    old = {"w": torch.ones(2, 3)}
    fit, unfit = (Given(np.full(shape, value)) for shape in ((1, 3), (1, 4)))
    assert move(select([0, 1, NEW], None, fills=(fit, ZERO)), old, (3, 3), "w", 0)[2].tolist() == [value] * 3
    with pytest.raises(OptionError, match=r"the given values have shape \[1, 4\], the tensor has \[1, 3\]"):
        move(select([0, 1, NEW], None, fills=(unfit, ZERO)), old, (3, 3), "w", 0)
    gather = Gather("w", np.array([0, NEW]), (2,), Given(np.full(3, value)))
    with pytest.raises(OptionError, match="the given values have shape"):
        move(gather, {"w": torch.ones(2)}, (2,), "w", 0)


@pytest.mark.parametrize("scale", [1.0, 1e-25, 1e-14, 1e13, 1e25])
@pytest.mark.parametrize("shape", [(6, 128), (4, 384, 1, 1), (5, 100), (3, 32, 2, 2)])
def test_new_units_have_the_mean_norm_of_the_old_ones_at_any_scale(shape, scale):
    w = torch.randn(shape, generator=torch.Generator().manual_seed(1)) * scale
    w[0] = 0.0
    maps = [[*range(shape[0]), NEW], *[None] * (len(shape) - 1)]
    fills = (XavierUniform(match=True), *[ZERO] * (len(shape) - 1))
    new = move(select(*maps, fills=fills), {"w": w}, (shape[0] + 1, *shape[1:]), "w", 0)
    norms = new.double().flatten(1).norm(dim=1)
    assert norms[-1] == pytest.approx(float(norms[:-1].mean()), rel=1e-6)


def test_zero_wins_where_two_dimensions_are_new():
    old = {"w": torch.ones(2, 2)}
    for fills in ((ONES, ZERO), (ZERO, ONES)):
        new = move(select([0, 1, NEW], [0, 1, NEW], fills=fills), old, (3, 3), "w", 0)
        assert new[2, 2] == 0
        assert new[2, 0] == (1 if fills[0] is ONES else 0)


@given(st.data())
def test_copying_in_blocks_is_gathering(data):
    """The fast path for units that keep their order gives what plain indexing gives."""
    shape = data.draw(st.tuples(st.integers(1, 6), st.integers(1, 6)))
    old = torch.arange(float(shape[0] * shape[1])).reshape(shape)
    maps = [
        np.array(data.draw(st.lists(st.integers(NEW, size - 1), min_size=1, max_size=9)), dtype=np.int64)
        for size in shape
    ]
    new = move(Select("w", tuple(maps), (Constant(-7.0),) * 2), {"w": old}, (len(maps[0]), len(maps[1])), "w", 0)
    for i, row in enumerate(maps[0]):
        for j, column in enumerate(maps[1]):
            expected = -7.0 if NEW in (row, column) else float(old[row, column])
            assert new[i, j] == expected


def test_new_units_match_the_norm_of_the_old():
    old = {"w": torch.randn(6, 40, dtype=torch.float64)}
    new = move(select([*range(6), NEW, NEW], None, fills=(XavierUniform(match=True), ZERO)), old, (8, 40), "w", 3)
    assert new[6:].norm(dim=1) == pytest.approx(float(old["w"].norm(dim=1).mean()), rel=1e-12)


@pytest.mark.parametrize(("dtype", "size"), [(torch.float16, 1e4), (torch.float32, 1e30), (torch.float32, 1e-30)])
@pytest.mark.parametrize("dim", [0, 1])
def test_the_norm_of_the_old_is_added_up_in_float64(dtype, size, dim):
    """In parts, where there are many numbers; their squares would be zero or infinite in their own precision."""
    old = (size * torch.rand(600, 700, generator=torch.Generator().manual_seed(0), dtype=torch.float64)).to(dtype)
    over = old.double().norm(dim=1 - dim).mean()
    maps = [None, None]
    maps[dim] = [*range(old.shape[dim]), NEW, NEW]
    shape = tuple(len(m) if m else n for m, n in zip(maps, old.shape, strict=True))
    fill = XavierUniform(match=True)
    new = move(select(*maps, fills=(fill, fill)), {"w": old}, shape, "w", 3)
    found = new.narrow(dim, old.shape[dim], 2).double().norm(dim=1 - dim)
    assert torch.allclose(found, over.expand(2), rtol=1e-6 if dtype is torch.float32 else 1e-3)


def test_gather_re_indexes():
    old = {"w": torch.arange(4.0)}
    assert move(Gather("w", np.array([3, NEW, 0]), (3,), ONES), old, (3,), "w", 0).tolist() == [3, 1, 0]


def test_a_morphism_covers_every_parameter():
    graph = parse(NET)
    with pytest.raises(CompilerBug, match="every new parameter"):
        Morphism(graph, graph, {})


@given(st.data())
def test_composition_is_doing_one_after_the_other_bitwise(data):
    graph = data.draw(graphs(steps=3))
    first = plan(data.draw(rewrites(graph)), graph, Context(seed=1)).morphism
    if first is None:
        return
    second = plan(data.draw(rewrites(first.after)), first.after, Context(seed=2)).morphism
    if second is None:
        return
    old = tensors(graph)
    stepwise = carried_params(second, carried_params(first, old))
    both = first.then(second)
    assert both.after == second.after
    at_once = carried_params(both, old)
    for name, value in stepwise.items():
        assert torch.equal(value, at_once[name]), name


def test_composition_simplifies_what_it_can():
    graph = parse(NET)
    grown = plan(GrowUnits("a", 2), graph).morphism
    pruned = plan(PruneUnits("a", (5, 6)), grown.after).morphism
    both = grown.then(pruned)
    assert both.after == graph
    assert both.transfers["b.bias"] == Keep("b.bias")
    permuted = plan(PruneUnits("b", (0,)), graph).morphism.then(
        plan(PruneUnits("b", (0,)), plan(PruneUnits("b", (0,)), graph).morphism.after).morphism
    )
    assert isinstance(permuted.transfers["b.weight"], Select)
    assert permuted.transfers["b.weight"].maps[0].tolist() == [2, 3]


def test_composition_needs_matching_ends():
    graph = parse(NET)
    grown = plan(GrowUnits("a", 2), graph).morphism
    with pytest.raises(CompilerBug, match="end to end"):
        grown.then(grown)


@given(st.data())
def test_the_inverse_restores_bitwise(data):
    graph = data.draw(graphs(steps=3))
    morphism = plan(data.draw(rewrites(graph)), graph, Context(seed=3)).morphism
    inverse = morphism and morphism.inverse()
    if inverse is None:
        return
    old = tensors(graph)
    back = carried_params(inverse, carried_params(morphism, old))
    for name, value in old.items():
        assert torch.equal(back[name].to(value.dtype), value), name


def test_removals_have_no_inverse():
    graph = parse(NET)
    assert plan(PruneUnits("a", (1,)), graph).morphism.inverse() is None
    assert plan(InsertLayer("relu_1"), graph).morphism.inverse() is not None


def test_a_morphism_prints_what_it_touches():
    morphism = plan(GrowUnits("a", 2), parse(NET)).morphism
    assert str(morphism).splitlines() == [
        "grow a by 2",
        "  a.weight: from a.weight, dim 0: 5 kept, 2 new (xavier_uniform(gain=1.0, match=True))",
        "  a.bias: from a.bias, dim 0: 5 kept, 2 new (constant(value=0.0))",
        "  b.weight: from b.weight, dim 1: 5 kept, 2 new (constant(value=0.0))",
    ]
