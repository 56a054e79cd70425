"""What a run is taken up with: the data and the program it began with, from wherever, and the time it took before."""

import json
from dataclasses import replace

import numpy as np
import pytest
from small_runs import NET, STEADY, Stop, differing, job, trained

from irgrow import checkpoint
from irgrow.errors import CheckpointError, DataError
from irgrow.training.folder import latest, saved_steps
from irgrow.training.loop import Run

DATA = 'data = npz("d.npz")  batch = 8  epochs = 3'  # 32 samples to train on: 4 steps an epoch


def save(count=40, features=2, seed=0, path="d.npz"):
    rng = np.random.default_rng(seed)
    np.savez(path, x=rng.normal(size=(count, features)).astype(np.float32), y=rng.integers(0, 2, count))


def summary_of(folder):
    return json.loads((folder / "summary.json").read_text())


@pytest.fixture
def stopped(inside, tmp_path):
    """Return the folder of a run that was stopped after six steps, in the working folder beside its data."""
    save()
    assert trained("run", NET, STEADY, DATA, watcher=Stop(6))[1] is None
    return tmp_path / "run"


def as_before(folder, **changes):
    """Write the latest checkpoint again as an older version would have: with less beside the network, or other things."""
    saved = latest(folder)
    run = Run.resume(folder)
    extra = {**saved.run["extra"], **changes}
    tensors = {k.removeprefix("run/"): v for k, v in saved.tensors.items() if k.startswith("run/")}
    checkpoint.save(run.net, saved_steps(folder)[-1], {k: v for k, v in extra.items() if v is not None}, tensors)


# data ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("other", "change"),
    [
        ({"seed": 1}, "32 training and 8 test samples as before, with other values"),
        ({"count": 50}, "32 training and 8 test samples then, 40 training and 10 test samples now"),
    ],
)
def test_other_data_is_refused_and_nothing_is_touched(stopped, other, change):
    before = {p: p.read_bytes() for p in stopped.rglob("*") if p.is_file()}
    save(**other)
    with pytest.raises(DataError) as caught:
        Run.resume(stopped)
    source = f'npz("{stopped.parent}/d.npz")'
    assert str(caught.value) == (
        f"{stopped}: {source} is not the data the run began with: {change}; put that back, or begin a new run"
    )
    assert {p: p.read_bytes() for p in stopped.rglob("*") if p.is_file()} == before
    save()
    assert Run.resume(stopped).run()["finished"] is True


def test_data_that_is_elsewhere_now_is_asked_for(stopped):
    (stopped.parent / "d.npz").rename(stopped.parent / "elsewhere.npz")
    with pytest.raises(DataError, match="d.npz.*no such file.*: put what it began with there"):
        Run.resume(stopped)
    (stopped.parent / "elsewhere.npz").rename(stopped.parent / "d.npz")
    assert Run.resume(stopped).report.step == 6


def test_the_same_numbers_in_another_packing_are_the_same_data(stopped, tmp_path):
    with np.load("d.npz") as arrays:
        found = dict(arrays)
    np.savez_compressed("d.npz", **found, note=np.zeros(3))
    Run.resume(stopped).run()
    trained("whole", NET, STEADY, DATA)
    assert differing(tmp_path / "whole", stopped) == []


def test_checkpoints_that_do_not_say_what_the_data_was_go_on(stopped):
    as_before(stopped, data=None)
    assert "data" not in latest(stopped).run["extra"]
    save(seed=1)
    assert Run.resume(stopped).run()["finished"] is True


def test_generated_data_is_told_apart_by_its_size_alone(tmp_path):
    """Its last bits are the machine's, and what it is stands in the program."""
    trained(tmp_path, watcher=Stop(3))
    assert latest(tmp_path).run["extra"]["data"] == {"train": 36, "test": 12, "sha256": ""}


# places --------------------------------------------------------------------------------------------------------------


def test_a_run_goes_on_from_another_working_folder(stopped, tmp_path, monkeypatch):
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    run = Run.resume(stopped)
    assert str(run.job.settings.data) == f'npz("{tmp_path}/d.npz")'
    run.run()
    monkeypatch.chdir(tmp_path)
    trained("whole", NET, STEADY, DATA)
    assert differing(tmp_path / "whole", stopped) == []


def test_checkpoints_with_a_relative_path_look_in_the_working_folder_as_they_did(stopped, tmp_path, monkeypatch):
    text = latest(stopped).run["extra"]["program"]
    as_before(stopped, data=None, program=text.replace(f"{tmp_path}/", ""))
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    with pytest.raises(DataError, match=r"d\.npz: no such file"):
        Run.resume(stopped)
    monkeypatch.chdir(tmp_path)
    assert Run.resume(stopped).run()["finished"] is True


def test_a_path_that_a_program_cannot_hold_is_refused(tmp_path, monkeypatch):
    folder = tmp_path / 'a "quoted" one'
    folder.mkdir()
    monkeypatch.chdir(folder)
    save()
    with pytest.raises(DataError, match="a path with a quotation mark or line break cannot be in a program"):
        Run(job(options=DATA), "run")


# program -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("finished", [True, False])
def test_an_edited_program_is_refused_and_stays(tmp_path, finished):
    trained(tmp_path, watcher=None if finished else Stop(7))
    path = tmp_path / "program.irg"
    edited = path.read_text().replace("epochs = 3", "epochs = 9")
    path.write_text(edited)
    with pytest.raises(CheckpointError, match=r"program\.irg was edited.* irgrow train PROGRAM"):
        Run.resume(tmp_path)
    assert path.read_text() == edited
    path.unlink()
    assert Run.resume(tmp_path).run()["finished"] is True
    assert "epochs = 3" in path.read_text()


@pytest.mark.parametrize("after", [8, 10])
def test_a_program_older_than_the_checkpoint_was_not_edited(tmp_path, whole, after):
    """The process died after a checkpoint that came after the stop at which the program was written."""
    trained(tmp_path, watcher=Stop(6))
    old = (tmp_path / "program.irg").read_text()
    run = Run.resume(tmp_path, watcher := Stop(None))

    def die():
        if watcher.done == after:
            run.save()
            raise KeyboardInterrupt
        return False

    watcher.stopping = die
    with pytest.raises(KeyboardInterrupt):
        run.run()
    assert (tmp_path / "program.irg").read_text() == old
    run = Run.resume(tmp_path)
    assert (run.report.step, run.program == old) == (after, False)
    run.run()
    assert differing(whole("adam"), tmp_path) == []


def test_the_program_of_a_run_whose_summary_does_not_say_is_not_asked_about(tmp_path):
    trained(tmp_path, watcher=Stop(6))
    (tmp_path / "program.irg").write_text("anything")
    found = summary_of(tmp_path)
    del found["program"]
    (tmp_path / "summary.json").write_text(json.dumps(found))
    assert Run.resume(tmp_path).run()["finished"] is True


# time ----------------------------------------------------------------------------------------------------------------


def test_the_seconds_are_those_of_the_whole_run(tmp_path, monkeypatch):
    now = [1000.0]
    monkeypatch.setattr("irgrow.training.loop.time.perf_counter", lambda: now[0])
    watcher = Stop(6)
    watcher.epoch = lambda row: now.__setitem__(0, now[0] + 10)
    trained(tmp_path, watcher=watcher)
    assert summary_of(tmp_path)["seconds"] == 10
    now[0] = 5.0  # another process, another clock
    run = Run.resume(tmp_path, again := Stop(None))
    again.epoch = watcher.epoch
    assert run.run()["seconds"] == 30
    run = Run.resume(tmp_path)
    now[0] += 10
    assert run.run()["seconds"] == 30, "there was nothing to do"


def test_a_summary_lies_beside_every_checkpoint(tmp_path):
    seen = []
    watcher = Stop(None)
    watcher.epoch = lambda row: seen.append(summary_of(tmp_path))
    _, summary = trained(tmp_path, watcher=watcher)
    assert [(s["steps"], s["finished"]) for s in seen] == [(5, False), (10, False), (15, False)]
    assert (summary["steps"], summary["finished"]) == (15, True)
    assert seen[-1] == {**summary, "finished": False, "program": None, "seconds": seen[-1]["seconds"]}


@pytest.mark.parametrize("left", ["", "[]", "{", None])
def test_a_run_without_a_summary_goes_on(tmp_path, whole, left):
    trained(tmp_path, watcher=Stop(6))
    path = tmp_path / "summary.json"
    path.unlink() if left is None else path.write_text(left)
    Run.resume(tmp_path).run()
    assert differing(whole("adam"), tmp_path) == []


def test_a_job_keeps_its_data_but_for_the_place(tmp_path):
    given = job()
    run = Run(given, tmp_path)
    assert run.job == replace(given, settings=replace(given.settings, data=given.settings.data)) == given
