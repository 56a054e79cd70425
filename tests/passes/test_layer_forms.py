"""The larger forms of new layers: transformer blocks, and batch norms that undo themselves."""

import numpy as np
import pytest

from irgrow.backends import interpret, random_params
from irgrow.grammar import parse
from irgrow.passes import Context, GrowUnits, InsertLayer, plan
from irgrow.testing import assert_preserves
from irgrow.testing.laws import LAWS, Case
from irgrow.testing.numbers import output_error, random_inputs
from irgrow.verdict import Exact, Refused

TOKENS = "net n(x: ids(9)[5]) { return x |> e: embedding(6) |> a: relu |> avgpool |> dense(2) }"
STREAM = "net n(x: ids(9)[5]) { return x |> e: embedding(6) |> a: layernorm(eps = 0.01) |> avgpool |> dense(2) }"
PLACES = {
    "images": parse(
        "net n(x: [2, 5, 6]) { return x |> conv(3, kernel = 3) |> a: relu |> maxpool(2) |> flatten |> dense(3) }"
    ),
    "vectors": parse("net n(x: [4]) { return x |> dense(5) |> a: relu |> dense(2) }"),
    "tokens": parse(TOKENS),
    "signals": parse("net n(x: [2, 9]) { return x |> conv(3, kernel = 3) |> a: relu |> flatten |> dense(2) }"),
    "groups": parse(
        "net n(x: [4, 5, 3]) { return x |> conv(6, kernel = 3, groups = 2) |> a: relu |> flatten |> dense(2) }"
    ),
}


# blocks --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("norm_first", [True, False])
@pytest.mark.parametrize(("heads", "norm"), [(None, None), (2, "rmsnorm"), (3, "layernorm"), (6, "rmsnorm")])
def test_transformer_blocks(heads, norm, norm_first):
    """Rows 31 and 32: exact whatever stands before, pre-norm or post-norm, causal or not."""
    for text, causal in ((TOKENS, False), (STREAM, True)):
        rewrite = InsertLayer("a", "block", norm=norm, heads=heads, hidden=2, causal=causal, norm_first=norm_first)
        case = Case(parse(text), rewrite, 1, 1 if causal else 3)
        assert case.plan().verdict == Exact()
        for law in LAWS:
            law(case)


def test_blocks_are_made_of_what_was_asked_for():
    graph = parse(STREAM)
    after = plan(InsertLayer("a", "block", "silu", heads=3, hidden=5, causal=True), graph).morphism.after
    assert after["a_deep1.attn.mix"].op.causal
    assert after.size(after.signatures["a_deep1.attn.mix"].axes["heads"]) == 3
    assert after.shape("a_deep1.up") == (5, 30)
    assert after["a_deep1.act"].op.function == "silu"
    assert after["a_deep1.norm2"].inputs == ("a_deep1.add1",)
    post = plan(InsertLayer("a", "block", norm_first=False), graph).morphism.after
    assert post["a_deep1.attn.query"].inputs == ("a",)
    assert post["a_deep1.norm2"].inputs == ("a_deep1.add2",)
    assert post["a_deep1.gate"].inputs == ("a_deep1.norm2",)


def test_blocks_grow_like_any_other():
    grown = plan(InsertLayer("a", "block", heads=2), parse(STREAM)).morphism.after
    for axis in ("a_deep1.attn.mix.heads", "a_deep1.up", "a_deep1.attn.mix.value_dim"):
        assert_preserves(grown, GrowUnits(axis, 1))


# batch norms ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["identity", "dirac"])
@pytest.mark.parametrize("place", ["images", "signals", "vectors", "groups"])
def test_batch_norms_undo_themselves_in_evaluation_only(form, place):
    """Net2DeeperNet: gain and shift from the statistics of the batch; in training only that batch sees no difference."""
    if form == "dirac" and place == "vectors":
        return
    case = Case(PLACES[place], InsertLayer("a", form, norm="batchnorm"), 3, 5)
    result = case.plan()
    assert result.verdict == Exact("eval")
    assert output_error(result.morphism, case.params, case.inputs) < 1e-10
    assert output_error(result.morphism, case.params, case.inputs, training=True) < 1e-10, "the batch it was made from"
    other = random_inputs(case.graph, 99, 5)
    assert output_error(result.morphism, case.params, other) < 1e-10
    assert output_error(result.morphism, case.params, other, training=True) > 1e-3, "why it is not exact in training"
    for law in LAWS:
        law(case)


def test_batch_norms_need_a_batch():
    verdict = plan(InsertLayer("a", norm="batchnorm"), PLACES["images"]).verdict
    assert isinstance(verdict, Refused)
    assert "needs the values of `a` on a batch" in verdict.reason
    values = {"a": np.full((2, 4, 6, 6), np.nan)}
    context = Context(random_params(PLACES["images"], 0), statistics=values)
    assert "not finite" in plan(InsertLayer("a", norm="batchnorm"), PLACES["images"], context).verdict.reason


def test_batch_norms_of_units_that_are_always_zero():
    graph = parse("net n(x: [3]) { return x |> h: dense(4) |> a: relu |> dense(2) }")
    params = random_params(graph, 0)
    params["h.weight"][1], params["h.bias"][1] = 0.0, -1.0
    inputs = random_inputs(graph, 0)
    context = Context(params, statistics={"a": interpret(graph, params, inputs).values["a"]})
    result = plan(InsertLayer("a", norm="batchnorm"), graph, context)
    assert result.verdict == Exact("eval")
    assert output_error(result.morphism, params, inputs) < 1e-10


@pytest.mark.parametrize(
    ("place", "norm"),
    [("images", "batchnorm"), ("signals", "batchnorm"), ("vectors", "batchnorm"), ("vectors", "layernorm"),
     ("tokens", "rmsnorm"), ("tokens", "layernorm")],
)  # fmt: skip
def test_norms_inside_a_zero_branch_change_nothing_in_any_mode(place, norm):
    case = Case(PLACES[place], InsertLayer("a", "residual", norm=norm), 3, 4)
    assert case.plan().verdict == Exact()
    for law in LAWS:
        law(case)
