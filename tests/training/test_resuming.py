"""Stopping a run and going on with it, bit for bit."""

import json
import shutil
import subprocess
import sys

import pytest
import torch
from small_runs import (
    VARIANTS,
    Stop,
    differing,
    events,
    files,
    job,
    trained,
)

from irgrow import checkpoint
from irgrow.errors import CheckpointError, UserError
from irgrow.grammar import parse_program
from irgrow.training.folder import latest, saved_steps
from irgrow.training.loop import Run

# stopping and going on -----------------------------------------------------------------------------------------------


STOPS = [(v, s) for v in VARIANTS for s in (3, 4, 5)]  # before and after a rewrite in mid-epoch, at the end of an epoch
STOPS += [("adam", s) for s in (1, 2, 7, 8, 10, 11, 12, 14)]
STOPS += [("noisy", s) for s in (1, 7, 8, 10, 14)]
STOPS += [("north", s) for s in (1, 2, 6, 7, 9, 11)]
STOPS += [("deeper", s) for s in (9, 10, 11)]
STOPS += [("stalled", s) for s in (2, 6, 8, 9, 13)]


@pytest.mark.parametrize(("variant", "after"), STOPS)
def test_going_on_is_bit_for_bit_the_run_that_was_not_stopped(tmp_path, whole, saved, variant, after):
    saved(tmp_path, variant, after)
    run = Run.resume(tmp_path)
    assert run.report.step == after
    summary = run.run()
    assert summary["finished"] is True
    assert differing(whole(variant), tmp_path) == []
    assert run.report.step == 15
    assert len(run.net.journal) == summary["rewrites"] == len(events(tmp_path, "rewrite"))


@pytest.mark.parametrize(("variant", "after"), [("noisy", 3), ("noisy", 5), ("north", 8), ("adam", 15)])
def test_a_stop_is_what_a_save_is(tmp_path, whole, saved, variant, after):
    _, summary = trained(tmp_path / "a", *VARIANTS[variant], watcher=Stop(after))
    assert summary is None
    assert json.loads((tmp_path / "a" / "summary.json").read_text())["finished"] is False
    saved(tmp_path / "b", variant, after)
    (a, b) = (latest(tmp_path / n) for n in "ab")
    assert a.graph == b.graph
    assert a.run == b.run
    for one, other in ((a.params, b.params), (a.tensors, b.tensors)):
        assert one.keys() == other.keys()
        assert all(torch.equal(v, other[k]) for k, v in one.items())
    assert (tmp_path / "a" / "history.jsonl").read_bytes() == (tmp_path / "b" / "history.jsonl").read_bytes()
    Run.resume(tmp_path / "a").run()
    assert differing(whole(variant), tmp_path / "a") == []


@pytest.mark.parametrize("variant", [v for v in VARIANTS if v != "static"])
def test_there_was_growth_before_and_after_those_stops(whole, variant):
    """Negative control for the test above: its stops lie between rewrites."""
    steps = [row["step"] for row in events(whole(variant), "rewrite")]
    stops = [s for v, s in STOPS if v == variant]
    assert min(steps) <= max(stops)
    assert max(steps) > min(stops)
    if variant not in ("north", "stalled"):
        assert 4 in steps


def test_stopping_again_and_again_changes_nothing(tmp_path, whole, saved):
    saved(tmp_path, "noisy", 1)
    for after in (2, 3, 4, 5, 6, 9, 10, 13):
        assert Run.resume(tmp_path, Stop(after)).run() is None
        torch.manual_seed(after)
    Run.resume(tmp_path).run()
    assert differing(whole("noisy"), tmp_path) == []


@pytest.mark.parametrize("after", [4, 6, 8])
def test_saving_more_often_changes_nothing_but_the_checkpoints(tmp_path, whole, after):
    trained(tmp_path / "a", *VARIANTS["north"], save_every=3)
    assert trained(tmp_path / "b", *VARIANTS["north"], watcher=Stop(after), save_every=3)[1] is None
    run = Run.resume(tmp_path / "b")
    assert run.save_every == 3
    run.run()
    assert differing(tmp_path / "a", tmp_path / "b") == []
    assert all("checkpoints" in name for name in differing(whole("north"), tmp_path / "a"))
    for name in "ab":
        assert [p.name for p in saved_steps(tmp_path / name)] == ["step-00000012", "step-00000015"]


def test_going_on_in_a_fresh_process(tmp_path, whole, saved):
    saved(tmp_path, "noisy", 7)
    code = (
        "import sys, torch, irgrow.training.picture as picture\n"
        "torch.set_num_threads(1)\n"
        "picture.draw_history = lambda history, path: False\n"
        "from irgrow.training.loop import Run\n"
        "Run.resume(sys.argv[1]).run()"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", code, str(tmp_path)], check=True)
    assert differing(whole("noisy"), tmp_path) == []


@pytest.mark.parametrize("what", ["weight", "slot", "buffer", "rng", "schedule", "order", "loss", "nothing"])
def test_everything_that_is_taken_up_matters(tmp_path, whole, saved, what):
    """Negative control: a change of any of it shows in what the run leaves behind."""
    saved(tmp_path, "noisy", 7)
    run = Run.resume(tmp_path)
    with torch.no_grad():
        match what:
            case "weight":
                run.net.params["h.weight"][0, 0] *= 1 + 1e-6
            case "slot":
                run.optimizer.state[run.net.params["h.weight"]]["exp_avg"][0, 0] *= 1.001
            case "buffer":
                run.net.params["batchnorm_1.running_mean"][0] += 1e-6
            case "rng":
                torch.rand(1)
            case "schedule":
                run.scheduler.last_epoch += 1
            case "order":
                run.report.step -= 1
            case "loss":
                run.epoch_loss += 1e-6
    run.run()
    assert (differing(whole("noisy"), tmp_path) == []) is (what == "nothing")


@pytest.mark.parametrize("what", ["recorded", "memory", "journal", "nothing"])
def test_what_growth_remembers_matters(tmp_path, whole, saved, what):
    """Negative control for growth: what triggers have seen and how many rewrites there were."""
    saved(tmp_path, "north", 7)
    run = Run.resume(tmp_path)
    assert all(gram.count for gram in run.controller.recorded.values())
    match what:
        case "recorded":
            for gram in run.controller.recorded.values():
                gram.clear()
        case "memory":
            for memory in run.controller.memory.values():
                memory["phi"] = 0.1
        case "journal":
            run.net.journal.counter += 1
    run.run()
    assert (differing(whole("north"), tmp_path) == []) is (what == "nothing")


def test_a_stop_saves_and_returns_nothing(tmp_path):
    _, summary = trained(tmp_path, watcher=Stop(8))
    assert summary is None
    left = json.loads((tmp_path / "summary.json").read_text())
    assert left["finished"] is False
    assert left["steps"] == 8
    assert left["rewrites"] == 2
    assert latest(tmp_path).run["extra"]["step"] == 8
    assert parse_program((tmp_path / "program.irg").read_text()).graph().widths["h"] == 5
    assert [p.name for p in saved_steps(tmp_path)] == ["step-00000005", "step-00000008"]


def test_a_finished_run_is_taken_up_and_has_nothing_to_do(tmp_path, whole):
    shutil.copytree(whole("adam"), tmp_path / "done")
    run = Run.resume(tmp_path / "done")
    assert run.run()["finished"] is True
    assert differing(whole("adam"), tmp_path / "done") == []


def test_rows_after_the_checkpoint_are_forgotten(tmp_path, whole, saved):
    """A process that dies leaves rows behind that no checkpoint knows of."""
    saved(tmp_path, "adam", 7)
    with (tmp_path / "history.jsonl").open("a") as file:
        file.write('{"event": "rewrite", "step": 8}\n{"event": "ep')
    Run.resume(tmp_path).run()
    assert differing(whole("adam"), tmp_path) == []


@pytest.mark.parametrize("left", [None, 0, 2])
def test_a_history_with_rows_missing_is_an_error(tmp_path, saved, left):
    saved(tmp_path, "adam", 7)
    path = tmp_path / "history.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    assert len(lines) == 3
    if left is None:
        path.unlink()
    else:
        path.write_text("".join(lines[:left]))
    with pytest.raises(CheckpointError, match=r"history\.jsonl"):
        Run.resume(tmp_path)


def damaged(folder, way):
    match way:
        case "flipped":
            data = bytearray((folder / checkpoint.MODEL).read_bytes())
            data[-1] ^= 1
            (folder / checkpoint.MODEL).write_bytes(bytes(data))
        case "cut short":
            data = (folder / checkpoint.RUN).read_bytes()
            (folder / checkpoint.RUN).write_bytes(data[: len(data) // 2])
        case "file gone":
            (folder / checkpoint.OPTIM).unlink()
        case "manifest gone":
            (folder / checkpoint.MANIFEST).unlink()


DAMAGE = ["flipped", "cut short", "file gone", "manifest gone"]


@pytest.mark.parametrize("way", DAMAGE)
@pytest.mark.parametrize("after", [8, 10])
def test_a_damaged_checkpoint_falls_back_to_the_one_before(tmp_path, whole, saved, way, after):
    saved(tmp_path, "noisy", after)
    damaged(saved_steps(tmp_path)[-1], way)
    run = Run.resume(tmp_path)
    assert run.report.step == after - 1
    run.run()
    assert differing(whole("noisy"), tmp_path) == []
    assert [checkpoint.read(p).run["extra"]["step"] for p in saved_steps(tmp_path)] == [10, 15]


@pytest.mark.parametrize("way", DAMAGE)
def test_nothing_but_damaged_checkpoints_is_an_error(tmp_path, saved, way):
    saved(tmp_path, "adam", 7)
    for folder in saved_steps(tmp_path):
        damaged(folder, way)
    with pytest.raises(CheckpointError) as caught:
        Run.resume(tmp_path)
    assert str(tmp_path) in str(caught.value)


def test_a_checkpoint_that_stood_aside_when_the_process_died_is_found(tmp_path, saved):
    saved(tmp_path, "adam", 5)
    older, folder = saved_steps(tmp_path)
    shutil.rmtree(older)
    folder.rename(checkpoint._aside(folder))
    assert checkpoint.read(folder).run["extra"]["step"] == 5, "checkpoints themselves are found there"
    assert Run.resume(tmp_path).report.step == 5


def test_a_folder_without_a_checkpoint_is_named(tmp_path):
    for folder in (tmp_path / "nowhere", tmp_path):
        with pytest.raises(CheckpointError, match="no checkpoint to resume from") as caught:
            Run.resume(folder)
        assert str(folder) in str(caught.value)


def test_a_checkpoint_that_is_not_of_a_run_is_an_error(tmp_path):
    run = Run(job(), tmp_path)
    checkpoint.save(run.net, tmp_path / "checkpoints" / "step-00000003")
    with pytest.raises(CheckpointError, match="step-00000003|not of a run"):
        Run.resume(tmp_path)


def test_a_new_run_does_not_mix_with_an_older_one_in_its_folder(tmp_path, whole):
    shutil.copytree(whole("static"), tmp_path / "used")
    before = files(tmp_path / "used")
    with pytest.raises(UserError, match="used"):
        trained(tmp_path / "used", options="epochs = 1  data = spirals(24)  batch = 8")
    assert files(tmp_path / "used") == before
