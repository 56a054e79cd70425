"""`irgrow train` runs a program's sections in a folder; an interrupted run goes on as if nothing had happened."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import pytest
import torch

from irgrow import load
from irgrow.grammar import read_program

RUN = "from irgrow.cli import main; main()"
NET = "net spiral(x: [2], w = 4) { return x |> h1: dense(w) |> tanh |> h2: dense(3) |> tanh |> head: dense(2) }\n"
GROW = """
grow {
  rule more {
    every = 4
    when = schedule
    apply = grow_units
    where = hidden
    limit = width <= 6
  }
}
"""
TRAIN = "train { data = spirals(points = 40)  epochs = 2  batch = 16  seed = 1 }\n"
KEYS = {
    "network",
    "data",
    "finished",
    "steps",
    "rewrites",
    "test_loss",
    "test_accuracy",
    "parameters",
    "macs",
    "widths",
    "seconds",
    "picture",
}


@pytest.fixture
def net(write):
    return write(NET + GROW + TRAIN)


def last(run):
    return sorted((run / "checkpoints").iterdir())[-1]


def weights(run):
    return (last(run) / "model.safetensors").read_bytes()


def history(run):
    return [json.loads(line) for line in (run / "history.jsonl").read_text().splitlines()]


def summary(run):
    found = json.loads((run / "summary.json").read_text())
    found.pop("seconds")
    return found


# what a run leaves ---------------------------------------------------------------------------------------------------


def test_a_run_leaves_its_folder(folder, fine, net):
    fine("train", net, "--out", "run")
    run = folder / "run"
    names = ["checkpoints", "history.jsonl", "history.png", "program.irg", "summary.json"]
    assert sorted(os.listdir(run)) == names
    assert (run / "history.png").read_bytes().startswith(b"\x89PNG")
    assert sorted(os.listdir(run / "checkpoints")) == ["step-00000004", "step-00000008"]
    assert sorted(os.listdir(folder)) == ["net.irg", "run"]


def test_the_grown_program_is_that_of_the_last_checkpoint(folder, fine, net):
    fine("train", net, "--out", "run")
    program = read_program(folder / "run" / "program.irg")
    assert program.graph() == load(last(folder / "run")).graph
    assert program.graph().widths["h1"] == 6
    assert program.growth == read_program(net).growth
    assert program.training == read_program(net).training


def test_the_history_has_a_line_for_every_epoch_and_rewrite(folder, fine, net):
    fine("train", net, "--out", "run")
    rows = history(folder / "run")
    assert [row["event"] for row in rows] == ["start", "rewrite", "rewrite", "epoch", "rewrite", "rewrite", "epoch"]
    assert rows[1]["verdict"] == "exact"
    assert rows[-1]["widths"] == {"h1": 6, "h2": 5}


def test_the_summary_is_printed_as_json(folder, irgrow, net):
    answer = irgrow("train", net, "--out", "run", "--json")
    found = json.loads(answer.out)
    assert (answer.code, answer.err) == (0, "")
    assert set(found) == KEYS
    assert found == json.loads((folder / "run" / "summary.json").read_text())
    assert (found["network"], found["finished"], found["steps"], found["rewrites"]) == ("spiral", True, 8, 4)
    assert found["widths"] == {"before": {"h1": 4, "h2": 3}, "after": {"h1": 6, "h2": 5}}


def test_the_result_is_printed_and_progress_beside_it(irgrow, net):
    answer = irgrow("train", net, "--out", "run")
    assert answer.code == 0
    assert answer.out.startswith("spiral: test accuracy ")
    assert "widths: h1 4 -> 6, h2 3 -> 5\n8 steps, 4 rewrites, " in answer.out
    assert "step 4: grow_units(h1): exact\n" in answer.err
    assert "epoch 2: loss " in answer.err


def test_without_a_folder_runs_are_numbered(folder, fine, net):
    for _ in range(2):
        fine("train", net, "--epochs", "1")
    assert sorted(os.listdir(folder / "runs")) == ["spiral-1", "spiral-2"]


def test_an_empty_folder_will_do(folder, fine, net):
    (folder / "run").mkdir()
    fine("train", net, "--out", "run", "--epochs", "1")


def test_a_network_that_does_not_grow_is_trained_too(folder, fine, write):
    fine("train", write(NET + TRAIN), "--out", "run")
    assert summary(folder / "run")["rewrites"] == 0


def test_values_are_learned_too(folder, fine, write):
    import numpy as np

    x = np.random.default_rng(0).normal(size=(40, 2)).astype(np.float32)
    np.savez(folder / "data.npz", x=x, y=x.sum(1))
    net = "net sums(x: [2]) { return x |> h: dense(4) |> tanh |> head: dense(1) }\n"
    out = fine("train", write(net + 'train { data = npz("data.npz")  loss = mse  epochs = 1 }'), "--out", "run")
    assert out.startswith("sums: test loss ")
    assert summary(folder / "run")["test_accuracy"] is None


# options -------------------------------------------------------------------------------------------------------------


def test_options_go_before_the_program(folder, fine, net):
    fine("train", net, "--out", "run", "--epochs", "1", "--seed", "7", "--precision", "float64")
    settings = read_program(folder / "run" / "program.irg").training
    assert (settings.epochs, settings.seed, settings.precision, settings.batch) == (1, 7, "float64", 16)
    assert load(last(folder / "run")).params["h1.weight"].dtype == torch.float64
    assert summary(folder / "run")["steps"] == 4


def test_the_same_seed_gives_the_same_run_and_another_another(folder, fine, net):
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        fine("train", net, "--out", name, "--epochs", "1", "--seed", seed)
    assert weights(folder / "a") == weights(folder / "b")
    assert weights(folder / "a") != weights(folder / "c")


def test_bf16_computes_in_bf16_and_keeps_float32(folder, fine, net):
    fine("train", net, "--out", "run", "--precision", "bf16")
    fine("train", net, "--out", "full")
    assert load(last(folder / "run")).params["h1.weight"].dtype == torch.float32
    assert weights(folder / "run") != weights(folder / "full")


def test_settings_reach_the_net(folder, fine, net):
    fine("train", net, "--out", "run", "--set", "w=5", "--epochs", "1")
    assert summary(folder / "run")["widths"]["before"]["h1"] == 5


def test_saving_more_often_changes_nothing_but_the_checkpoints(folder, fine, net):
    fine("train", net, "--out", "a")
    fine("train", net, "--out", "b", "--save-every", "3")
    assert sorted(os.listdir(folder / "b" / "checkpoints")) == ["step-00000006", "step-00000008"]
    assert weights(folder / "a") == weights(folder / "b")


# mistakes ------------------------------------------------------------------------------------------------------------


def test_a_folder_with_something_in_it_is_refused(folder, mistake, net):
    (folder / "run").mkdir()
    (folder / "run" / "thesis.tex").write_text("precious")
    assert "run is not empty" in mistake("train", net, "--out", "run")


def test_a_program_without_a_train_section_is_refused(mistake, write):
    assert "net.irg has no `train` section" in mistake("train", write(NET + GROW), "--out", "run")


@pytest.mark.parametrize("device", ["cuda", "cuda:1", "gpu", "mps", "meta"])
def test_a_device_that_is_not_there_is_refused(mistake, net, monkeypatch, device):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert device.split(":")[0] in mistake("train", net, "--out", "run", "--device", device)


def test_an_unknown_precision_is_refused(mistake, net):
    assert "`precision` takes one of float32, float64, bf16, found int8" in mistake("train", net, "--precision", "int8")


@pytest.mark.parametrize("options", [("--epochs", "0"), ("--seed", "-1"), ("--save-every", "-1")], ids=" ".join)
def test_numbers_out_of_range_are_refused(folder, irgrow, net, options):
    answer = irgrow("train", net, *options)
    assert answer.code == 2
    assert options[0] in answer.err
    assert os.listdir(folder) == ["net.irg"]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("[2]", "[3]", "[3]"),
        ("dense(2)", "dense(1)", "1"),
        ("spirals(points = 40)", 'npz("gone.npz")', "gone.npz: no such file"),
        ("spirals(points = 40)", "digits", "[2]"),
    ],
    ids=["inputs", "classes", "file", "data"],
)
def test_data_that_does_not_fit_is_refused(mistake, write, old, new, message):
    assert message in mistake("train", write((NET + TRAIN).replace(old, new)), "--out", "run")


def test_a_loss_that_explodes_is_one_message(irgrow, write):
    text = NET + TRAIN.replace("batch = 16", "batch = 16  loss = cross_entropy  optimizer = sgd(lr = 1e38)")
    answer = irgrow("train", write(text), "--out", "run")
    assert answer.code == 2
    assert "error: the loss of step " in answer.err


def test_something_to_train_is_needed(mistake):
    assert "a program to train is needed, or --resume FOLDER" in mistake("train")


# going on ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def done(folder, fine, net):
    fine("train", net, "--out", "run")
    return folder / "run"


def test_a_finished_run_goes_on_to_nothing(fine, done):
    before = weights(done), history(done), summary(done)
    fine("train", "--resume", "run")
    assert (weights(done), history(done), summary(done)) == before


def test_a_run_goes_on_from_its_first_checkpoint(fine, done):
    before = weights(done), history(done), summary(done)
    shutil.rmtree(last(done))
    fine("train", "--resume", "run")
    assert (weights(done), history(done), summary(done)) == before


def test_a_damaged_checkpoint_is_passed_over(fine, done):
    before = weights(done)
    (last(done) / "model.safetensors").write_bytes(b"nothing")
    fine("train", "--resume", "run")
    assert weights(done) == before


def test_a_run_with_nothing_but_damaged_checkpoints_is_a_mistake(mistake, done):
    for place in (done / "checkpoints").iterdir():
        (place / "model.safetensors").write_bytes(b"nothing")
    assert "model.safetensors: damaged" in mistake("train", "--resume", "run")


@pytest.mark.parametrize("place", ["gone", "net.irg", "."])
def test_a_place_without_a_run_is_a_mistake(mistake, net, place):
    assert mistake("train", "--resume", place) == f"error: {place}: no checkpoint to resume from\n"


def test_a_program_beside_resume_is_a_mistake(mistake, net, done):
    assert "--resume goes on with the run's own program" in mistake("train", net, "--resume", "run")


@pytest.mark.parametrize(
    "options",
    [("--epochs", "5"), ("--seed", "5"), ("--precision", "bf16"), ("--out", "b"), ("--set", "w=9"), ("--net", "m")],
    ids=lambda o: o[0],
)
def test_options_that_a_resumed_run_cannot_follow_are_a_mistake(mistake, done, options):
    assert options[0] in mistake("train", "--resume", "run", *options)


def test_a_checkpoint_that_no_run_wrote_is_a_mistake(mistake, done):
    from irgrow import build, save

    shutil.rmtree(done / "checkpoints")
    save(build(NET), done / "checkpoints" / "step-00000001")
    assert "run: its latest checkpoint is not of a run" in mistake("train", "--resume", "run")


def test_a_checkpoint_of_another_program_is_a_mistake(mistake, done):
    from irgrow import checkpoint

    other = checkpoint.read(last(done))
    extra = {**other.run["extra"], "program": NET.replace("[2]", "[5]") + TRAIN}
    tensors = {"rng": other.tensors["run/rng"]}
    shutil.rmtree(done / "checkpoints")
    checkpoint.save(checkpoint.network(other), done / "checkpoints" / "step-00000008", extra, tensors)
    mistake("train", "--resume", "run")


def test_a_run_without_its_history_is_a_mistake(mistake, done):
    (done / "history.jsonl").unlink()
    assert "history.jsonl" in mistake("train", "--resume", "run")


def test_ctrl_c_saves_and_the_run_goes_on_bit_for_bit(folder, fine, net):
    long = ("train", net, "--epochs", "12")
    fine(*long, "--out", "whole")
    run = folder / "run"
    command = [sys.executable, "-c", RUN, *long, "--out", "run"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        deadline = time.monotonic() + 60
        while process.poll() is None and time.monotonic() < deadline:
            if (run / "history.jsonl").exists() and '"epoch"' in (run / "history.jsonl").read_text():
                break
            time.sleep(0.005)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert out == ""
    assert "Traceback" not in err
    assert err.endswith("go on with: irgrow train --resume run\n")
    assert summary(run)["finished"] is False
    assert last(run).name < "step-00000048"
    fine("train", "--resume", "run")
    assert history(run) == history(folder / "whole")
    assert summary(run) == summary(folder / "whole")
    assert (run / "program.irg").read_text() == (folder / "whole" / "program.irg").read_text()
    for file in ("model.safetensors", "optim.safetensors"):
        assert (last(run) / file).read_bytes() == (last(folder / "whole") / file).read_bytes()


def test_a_run_can_be_stopped_after_every_step(folder, irgrow, fine, net, monkeypatch):
    fine("train", net, "--out", "whole")
    monkeypatch.setattr("irgrow.cli.train._Terminal.stopping", lambda self: True)
    answer = irgrow("train", net, "--out", "run")
    for step in range(1, 8):
        assert (answer.code, answer.out) == (130, "")
        assert f"stopped after {step} steps" in answer.err.replace("1 step;", "1 steps;")
        answer = irgrow("train", "--resume", "run")
    assert weights(folder / "run") == weights(folder / "whole")
    assert history(folder / "run") == history(folder / "whole")


def test_what_a_rewrite_fell_back_on_is_told_and_kept(folder, irgrow, write):
    """The first layer has more units than inputs, so that no fan-in is orthogonal to those there are."""
    answer = irgrow(
        "train", write(NET + GROW.replace("grow_units\n", "grow_units(init = north_weight)\n") + TRAIN), "--out", "run"
    )
    rows = [row for row in history(folder / "run") if row["event"] == "rewrite" and "(h1" in row["rewrite"]]
    assert len(rows) == 2
    assert all("`h1` span all 2 directions" in note for row in rows for note in row["notes"])
    assert "note: north_weight: the units of `h1` span all 2 directions" in " ".join(answer.err.split())
