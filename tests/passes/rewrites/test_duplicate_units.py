"""Duplicating units: multiplicities, whole axes under norms, and what is tied to what."""

import numpy as np
import pytest

from irgrow.backends import random_params
from irgrow.grammar import parse, parse_pass
from irgrow.passes import Context, DuplicateUnits, plan
from irgrow.testing import check_pass
from irgrow.testing.numbers import carried, output_error, random_inputs
from irgrow.verdict import Changes, Exact, Refused


def duplicated(text, rewrite, seed=0):
    graph = parse(text)
    params = random_params(graph, seed)
    result = plan(rewrite, graph, Context(params, seed))
    error = None if result.morphism is None else output_error(result.morphism, params, random_inputs(graph, 1))
    return params, result, error


def net(body, shape="x: [3]"):
    return f"net n({shape}) {{ return x |> {body} }}"


@pytest.mark.parametrize("copies", [1, 2, 5])
def test_readers_divide_by_the_multiplicity(copies):
    params, result, error = duplicated(
        net("h: dense(4) |> gelu |> r: dense(2)"), DuplicateUnits("h", (1, 3), copies, 0.0)
    )
    assert isinstance(result.verdict, Refused), "equal copies without noise never separate"
    params, result, error = duplicated(net("h: dense(4) |> gelu |> r: dense(2)"), DuplicateUnits("h", (1, 3), copies))
    assert result.verdict == Exact()
    assert error < 1e-13
    new = carried(result.morphism, params)["r.weight"]
    assert new.shape == (2, 4 + 2 * copies)
    np.testing.assert_allclose(new[:, [1, *range(4, 4 + 2 * copies, 2)]].sum(1), params["r.weight"][:, 1])


@pytest.mark.parametrize("norm", ["layernorm(eps = 0.01)", "rmsnorm(eps = 0.01)"])
@pytest.mark.parametrize("copies", [1, 2])
def test_replicating_a_whole_axis_leaves_norms_as_they_are(norm, copies):
    """Row 19."""
    _, result, error = duplicated(net(f"h: dense(5) |> {norm} |> dense(2)"), DuplicateUnits("h", None, copies))
    assert result.verdict == Exact()
    assert error < 1e-13


def test_replicating_a_part_of_it_does_not():
    """Negative control of the one above."""
    _, result, error = duplicated(
        net("h: dense(5) |> layernorm(eps = 0.01) |> dense(2)"), DuplicateUnits("h", (0, 1, 2))
    )
    assert isinstance(result.verdict, Changes)
    assert error > 1e-3


def test_a_residual_stream_is_replicated_by_all_its_writers():
    text = """net n(x: [3]) {
      return x |> e: dense(5) |> residual { layernorm(eps = 0.01) |> dense(4) |> relu |> dense(5) } |> rmsnorm |> dense(2)
    }"""
    _, result, error = duplicated(text, DuplicateUnits("e"))
    assert result.verdict == Exact()
    assert error < 1e-13
    assert {n for n in result.morphism.touched if n.endswith("weight")} >= {"e.weight", "dense_2.weight"}


def test_group_norm_within_groups():
    body = "h: conv(6, 1) |> gn: groupnorm(3, eps = 0.01) |> relu |> flatten |> dense(2)"
    _, result, error = duplicated(net(body, "x: [2, 3, 3]"), DuplicateUnits("gn.members"))
    assert result.verdict == Exact()
    assert error < 1e-13


def test_heads_are_copied_whole():
    text = """import std.transformer
    net n(t: ids(7)[4]) {
      axis d = 6
      return t |> e: embedding(d) |> attention(heads = 2, head_dim = 3) |> layernorm |> dense(3)
    }"""
    graph = parse(text)
    heads = next(a for a in graph.leaves if "heads" in a)
    _, result, error = duplicated(text, DuplicateUnits(heads, (1,)))
    assert result.verdict == Exact()
    assert error < 1e-12


def test_both_parts_of_a_concatenation():
    text = """net n(x: [3]) {
      a = x |> dense(2) |> tanh
      b = x |> dense(3) |> tanh
      return concat(a, b) |> c: layernorm(eps = 0.01) |> dense(2)
    }"""
    _, result, error = duplicated(text, DuplicateUnits("c"))
    assert result.verdict == Exact()
    assert error < 1e-13


@pytest.mark.parametrize("text", ["duplicate_units(h)", "duplicate_units(h, [0, 2], 3, noise = 0.5)"])
def test_text(text):
    assert str(parse_pass(text)) == text


def test_laws():
    check_pass(DuplicateUnits)
