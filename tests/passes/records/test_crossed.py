"""What training said across an axis is what a probe of the same batch says, and growing by it is the same growth."""

import copy
import weakref
from dataclasses import replace

import pytest
import torch
from bridges import WAYS

from irgrow.growth import GrowthProgram, Limit, Rule, Where
from irgrow.growth.controller import Controller
from irgrow.network import build
from irgrow.passes import GradMax, GrowFirefly, GrowUnits, Magnitude, Nest, PruneUnits, Schedule
from irgrow.passes.analyses.bridge import bridge, needed
from irgrow.passes.analyses.lanes import lender
from irgrow.passes.records.crossed import Crossings
from irgrow.probing import probe

DENSE = "net n(x: [6]) { return x |> h: dense(5) |> tanh |> y: dense(7) |> tanh |> dense(2) }"
CONV = (
    "net n(x: [2, 6, 6]) { return x |> h: conv(4, kernel = 3, padding = 1) |> silu |> y: conv(5, kernel = 3) |> tanh "
    "|> avgpool |> dense(2) }"
)
STREAM = (
    "net n(x: [6]) { return x |> h: dense(5) |> residual { tanh |> a: dense(3) |> tanh |> b: dense(5) } "
    "|> y: dense(2) }"
)
DROPPED = DENSE.replace("|> y:", "|> dropout(0.5) |> y:")
PROGRAMS = {"dense": (DENSE, "h"), "convolution": (CONV, "h"), "stream": (STREAM, "h"), **WAYS}
PASSES = {
    "gradmax": (GrowUnits(init=GradMax()), "dense"),
    "gradmax of convolutions": (GrowUnits(init=GradMax("kernel")), "convolution"),
    "gradmax on a stream": (GrowUnits(init=GradMax()), "stream"),
    "gradmax with biases": (GrowUnits(init=GradMax(bias=True)), "dense"),
    "gradmax of heads": (GrowUnits(init=GradMax()), "heads"),
    "gradmax behind a gate": (GrowUnits(init=GradMax()), "swiglu"),
    "nest": (GrowUnits(init=Nest()), "dense"),
    "firefly": (GrowFirefly(candidates=9), "dense"),
    "firefly of convolutions": (GrowFirefly(candidates=9, by="both"), "convolution"),
    "firefly on a stream": (GrowFirefly(candidates=9, by="both"), "stream"),
}


def loss(y):
    return ((y - 0.3).square() * torch.tensor([1.0, -2.0], dtype=y.dtype)).sum(1).mean()


class Run:
    """A network whose optimizer takes no steps, so that what was said in training still holds when a rule is asked."""

    def __init__(self, text, axis, apply=None, seed=1, dtype=torch.float64):
        self.axis, self.dtype = axis, dtype
        self.net = build(text, seed=seed, dtype=dtype)
        rule = Rule("r", apply or GrowFirefly(), Schedule(2), where=Where((axis,)), require="any")
        self.controller = Controller(self.net, GrowthProgram((rule,)))

    def batch(self, seed=0, size=7):
        shape = self.net.graph.shape("x")
        return torch.randn(size, *shape, generator=torch.Generator().manual_seed(seed)).to(self.dtype)

    def record(self, weights=False):
        return self.controller.recorded[Crossings(axis=self.axis, weights=weights).key]

    def said(self, weights=False):
        return self.record(weights).said(self.net.graph)

    def probed(self, x):
        net = copy.deepcopy(self.net)
        return probe(net.graph, net.module, net.params, (x,), needed(net.graph, self.axis), loss)


@pytest.mark.parametrize("name", PROGRAMS)
def test_it_is_what_a_probe_says(name):
    run = Run(*PROGRAMS[name], GrowUnits(init=GradMax()))
    run.net.train()
    x = run.batch()
    wanted = run.probed(x)
    loss(run.net(x)).backward()
    said = run.said()
    assert said.signals.keys() | said.values.keys() == set(needed(run.net.graph, run.axis))
    for node, signal in said.signals.items():
        torch.testing.assert_close(signal, wanted.signals[node], rtol=1e-11, atol=1e-14)
    for node, value in said.values.items():
        if value.shape == wanted.values[node].shape:  # of a copied gate the one unit that lends it is enough
            torch.testing.assert_close(value, wanted.values[node], rtol=1e-11, atol=1e-14)
    assert said.gradients is None


@pytest.mark.parametrize("name", ["dense", "convolution", "stream"])
def test_gradients_of_weights_are_those_before_a_loop_clips_them(name):
    run = Run(*PROGRAMS[name])
    x = run.batch()
    wanted = run.probed(x)
    loss(run.net(x)).backward()
    torch.nn.utils.clip_grad_norm_(run.net.parameters(), 1e-3)
    said = run.said(weights=True)
    assert set(said.gradients) == {"h.weight", "y.weight", *(["a.weight"] if name == "stream" else [])}
    for weight, gradient in said.gradients.items():
        torch.testing.assert_close(gradient, wanted.gradients[weight], rtol=1e-11, atol=1e-14)


def test_passes_before_a_step_are_put_together():
    run = Run(DENSE, "h")
    x = run.batch()
    wanted = run.probed(x)
    for part in (x[:3], x[3:]):
        (loss(run.net(part)) * len(part) / len(x)).backward()
    said = run.said(weights=True)
    torch.testing.assert_close(said.signals["y"], wanted.signals["y"], rtol=1e-11, atol=1e-14)
    torch.testing.assert_close(said.values["x"], x)
    torch.testing.assert_close(said.gradients["h.weight"], wanted.gradients["h.weight"], rtol=1e-11, atol=1e-14)


@pytest.mark.parametrize("text", [DENSE, DENSE.replace("x: [6]", "x: [2, 3]").replace("x |>", "x |> flatten |>")])
def test_a_loop_may_fill_the_same_tensor_for_every_pass(text):
    run = Run(text, "h")
    x = run.batch(size=8)
    wanted, kept = run.probed(x), torch.empty_like(x[:4])
    for part in (x[:4], x[4:]):
        (loss(run.net(kept.copy_(part))) / 2).backward()
    (source,) = run.said(weights=True).values
    torch.testing.assert_close(run.said(weights=True).values[source], wanted.values[source], rtol=0, atol=0)


@pytest.mark.parametrize("name", PASSES)
@pytest.mark.parametrize("size", [1, 7])
def test_rules_grow_by_it_as_by_a_probe_of_the_batch(name, size):
    apply, program = PASSES[name]
    run = Run(*PROGRAMS[program], apply)
    by_hand, x = copy.deepcopy(run.net), run.batch(size=size)
    loss(run.net(x)).backward()
    (receipt,) = run.controller.step(x)
    wanted = by_hand.rewrite(apply.at(run.axis, 2), statistics=x, loss=loss, step=1)
    assert receipt.applied == wanted.applied == (run.net.graph.widths != build(PROGRAMS[program][0]).graph.widths)
    assert str(receipt.verdict) == str(wanted.verdict)
    if receipt.applied:
        assert run.net.journal[-1].used == "records"
        assert by_hand.journal[-1].used == "gradients"
        for param, value in run.net.params.items():
            torch.testing.assert_close(value, by_hand.params[param], rtol=1e-9, atol=1e-12)


def test_most_of_them_do_grow():
    """The comparison is not one of refusals only."""
    for apply, program in PASSES.values():
        run = Run(*PROGRAMS[program], apply)
        x = run.batch()
        loss(run.net(x)).backward()
        assert run.controller.step(x)[0].applied


def test_what_is_said_is_of_the_pass_that_trains():
    """Negative control: with dropout a probe, in evaluation mode, says something else."""
    run = Run(DROPPED, "h", GrowUnits(init=GradMax()))
    x = run.batch()
    wanted = run.probed(x)
    loss(run.net(x)).backward()
    assert (run.said().signals["y"] - wanted.signals["y"]).abs().max() > 1e-3


@pytest.mark.parametrize("name", ["no backward pass", "not a number", "frozen", "other lengths", "nothing ran"])
def test_where_it_is_not_enough_the_batch_is_run(name):
    run = Run(DENSE, "h")
    x = run.batch()
    if name == "frozen":
        run.net.params["y.weight"].requires_grad_(False)
        run.controller._attach()
    if name == "no backward pass":
        run.net(x)
    elif name == "not a number":
        bad = x.clone()
        bad[0, 0] = float("nan")
        loss(run.net(bad)).backward()
    elif name == "other lengths":
        for size in (3, 4):
            loss(run.net(run.batch(size=size))).backward()
        first = run.record(weights=True).passes[0]
        first.read = first.read[:, :5]
    elif name == "frozen":
        loss(run.net(x)).backward()
    assert run.said(weights=True) is None
    with torch.no_grad():
        (receipt,) = run.controller.step(x)
    assert "needs gradients on a batch" in receipt.verdict.reason


def test_a_layer_that_reads_more_by_now_is_looked_at_anew():
    """The layer before grew in the same step: what was recorded is of fewer values than the layer reads now."""
    text = DENSE.replace("x |> h:", "x |> g: dense(3) |> tanh |> h:")
    first = Rule("first", GrowUnits(), Schedule(1, total=1), where=Where(("g",)))
    then = Rule("then", GrowUnits(init=GradMax()), Schedule(1, total=1), where=Where(("h",)))
    net = build(text, seed=1, dtype=torch.float64)
    controller = Controller(net, GrowthProgram((first, then)))
    x = torch.randn(7, 6, dtype=torch.float64)
    loss(net(x)).backward()
    one, two = controller.step(x, criterion=loss)
    assert one.applied
    assert two.applied
    assert net.journal[-1].used == "gradients"


def test_rules_that_prune_elsewhere_do_not_disturb_it():
    first = Rule("first", PruneUnits(by=Magnitude()), Schedule(1, total=1), where=Where(("z",)), require="any")
    then = Rule("then", GrowUnits(init=GradMax()), Schedule(1, total=1), where=Where(("h",)))
    net = build(DENSE.replace("|> dense(2)", "|> z: dense(4) |> tanh |> dense(2)"), seed=1, dtype=torch.float64)
    controller = Controller(net, GrowthProgram((first, then)))
    x = torch.randn(7, 6, dtype=torch.float64)
    loss(net(x)).backward()
    assert [receipt.applied for receipt in controller.step(x)] == [True, True]
    assert net.journal[-1].used == "records"
    assert not controller.recorded[Crossings(axis="h").key].passes, "it is let go after the step"


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_under_autocast(dtype):
    run = Run(DENSE, "h", GrowUnits(init=GradMax()), dtype=torch.float32)
    x = run.batch()
    with torch.autocast("cpu", dtype):
        value = loss(run.net(x))
    (value * 64).backward()
    (receipt,) = run.controller.step(x)
    assert str(receipt.verdict) == "exact"
    assert run.net.journal[-1].used == "records"
    assert run.net.params["h.weight"].dtype == torch.float32


def test_it_is_let_go_after_the_step_even_if_a_loop_keeps_its_losses():
    run = Run(DENSE, "h", GrowUnits(init=GradMax()))
    x, kept, refs = run.batch(), [], []
    for _ in range(3):
        kept.append(loss(run.net(x)))
        kept[-1].backward()
        (heard,) = run.record().passes
        refs += [weakref.ref(heard.read), weakref.ref(heard.signals["y"])]
        del heard
        assert all(ref() is not None for ref in refs[-2:])
        run.controller.step(x)
        assert [ref() for ref in refs] == [None] * len(refs)


def test_a_gradient_penalty_counts_by_what_the_loss_says():
    """What `autograd.grad` asks on the way goes through the same values, but it is not the gradient of the loss."""
    run = Run(DENSE, "h")
    x, outputs = run.batch().requires_grad_(), []
    handle = run.net.module.meta["leaves"]["y"].register_forward_hook(lambda m, i, y: outputs.append(y))
    y = run.net(x)
    handle.remove()
    (by_inputs,) = torch.autograd.grad(y.sum(), x, create_graph=True)
    total = loss(y) + (by_inputs.norm(dim=1) - 1).square().mean()
    (wanted,) = torch.autograd.grad(total, outputs, retain_graph=True)
    assert not run.record(weights=True).ready, "negative control: nothing was said yet"
    total.backward()
    torch.testing.assert_close(run.said(weights=True).signals["y"], wanted, rtol=1e-11, atol=1e-14)


def test_a_backward_pass_that_can_be_differentiated_counts_once():
    run = Run(DENSE, "h")
    x, weights = run.batch(), list(run.net.parameters())
    wanted = run.probed(x)
    total = loss(run.net(x))
    with pytest.warns(UserWarning, match="create_graph"):
        total.backward(create_graph=True)
    gradients = [w.grad for w in weights]
    torch.autograd.grad(gradients, weights, [torch.ones_like(g) for g in gradients])  # as for a curvature
    said = run.said(weights=True)
    torch.testing.assert_close(said.signals["y"], wanted.signals["y"], rtol=1e-11, atol=1e-14)
    for weight in weights:
        weight.grad = None


def test_units_that_go_and_come_before_the_layer_are_others():
    """As many as before, but what was recorded is of those that were there."""
    text = DENSE.replace("x |> h:", "x |> g: dense(4) |> tanh |> h:")
    less = Rule("less", PruneUnits(by=Magnitude()), Schedule(1, total=1), where=Where(("g",)), require="any")
    more = Rule("more", GrowUnits(), Schedule(1, total=1), where=Where(("g",)))
    then = Rule("then", GrowUnits(init=Nest()), Schedule(1, total=1), where=Where(("h",)), require="any")
    net = build(text, seed=1, dtype=torch.float64)
    controller = Controller(net, GrowthProgram((less, more, then)))
    x = torch.randn(7, 6, dtype=torch.float64)
    loss(net(x)).backward()
    assert [r.applied for r in controller.step(x, criterion=loss)] == [True] * 3
    assert net.graph.widths["g"] == 4
    assert net.journal[-1].used == "gradients"


@pytest.mark.parametrize("other", [False, True], ids=["the same unit", "another unit"])
def test_a_factor_is_borrowed_of_the_unit_that_still_lends_it(other):
    run = Run(*WAYS["swiglu"], GrowUnits(init=GradMax()))
    x = run.batch()
    loss(run.net(x)).backward()
    ((_, layer),) = bridge(run.net.graph, "h").borrowed
    unit = int(lender(run.net.graph, layer, run.net.params))
    with torch.no_grad():  # a step of an optimizer
        run.net.params[f"{layer}.weight"][(unit + other) % 5] *= 50
    (receipt,) = run.controller.step(x, criterion=loss)
    assert receipt.applied
    assert run.net.journal[-1].used == ("gradients" if other else "records")


@pytest.mark.parametrize("criterion", [None, loss], ids=["waits", "with a criterion"])
def test_a_layer_waits_while_the_one_before_it_grows_unless_there_is_a_criterion(criterion):
    rules = [Rule(n, GrowUnits(init=GradMax()), Schedule(1), where=Where((n,)), order="sites") for n in ("y", "h")]
    rules[1] = replace(rules[1], limit=(Limit("width", 7),))
    net = build(DENSE, seed=1, dtype=torch.float64)
    controller, widths = Controller(net, GrowthProgram(tuple(rules))), []
    for seed in range(3):
        net.zero_grad()
        x = torch.randn(7, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
        loss(net(x)).backward()
        controller.step(x, criterion=criterion)
        widths.append((net.graph.widths["h"], net.graph.widths["y"]))
    assert widths == ([(6, 8), (7, 9), (7, 10)] if criterion else [(6, 7), (7, 7), (7, 8)])
