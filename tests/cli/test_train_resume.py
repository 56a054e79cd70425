"""An interrupted run goes on as if nothing had happened, from wherever, with the data and the program it began with."""

import shutil
import signal
import subprocess
import sys
import time

import pytest
from spiral_runs import GROW, NET, TRAIN, history, last, summary, weights  # type: ignore[import-not-found]

RUN = "from irgrow.cli import main; main()"


@pytest.fixture
def net(write):
    return write(NET + GROW + TRAIN)


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
    [
        ("--epochs", "5"),
        ("--seed", "5"),
        ("--precision", "bf16"),
        ("--out", "b"),
        ("--set", "w=9"),
        ("--net", "m"),
        ("--save-every", "1"),
        ("--save-every", "0"),
        ("--compile",),
    ],
    ids="".join,
)
def test_options_that_a_resumed_run_cannot_follow_are_a_mistake(mistake, done, options):
    message = f"error: --resume goes on as the run began; {options[0]} cannot be changed\n"
    assert mistake("train", "--resume", "run", *options) == message


def test_an_edited_program_is_a_mistake(folder, mistake, fine, done):
    path = done / "program.irg"
    path.write_text(path.read_text().replace("epochs = 2", "epochs = 3"))
    message = mistake("train", "--resume", "run")
    assert message.startswith("error: run/program.irg was edited")
    assert "begin a new run with it: irgrow train PROGRAM" in message
    path.rename(folder / "mine.irg")
    fine("train", folder / "mine.irg", "--out", "new")
    assert summary(folder / "new")["steps"] == 12
    fine("train", "--resume", "run")


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


# data beside the program ---------------------------------------------------------------------------------------------


@pytest.fixture
def project(folder):
    """A folder `sub` with a program and its data, and the same name with other data in the working folder."""
    import numpy as np

    (folder / "sub").mkdir()
    x = np.random.default_rng(0).normal(size=(40, 2)).astype(np.float32)
    np.savez(folder / "sub" / "größe.npz", x=x, y=(x[:, 0] > 0).astype(int))
    np.savez(folder / "größe.npz", x=np.ones((40, 7)), y=np.zeros(40, int))
    train = TRAIN.replace("spirals(points = 40)", 'npz("größe.npz")')
    (folder / "sub" / "p.irg").write_text(NET + GROW + train, encoding="utf-8")
    return folder / "sub"


@pytest.mark.parametrize("absolute", [True, False])
def test_data_is_taken_from_the_folder_of_the_program(folder, fine, project, monkeypatch, absolute):
    fine("train", project / "p.irg" if absolute else "sub/p.irg", "--out", "run")
    assert summary(folder / "run")["data"] == f'npz("{project}/größe.npz")'
    fine("train", "run/program.irg", "--out", "grown")
    monkeypatch.chdir(project)
    fine("train", "p.irg", "--out", "run")
    assert weights(project / "run") == weights(folder / "run")


def test_a_run_goes_on_from_elsewhere(folder, irgrow, fine, project, monkeypatch):
    fine("train", "sub/p.irg", "--out", "whole")
    monkeypatch.setattr("irgrow.cli.train._Terminal.stopping", lambda self: True)
    assert irgrow("train", "sub/p.irg", "--out", "run").code == 130
    monkeypatch.undo()
    monkeypatch.chdir(project)
    fine("train", "--resume", folder / "run")
    assert weights(folder / "run") == weights(folder / "whole")


def test_the_working_folder_is_not_looked_in(folder, mistake, project):
    (project / "größe.npz").unlink()
    assert mistake("train", "sub/p.irg", "--out", "run") == "error: sub/größe.npz: no such file or directory\n"


def test_data_that_changed_is_a_mistake(folder, mistake, fine, project):
    import numpy as np

    fine("train", "sub/p.irg", "--out", "run")
    np.savez(project / "größe.npz", x=np.zeros((40, 2)), y=np.arange(40) % 2)
    message = mistake("train", "--resume", "run")
    assert f'run: npz("{project}/größe.npz") is not the data the run began with' in message
