"""The rank of weights, against singular values."""

import json
from math import floor

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from irgrow.errors import OptionError
from irgrow.grammar import parse
from irgrow.network import build
from irgrow.passes import View, WeightRank
from irgrow.passes.analyses.spectrum import rank_of

DENSE = "net n(x: [9]) { return x |> h: dense(8) |> relu |> dense(3) }"
CONV = "net n(x: [2, 5, 5]) { return x |> h: conv(7, kernel = 3) |> relu |> conv(3, kernel = 1) }"
MASKED = "net n(x: [9]) { return x |> h: dense(8, masked = true) |> relu |> dense(3) }"


def looked(trigger, text=DENSE, change=None, memory=None, site="h"):
    net = build(text, seed=1, dtype=torch.float64)
    with torch.no_grad():
        if change:
            change(net.params)
    return trigger.wanted(View(net.graph, params=net.params), site, {} if memory is None else memory)


@given(st.integers(0, 10**6), st.integers(1, 20), st.integers(1, 20), st.floats(0.01, 2.0))
def test_the_rank_is_what_an_svd_says(seed, rows, columns, epsilon):
    rng = np.random.default_rng(seed)
    w = rng.normal(size=(rows, columns)) * rng.uniform(0, 2, columns)
    singular = np.linalg.svd(w / np.sqrt(columns), compute_uv=False)
    if np.abs(singular - epsilon).min() > 1e-9:
        assert rank_of(torch.as_tensor(w), epsilon) == int((singular > epsilon).sum())


def test_ties_count_together():
    w = 0.5 * torch.eye(6, 9, dtype=torch.float64) * 3.0  # all singular values of w / sqrt(9) are 0.5
    assert rank_of(w, 0.5 - 1e-9) == 6
    assert rank_of(w, 0.5 + 1e-9) == 0
    assert rank_of(torch.zeros(4, 0), 0.1) == 0


def low_rank(params):
    params["h.weight"][5:] = params["h.weight"][:3]


def test_equal_rows_count_once():
    memory = {}
    assert looked(WeightRank(1.0), memory=memory) == 0
    assert memory["phi"] == 1.0
    assert looked(WeightRank(1.0), change=low_rank, memory=memory) == 0
    assert memory["count"] == 5
    assert looked(WeightRank(0.5), change=low_rank) == 5 - floor(0.5 * 5)


def test_convolutions_are_flattened_to_one_row_per_unit():
    memory = {}
    looked(WeightRank(epsilon=0.05), CONV, memory=memory)
    w = build(CONV, seed=1, dtype=torch.float64).params["h.weight"].detach().numpy().reshape(7, 18)
    assert memory["count"] == int((np.linalg.svd(w / np.sqrt(18), compute_uv=False) > 0.05).sum()) == 7


def test_masked_weights_count_as_masked_and_the_bias_does_not():
    memory = {}

    def change(params):
        params["h.mask"][3:] = 0.0
        params["h.bias"].copy_(torch.arange(8))

    looked(WeightRank(), MASKED, change, memory)
    assert memory["count"] == 3


def test_more_units_than_fan_in_do_not_grow():
    memory = {}
    wide = "net n(x: [3]) { return x |> h: dense(8) |> relu |> dense(3) }"
    assert looked(WeightRank(1.0), wide, memory=memory) == 0
    assert memory["count"] == 3
    assert memory["phi"] == 3 / 8


def test_roundings_and_baselines():
    text = DENSE
    assert looked(WeightRank(0.99), text) == 1
    assert looked(WeightRank(0.99, rounding="floor"), text) == 0, "the printed form stops layers narrower than 100"
    memory = {}
    looked(WeightRank(1.0, baseline="maximum"), change=low_rank, memory=memory)
    assert looked(WeightRank(1.0, baseline="maximum"), memory=memory) == 0
    memory = {}
    looked(WeightRank(1.0), change=low_rank, memory=memory)
    assert looked(WeightRank(1.0), memory=json.loads(json.dumps(memory))) == 3


def test_the_units_of_heads_are_rows_taken_together():
    graph = parse("net n(x: [6, 5]) { return x |> transpose |> attention(heads = 2, head_dim = 3) }")
    site = next(n for n in graph.leaves if n.endswith("head_dim"))
    params = {n: torch.randn(s, dtype=torch.float64) for n, s in graph.param_shapes.items()}
    memory = {}
    WeightRank(epsilon=1e-6).wanted(View(graph, params=params), site, memory)
    assert memory["width"] == graph.widths[site]
    assert memory["count"] == graph.widths[site]


def test_what_cannot_be_asked():
    with pytest.raises(OptionError, match="`x` has none"):
        WeightRank().watches(parse(DENSE), "x")
    with pytest.raises(OptionError, match="weights of `h` are not finite"):
        looked(WeightRank(), change=lambda p: p["h.weight"].fill_(float("nan")))
    assert WeightRank().watches(parse(DENSE), "h") == ()
