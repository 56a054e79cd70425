"""DYNO: pruning and growing in one loop, with dimensions measured anew right after every change."""

import json

import pytest
import torch
from loops import Training, same_state

from irgrow.growth import DynoBundle, DynoSftBundle, EverySteps, GrowthProgram, Rule, Where
from irgrow.growth.controller import following
from irgrow.passes import DynoGrow, EffectiveDimension, GrowUnits, Schedule

NET = "net n(x: [6]) { return x |> a: dense(12) |> tanh |> b: dense(10) |> tanh |> head: dense(3) }"
NORMED = (
    "net n(x: [6]) { return x |> a: dense(8) |> batchnorm |> tanh |> dropout(0.3) |> b: dense(7) |> tanh |> dense(3) }"
)


def dimension(run, node, epsilon):
    """Return the share of dimensions that the units of a node use on the latest batches, by singular values."""
    values = []
    leaf = run.net.module.meta["leaves"][node]
    hook = leaf.register_forward_hook(lambda m, i, o: values.append(o.detach()))
    with torch.no_grad():
        for (x,) in run.controller.recent:
            run.net(x)
    hook.remove()
    columns = torch.cat(values)
    return int((torch.linalg.svdvals(columns / len(columns) ** 0.5) > epsilon).sum()) / columns.shape[1]


def redundant(run, units):
    """Make the first units of `a` copies of one another, their sum read as before."""
    with torch.no_grad():
        for name in ("a.weight", "a.bias"):
            run.net.params[name][1:units] = run.net.params[name][0]


def test_layers_lose_what_is_alike_and_dormant_units_first():
    run = Training(DynoBundle(delta=0.05, epsilon=1e-4, every=5, least=2, saturated=False).program(), NET, size=64).run(
        5
    )
    assert not run.receipts, "the first look is what later ones are compared with"
    redundant(run, 5)
    with torch.no_grad():
        for name, unit in (("a.weight", 7), ("a.bias", 7), ("b.weight", (slice(None), 7))):
            p = run.net.params[name]
            for value in (p, run.optimizer.state[p]["exp_avg"]):
                value[unit] = 0.0
    kept = run.net.params["a.weight"].detach().clone()
    while not run.receipts:
        run.step()
        redundant(run, 5)
    receipt = run.receipts[0]
    assert receipt.rewrite.startswith("prune_units(a, by = redundancy(norm)")
    (units,) = receipt.morphism.edits.values()
    gone = sorted(set(range(12)) - set(units.tolist()))
    assert 7 in gone, "the dormant one"
    assert set(gone) - {7} < set(range(5)), "and copies"
    assert len(kept) - len(gone) == run.widths["a"]


@pytest.mark.parametrize("text", [NET, NORMED], ids=["plain", "batch norm and dropout"])
def test_the_dimension_after_a_change_is_measured_at_once(text):
    grow = Rule("grow", GrowUnits(), Schedule(2, total=2), every=EverySteps(9))
    look = Rule("look", GrowUnits(), DynoGrow(epsilon=0.05), every=EverySteps(1000))
    torch.manual_seed(0)
    unseen, random = Training(GrowthProgram((grow,)), text, size=40).run(9), torch.get_rng_state()
    torch.manual_seed(0)
    run = Training(GrowthProgram((grow, look)), text, size=40).run(9)
    assert torch.equal(random, torch.get_rng_state())
    assert same_state(run.net, unseen.net), "running again is no step of training"
    for site in ("a", "b"):
        memory = run.controller.memory[f"look: {site}"]
        if text is NET:
            node = {"a": "tanh_1", "b": "tanh_2"}[site]
            assert memory["phi"] == dimension(run, node, 0.05)
        assert memory["width"] == run.widths[site]
    gram = next(iter(run.controller.recorded.values()))
    assert gram.count == 40 * 9


def test_records_of_what_follows_are_made_anew_and_of_what_precedes_are_kept():
    program = GrowthProgram(
        (
            Rule(
                "shrink",
                DynoBundle().program().rules[0].apply,
                Schedule(1, total=1),
                EverySteps(6),
                require="any",
                where=Where(("b",)),
            ),
            Rule("look", GrowUnits(), EffectiveDimension(baseline="last", epsilon=0.05), every=EverySteps(1000)),
        )
    )
    run = Training(program, NET.replace("head: dense(3)", "c: dense(5) |> tanh |> head: dense(3)"), size=16).run(5)
    records = {k: r.total.clone() for k, r in run.controller.recorded.items()}
    run.step()
    assert any(r.applied for r in run.receipts)
    grams = run.controller.recorded
    assert "phi" in run.controller.memory["look: b"]
    assert "phi" not in run.controller.memory.get("look: a", {}), "it did not change"
    assert grams["tanh_2"].units == 9
    reached = following(run.net.graph, {"b"})
    assert {"b", "tanh_2", "c", "tanh_3", "head"} <= reached
    assert not {"a", "tanh_1"} & reached
    assert records["tanh_3"].shape == grams["tanh_3"].total.shape
    assert dimension(run, "tanh_3", 0.05) == dimension_of(grams["tanh_3"], 0.05)


def dimension_of(gram, epsilon):
    return int((torch.linalg.eigvalsh(gram.mean) > epsilon**2).sum()) / gram.units


def test_growing_starts_from_what_pruning_left():
    """Both rules agree on what the dimension was after the last change (A20)."""
    run = Training(DynoBundle(delta=0.05, epsilon=1e-3, every=4).program(), NET, size=64)
    for _ in range(60):
        run.step()
        for site in ("a", "b"):
            memories = [run.controller.memory.get(f"dyno_{what}: {site}") for what in ("prune", "grow")]
            if all(memories):
                assert memories[0]["phi"] == memories[1]["phi"]


def test_the_least_width_is_kept():
    run = Training(DynoBundle(delta=0.05, epsilon=1e-3, every=3, least=9).program(), NET, size=64).run(3)
    for _ in range(30):
        run.step()
        redundant(run, min(8, run.widths["a"]))
    assert run.widths["a"] >= 9
    assert any(r.applied for r in run.receipts)


@pytest.mark.parametrize("bundle", [DynoBundle, DynoSftBundle])
def test_it_goes_on_bit_for_bit(bundle):
    run = Training(bundle(delta=0.02, epsilon=0.05, every=4).program(), NET, size=24).run(18)
    state, tensors = run.controller.state()
    other = run.rebuilt(json.loads(json.dumps(state)), {k: v.clone() for k, v in tensors.items()})
    run.receipts, run.losses = [], []
    run.run(20)
    other.run(20)
    assert run.rewrites == other.rewrites
    assert run.losses == other.losses
    assert same_state(run.net, other.net)


def test_a_saturated_layer_grows_only_with_the_cap():
    """A layer above 1 / (1 + delta) of its dimensions could never grow by the text (A18)."""
    for cap, grown in (("saturated", True), ("none", False)):
        rule = Rule("grow", GrowUnits(), DynoGrow(epsilon=1e-9, cap=cap), EverySteps(4))
        run = Training(GrowthProgram((rule,)), NET.replace("dense(12)", "dense(5)"), size=64).run(8)
        assert (run.widths["a"] > 5) == grown


def test_what_was_remembered_before_is_not_kept_beside_what_is_loaded():
    run = Training(DynoBundle().program(), NET, size=24).run(3)
    state, tensors = run.controller.state()
    run.controller.load(state, tensors)
    assert len(run.controller.recent) == 3
