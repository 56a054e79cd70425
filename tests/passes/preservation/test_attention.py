"""Attention: heads, head dimensions and rotary pairs."""

import pytest
from helpers import net, resized, verdict, with_op

from irgrow.fills import ZERO, Masked, Normal
from irgrow.passes import Prover
from irgrow.passes.primitives import by_role, resize
from irgrow.verdict import Changes, Exact


def attention(options=""):
    return net(f"embedding(6) |> a: attention(2, 4{options}) |> avgpool |> dense(2)", "x: ids(7)[4]")


@pytest.mark.parametrize("options", ["", ", causal = true", ", kv_heads = 1", ", rotary = true"])
def test_whole_heads(options):
    graph = attention(options)
    atom = "a_DOT_kv_heads" if "kv" in options else "a_DOT_heads"
    size = graph.widths[atom.replace("_DOT_", ".")]
    assert verdict(resized(graph, Normal(1.0), **{atom: [*range(size), -1]})) == Exact()
    assert verdict(resized(graph, **{atom: [*range(size)][::-1]})) == Exact()
    assert isinstance(verdict(resized(graph, **{atom: [*range(size - 1)] or [0, -1]})), Changes) or size == 1


def test_new_entries_of_the_head_dimension_need_zero_queries():
    import numpy as np

    graph = attention()
    edits = {"a.head_dim": np.array([0, 1, 2, 3, -1])}
    free = resize(graph, edits, by_role(Normal(1.0), ZERO))
    prover = Prover(free)
    prover.run()
    assert isinstance(prover.verdict(), Changes)
    assert "gains products over new entries of its head dimension" in prover.verdict().reason
    assert prover.wishes == {"a.query": {4, 9}}
    chosen = {f"a.query.{n}": Masked(Normal(1.0), (4, 9)) for n in ("weight", "bias")}
    assert verdict(resize(graph, edits, by_role(Normal(1.0), ZERO, Normal(1.0), chosen))) == Exact()
    keys = {f"a.key.{n}": ZERO for n in ("weight", "bias")}
    assert verdict(resize(graph, edits, by_role(Normal(1.0), ZERO, Normal(1.0), keys))) == Exact(), (
        "zero keys do as well"
    )
    weight_only = {"a.query.weight": Masked(Normal(1.0), (4, 9))}
    assert isinstance(verdict(resize(graph, edits, by_role(Normal(1.0), ZERO, Normal(1.0), weight_only))), Changes)


def test_the_scale_must_stay():
    import numpy as np

    graph = attention()
    chosen = {f"a.query.{n}": ZERO for n in ("weight", "bias")}
    morphism = resize(graph, {"a.head_dim": np.array([0, 1, 2, 3, -1])}, by_role(Normal(1.0), ZERO, chosen=chosen))
    assert verdict(morphism) == Exact()
    assert isinstance(verdict(with_op(morphism, "a.mix", scale=None)), Changes)


def test_entries_that_go_change_the_products():
    found = verdict(resized(attention(), a_DOT_head_dim=[0, 1, 3]))
    assert "loses part of its head dimension" in found.reason
