"""Runs: what they leave behind, that they are determined by their seed, and that stopping changes nothing."""

import json

import numpy as np
import pytest
import torch
from small_runs import (
    NET,
    NOISY,
    VARIANTS,
    Act,
    Stop,
    differing,
    events,
    history,
    job,
    trained,
)

from irgrow import checkpoint
from irgrow.grammar import parse_program
from irgrow.training.folder import saved_steps
from irgrow.training.loop import KEPT, Job, Run
from irgrow.training.summary import widths
from irgrow.training.watching import Watcher

# what a run leaves behind --------------------------------------------------------------------------------------------


def test_a_run_leaves_its_program_history_summary_and_checkpoints(tmp_path):
    run, summary = trained(tmp_path)
    assert {p.name for p in tmp_path.iterdir()} == {"program.irg", "checkpoints", "history.jsonl", "summary.json"}
    assert json.loads((tmp_path / "summary.json").read_text()) == summary
    assert run.report.step == run.report.steps == 15


def test_the_program_left_behind_is_the_grown_one_and_can_be_trained_on(tmp_path):
    run, _ = trained(tmp_path / "a")
    program = parse_program((tmp_path / "a" / "program.irg").read_text())
    assert program.graph() == run.net.graph != run.job.graph
    assert program.graph().widths["h"] == 6
    assert program.training == run.job.settings
    assert program.growth == run.job.growth
    again = Run(Job(program.graph(), program.training, program.growth), tmp_path / "b")
    again.run()
    assert again.net.graph.widths["h"] == 9


def test_a_static_program_has_no_growth_section(tmp_path):
    run, summary = trained(tmp_path, growth="")
    program = parse_program((tmp_path / "program.irg").read_text())
    assert program.growth is None
    assert program.graph() == run.job.graph
    assert summary["rewrites"] == 0
    assert {row["event"] for row in history(tmp_path)} == {"start", "epoch"}


def test_the_history_has_a_row_for_the_start_every_epoch_and_every_rewrite(tmp_path):
    run, _ = trained(tmp_path)
    rows = history(tmp_path)
    assert rows == run.history
    assert [(r["event"], r["step"]) for r in rows] == [
        ("start", 0),
        ("rewrite", 4),
        ("epoch", 5),
        ("rewrite", 8),
        ("epoch", 10),
        ("rewrite", 12),
        ("epoch", 15),
    ]
    assert [r["widths"] for r in rows] == [{"h": h, "k": 3} for h in (3, 4, 4, 5, 5, 6, 6)]
    assert rows[0] == {"event": "start", "step": 0, "parameters": 29, "macs": 21, "widths": {"h": 3, "k": 3}}
    assert rows[1] == {
        "event": "rewrite",
        "step": 4,
        "rewrite": "grow_units(h)",
        "verdict": "exact",
        "parameters": 35,
        "macs": 26,
        "widths": {"h": 4, "k": 3},
    }
    assert [r["epoch"] for r in rows if r["event"] == "epoch"] == [1, 2, 3]
    assert all(0 <= r["test_accuracy"] <= 1 for r in rows if r["event"] == "epoch")


def test_the_losses_of_an_epoch_are_means_over_samples(tmp_path):
    seen = []
    run, _ = trained(tmp_path, watcher=Act(lambda run, report: seen.append(report.loss)))
    for i, row in enumerate(events(tmp_path, "epoch")):
        sizes = [8, 8, 8, 8, 4]
        wanted = np.dot(seen[5 * i : 5 * i + 5], sizes) / 36
        assert row["train_loss"] == pytest.approx(wanted, rel=1e-12)
    x, y = map(torch.from_numpy, run.data.test)
    with torch.no_grad():
        outputs = run.net.eval()(x)
    assert row["test_loss"] == pytest.approx(torch.nn.functional.cross_entropy(outputs, y).item(), rel=1e-6)
    assert row["test_accuracy"] == (outputs.argmax(-1) == y).double().mean().item()
    whole, parts = run.evaluate(), run.evaluate(batch=5)
    assert parts == pytest.approx(whole, rel=1e-6)
    assert run.net.training


def test_the_summary_agrees_with_the_history(tmp_path):
    run, summary = trained(tmp_path)
    rows = history(tmp_path)
    assert summary["network"] == "n"
    assert summary["data"] == "spirals(24, noise = 0.1)"
    assert summary["finished"] is True
    assert summary["steps"] == rows[-1]["step"]
    assert summary["rewrites"] == len(events(tmp_path, "rewrite")) == len(run.net.journal) == 3
    for key in ("test_loss", "test_accuracy"):
        assert summary[key] == rows[-1][key]
    for key in ("parameters", "macs"):
        assert summary[key] == {"before": rows[0][key], "after": rows[-1][key]}
    assert summary["widths"] == {"before": rows[0]["widths"], "after": rows[-1]["widths"], "gone": {}}
    assert summary["parameters"]["after"] == sum(p.numel() for p in run.net.parameters())
    assert summary["widths"]["after"] == widths(run.net.graph)
    assert summary["seconds"] >= 0


def test_refused_rewrites_are_in_the_history_once_and_not_counted(tmp_path):
    zero = "grow { rule z { every = 2  when = schedule  apply = grow_units(zero = fan_in)  where = h } }"
    heard = []
    watcher = Stop(None)
    watcher.rewrite = lambda receipt, step: heard.append((receipt.applied, step))
    _, summary = trained(tmp_path, NOISY, zero, watcher=watcher)
    (row,) = events(tmp_path, "refused")
    assert row["step"] == 2
    assert "refused" in row["verdict"]
    assert row["widths"] == {"h": 4, "k": 3}
    assert heard == [(False, 2)]
    assert summary["rewrites"] == 0
    assert summary["widths"]["before"] == summary["widths"]["after"]


def test_the_latest_two_checkpoints_are_kept(tmp_path):
    trained(tmp_path / "a")
    assert [p.name for p in saved_steps(tmp_path / "a")] == ["step-00000010", "step-00000015"]
    trained(tmp_path / "b", save_every=2)
    assert [p.name for p in saved_steps(tmp_path / "b")] == ["step-00000014", "step-00000015"]
    assert {p.name for p in (tmp_path / "b" / "checkpoints").iterdir()} == {"step-00000014", "step-00000015"}
    assert KEPT == 2


def test_a_checkpoint_of_a_run_is_a_checkpoint_of_its_network(tmp_path):
    run, _ = trained(tmp_path)
    net = checkpoint.load(saved_steps(tmp_path)[-1])
    assert net.graph == run.net.graph
    assert all(torch.equal(v, net.params[n]) for n, v in run.net.params.items())


def test_the_picture_comes_with_the_first_epoch(tmp_path):
    _, summary = trained(tmp_path, watcher=Stop(3))
    assert summary is None
    unfinished = json.loads((tmp_path / "summary.json").read_text())
    assert unfinished["picture"] is None
    assert unfinished["test_loss"] is unfinished["test_accuracy"] is None
    assert not (tmp_path / "history.png").exists()
    Run.resume(tmp_path, Stop(5)).run()
    assert json.loads((tmp_path / "summary.json").read_text())["picture"] == "history.png"
    from matplotlib.image import imread

    image = imread(tmp_path / "history.png")
    assert image[..., :3].min() < 0.5 < image[..., :3].max()


def test_a_network_whose_names_start_with_an_underscore_has_a_picture(tmp_path):
    assert trained(tmp_path, NET.replace("h:", "_h:").replace("k:", "_k:"), "")[1]["picture"] == "history.png"


def test_watchers_hear_of_every_step_epoch_and_rewrite(tmp_path):
    heard = []

    class Ear(Watcher):
        def step(self, report):
            heard.append(("step", report.step, report.epoch, dict(report.widths)))

        def rewrite(self, receipt, step):
            heard.append(("rewrite", step, receipt.sites))

        def epoch(self, row):
            heard.append(("epoch", row["step"]))

    trained(tmp_path, watcher=Ear())
    assert [h[1] for h in heard if h[0] == "step"] == list(range(1, 16))
    assert [h[2] for h in heard if h[0] == "step"] == [0] * 5 + [1] * 5 + [2] * 5
    assert heard[3:7] == [
        ("rewrite", 4, ("h",)),
        ("step", 4, 0, {"h": 4, "k": 3}),
        ("step", 5, 0, {"h": 4, "k": 3}),
        ("epoch", 5),
    ]
    assert Watcher().stopping() is False


# a run is determined by its seed -------------------------------------------------------------------------------------


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_same_seed_is_the_same_run_however_often_it_is_saved(tmp_path, whole, saved, variant):
    saved(tmp_path, variant, 15)
    run = Run.resume(tmp_path)
    assert run.report.step == run.report.steps
    run.run()
    assert differing(whole(variant), tmp_path) == []
    grown = len(events(tmp_path, "rewrite"))
    assert grown >= 3 if VARIANTS[variant][1] else grown == 0


@pytest.mark.parametrize("variant", ["adam", "noisy"])
def test_another_seed_is_another_run(tmp_path, whole, variant):
    net, growth, options = VARIANTS[variant]
    trained(tmp_path, net, growth, f"{options}  seed = 1")
    assert {"history.jsonl", "checkpoints/step-00000015/model.safetensors"} <= set(differing(whole(variant), tmp_path))


def test_the_seed_is_in_the_data_the_values_and_the_order(tmp_path):
    first, second = (Run(job(options=f"seed = {i}"), tmp_path) for i in range(2))
    assert not np.array_equal(first.data.test[0], second.data.test[0])
    assert not torch.equal(first.net.params["h.weight"], second.net.params["h.weight"])
    assert not torch.equal(first._order(0), second._order(0))
    assert not torch.equal(first._order(0), first._order(1))
    assert sorted(first._order(0).tolist()) == list(range(36))
