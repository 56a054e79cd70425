"""Growth by the auxiliary gradient, recorded in training and compared with autograd on a real bridge."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from live import CNN, MLP

from irgrow.errors import DataError, OptionError
from irgrow.grammar import parse
from irgrow.growth import GrowthProgram, Rule, Where
from irgrow.growth.controller import Controller
from irgrow.network import build
from irgrow.passes import GradientRank, GrowUnits
from irgrow.passes.analyses.spectrum import singular_values_above
from irgrow.passes.records.bridge import Bridging

NORMED = """
net vgg(x: [2, 8, 8]) {
  return x |> a: conv(6, kernel = 3, padding = 1) |> batchnorm |> relu |> maxpool(2)
    |> b: conv(5, kernel = 3, padding = 1) |> relu |> flatten |> head: dense(3)
}
"""


class Run:
    """A network, its controller and what the trigger is shown, before it is asked."""

    def __init__(self, trigger, text=MLP, dtype=torch.float64, where=("hidden",), size=12):
        self.net = build(text, seed=1, dtype=dtype)
        rule = Rule("r", GrowUnits(), trigger, where=Where(where))
        self.controller = Controller(self.net, GrowthProgram((rule,)))
        self.dtype, self.size = dtype, size

    def batch(self, seed=0):
        shape = self.net.graph.shape(self.net.graph.inputs[0])
        return torch.randn(self.size, *shape, generator=torch.Generator().manual_seed(seed), dtype=self.dtype)

    def backward(self, seed=0, scale=1.0):
        x = self.batch(seed)
        (scale * (self.net(x) - x.flatten(1)[:, :3].sin()).square().mean()).backward()

    def record(self, axis):
        return self.controller.recorded[Bridging(axis=axis).key]

    def wanted(self):
        return {r.sites[0]: r.rewrite for r in self.controller.step(self.batch())}


def reference(net, axis, maker, reader, x, outputs=3):
    """Singular values of the gradient of a real, zero bridge between dense layers, and the gradients of the weights."""
    leaves = net.module.meta["leaves"]
    fan_in, fan_out = leaves[maker].weight.shape[1], leaves[reader].weight.shape[0]
    bridge = torch.zeros(fan_out, fan_in, dtype=torch.float64, requires_grad=True)
    read = []
    hooks = [leaves[maker].register_forward_hook(lambda m, i, o: read.append(i[0]))]
    hooks.append(leaves[reader].register_forward_hook(lambda m, i, o: o + read[-1] @ bridge.T))
    net.zero_grad()
    (net(x) - x.flatten(1)[:, :3].sin()).square().mean().backward()
    for hook in hooks:
        hook.remove()
    w_in, w_out = leaves[maker].weight.grad, leaves[reader].weight.grad
    bound = float(w_in.norm(dim=1).sum() + w_out.norm(dim=0).sum())
    net.zero_grad()
    return bridge.grad, bound


@pytest.mark.parametrize(("axis", "reader"), [("a", "b"), ("b", "head")])
def test_it_is_the_gradient_of_a_real_bridge(axis, reader):
    run = Run(GradientRank(sketch=0))
    run.net.train()
    expected, bound = reference(run.net, axis, axis, reader, run.batch())
    for r in run.controller.recorded.values():
        r.clear()
    run.backward()
    record = run.record(axis)
    torch.testing.assert_close(record.matrix(), expected, rtol=1e-12, atol=1e-16)
    assert record.gradients() == pytest.approx(bound, rel=1e-12)
    singular = torch.linalg.svdvals(expected)
    for factor in (0.02, 0.05, 0.1, 0.3, 1.0):
        again = Run(GradientRank(factor, sketch=0), where=(axis,))
        again.backward()
        count = min(int((singular >= factor * bound).sum()), expected.shape[0])
        found = again.wanted()
        assert (axis in found) == (count > 0)
        assert count == 0 or found[axis] == f"grow_units({axis}, {count})" or count == 1


@pytest.mark.parametrize("text", [MLP, CNN, NORMED], ids=["dense", "residual", "pooled"])
@pytest.mark.parametrize("factor", [0.001, 0.02, 0.1, 0.4, 1.0])
def test_looking_cheaply_first_changes_nothing(text, factor):
    one, two = Run(GradientRank(factor), text), Run(GradientRank(factor, sketch=0), text)
    for run in (one, two):
        run.backward()
    assert one.wanted() == two.wanted()


def test_the_count_is_capped_by_the_outputs_of_the_readers():
    run = Run(GradientRank(1e-9), where=("b",))
    run.backward()
    assert run.record("b").outputs == 3
    assert run.wanted() == {"b": "grow_units(b, 3)"}


@given(st.integers(0, 10**6), st.integers(1, 9), st.integers(1, 9), st.floats(0.01, 4.0), st.booleans())
def test_counting_is_what_an_svd_says(seed, rows, columns, bound, strict):
    matrix = torch.randn(rows, columns, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    singular = torch.linalg.svdvals(matrix)
    if (singular - bound).abs().min() > 1e-7:
        assert singular_values_above(matrix, bound, strict) == int((singular > bound).sum())


def test_ties_count_or_not_as_the_option_says():
    matrix = torch.diag(torch.tensor([3.0, 2.0, 2.0, 1.0, 0.0], dtype=torch.float64))
    assert singular_values_above(matrix, 2.0) == 3
    assert singular_values_above(matrix, 2.0, strict=True) == 1
    assert singular_values_above(matrix, 0.0) == 4, "zeros never count"
    assert singular_values_above(0 * matrix, 0.0) == 0


def test_accumulated_passes_are_summed():
    run = Run(GradientRank())
    run.backward(1)
    one = run.record("a").matrix().clone()
    run.record("a").clear()
    run.backward(2)
    two = run.record("a").matrix().clone()
    fresh = Run(GradientRank())
    fresh.backward(1)
    fresh.backward(2)
    torch.testing.assert_close(fresh.record("a").matrix(), one + two, rtol=1e-12, atol=1e-15)
    grads = {n: p.grad for n, p in fresh.net.named_parameters()}
    bound = grads["a.weight"].norm(dim=1).sum() + grads["b.weight"].norm(dim=0).sum()
    assert fresh.record("a").gradients() == pytest.approx(float(bound), rel=1e-12)
    fresh.controller.step(fresh.batch())
    assert not fresh.record("a").ready, "let go after the step"


def test_gradients_may_be_gone_clipped_or_scaled():
    plain, scaled = Run(GradientRank(0.05)), Run(GradientRank(0.05))
    plain.backward()
    scaled.backward(scale=1024.0)
    assert scaled.record("a").gradients() == pytest.approx(1024 * plain.record("a").gradients(), rel=1e-12)
    torch.nn.utils.clip_grad_norm_(scaled.net.parameters(), 1e-6)
    scaled.net.zero_grad()
    assert scaled.wanted() == plain.wanted() != {}


def test_a_layer_is_asked_in_the_step_in_which_the_one_before_grew():
    run = Run(GradientRank(0.01))
    run.backward()
    assert list(run.wanted()) == ["a", "b"]
    run.net.zero_grad()
    run.backward()
    assert run.record("b").matrix().shape == (3, run.net.graph.widths["a"])


def test_behind_a_flatten_and_on_a_residual_stream():
    run = Run(GradientRank(sketch=0), CNN, where=("editable",))
    run.backward()
    stem = run.record("stem")
    assert [r.node for r in stem.found.routes] == ["c1", "head"]
    assert stem.matrix().shape == (5 * 9 + 3 * 9, 2 * 9)
    grads = {n: p.grad for n, p in run.net.named_parameters()}
    per_unit = grads["c1.weight"].square().sum((0, 2, 3)) + grads["head.weight"].square().reshape(3, 4, 9).sum((0, 2))
    bound = grads["stem.weight"].flatten(1).norm(dim=1).sum() + per_unit.sqrt().sum()
    assert stem.gradients() == pytest.approx(float(bound), rel=1e-12)


@pytest.mark.parametrize("axis", ["a", "b"])
def test_the_estimate_is_right_on_average_and_exact_where_it_need_not_guess(axis):
    run = Run(GradientRank(), NORMED)
    run.backward()
    record = run.record(axis)
    rough, fine = record.estimate(8), record.estimate(4000)
    norm = float(record.matrix().norm())
    assert fine == pytest.approx(norm, rel=0.1)
    assert 0.3 * norm < rough < 3 * norm
    assert record.estimate(8) == norm, "once it is formed nothing is guessed"


@pytest.mark.parametrize("axis", ["a", "b"])
def test_the_estimate_by_outputs_agrees_with_that_by_fan_outs(axis):
    run = Run(GradientRank(), NORMED)
    run.backward()
    record = run.record(axis)
    sums = [record._combined(p, 4000) for p in record.heard]
    assert float(sums[0].norm()) == pytest.approx(record.estimate(4000), rel=0.1)


def test_under_autocast_statistics_are_in_float32_at_least():
    run = Run(GradientRank(sketch=0), NORMED, dtype=torch.float32)
    exact = Run(GradientRank(sketch=0), NORMED, dtype=torch.float32)
    exact.backward()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        x = run.batch()
        loss = (run.net(x) - x.flatten(1)[:, :3].sin()).square().mean()
    loss.backward()
    found, plain = run.record("b").matrix(), exact.record("b").matrix()
    assert found.dtype == torch.float64
    assert (found - plain).norm() < 0.1 * plain.norm()
    assert run.record("b").estimate(8) > 0


def test_statistics_that_are_not_finite_name_the_site_and_change_nothing():
    for sketch in (0, 8):
        run = Run(GradientRank(sketch=sketch))
        before = {n: p.clone() for n, p in run.net.named_parameters()}
        x = run.batch()
        x[0, 0] = float("nan")
        run.net(x).square().mean().backward()
        with pytest.raises(OptionError, match="`gradient_rank` at `a`: .*not finite"):
            run.controller.step(x)
        assert all(torch.equal(p, before[n]) for n, p in run.net.named_parameters())
        run.net.zero_grad()
        run.backward()
        run.controller.step(run.batch())  # the next step starts anew


def test_a_step_that_overflows_in_float16_is_not_asked():
    run = Run(GradientRank(0.01), dtype=torch.float32)
    run.backward()
    record = run.record("a")
    assert record.ready
    record.passes[0].signals["b"] = torch.full((12, 7), float("inf"), dtype=torch.float16)
    assert not record.ready


def test_what_it_cannot_be_asked_about():
    with pytest.raises(OptionError, match="`gradient_rank` at `x`"):
        GradientRank().watches(parse(MLP), "x")
    run = Run(GradientRank())
    with pytest.raises(DataError, match="`r` has nothing to look at"):
        run.wanted()
    run.net(run.batch())
    assert run.wanted() == {}, "no backward pass came"
    net = build(MLP, seed=1)
    net.params["b.weight"].requires_grad_(False)
    controller = Controller(net, GrowthProgram((Rule("r", GrowUnits(), GradientRank()),)))
    net(torch.randn(4, 6))
    with pytest.raises(
        OptionError, match="`gradient_rank` at `a` compares with the gradient of `b.weight`, which is froz"
    ):
        controller.step(torch.randn(4, 6))


def test_dead_units_leave_room_for_every_direction():
    run = Run(GradientRank(), where=("b",))
    with torch.no_grad():
        run.net.params["b.bias"].fill_(-100.0)
    run.backward()
    assert run.record("b").gradients() == 0.0
    assert run.wanted() == {"b": "grow_units(b, 3)"}


def test_the_printed_bridge_kernel_is_an_option():
    text = "net n(x: [2, 8, 8]) { return x |> a: conv(4, kernel = 3, padding = 1) |> relu |> b: conv(5, kernel = 3, padding = 1) |> "
    text += "relu |> flatten |> head: dense(3) }"
    net = build(text, seed=1, dtype=torch.float64)
    rules = (Rule(b, GrowUnits(), GradientRank(borders=b), where=Where(("a",))) for b in ("exact", "kernel"))
    controller = Controller(net, GrowthProgram(tuple(rules)))
    net(torch.randn(3, 2, 8, 8, dtype=torch.float64)).square().sum().backward()
    exact, kernel = (controller.recorded[Bridging(axis="a", borders=b).key] for b in ("exact", "kernel"))
    assert kernel.estimate(4000) == pytest.approx(float(kernel.matrix().norm()), rel=0.1)
    assert not torch.allclose(exact.matrix(), kernel.matrix()), "where the second layer pads"
