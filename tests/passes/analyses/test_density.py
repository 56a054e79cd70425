"""Density: counting synapses, and sharing a density out among weights."""

import numpy as np
import pytest
import torch

from irgrow.grammar import parse
from irgrow.network import build
from irgrow.passes import PruneEdges
from irgrow.passes.analyses.density import density, entries, erdos_renyi_kernel, maskable, share, split

CNN = """
net cnn(x: [2, 6, 6]) {
  return x |> c: conv(4, kernel = 3, padding = 1) |> relu |> d: depthwise(3, padding = 1) |> relu
    |> g: conv(6, kernel = 1, groups = 2) |> flatten |> h: dense(5, masked = true) |> relu |> dense(3)
}
"""


def test_every_weight_that_can_be_masked_is_counted_once():
    graph = parse(CNN)
    found = {s.weight: (s.nodes, s.shape, s.mask) for s in maskable(graph)}
    assert found == {
        "c.weight": (("c",), (4, 2, 3, 3), None),
        "d.weight": (("d",), (4, 1, 3, 3), None),
        "g.weight": (("g",), (6, 2, 1, 1), None),
        "h.weight": (("h",), (5, 216), "h.mask"),
        "dense_1.weight": (("dense_1",), (3, 5), None),
    }


def test_tied_weights_are_one_if_all_uses_can_share_a_mask():
    tied = parse("net n(x: [4]) { return x |> a: dense(4) |> relu |> b: dense(4, tied = a) |> dense(2) }")
    assert [s.nodes for s in maskable(tied)] == [("a", "b"), ("dense_1",)]
    embedded = parse("net n(x: ids(7)[3]) { return x |> e: embedding(4) |> h: dense(4) |> head: dense(7, tied = e) }")
    assert [s.weight for s in maskable(embedded)] == ["h.weight"]
    different = parse(
        "net n(x: [4]) { return x |> a: dense(4, masked = true) |> relu |> b: dense(4, tied = a) |> dense(2) }"
    )
    assert [s.weight for s in maskable(different)] == ["dense_1.weight"]


def test_density_counts_what_is_on():
    net = build(CNN, dtype=torch.float64)
    assert density(net.graph, net.params).density == 1.0
    net.params["h.mask"][1:, ::2] = 0
    found = density(net.graph, net.params)
    assert (found.weights["h.weight"].on, found.weights["h.weight"].size) == (5 * 216 - 4 * 108, 1080)
    assert found.on == found.size - 432
    assert found.size == sum(net.params[s.weight].numel() for s in maskable(net.graph))
    net.rewrite(PruneEdges("c", count=7))
    assert density(net.graph, net.params).weights["c.weight"].on == 72 - 7
    assert str(found).splitlines()[3] == "h.weight              648 of     1,080   60.00%"


def test_a_graph_without_weights_has_no_density():
    found = density(parse("net n(x: [4]) { return x |> relu }"), {})
    assert (found.on, found.size, found.density) == (0, 0, 0.0)


def test_erdos_renyi_by_hand():
    """Two layers of 10 x 10 and 5 x 5: scales 20/100 and 10/25, so e = 0.5 * 125 / (20 + 10)."""
    e = 62.5 / 30
    assert erdos_renyi_kernel([(10, 10), (5, 5)], 0.5) == pytest.approx((0.2 * e, 0.4 * e))


def test_the_kernel_counts_in_the_scale():
    """(16, 8, 3, 3): (16 + 8 + 3 + 3) / 1152; (10, 16): 26 / 160."""
    a, b = 30 / 1152, 26 / 160
    e = 0.1 * (1152 + 160) / (30 + 26)
    assert erdos_renyi_kernel([(16, 8, 3, 3), (10, 16)], 0.1) == pytest.approx((a * e, b * e))


def test_what_is_above_one_is_shared_out_again():
    """The scales are 0.02, 0.4 and 2.

    e = 0.5 * 10026 / (200 + 10 + 2) = 23.6 would give the last two 9.5 and 47; they are full, and the first gets the
    rest, (5013 - 26) / 10000.
    """
    shapes = [(100, 100), (5, 5), (1, 1)]
    assert erdos_renyi_kernel(shapes, 0.5) == pytest.approx((4987 / 10000, 1.0, 1.0))


def test_a_second_round_can_fill_a_weight_that_the_first_did_not():
    shapes = [(100, 100), (3, 60), (5, 5)]
    scales = [sum(s) / np.prod(s) for s in shapes]
    first = 0.9 * 10205 / (200 + 63 + 10)
    assert first * scales[1] > 1
    assert first * scales[0] < 1
    found = erdos_renyi_kernel(shapes, 0.9)
    assert found[1:] == (1.0, 1.0)
    assert found[0] == pytest.approx((0.9 * 10205 - 205) / 10000)


@pytest.mark.parametrize("wanted", [0.01, 0.1, 0.37, 0.5, 0.9, 0.999, 1.0])
def test_the_total_is_the_density_asked_for(wanted):
    shapes = [(64, 3, 7, 7), (64, 1, 3, 3), (128, 64, 1), (10, 128), (2, 2)]
    sizes = np.array([np.prod(s) for s in shapes])
    found = np.array(erdos_renyi_kernel(shapes, wanted))
    assert (found * sizes).sum() == pytest.approx(wanted * sizes.sum())
    assert found.max() <= 1.0
    below = found < 1
    scales = np.array([sum(s) for s in shapes]) / sizes
    assert np.ptp((found / scales)[below]) < 1e-12 if below.any() else wanted == 1.0


def test_fractions_are_rounded_down_and_densities_up():
    assert [share(100, 0.29), share(10, 0.3), share(3, 0.99), share(3, 1.0)] == [29, 3, 2, 3]
    assert [entries(10, 0.25), entries(3, 0.01), entries(7, 1.0)] == [3, 1, 7]


@pytest.mark.parametrize("count", range(14))
def test_a_number_is_split_in_proportion_and_never_beyond(count):
    sizes = [7, 0, 5, 1]
    parts = split(count, sizes)
    assert sum(parts) == count
    assert all(p <= s for p, s in zip(parts, sizes, strict=True))
    assert all(abs(p - count * s / 13) < 1 for p, s in zip(parts, sizes, strict=True))
