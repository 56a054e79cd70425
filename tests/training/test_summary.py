"""The figures of a run: every axis that may be edited, those that are gone too, and losses that are no numbers of JSON."""

import json

import numpy as np
import pytest
from small_runs import NET, Stop, events, history, job, trained

from irgrow.grammar import parse
from irgrow.training.loop import Run
from irgrow.training.summary import summarised, widths

STREAM = """net n(x: [2]) {
  s = x |> stem: dense(3) |> tanh
  return s + (s |> h: dense(4) |> tanh |> dense(3)) |> dense(2)
}"""
ALL = "grow { rule all { every = 4  when = schedule  apply = grow_units  where = editable } }"
DEEPER = """grow {
  rule deeper { every = steps([4])  when = schedule  apply = insert_layer(form = residual)  where = k }
  rule wider { every = steps([6, 12])  when = schedule  apply = grow_units  where = editable }
}"""


def strict(text):
    """Read JSON as other languages do."""

    def refuse(name):
        raise AssertionError(f"{name} is not JSON")

    return json.loads(text, parse_constant=refuse)


# widths --------------------------------------------------------------------------------------------------------------


def test_the_stream_of_a_residual_network_is_shown(tmp_path):
    run, summary = trained(tmp_path, STREAM, ALL)
    assert summary["widths"] == {"before": {"stem": 3, "h": 4}, "after": {"stem": 6, "h": 7}, "gone": {}}
    assert [row["widths"]["stem"] for row in events(tmp_path, "rewrite")][::2] == [4, 5, 6]
    assert summary["rewrites"] == 6
    assert run.report.widths == widths(run.net.graph) == {"stem": 6, "h": 7}


def test_an_axis_that_becomes_a_stream_stays(tmp_path):
    """Behind `k` there is an addition once a layer was inserted, so that it is no hidden axis any more."""
    _, summary = trained(tmp_path, NET, DEEPER)
    assert summary["widths"]["before"] == {"h": 3, "k": 3}
    assert summary["widths"]["after"] == {"h": 5, "k": 5, "k_deep1.inner": 5}
    assert [row["widths"]["k"] for row in history(tmp_path) if row["event"] == "epoch"] == [3, 4, 5]


def test_an_axis_that_is_locked_is_shown_if_it_was_edited():
    graph = parse(STREAM)
    assert widths(graph) == {"stem": 3, "h": 4}
    locked = next(a for a in graph.leaves if a not in ("stem", "h"))
    assert widths(graph, [locked, "gone"]) == {**widths(graph), locked: graph.widths[locked]}


def test_axes_that_are_gone_are_named_with_their_last_width(tmp_path):
    """A run that is taken up knows of them from its history."""
    trained(tmp_path, watcher=Stop(7))
    path = tmp_path / "history.jsonl"
    rows = history(tmp_path)
    rows[0]["widths"]["old"], rows[1]["widths"]["old"] = 3, 8
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    summary = Run.resume(tmp_path).run()
    assert summary["widths"]["gone"] == {"old": 8}
    assert "old" not in summary["widths"]["after"]
    graph = parse(NET)
    rows = [{"event": "start", "widths": {"h": 3}}]
    assert summarised(graph, graph, rows, {"h": 9})["widths"]["gone"] == {}


# losses --------------------------------------------------------------------------------------------------------------

LINE = "net line(x: [2]) { return x |> h: dense(3) |> tanh |> dense(1) }"


@pytest.fixture
def overflowing(inside):
    """Return settings with test data whose squared error is beyond single precision."""
    x = np.random.default_rng(0).normal(size=(40, 2)).astype(np.float32)
    y = (x @ [1.0, -2.0]).astype(np.float32)
    np.savez("d.npz", x_train=x, y_train=y, x_test=x, y_test=np.full(40, 1e30, np.float32))
    return 'data = npz("d.npz")  loss = mse  batch = 8  epochs = 3'


def test_a_test_loss_that_is_not_finite_is_null_with_a_warning_and_the_run_goes_on(tmp_path, overflowing):
    _, summary = trained(tmp_path / "run", LINE, "", overflowing)
    rows = [strict(line) for line in (tmp_path / "run" / "history.jsonl").read_text().splitlines()]
    assert [row["test_loss"] for row in rows[1:]] == [None] * 3
    assert all(row["warning"] == "the test loss is inf" for row in rows[1:])
    assert summary["finished"] is True
    assert summary["test_loss"] is None
    assert summary["warnings"] == [f"epoch {i}: the test loss is inf" for i in (1, 2, 3)]
    assert strict((tmp_path / "run" / "summary.json").read_text()) == summary


def test_a_finite_one_is_no_cause_for_a_warning(tmp_path):
    _, summary = trained(tmp_path)
    assert summary["warnings"] == []
    assert not any("warning" in row for row in history(tmp_path))


def test_the_picture_of_a_loss_that_is_not_finite(tmp_path, overflowing):
    assert trained(tmp_path / "run", LINE, "", overflowing)[1]["picture"] == "history.png"


def test_a_history_with_infinity_is_gone_on_with(tmp_path, overflowing):
    """As older versions wrote it."""
    run = Run(job(LINE, "", overflowing), tmp_path / "run", watcher=Stop(7))
    run.run()
    path = tmp_path / "run" / "history.jsonl"
    path.write_text(path.read_text().replace("null", "Infinity", 1))
    assert Run.resume(tmp_path / "run").run()["finished"] is True
    assert all(strict(line) for line in path.read_text().splitlines())
