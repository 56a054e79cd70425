"""Runs: what they leave behind, that they are determined by their seed, and that stopping changes nothing."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from irgrow import checkpoint
from irgrow.errors import CheckpointError, DataError, OptionError, UserError
from irgrow.grammar import parse_program
from irgrow.training.folder import latest, saved_steps
from irgrow.training.loop import KEPT, Job, Run, widths
from irgrow.training.watching import Watcher

NET = "net n(x: [2]) { return x |> h: dense(3) |> tanh |> k: dense(3) |> tanh |> dense(2) }"
NOISY = """net n(x: [2]) {
  return x |> h: dense(4) |> batchnorm |> relu |> dropout(p = 0.3) |> k: dense(3) |> relu |> dropout |> dense(2)
}"""
STEADY = "grow { rule steady { every = 4  when = schedule(1)  apply = grow_units  where = h } }"
NORTH = """grow {
  rule north {
    every = 2
    when = effective_dimension(gamma = 0.7, epsilon = 1e-3, samples = 16)
    apply = grow_units(init = north_select(candidates = 20))
    limit = width <= 9
  }
}"""
DEEPER = """grow {
  rule deeper { every = steps([4])  when = schedule  apply = insert_layer(form = residual)  where = k }
  rule wider { every = epochs  when = schedule(2, total = 4)  apply = grow_units  where = h }
}"""
STALLED = """grow {
  rule stalled { every = 1  when = plateau(patience = 1, threshold = 0.2, units = 1)  apply = grow_units }
}"""
DATA = "data = spirals(24, noise = 0.1)  batch = 8  epochs = 3"  # 36 samples to train on: 5 steps an epoch, 15 in all


def job(net=NET, growth=STEADY, options=""):
    program = parse_program(f"{net}\n{growth}\ntrain {{ {DATA if 'data =' not in options else ''} {options} }}")
    return Job(program.graph(), program.training, program.growth)


class Stop(Watcher):
    """Asks to stop after a step."""

    def __init__(self, after):
        self.after, self.done = after, 0

    def step(self, report):
        self.done = report.step

    def stopping(self):
        return self.done == self.after


class Act(Watcher):
    """Calls a function after every step."""

    def __init__(self, act):
        self.act, self.run = act, None

    def step(self, report):
        self.act(self.run, report)


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Use one thread: networks as small as these only wait for the others."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def no_picture(monkeypatch, request):
    """Draw nothing, which takes longer than the training, but where the picture is asked about."""
    if "picture" not in request.node.name:
        monkeypatch.setattr("irgrow.training.picture.draw_history", lambda history, path: False)


def trained(folder, *args, save_every=0, watcher=None, **options):
    run = Run(job(*args, **options), folder, save_every=save_every, watcher=watcher)
    if isinstance(watcher, Act):
        watcher.run = run
    return run, run.run()


def history(folder):
    return [json.loads(line) for line in (Path(folder) / "history.jsonl").read_text().splitlines()]


def events(folder, kind):
    return [row for row in history(folder) if row["event"] == kind]


def files(folder):
    """Return the bytes of what a run leaves behind: no times, and of its checkpoints the latest."""
    places = [p for p in Path(folder).iterdir() if p.is_file()] + list(saved_steps(Path(folder))[-1].iterdir())
    found = {str(p.relative_to(folder)): p.read_bytes() for p in places}
    summary = json.loads(found.pop("summary.json"))
    summary.pop("seconds")
    return {**found, "summary.json": summary}


def differing(a, b):
    """Return the names of files that two runs left behind and that are not the same."""
    a, b = files(a), files(b)
    return sorted(n for n in a.keys() | b.keys() if a.get(n) != b.get(n))


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
    for key in ("parameters", "macs", "widths"):
        assert summary[key] == {"before": rows[0][key], "after": rows[-1][key]}
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

VARIANTS = {
    "adam": (NET, STEADY, ""),
    "static": (NET, "", "optimizer = sgd(momentum = 0.9, nesterov = true)"),
    "north": (NET, NORTH, "optimizer = adam(lr = 0.01)  carry = zero"),
    "noisy": (NOISY, STEADY, "optimizer = adamw(lr = 0.01)  schedule = cosine(floor = 0.1)"),
    "sgd": (NOISY, STEADY, "optimizer = sgd(momentum = 0.9, weight_decay = 1e-3)  schedule = step_decay(4, 0.5)"),
    "deeper": (NET, DEEPER, "optimizer = adamw(lr = 0.02)  schedule = cosine"),
    "fresh": (NET, STEADY, "optimizer = rmsprop(momentum = 0.5)  carry = fresh  init = xavier_uniform"),
    "stalled": (NET, STALLED, "optimizer = adam(lr = 0.05)  precision = float64"),
    "bf16": (NOISY, STEADY, "precision = bf16"),
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Return the folder of a run that nobody stopped, made when it is first asked for."""
    made = {}

    def folder(variant):
        if variant not in made:
            made[variant] = tmp_path_factory.mktemp(variant)
            torch.manual_seed(1)
            trained(made[variant], *VARIANTS[variant])
        return made[variant]

    return folder


class Keep(Watcher):
    """Saves after every step, where a stop would, and keeps a copy of the run's folder as it is then."""

    def __init__(self, store):
        self.store, self.run = store, None

    def stopping(self):
        self.run.save()
        shutil.copytree(self.run.folder, self.store / str(self.run.report.step))
        return False


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Return a function that lays down the folder of a run that saved after a step and went no further."""
    made = {}

    def lay_down(folder, variant, after):
        if variant not in made:
            place = made[variant] = tmp_path_factory.mktemp(f"{variant}-saved")
            torch.manual_seed(2)
            keep = Keep(place)
            keep.run = Run(job(*VARIANTS[variant]), place / "run", watcher=keep)
            keep.run.run()
        shutil.copytree(made[variant] / str(after), folder, dirs_exist_ok=True)
        torch.manual_seed(4711)
        return folder

    return lay_down


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


# what goes wrong -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_ends_the_run_and_keeps_the_checkpoint(tmp_path, whole, value):
    def poison(run, report):
        if report.step == 7:
            with torch.no_grad():
                run.net.params["dense_1.bias"].fill_(value)

    with pytest.raises(DataError, match=r"the loss of step 8 is nan; the last checkpoint is kept"):
        trained(tmp_path, *VARIANTS["adam"], watcher=Act(poison))
    assert [p.name for p in saved_steps(tmp_path)] == ["step-00000005"]
    assert checkpoint.load(saved_steps(tmp_path)[-1]).graph.widths["h"] == 4
    run = Run.resume(tmp_path)
    assert run.report.step == 5
    run.run()
    assert differing(whole("adam"), tmp_path) == []


def npz(path, value=1.0, **arrays):
    """Write values that are a linear function of two inputs."""
    x = np.random.default_rng(0).normal(size=(40, 2))
    np.savez(path, x=x * value, y=(x @ [1.0, -2.0] + 0.5) * value, **arrays)
    return f'data = npz("{path}")  loss = mse  batch = 8  epochs = 3'  # 32 samples to train on: 4 steps an epoch


LINE = "net line(x: [2]) { return x |> h: dense(3) |> tanh |> dense(1) }"


def test_a_run_that_diverges_ends_with_the_step(tmp_path):
    options = npz(tmp_path / "d.npz", 100.0) + "  optimizer = sgd(lr = 1e6)"
    with pytest.raises(DataError, match=r"the loss of step \d+ is (inf|nan)") as caught:
        trained(tmp_path / "run", "net line(x: [2]) { return x |> dense(1) }", "", options, save_every=1)
    step = int(str(caught.value).split("step ")[1].split()[0])
    assert 2 < step < 12
    assert saved_steps(tmp_path / "run")[-1].name == f"step-{step - 1:08d}"
    checkpoint.load(saved_steps(tmp_path / "run")[-1])
    assert not (tmp_path / "run" / "summary.json").exists()


@pytest.mark.parametrize("name", ["tpu", "meta", "mps", "xpu", "", "cpu:x"])
def test_unknown_devices_are_refused(tmp_path, name):
    with pytest.raises(OptionError, match=f"`{name}`; use cpu or cuda"):
        Run(job(), tmp_path, device=name)


def test_cuda_is_refused_where_there_is_none(tmp_path, monkeypatch, whole):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for act in (lambda: Run(job(), tmp_path, device="cuda"), lambda: Run.resume(whole("adam"), device="cuda")):
        with pytest.raises(OptionError, match="the device cuda was asked for and none is available; use --device cpu"):
            act()


def test_data_that_does_not_fit_is_refused_before_anything_is_written(tmp_path):
    with pytest.raises(DataError, match=r"the input `x` takes \[3\], spirals has \[2\]"):
        Run(job("net n(x: [3]) { return x |> dense(2) }", ""), tmp_path / "run")
    with pytest.raises(DataError, match="the output `dense_1` has 1 classes"):
        Run(job("net n(x: [2]) { return x |> dense(1) }", ""), tmp_path / "run")
    with pytest.raises(OptionError, match="matches no axis"):
        Run(job(growth=STEADY.replace("where = h", "where = hidden_layer")), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_last_batch_of_one_sample_under_a_batch_norm_is_an_error_of_the_settings(tmp_path):
    with pytest.raises(UserError, match="batch"):
        trained(tmp_path / "a", NOISY, "", "data = spirals(24)  batch = 7  epochs = 1")  # 36 = 5 * 7 + 1
    assert trained(tmp_path / "b", NET, "", "data = spirals(24)  batch = 7  epochs = 1")[1]["steps"] == 6


# precision, regression, carrying -------------------------------------------------------------------------------------


def dtypes(run):
    state = run.optimizer.state[run.net.params["h.weight"]]
    return {t.dtype for t in (*run.net.parameters(), state["exp_avg"], state["exp_avg_sq"])}


def test_precision_is_that_of_weights_and_slots(tmp_path):
    runs = {p: trained(tmp_path / p, options=f"precision = {p}") for p in ("float32", "float64", "bf16")}
    assert dtypes(runs["float64"][0]) == {torch.float64}
    assert dtypes(runs["float32"][0]) == dtypes(runs["bf16"][0]) == {torch.float32}
    losses = {p: summary["test_loss"] for p, (_, summary) in runs.items()}
    assert losses["float64"] == pytest.approx(losses["float32"], rel=1e-4)  # 15 steps in single precision
    assert losses["float64"] != losses["float32"]
    assert losses["bf16"] == pytest.approx(losses["float32"], rel=0.05)  # bf16 has eight bits
    assert abs(losses["bf16"] - losses["float64"]) > abs(losses["float32"] - losses["float64"])
    assert all(summary["rewrites"] == 3 for _, summary in runs.values())


@pytest.mark.parametrize("precision", ["float32", "float64", "bf16"])
def test_values_are_learnt_from_a_file(tmp_path, precision):
    options = npz(tmp_path / "my data.npz").replace("epochs = 3", "epochs = 30")
    options += f"  optimizer = adam(lr = 0.03)  precision = {precision}"
    _, summary = trained(tmp_path / "run", LINE, STEADY.replace("every = 4", "every = epochs(10)"), options)
    losses = [row["test_loss"] for row in events(tmp_path / "run", "epoch")]
    assert losses[-1] < 0.3 * losses[0]
    assert summary["test_accuracy"] is None
    assert all(row["test_accuracy"] is None for row in events(tmp_path / "run", "epoch"))
    assert summary["test_loss"] == losses[-1]
    assert summary["rewrites"] == 3
    assert summary["data"] == f'npz("{tmp_path}/my data.npz")'


def test_a_regression_goes_on_bit_for_bit(tmp_path):
    options = npz(tmp_path / "d.npz")
    trained(tmp_path / "a", LINE, STEADY, options)
    assert trained(tmp_path / "b", LINE, STEADY, options, watcher=Stop(6))[1] is None
    Run.resume(tmp_path / "b").run()
    assert differing(tmp_path / "a", tmp_path / "b") == []
    assert [row["step"] for row in events(tmp_path / "b", "rewrite")] == [4, 8, 12]


@pytest.mark.parametrize("carry", ["siblings", "zero", "fresh"])
def test_new_units_start_their_slots_as_asked(tmp_path, carry):
    seen, watcher = {}, Stop(4)
    run = Run(job(options=f"carry = {carry}"), tmp_path, watcher=watcher)

    def look(receipt, step):
        state = run.optimizer.state.get(run.net.params["h.weight"], {})
        seen.update({k: v.clone() for k, v in state.items()})
        seen["untouched"] = run.optimizer.state[run.net.params["dense_1.weight"]]["exp_avg_sq"].clone()

    watcher.rewrite = look
    run.run()
    assert seen["untouched"].min() > 0
    if carry == "fresh":
        assert set(seen) == {"untouched"}
        return
    old, new = seen["exp_avg_sq"][:3], seen["exp_avg_sq"][3]
    assert old.min() > 0
    assert seen["exp_avg"][3].tolist() == [0, 0]
    torch.testing.assert_close(new, old.mean(0) if carry == "siblings" else torch.zeros(2), rtol=1e-6, atol=0)


def test_how_slots_are_carried_shows_in_the_result(tmp_path):
    """Negative control: the three ways are three runs."""
    losses = {c: trained(tmp_path / c, options=f"carry = {c}")[1]["test_loss"] for c in ("siblings", "zero", "fresh")}
    assert len(set(losses.values())) == 3


def test_initial_values_follow_the_setting(tmp_path):
    stock, xavier = (Run(job(options=f"init = {i}"), tmp_path) for i in ("default", "xavier_uniform"))
    assert stock.net.params["h.bias"].abs().min() > 0
    assert xavier.net.params["h.bias"].abs().max() == 0
    assert not torch.equal(stock.net.params["h.weight"], xavier.net.params["h.weight"])


def test_the_schedule_runs_over_the_whole_run(tmp_path):
    rates = []
    trained(
        tmp_path,
        options="schedule = cosine(floor = 0.1)  optimizer = adam(lr = 0.5)",
        watcher=Act(lambda run, report: rates.append(run.optimizer.param_groups[0]["lr"])),
    )
    wanted = [0.5 * (0.1 + 0.9 * (1 + np.cos(np.pi * i / 15)) / 2) for i in range(1, 16)]
    assert rates == pytest.approx(wanted, rel=1e-9)
