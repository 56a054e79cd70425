"""`irgrow train` runs a program's sections in a folder."""

import json
import os

import pytest
import torch
from spiral_runs import GROW, KEYS, NET, TRAIN, history, last, summary, weights  # type: ignore[import-not-found]

from irgrow import load
from irgrow.grammar import read_program


@pytest.fixture
def net(write):
    return write(NET + GROW + TRAIN)


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
    assert found["widths"] == {"before": {"h1": 4, "h2": 3}, "after": {"h1": 6, "h2": 5}, "gone": {}}


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


def test_widths_that_came_and_went_are_printed():
    from irgrow.cli.train import _result

    widths = {"before": {"a": 4, "b": 3, "c": 2}, "after": {"a": 5, "c": 2, "new": 6}, "gone": {"b": 9, "d": 7}}
    summary = {"network": "n", "test_accuracy": None, "test_loss": None, "parameters": {"before": 1, "after": 2}}
    summary |= {
        "widths": widths,
        "steps": 3,
        "rewrites": 4,
        "seconds": 5.0,
        "warnings": ["epoch 1: this", "epoch 2: that"],
    }
    assert _result(summary, "run").splitlines() == [
        "n: test loss not finite, 1 -> 2 parameters",
        "widths: a 4 -> 5, b 3 -> 0, new 0 -> 6, d 7 -> 0",
        "warning: epoch 1: this (and 1 more)",
        "3 steps, 4 rewrites, 5.0 s, in run",
    ]


def test_a_test_loss_that_is_not_finite_is_told(folder, irgrow, write):
    import numpy as np

    x = np.zeros((20, 2), np.float32)
    np.savez(folder / "data.npz", x_train=x, y_train=x[:, 0], x_test=x, y_test=np.full(20, 1e30))
    net = "net sums(x: [2]) { return x |> h: dense(4) |> tanh |> head: dense(1) }\n"
    net = write(net + 'train { data = npz("data.npz")  loss = mse  epochs = 1 }')
    answer = irgrow("train", net, "--out", "run")
    assert answer.code == 0
    assert "epoch 1: loss 0." in answer.err
    assert "test loss not finite, 17 parameters\nwarning: the test loss is inf\n" in answer.err
    assert "sums: test loss not finite, 17 -> 17 parameters\nwarning: epoch 1: the test loss is inf\n" in answer.out
    found = irgrow("train", net, "--out", "again", "--json").out
    assert "Infinity" not in found
    assert json.loads(found)["test_loss"] is None


def test_what_is_written_to_a_file_is_a_line_for_each_event(irgrow, write):
    long = NET.replace("h1", "first_of_two_layers_with_a_name_that_is_longer_than_most_of_the_lines_of_a_terminal")
    err = irgrow("train", write(long + GROW + TRAIN), "--out", "run").err.splitlines()
    assert len(err) == 6
    assert max(map(len, err)) > 100
    assert all(line.startswith(("step ", "epoch ")) for line in err)


def test_what_a_rewrite_fell_back_on_is_told_and_kept(folder, irgrow, write):
    """The first layer has more units than inputs, so that no fan-in is orthogonal to those there are."""
    answer = irgrow(
        "train", write(NET + GROW.replace("grow_units\n", "grow_units(init = north_weight)\n") + TRAIN), "--out", "run"
    )
    rows = [row for row in history(folder / "run") if row["event"] == "rewrite" and "(h1" in row["rewrite"]]
    assert len(rows) == 2
    assert all("`h1` span all 2 directions" in note for row in rows for note in row["notes"])
    assert "note: north_weight: the units of `h1` span all 2 directions" in " ".join(answer.err.split())


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


def test_a_folder_that_a_killed_run_left_is_told_from_one_to_go_on_with(folder, mistake, fine, net):
    (folder / "left").mkdir()
    (folder / "left" / "history.jsonl").write_text("")
    message = mistake("train", net, "--out", "left")
    assert "it holds a run that ended before its first checkpoint; remove it, or give another --out" in message
    assert "--resume" not in message
    fine("train", net, "--out", "run")
    assert "--resume run" in mistake("train", net, "--out", "run")


@pytest.mark.skipif(os.getuid() == 0, reason="root may write everywhere")
def test_a_folder_that_is_read_only_is_named(folder, mistake, net):
    (folder / "run").mkdir(mode=0o500)
    assert mistake("train", net, "--out", "run") == "error: run/history.jsonl: cannot be written: permission denied\n"


def test_an_error_of_the_system_names_the_file(mistake, net, monkeypatch):
    def broken(run):
        raise PermissionError(13, "Permission denied", "somewhere/else")

    monkeypatch.setattr("irgrow.training.loop.Run.run", broken)
    assert mistake("train", net, "--out", "run") == "error: somewhere/else: permission denied\n"


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


def test_a_loss_that_explodes_is_one_message(folder, irgrow, write):
    text = NET + TRAIN.replace("batch = 16", "batch = 16  loss = cross_entropy  optimizer = sgd(lr = 1e38)")
    net = write(text)
    for _ in range(2):
        answer = irgrow("train", net, "--out", "run")
        assert answer.code == 2
        assert "error: the loss of step " in answer.err
        assert sorted(os.listdir(folder)) == ["net.irg"], "nothing was saved, and nothing is left"


def test_something_to_train_is_needed(mistake):
    assert "a program to train is needed, or --resume FOLDER" in mistake("train")


def test_all_that_is_wrong_with_a_program_is_said_at_once(folder, irgrow, write):
    text = "net n(x: [64]) { return x |> dens(3) }  grow { rule r { whe = schedule } }  train { epochs = 0 }"
    before = set(folder.iterdir()) | {folder / "net.irg"}
    answer = irgrow("train", write(text))
    assert answer.code == 2
    assert answer.err.count("error:") == 3
    for found in ("unknown operator `dens`", "`whe`", "`epochs` must be at least 1"):
        assert found in answer.err
    assert set(folder.iterdir()) <= before
