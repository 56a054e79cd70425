"""What saliencies say by the records of a training pass is what they say of a probe of the same batch."""

import copy

import numpy as np
import pytest
import torch

from irgrow.edits import Impossible
from irgrow.growth import GrowthProgram, Rule, Steps, Where
from irgrow.growth.controller import Controller
from irgrow.network import build
from irgrow.passes import (
    Apoz,
    Context,
    Dormancy,
    Fisher,
    GrowUnits,
    Mismatch,
    PruneGlobally,
    PruneUnits,
    Redundancy,
    Schedule,
    Taylor,
    Variance,
    View,
    read_journal,
    replay,
)
from irgrow.passes.records.activity import similarities
from irgrow.passes.records.gates import Gating
from irgrow.passes.saliency.base import Known, known, scored
from irgrow.probing import probe

SALIENCIES = [Fisher(), Taylor("samples"), Taylor("fan_out"), Taylor("fan_in"), Dormancy(), Apoz(), Variance()]
SALIENCIES += [Redundancy("largest"), Redundancy("norm")]
GRADIENTS = [s for s in SALIENCIES if s.wants_gradients]
DENSE = "net n(x: [3]) { return x |> h: dense(5) |> r: relu |> dense(2) }"
NORMED = "net n(x: [3]) { return x |> h: dense(5) |> batchnorm |> r: relu |> dropout(0.5) |> dense(2) }"
IMAGE, TOKENS = "net n(x: [2, 6, 6]) {{ return x |> {} }}", "net n(x: ids(9)[5]) {{ return x |> {} }}"
CONV = "c: conv(4, kernel = 3, padding = 1) |> relu |> "
PROGRAMS = {
    "dense": (DENSE, "h"),
    "flatten": (IMAGE.format(CONV + "flatten |> dense(3)"), "c"),
    "stream": (
        IMAGE.format(
            CONV + "residual { c2: conv(5, kernel = 1) |> relu |> conv(4, kernel = 1) } |> avgpool |> dense(2)"
        ),
        "c",
    ),
    "concat with itself": ("net n(x: [4]) { h = dense(x, 3)  return concat(h, h) |> dense(2) }", "h"),
    "grouped": (
        IMAGE.format("c: conv(6, kernel = 1) |> g: conv(6, kernel = 3, groups = 3) |> relu |> avgpool |> dense(2)"),
        "g.groups",
    ),
    "heads": (TOKENS.format("embedding(8) |> attn: attention(2, 4) |> avgpool |> dense(2)"), "attn.heads"),
    "layer on itself": ("net n(x: [4]) { h = dense(x, 5)  return h + dense(h, 5) |> relu |> dense(2) }", "h"),
    "masked": (
        "net n(x: [3]) { return x |> h: dense(5, masked = true) |> gelu |> dense(2, masked = true) }",
        "h",
    ),
    "later layer first": (
        "net n(x: [3]) { a = dense(x, 5)  b = dense(x, 5)  rb = relu(b)  ra = relu(a)  return ra + rb |> dense(2) }",
        "a",
    ),
    "tokens mixed": (
        TOKENS.format(
            "embedding(4) |> transpose |> m: dense(7) |> gelu |> dense(5) |> transpose |> avgpool |> dense(2)"
        ),
        "m",
    ),
}

ZEROS = ("dense", "flatten", "stream", "grouped", "later layer first")
"""Programs in which a unit is exactly zero now and then."""


class Pass:
    """A network that records what a saliency asks for in one step, and a batch."""

    def __init__(self, text, axis, saliency, batch=20, seed=1, dtype=torch.float64):
        self.axis, self.saliency = axis, saliency
        self.net = build(text, seed=seed, dtype=dtype)
        self.graph = self.net.graph
        with torch.no_grad():
            for name, value in self.net.params.items():
                if name.endswith(".mask"):
                    value.copy_(torch.arange(value.numel()).reshape(value.shape) % 3 != 1)
        prune = PruneUnits(by=saliency)
        rule = Rule("r", prune, Schedule(1), Steps((1,)), Where((axis,)), require="any")
        self.controller = Controller(self.net, GrowthProgram((rule,)))
        shape, ids = self.graph.shape("x"), self.graph.types["x"].ids
        draw = torch.Generator().manual_seed(seed)
        if ids is None:
            self.x = torch.randn(batch, *shape, generator=draw, dtype=dtype) + 0.3
        else:
            self.x = torch.randint(ids, (batch, *shape), generator=draw)

    def loss(self, y):
        return (y.sin() + 0.3 * y.square()).flatten(1).sum(1).mean()

    def trained(self, *parts):
        """Run these parts of the batch as training does, losses weighted by their share."""
        for part in parts or (slice(None),):
            x = self.x[part]
            (self.loss(self.net(x)) * (len(x) / len(self.x))).backward()
        return self

    @property
    def scores(self):
        """What the records say; `None` where they do not."""
        found = known(self.saliency, self.graph, (self.axis,), self.controller.recorded)
        return scored(found, self.graph, self.axis, Context()) if isinstance(found, Known) else None

    @property
    def probed(self):
        """What a batch run for it says."""
        loss = self.loss if self.saliency.wants_gradients else None
        nodes = self.saliency.needs(self.graph, self.axis)
        found = probe(self.graph, self.net.module, self.net.params, (self.x,), nodes, loss)
        context = Context(self.net.params, 3, found.values, found.gradients, found.signals)
        return scored(self.saliency, self.graph, self.axis, context)


def close(one, two, within=1e-10):
    assert one is not None
    assert np.abs(one - two).max() <= within * np.abs(two).max()


def far(one, two):
    return np.abs(one - two).max() > 0.01 * np.abs(two).max()


@pytest.mark.parametrize("name", PROGRAMS)
@pytest.mark.parametrize("saliency", SALIENCIES, ids=str)
def test_the_training_pass_says_what_a_probe_says(saliency, name):
    run = Pass(*PROGRAMS[name], saliency)
    if saliency == Apoz() and name not in ZEROS:
        with pytest.raises(Impossible, match="counts zeros"):
            _ = run.probed
        assert run.trained().scores is None, "so the probe is asked, and tells"
        return
    wanted = run.probed
    assert run.scores is None, "nothing was recorded yet"
    close(run.trained().scores, wanted)
    assert np.ptp(wanted) > 0.01 * np.abs(wanted).max(), "the units differ"


@pytest.mark.parametrize("saliency", SALIENCIES, ids=str)
@pytest.mark.parametrize("name", ["dense", "later layer first"])
def test_two_passes_before_a_step_are_one_on_the_whole_batch(saliency, name):
    run, whole = Pass(*PROGRAMS[name], saliency), Pass(*PROGRAMS[name], saliency)
    run.trained(slice(0, 6), slice(6, None))
    close(run.scores, whole.trained().scores)
    half = Pass(*PROGRAMS[name], saliency).trained(slice(0, 6))
    assert far(half.scores, whole.scores), "negative control: the first part alone says something else"


@pytest.mark.parametrize("saliency", SALIENCIES, ids=str)
def test_an_empty_batch_says_nothing(saliency):
    run = Pass(DENSE, "h", saliency)
    run.net(run.x[:0]).sum().backward()
    close(run.trained().scores, run.probed)


@pytest.mark.parametrize("saliency", SALIENCIES, ids=str)
def test_what_two_processes_recorded_is_that_of_the_whole_batch(saliency, together):
    one, two, whole = (Pass(DENSE, "h", saliency) for _ in range(3))
    one.x, two.x = one.x[:10], two.x[10:]
    whole.trained()
    records = [run.trained().controller.recorded for run in (one, two)]
    assert records[0].keys() == records[1].keys()
    found = {key: together(records[0][key], records[1][key]) for key in records[0]}
    merged = known(saliency, one.graph, ("h",), found)
    close(scored(merged, one.graph, "h", Context()), whole.scores)
    assert far(one.scores, whole.scores), "negative control: one process says something else"


@pytest.mark.parametrize("saliency", SALIENCIES, ids=str)
def test_under_autocast_statistics_are_of_what_was_computed(saliency):
    """Values in bfloat16 have 8 bits; what is summed of them loses no more."""
    exact = Pass(DENSE, "h", saliency, batch=500)
    run = Pass(DENSE, "h", saliency, batch=500, dtype=torch.float32)
    run.net.load_state_dict({k: v.float() for k, v in exact.net.state_dict().items()})
    run.x = exact.x.float()
    with torch.autocast("cpu", torch.bfloat16):
        run.trained()
    wanted = exact.trained().scores
    assert np.abs(run.scores - wanted).max() <= 0.05 * np.abs(wanted).max()
    for record in run.controller.recorded.values():
        total = getattr(record, "total", None)
        for value in [total] if total is not None else [v.size for v in record.found.values()]:
            assert value.dtype == torch.float64


def test_sums_do_not_swallow_what_is_small():
    """Negative control for the sums: in bfloat16 the mean of 4,000 ones and a small rest would stop growing at 256."""
    run = Pass(DENSE, "h", Dormancy(), batch=4000, dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        run.trained()
        with torch.no_grad():
            values = run.net.module.meta["leaves"]["r"](run.net.module.meta["leaves"]["h"](run.x))
    assert values.dtype == torch.bfloat16
    size = values.double().abs().mean(0).numpy()
    close(run.scores, size / size.mean(), 1e-12)
    total = torch.zeros(5, dtype=torch.bfloat16)
    for row in values.abs():
        total += row
    naive = total.double().numpy() / 4000
    assert np.abs(naive / naive.mean() - run.scores).max() > 0.01


def test_variance_with_a_large_mean_is_not_drowned():
    run = Pass("net n(x: [3]) { return x |> h: dense(5) |> dense(2) }", "h", Variance(), batch=64)
    with torch.no_grad():
        run.net.params["h.bias"] += 1e7
    close(run.trained(slice(0, 10), slice(10, 64)).scores, run.probed, 1e-7)
    (level,) = next(iter(run.controller.recorded.values())).found.values()
    values = run.net.module.meta["leaves"]["h"](run.x).detach()
    naive = (values.square().mean(0) - values.mean(0).square()).numpy()
    right = (level.spread[0] / level.count).numpy()
    assert np.abs(naive - right).max() > 1e-4, "negative control: squares minus the square of the mean"


# what does not count -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("saliency", GRADIENTS, ids=str)
def test_passes_without_a_backward_pass_or_in_evaluation_say_nothing(saliency):
    run = Pass(DENSE, "h", saliency)
    run.net(run.x)
    assert run.scores is None
    run.net.eval()
    run.trained()
    assert run.scores is None
    run.net.train()
    run.net.zero_grad()
    wanted = run.probed
    close(run.trained().scores, wanted)
    run.controller.step(run.x)
    assert run.scores is None, "it belongs to the step"


@pytest.mark.parametrize("saliency", [Dormancy(), Apoz(), Variance()], ids=str)
def test_activity_of_evaluation_says_nothing(saliency):
    run = Pass(DENSE, "h", saliency)
    run.net.eval()
    run.net(run.x)
    assert run.scores is None
    run.net.train()
    close(run.trained().scores, run.probed)


@pytest.mark.parametrize("saliency", [*GRADIENTS, Dormancy()], ids=str)
def test_what_is_not_finite_is_left_to_the_probe(saliency):
    run = Pass(DENSE, "h", saliency)
    with torch.no_grad():
        run.net.params["dense_1.bias" if saliency.wants_gradients else "h.bias"][0] = float("inf")
    run.trained()
    assert run.scores is None


def test_a_frozen_weight_is_left_to_the_probe():
    run = Pass(DENSE, "h", Taylor("fan_in"))
    run.net.params["h.weight"].requires_grad_(False)
    assert run.trained().scores is None


def test_a_scaled_loss_keeps_the_order():
    plain, scaled = Pass(DENSE, "h", Fisher()), Pass(DENSE, "h", Fisher())
    plain.trained()
    (1024.0 * scaled.loss(scaled.net(scaled.x))).backward()
    close(scaled.scores / 1024.0**2, plain.scores)


def test_values_as_training_sees_them():
    """Batch statistics and dropout are those of the training pass; a probe in evaluation mode is something else."""
    run = Pass(NORMED, "h", Dormancy())
    wanted = []
    run.net.module.meta["leaves"]["r"].register_forward_hook(lambda m, i, o: wanted.append(o.detach()))
    run.trained()
    size = wanted[0].abs().mean(0).numpy()
    close(run.scores, size / size.mean())
    assert far(run.scores, run.probed)


@pytest.mark.parametrize("saliency", SALIENCIES, ids=str)
def test_what_a_copy_of_the_module_computes_says_nothing(saliency):
    """Hooks are copied with a module."""
    run = Pass(DENSE, "h", saliency)
    wanted, twin = run.probed, copy.deepcopy(run.net.module)
    run.loss(twin(2.0 * run.x - 1.0)).backward()
    assert run.scores is None
    close(run.trained().scores, wanted)


@pytest.mark.parametrize("saliency", SALIENCIES, ids=str)
def test_what_was_recorded_before_a_state_was_loaded_says_nothing(saliency):
    run = Pass(DENSE, "h", saliency)
    state = copy.deepcopy(run.controller.state())
    run.trained()
    assert run.scores is not None
    run.controller.load(*state)
    assert run.scores is None


@pytest.mark.parametrize("edit", [PruneUnits("h", (0,)), GrowUnits("h", 2)], ids=str)
@pytest.mark.parametrize("saliency", SALIENCIES, ids=str)
def test_after_a_rewrite_by_hand_the_next_pass_is_the_first_that_counts(saliency, edit):
    run = Pass(DENSE, "h", saliency)
    assert run.net.rewrite(edit).applied
    run.trained()
    (receipt,) = run.controller.step(run.x, None, run.loss)
    assert receipt.applied
    assert run.net.journal[-1].used != "records"


def test_gradients_of_the_network_stay_as_they_are():
    run, plain = Pass(DENSE, "h", Fisher()).trained(), build(DENSE, seed=1, dtype=torch.float64)
    run.loss(plain(run.x)).backward()
    for name, value in plain.named_parameters():
        assert torch.equal(run.net.params[name].grad, value.grad)


def test_cosines_are_those_of_the_values():
    run = Pass(*PROGRAMS["stream"], Redundancy())
    parts = []
    for node in run.saliency.needs(run.graph, "c"):
        run.net.module.meta["leaves"][node].register_forward_hook(
            lambda m, i, o: parts.append(o.detach().movedim(1, 0).flatten(1))
        )
    run.trained()
    rows = torch.cat(parts, 1)
    rows = rows / rows.norm(dim=1, keepdim=True)
    torch.testing.assert_close(similarities(run.graph, "c", run.controller.recorded), rows @ rows.T)
    assert len(parts) == 2


def test_dormant_units_have_no_cosine_and_go_first():
    run = Pass(DENSE, "h", Redundancy("norm"))
    with torch.no_grad():
        run.net.params["h.bias"][3] = -100.0
    scores = run.trained().scores
    assert scores[3] == -1.0
    assert not similarities(run.graph, "h", run.controller.recorded)[3].any()
    close(scores, run.probed)


# passes --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("saliency", SALIENCIES, ids=str)
def test_the_same_units_go_and_no_batch_is_run(saliency, monkeypatch):
    run = Pass(DENSE, "h", saliency)
    other = copy.deepcopy(run.net)
    wanted = other.rewrite(PruneUnits("h", by=saliency, count=1), statistics=run.x, loss=run.loss)
    run.trained()
    monkeypatch.setattr("irgrow.transaction.probe", None)
    (receipt,) = run.controller.step(run.x, None, run.loss)
    assert receipt.rewrite == str(PruneUnits("h", by=saliency, count=1))
    assert np.array_equal(receipt.morphism.edits["h"], wanted.morphism.edits["h"])
    assert run.net.journal[-1].used == "records"
    assert other.journal[-1].used != "records"


@pytest.mark.parametrize("saliency", SALIENCIES, ids=str)
def test_layers_that_are_pruned_one_behind_the_other_are_ranked_by_the_same_pass(saliency):
    text = "net n(x: [3]) { return x |> a: dense(5) |> relu |> b: dense(4) |> relu |> dense(2) }"
    net = build(text, seed=1, dtype=torch.float64)
    rule = Rule("r", PruneUnits(by=saliency), Schedule(1), Steps((1,)), require="any")
    controller = Controller(net, GrowthProgram((rule,)))
    x = torch.randn(20, 3, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    net(x).square().mean().backward()
    before = copy.deepcopy(net)
    receipts = controller.step()
    assert [r.sites for r in receipts] == [("a",), ("b",)]
    for (site,), receipt in zip([("a",), ("b",)], receipts, strict=True):
        twin, prune = copy.deepcopy(before), PruneUnits(site, by=saliency, count=1)
        wanted = twin.rewrite(prune, statistics=x, loss=lambda y: y.square().mean()).morphism.edits
        assert receipt.morphism.edits[site].tolist() == wanted[site].tolist()


def test_such_a_rewrite_is_not_replayed(tmp_path):
    run = Pass(DENSE, "h", Fisher()).trained()
    before = run.net.graph
    run.controller.step(run.x)
    run.net.journal.write(tmp_path / "journal.json")
    with pytest.raises(Mismatch, match="it looked at what was recorded in training, which the journal does not hold"):
        list(replay(read_journal(tmp_path / "journal.json"), before))


def test_without_records_the_batch_is_run():
    run = Pass(DENSE, "h", Fisher())
    (receipt,) = run.controller.step(run.x, None, run.loss)
    assert receipt.applied
    assert run.net.journal[-1].used == "gradients"


def test_a_threshold_on_gradients_is_asked_of_a_batch():
    """It is in units of the loss, and a scaler may have scaled what was recorded."""
    run = Pass(DENSE, "h", Fisher()).trained()
    view = View(run.graph, recorded=run.controller.recorded)
    assert PruneUnits("h", by=Fisher(), threshold=0.1).informed(view).used == ""
    assert PruneUnits("h", by=Fisher(), count=1).informed(view).used == "records"
    assert PruneUnits("h", (0,)).informed(view) == PruneUnits("h", (0,))


def test_global_pruning_takes_all_axes_from_records_or_none():
    text = "net n(x: [3]) { return x |> a: dense(5) |> relu |> b: dense(4) |> relu |> dense(2) }"
    net = build(text, seed=1, dtype=torch.float64)
    prune = PruneGlobally(by=Fisher(), count=3)
    rule = Rule("r", PruneGlobally(by=Fisher()), Schedule(3), Steps((1,)), require="any")
    controller = Controller(net, GrowthProgram((rule,)))
    x = torch.randn(20, 3, dtype=torch.float64)
    net(x).square().mean().backward()
    view = View(net.graph, recorded=controller.recorded)
    assert prune.informed(view).used == "records"
    missing = {k: v for k, v in controller.recorded.items() if k != Gating(axis="b").key}
    assert prune.informed(View(net.graph, recorded=missing)) == prune
    wanted = copy.deepcopy(net).rewrite(prune, statistics=x, loss=lambda y: y.square().mean()).morphism.edits
    (receipt,) = controller.step(x)
    assert {a: m.tolist() for a, m in receipt.morphism.edits.items()} == {a: m.tolist() for a, m in wanted.items()}
