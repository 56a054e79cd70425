"""The folder of a run: a new one has it for itself, leaves nothing if nothing was saved, and names what cannot be written."""

from pathlib import Path

import pytest
from small_runs import Act, Stop, job, trained

from irgrow.errors import CheckpointError, DataError, OptionError
from irgrow.training.folder import check_free, history_rows, history_text, saved_steps, write_text
from irgrow.training.loop import Run

EXPLODES = "optimizer = sgd(lr = 1e38)"


def dying(after, error):
    def act(run, report):
        if report.step == after:
            raise error

    return Act(act)


# beginning -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("made", [True, False])
def test_a_run_that_ends_before_its_first_checkpoint_leaves_nothing(tmp_path, made):
    place = tmp_path / "runs" / "n-1"
    if made:
        place.mkdir(parents=True)
    for error in (KeyboardInterrupt, LookupError):
        with pytest.raises(error):
            trained(place, watcher=dying(3, error))
    with pytest.raises(DataError, match=r"the loss of step \d is"):
        trained(place, options=EXPLODES)
    assert list(tmp_path.rglob("*")) == ([place.parent, place] if made else [])
    assert trained(place)[1]["finished"] is True


def test_what_else_lies_there_is_left(tmp_path):
    def act(run, report):
        (run.folder / "notes.txt").write_text("precious")
        raise LookupError

    with pytest.raises(LookupError):
        trained(tmp_path / "run", watcher=Act(act))
    assert [p.name for p in tmp_path.rglob("*")] == ["run", "notes.txt"]


def test_a_run_that_saved_leaves_everything(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        trained(tmp_path / "run", watcher=dying(7, KeyboardInterrupt))
    assert [p.name for p in saved_steps(tmp_path / "run")] == ["step-00000005"]
    assert Run.resume(tmp_path / "run").run()["finished"] is True


def test_remedies_are_those_that_work(tmp_path):
    """A folder with a run to go on with, one that a killed process left, one with something else, and a file."""
    trained(tmp_path / "saved", watcher=Stop(3))
    (tmp_path / "killed").mkdir()
    (tmp_path / "killed" / "history.jsonl").write_text('{"event": "start"}\n')
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.tex").write_text("precious")
    (tmp_path / "file").write_text("")
    found = {}
    for name in ("saved", "killed", "other", "file"):
        place = tmp_path / name
        with pytest.raises(OptionError) as caught:
            check_free(place)
        found[name] = str(caught.value).removeprefix(f"{place} is not ")
        with pytest.raises(OptionError, match=f"{name} is not"):
            Run(job(), place).run()
    assert found == {
        "saved": f"empty; give another --out, or go on with the run in it: --resume {tmp_path / 'saved'}",
        "killed": "empty; it holds a run that ended before its first checkpoint; remove it, or give another --out",
        "other": "empty; give another --out",
        "file": "a folder",
    }
    assert (tmp_path / "other" / "thesis.tex").read_text() == "precious"
    Run.resume(tmp_path / "saved").run()
    for free in ("gone", "empty"):
        (tmp_path / "empty").mkdir(exist_ok=True)
        check_free(tmp_path / free)


# writing -------------------------------------------------------------------------------------------------------------


def full(*args):
    raise OSError(28, "No space left on device")


@pytest.fixture
def no_room(monkeypatch):
    """Return a function after which no file of a name, nor a draft of one, can be written."""
    usual = Path.open

    def lacking(name):
        def opened(path, mode="r", *args, **kwargs):
            return full() if name in path.name and mode[0] != "r" else usual(path, mode, *args, **kwargs)

        monkeypatch.setattr(Path, "open", opened)

    return lacking


@pytest.mark.parametrize("name", ["history.jsonl", "program.irg", "summary.json"])
def test_a_full_disk_names_the_file(tmp_path, no_room, name):
    no_room(name)
    with pytest.raises(OptionError) as caught:
        trained(tmp_path / "run", options="epochs = 1  data = spirals(24)  batch = 8")
    assert str(caught.value) == f"{tmp_path / 'run' / name}: cannot be written: no space left on device"
    assert (tmp_path / "run").exists() is (name != "history.jsonl"), "after the first checkpoint it stays"


def test_a_full_disk_names_the_picture(tmp_path, monkeypatch):
    monkeypatch.setattr("irgrow.training.picture.draw_history", full)
    with pytest.raises(OptionError, match=r"history\.png: cannot be written: no space left on device"):
        trained(tmp_path)


def test_a_full_disk_names_the_checkpoint_and_a_run_without_one_is_gone(tmp_path, monkeypatch):
    monkeypatch.setattr("irgrow.checkpoint._write", full)
    with pytest.raises(CheckpointError, match=r"step-00000005: cannot be written: no space left on device"):
        trained(tmp_path / "run")
    assert list(tmp_path.iterdir()) == []


def test_a_file_is_the_old_one_or_the_new_one(tmp_path, monkeypatch):
    path = tmp_path / "summary.json"
    write_text(path, "old")
    monkeypatch.setattr("irgrow.training.folder.os.replace", full)
    with pytest.raises(OptionError, match=r"summary\.json: cannot be written: no space left on device"):
        write_text(path, "new")
    assert [p.read_text() for p in tmp_path.iterdir()] == ["old"]


def test_a_history_that_cannot_be_cut_is_not_lost(tmp_path, no_room):
    trained(tmp_path, watcher=Stop(7))
    before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    no_room("history.jsonl")
    with pytest.raises(OptionError, match=r"history\.jsonl: cannot be written: no space left on device"):
        Run.resume(tmp_path)
    assert {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()} == before


# rows ----------------------------------------------------------------------------------------------------------------


def test_rows_are_json_and_rows_of_older_runs_become_it(tmp_path):
    path = tmp_path / "history.jsonl"
    path.write_text('{"test_loss": Infinity}\n{"test_loss": NaN}\n{"test_loss": 0.1}\n')
    rows = history_rows(path, 3)
    assert rows == [{"test_loss": None}, {"test_loss": None}, {"test_loss": 0.1}]
    assert history_text(rows).splitlines() == ['{"test_loss": null}', '{"test_loss": null}', '{"test_loss": 0.1}']
    with pytest.raises(ValueError, match="JSON"):
        history_text([{"test_loss": float("inf")}])
