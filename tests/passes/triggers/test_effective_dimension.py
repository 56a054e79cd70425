"""The trigger of NORTH*: counts, baselines, roundings and traps of the printed formula."""

import json

import numpy as np
import pytest
import torch

from irgrow.errors import OptionError
from irgrow.grammar import parse
from irgrow.passes import DynoGrow, DynoPrune, EffectiveDimension, View
from irgrow.passes.analyses.spectrum import Gram, effective_rank
from irgrow.passes.records.activity import Activity

GRAPH = parse("net n(x: [9]) { return x |> h: dense(8) |> batchnorm |> r: relu |> dense(3) }")


def gram_of_rank(rank, width=8, samples=64, scale=1.0, seed=0):
    rng = np.random.default_rng(seed)
    q, _ = np.linalg.qr(rng.normal(size=(samples, rank)))
    basis, _ = np.linalg.qr(rng.normal(size=(width, rank)))
    gram = Gram(0)
    gram.add(torch.as_tensor(scale * np.sqrt(samples) * q @ basis.T))
    return gram


def wanted(trigger, ranks, width=8, memory=None):
    memory = {} if memory is None else memory
    graph = parse(str(GRAPH).replace("dense(x, 8)", f"dense(x, {width})"))
    return [trigger.wanted(View(graph, recorded={"r": gram_of_rank(r, width)}), "h", memory) for r in ranks]


def test_it_watches_the_activation_behind_the_layer():
    assert EffectiveDimension(samples=500).watches(GRAPH, "h") == (Activity(500, "r"),)
    with pytest.raises(OptionError, match="needs layers that make units, `x` has none"):
        EffectiveDimension().watches(GRAPH, "x")


def test_rank_above_the_share_of_the_baseline():
    assert wanted(EffectiveDimension(1.0), [4, 4, 6, 3]) == [0, 0, 2, 0]
    assert wanted(EffectiveDimension(0.5), [8, 8]) == [4, 4]


def test_the_printed_floor_stops_small_layers_for_ever():
    """Fully orthogonal layers narrower than 34 never grow with the printed rounding at gamma = 0.97."""
    for width in (1, 8, 33):
        assert wanted(EffectiveDimension(0.97), [width], width) == [1]
        assert wanted(EffectiveDimension(0.97, rounding="floor"), [width], width) == [0]
    assert wanted(EffectiveDimension(0.97, rounding="floor"), [34], 34) == [1]


def test_baselines():
    assert wanted(EffectiveDimension(1.0, baseline="initial"), [2, 6, 4]) == [0, 4, 2]
    assert wanted(EffectiveDimension(1.0, baseline="maximum"), [2, 6, 4, 6]) == [0, 0, 0, 0]
    memory = {}
    trigger = EffectiveDimension(1.0, baseline="last")
    assert wanted(trigger, [2, 4], memory=memory) == [0, 2]
    assert wanted(trigger, [5], 10, memory) == [0], "measured anew at the new width"
    assert wanted(trigger, [6], 10, memory) == [1]
    assert json.loads(json.dumps(memory)) == memory


def test_nothing_is_said_without_enough_columns():
    trigger = EffectiveDimension()
    few = Gram(0)
    few.add(torch.randn(8, 8))
    assert trigger.wanted(View(GRAPH, recorded={"r": few}), "h", {}) == 0
    assert trigger.wanted(View(GRAPH), "h", {}) == 0


def test_activity_that_is_not_finite():
    gram = Gram(0)
    gram.add(torch.full((20, 8), float("nan")))
    with pytest.raises(OptionError, match="not finite"):
        EffectiveDimension().wanted(View(GRAPH, recorded={"r": gram}), "h", {})


def test_epsilon_is_on_singular_values_divided_by_root_n():
    assert effective_rank(gram_of_rank(5, scale=0.011), 0.01) == 5
    assert effective_rank(gram_of_rank(5, scale=0.009), 0.01) == 0


def test_divided_by_the_units_the_rank_rises_with_the_columns():
    """NeurOps divides by the root of the number of units: eight times as many columns, and faint directions count."""
    found = {}
    for scale in ("columns", "neurons"):
        trigger, found[scale] = EffectiveDimension(1.0, scale=scale), []
        for samples in (16, 128):
            view = View(GRAPH, recorded={"r": gram_of_rank(6, samples=samples, scale=0.005)})
            found[scale].append(trigger.measure(view, "h")[1])
    assert found == {"columns": [0, 0], "neurons": [0, 6]}


def test_units_over_positions_are_counted_along_their_own_dimension():
    """A dense layer behind a transpose makes units that are not those of the value."""
    graph = parse("net n(x: ids(7)[3]) { return embedding(x, 5) |> transpose |> h: dense(4) |> r: relu |> dense(2) }")
    (watch,) = EffectiveDimension(samples=64).watches(graph, "h")
    assert watch == Activity(64, "r", "h")
    assert watch.key == "r [h]"
    assert watch.units(graph) >= {"h"}
    gram = watch.record(graph)
    value = torch.randn(40, 5, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    value[..., 3] = value[..., 0]
    gram.add(value)
    assert gram.units == 4
    assert gram.fits(graph)
    view = View(graph, recorded={watch.key: gram})
    assert EffectiveDimension(1.0).wanted(view, "h", {"phi": 0.5, "width": 4}) == 1


GROUPED = (
    "net n(x: [4, 9]) { return x |> a: conv(8, kernel = 3, padding = 1, groups = 4) |> relu |> conv(3, kernel = 1) }"
)


def test_a_unit_of_a_factor_stands_for_several_channels():
    """Of a convolution in groups a unit is one channel in each group: four dimensions wanted are one unit of four."""
    graph = parse(GROUPED)
    (site,) = (name for name in graph.leaves if name.startswith("a.") and graph.widths[name] == 2)
    (watch,) = EffectiveDimension().watches(graph, site)
    for rank, growing, going in ((8, 1, 0), (5, 1, 0), (4, 0, 0), (3, 0, 0), (2, 0, 1)):
        view = View(graph, recorded={watch.key: gram_of_rank(rank)})
        assert EffectiveDimension(1.0).wanted(view, site, {"phi": 0.5, "width": 8}) == growing
        assert DynoGrow(1e-12, cap="none").wanted(view, site, {"phi": 0.5, "width": 8}) == growing
        assert DynoPrune(1e-12).wanted(view, site, {"phi": 6 / 8, "width": 8}) == going, "of 6 dimensions"
    assert DynoPrune(1e-12, baseline=1.0).wanted(View(graph, recorded={watch.key: gram_of_rank(1)}), site, {}) == 1
