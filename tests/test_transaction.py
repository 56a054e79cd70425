"""Refusals, failures half-way, undo, and what must be let go."""

import gc
import weakref

import pytest
import torch
from live import CNN, MLP, batch, step, trained
from torch import nn
from torch.optim.swa_utils import AveragedModel

from irgrow import swap, transaction
from irgrow.errors import CompilerBug, OptionError, ProgramError, RefusedError
from irgrow.fills import ZERO
from irgrow.grammar import parse
from irgrow.invariants import check_invariants
from irgrow.network import build
from irgrow.passes import GrowUnits, InsertLayer, NorthSelect, PruneUnits
from irgrow.probing import Evidence
from irgrow.testing.laws import same_snapshot, snapshot
from irgrow.verdict import Changes, Exact, Refused

# refusals and failures -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "pass_",
    [
        GrowUnits("nope", 1),
        GrowUnits("x", 1),
        GrowUnits("head", 1),
        PruneUnits("a", (99,)),
        PruneUnits("a", tuple(range(8))),
        GrowUnits("a", 1, zero="fan_in"),
        GrowUnits("a", 1, init=NorthSelect()),
        InsertLayer("nope"),
        InsertLayer("a", "dirac"),
    ],
    ids=str,
)
def test_a_refusal_changes_nothing(pass_):
    net, _ = trained()
    before = snapshot(net)
    receipt = net.rewrite(pass_)
    assert isinstance(receipt.verdict, Refused)
    assert receipt.verdict.site is not None
    assert not receipt.applied
    assert same_snapshot(before, snapshot(net)) is None


def test_the_snapshot_notices_changes():
    """Negative control for the test above."""
    net, opt = trained()
    before = snapshot(net)
    opt.state[net.params["a.weight"]]["exp_avg"][0, 0] += 1e-9
    assert same_snapshot(before, snapshot(net)) is not None


def test_only_exact_can_be_required():
    net, _ = trained()
    receipt = net.rewrite(PruneUnits("a", (0,)), require="exact")
    assert isinstance(receipt.verdict, Refused)
    assert "changes the function" in receipt.verdict.reason
    assert net.graph.shape("a") == (8,)
    assert isinstance(net.rewrite(PruneUnits("a", (0,))).verdict, Changes)
    with pytest.raises(OptionError, match="`require` takes any or exact"):
        net.rewrite(PruneUnits("a", (0,)), require="maybe")


def test_an_outstanding_backward_pass_is_refused():
    net, opt = trained()
    loss = net(batch(net)).sum()
    before = snapshot(net)
    with pytest.raises(RefusedError, match="backward pass has not run"):
        net.rewrite(GrowUnits("a", 1))
    assert same_snapshot(before, snapshot(net)) is None
    loss.backward()
    assert net.rewrite(GrowUnits("a", 1)).applied, "the loss is still in scope, its backward pass has run"
    net(batch(net))
    gc.collect()
    assert net.rewrite(GrowUnits("a", 1)).applied, "outputs that were dropped are not waited for"
    with torch.no_grad():
        kept = net(batch(net))
    assert net.rewrite(GrowUnits("a", 1)).applied
    assert kept is not None
    step(net, opt)


def test_a_gradient_that_reaches_an_old_parameter_is_an_error():
    net, _ = trained()
    loss = net.module(batch(net)).sum()
    assert net.rewrite(GrowUnits("a", 1)).applied, "the module was called behind the network's back"
    with pytest.raises(RefusedError, match="as it was before a rewrite"):
        loss.backward()


@pytest.mark.parametrize("stage", ["_replace_in_optimizer", "check_invariants", "_install", "relative_error"])
def test_a_failure_at_any_stage_restores_everything(monkeypatch, stage):
    net, opt = trained(CNN)
    average = AveragedModel(net)
    net.tracked[0].average = average
    before, averaged = snapshot(net), snapshot(average.module)
    holder = transaction if stage == "relative_error" else swap
    real = getattr(holder, stage)
    calls = []

    def failing(*args, **kwargs):
        calls.append(1)
        if stage == "_install" and len(calls) == 1:
            return real(*args, **kwargs)
        if stage in ("_replace_in_optimizer", "_install"):
            real(*args, **kwargs)
        raise RuntimeError("planted")

    monkeypatch.setattr(holder, stage, failing)
    with pytest.raises(RuntimeError, match="planted"):
        net.rewrite(GrowUnits("stem", 2), batch=batch(net))
    monkeypatch.undo()
    assert same_snapshot(before, snapshot(net)) is None
    assert same_snapshot(averaged, snapshot(average.module)) is None
    step(net, opt)


def test_a_wrong_proof_is_caught_by_the_measurement_and_rolled_back(monkeypatch):
    """Plant a pass that claims to be exact by a broken prover; the batch shows it."""
    net, _ = trained()
    before = snapshot(net)
    from irgrow.passes.preservation.prover import Prover

    monkeypatch.setattr(Prover, "verdict", lambda self: Exact())
    with pytest.raises(CompilerBug, match=r"was proved exact and measured .*; it was rolled back"):
        net.rewrite(PruneUnits("a", (0, 1, 2)), batch=batch(net))
    assert same_snapshot(before, snapshot(net)) is None


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("pass_", ["grow_units(h, 2)", "split_units(h)", "duplicate_units(h)"])
def test_outputs_in_which_everything_cancels_are_no_bug(pass_, dtype):
    """What is left of them is rounding, and another order of adding up gives another rounding."""
    net = build("net n(x: [5]) { return x |> h: dense(6) |> tanh |> head: dense(2) }", seed=1, dtype=dtype)
    with torch.no_grad():
        for name in ("h.weight", "h.bias"):
            net.params[name][3:] = net.params[name][:3]
        net.params["head.weight"][:, 3:] = -net.params["head.weight"][:, :3]
        net.params["head.bias"].zero_()
    x = torch.randn(7, 5, dtype=dtype)
    assert float(net(x).detach().abs().max()) < 1e-6
    assert net.rewrite(pass_, batch=x).applied


def test_outputs_that_are_no_numbers_are_a_bug_not_rounding(monkeypatch):
    """A claim of exactness does not hold where finite outputs become nan, or infinite values stand on the way."""
    nothing, one = torch.tensor([float("nan")]), torch.tensor([1.0])
    assert transaction.relative_error(nothing, one) == float("inf")
    assert transaction.relative_error(torch.tensor([float("inf")]), torch.tensor([float("inf")])) == 0.0
    net = build(MLP, seed=1)
    huge = torch.full((2, 6), 3e38)
    net.params["a.weight"].detach().fill_(10.0)
    evidence = Evidence(batch=(huge,))
    assert not transaction._is_rounding(net, evidence, one, 2 * one), "a value on the way is infinite"
    with torch.no_grad():
        net.params["a.weight"][:, 0] = 0
    stamped = torch.randn(2, 6)
    stamped[:, 0] = 1.6e9
    assert not transaction._is_rounding(net, Evidence(batch=(stamped,)), one + 1, one), "inputs are not computed"


@pytest.mark.parametrize(
    ("new", "old", "error"), [([0.0], [0.0], 0.0), ([1e-30], [0.0], float("inf")), ([3.0], [2.0], 0.5)]
)
def test_relative_errors(new, old, error):
    assert transaction.relative_error(torch.tensor(new).double(), torch.tensor(old).double()) == error


def test_passes_as_text_and_their_mistakes():
    net, _ = trained()
    assert net.rewrite("grow_units(a, 2)").applied
    with pytest.raises(ProgramError, match="unknown pass"):
        net.rewrite("gorw_units(a, 2)")


def test_tracking_checks_what_it_is_given():
    net, opt = trained()
    with pytest.raises(OptionError, match="tracked already"):
        net.track(opt)
    with pytest.raises(OptionError, match="none of this network's parameters"):
        net.track(torch.optim.SGD(nn.Linear(2, 2).parameters(), lr=1))
    with pytest.raises(OptionError, match="`carry` takes"):
        net.track(torch.optim.SGD(net.parameters(), lr=1), carry="guess")
    with pytest.raises(RefusedError, match="Adafactor cannot be carried"):
        net.track(torch.optim.Adafactor(net.parameters()))
    with pytest.raises(RefusedError, match="LBFGS cannot be carried"):
        net.track(torch.optim.LBFGS(net.parameters()))


# undo ----------------------------------------------------------------------------------------------------------------


def test_undo_restores_weights_buffers_and_slots_bitwise():
    net, opt = trained(CNN)
    before = snapshot(net)
    for rewrite in (GrowUnits("stem", 3), InsertLayer("relu_1", "dirac"), GrowUnits("c1", 2)):
        assert net.rewrite(rewrite).applied
    for _ in range(3):
        net.undo()
    after = snapshot(net)
    for key in ("objects", "module", "groups"):
        before.pop(key)
    assert same_snapshot(before, after) is None
    step(net, opt)


def test_undoing_what_was_not_trained_yet_is_exact():
    net, opt = trained()
    net.rewrite(GrowUnits("a", 2))
    assert net.undo().verdict == Exact()
    net.rewrite(GrowUnits("a", 2))
    step(net, opt)
    assert isinstance(net.undo().verdict, Changes)


def test_what_was_removed_cannot_be_undone():
    net, _ = trained()
    with pytest.raises(RefusedError, match="nothing to undo"):
        net.undo()
    net.rewrite(PruneUnits("a", (1,)))
    before = snapshot(net)
    with pytest.raises(RefusedError, match="it removed something"):
        net.undo()
    assert same_snapshot(before, snapshot(net)) is None


# resources -----------------------------------------------------------------------------------------------------------


def test_hooks_on_parameters_follow():
    """Those that change gradients, and optimizers that step in the backward pass."""
    net, opt = trained()
    heard = []
    kept = net.params["head.weight"].register_hook(lambda g: heard.append("hook") or torch.zeros_like(g))
    net.params["a.weight"].register_post_accumulate_grad_hook(lambda p: heard.append(tuple(p.shape)))
    net.rewrite(GrowUnits("a", 1))
    net.rewrite(GrowUnits("b", 2))
    before = net.params["head.weight"].clone()
    opt.zero_grad()
    net(batch(net)).square().mean().backward()
    assert sorted(map(str, heard)) == ["(9, 6)", "hook"]
    assert not net.params["head.weight"].grad.any()
    kept.remove()
    step(net, opt)
    assert not torch.equal(net.params["head.weight"], before)
    assert heard.count("hook") == 1, "the handle of its owner goes on working"


def test_a_failed_rewrite_leaves_hooks_alone(monkeypatch):
    net, opt = trained()
    heard = []
    net.params["a.weight"].register_hook(lambda g: heard.append(1))
    monkeypatch.setattr(swap, "check_invariants", lambda *a: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        net.rewrite(GrowUnits("a", 1))
    step(net, opt)
    assert heard == [1]


@pytest.mark.parametrize(
    ("text", "pass_", "name"),
    [
        ("net n(x: [3]) { return x |> c: dense(4) |> d: dense(2) }", "fuse_linear(c)", "d.weight"),
        (
            "net n(x: [3, 4, 4]) { return x |> c: conv(4, kernel = 1) |> bn: batchnorm |> avgpool |> dense(2) }",
            "fold_batch_norm(bn)",
            "c.weight",
        ),
    ],
)
def test_a_gradient_that_cannot_follow_is_told_of(text, pass_, name):
    net = build(text, seed=1).eval()
    assert not net.rewrite(pass_).notes
    net = build(text, seed=1).eval()
    net(torch.randn(2, *net.graph.shape("x"))).square().mean().backward()
    notes = net.rewrite(pass_).notes
    assert any(note.startswith(f"the gradient that waits at `{name}` is gone") for note in notes)


def test_parameters_of_others_have_no_vote_on_the_group_of_a_new_one():
    net = build(MLP, seed=1)
    others = nn.ModuleList(nn.Linear(3, 3) for _ in range(20))
    opt = torch.optim.SGD([{"params": others.parameters(), "lr": 1e-5}, {"params": net.parameters(), "lr": 1e-2}], lr=1)
    net.track(opt)
    net.rewrite(InsertLayer("relu_1"))
    groups = [g["lr"] for g in opt.param_groups for p in g["params"] if p is net.params["relu_1_deep1.layer.weight"]]
    assert groups == [1e-2]


def test_old_modules_and_tensors_are_let_go():
    net, opt = trained()
    module, weight = weakref.ref(net.module), weakref.ref(net.params["a.weight"])
    for i in range(3):
        net.rewrite(GrowUnits("a", 1))
        step(net, opt, i)
    gc.collect()
    assert module() is None
    assert weight() is None


def test_the_same_seed_gives_the_same_network():
    nets = []
    for _ in range(2):
        torch.manual_seed(torch.seed())
        net, opt = trained()
        net.rewrite(GrowUnits("a", 2))
        step(net, opt)
        net.rewrite(GrowUnits("a", 2))
        nets.append(net)
    assert all(torch.equal(a, b) for a, b in zip(nets[0].parameters(), nets[1].parameters(), strict=True))
    rows = nets[0].params["a.weight"][8:]
    assert not torch.equal(rows[:2], rows[2:]), "each rewrite has a seed of its own"


def test_invariants_are_checked():
    net, opt = trained()
    opt.param_groups[0]["params"].append(net.params["a.bias"])
    with pytest.raises(CompilerBug, match="in two parameter groups"):
        check_invariants(net)
    opt.param_groups[0]["params"].pop()
    opt.state[net.params["a.bias"]]["exp_avg"] = torch.zeros(3)
    with pytest.raises(CompilerBug, match="does not have its shape"):
        check_invariants(net)
    net2 = build(MLP)
    net2.params["head.bias"].data = net2.params["b.bias"].data[:3]
    with pytest.raises(CompilerBug, match="share storage"):
        check_invariants(net2)
    assert ZERO.is_zero
    assert parse(MLP).name == "mlp"
