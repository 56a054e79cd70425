"""The picture of a run: drawn from any history with an epoch in it, openable, and showing what it should."""

import sys
from itertools import pairwise

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.image import imread

from irgrow.training.picture import LONGEST_NAME, MOST_LINES, draw_history, shortened

WIDTHS = {"a": 3, "b": 4}


def history(epochs=3, accuracy=True, widths=WIDTHS, grown=True):
    """Return a history whose axes all gain a unit in every epoch."""
    found = [{"event": "start", "step": 0, "parameters": 10, "macs": 9, "widths": dict(widths)}]
    for i in range(1, epochs + 1):
        widths = {n: w + grown for n, w in widths.items()}
        size = {"parameters": 1000 * i, "macs": 9, "widths": widths}
        if grown:
            found.append({"event": "rewrite", "step": 10 * i - 5, "rewrite": "r", "verdict": "exact", **size})
        score = {"test_loss": 2.0 / i, "test_accuracy": 1 - 0.5**i if accuracy else None}
        found.append({"event": "epoch", "epoch": i, "step": 10 * i, "train_loss": 2.0, **score, **size})
    return found


@pytest.fixture
def drawn(monkeypatch):
    """Record what is drawn: lines, steps, and marks of rewrites, with the label of the vertical axis."""
    seen = {"plot": [], "step": [], "axvline": [], "set_ylabel": [], "set_title": [], "legend": []}

    def recording(name, real):
        def call(self, *args, **kwargs):
            seen[name].append((args, kwargs))
            return real(self, *args, **kwargs)

        return call

    for name in seen:
        monkeypatch.setattr(Axes, name, recording(name, getattr(Axes, name)))
    return seen


def is_a_picture(path):
    assert path.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    image = imread(path)
    assert image.shape == (720, 960, 4)
    colours = np.unique((255 * image).astype(np.uint8).view(np.uint32))
    assert len(colours) > 20
    assert 0.005 < (image[..., :3].min(-1) < 0.95).mean() < 0.5, "ink on paper"
    return image


def test_accuracy_and_widths_over_the_steps(tmp_path, drawn):
    assert draw_history(history(), tmp_path / "h.png") is True
    is_a_picture(tmp_path / "h.png")
    assert drawn["plot"][0][0] == ([10, 20, 30], [50.0, 75.0, 87.5])
    labels = [args[0] for args, _ in drawn["set_ylabel"]]
    assert labels == ["test accuracy (%)", "width (units)"]
    lines = {kwargs["label"]: args for args, kwargs in drawn["step"]}
    assert lines["a"] == ([0, 5, 10, 15, 20, 25, 30], [3, 4, 4, 5, 5, 6, 6])
    assert list(lines) == ["a", "b"]
    assert [args[0] for args, _ in drawn["axvline"]] == [5, 15, 25]
    assert drawn["set_title"][0][0] == ("3,000 parameters after 30 steps",)


def test_the_loss_where_there_is_no_accuracy(tmp_path, drawn):
    assert draw_history(history(accuracy=False), tmp_path / "h.png") is True
    is_a_picture(tmp_path / "h.png")
    assert drawn["plot"][0][0] == ([10, 20, 30], [2.0, 1.0, 2.0 / 3])
    assert drawn["set_ylabel"][0][0] == ("test loss",)


def test_other_histories_are_other_pictures(tmp_path):
    """Negative control: the picture depends on the widths and on the accuracy."""
    images = []
    for i, rows in enumerate((history(), history(grown=False), history(accuracy=False))):
        draw_history(rows, tmp_path / f"{i}.png")
        images.append(is_a_picture(tmp_path / f"{i}.png"))
    assert not np.array_equal(images[0], images[1])
    assert not np.array_equal(images[0], images[2])


@pytest.mark.parametrize("count", [MOST_LINES, 40])
def test_only_the_first_axes_of_many_are_drawn(tmp_path, drawn, count):
    widths = {f"block{i}.h": i + 1 for i in range(count)}
    assert draw_history(history(widths=widths), tmp_path / "h.png") is True
    is_a_picture(tmp_path / "h.png")
    assert [kwargs["label"] for _, kwargs in drawn["step"]] == list(widths)[:MOST_LINES]
    more = f" ({MOST_LINES} of {count})" if count > MOST_LINES else ""
    assert drawn["legend"][0][1]["title"] == f"axes{more}"


def test_of_many_axes_those_that_changed_are_drawn(tmp_path, drawn):
    rows = history(widths={f"a{i}": 3 for i in range(40)}, grown=False)
    for row in rows[2:]:
        row["widths"] = {**row["widths"], "a30": 5}
        del row["widths"]["a35"]
    assert draw_history(rows, tmp_path / "h.png") is True
    assert [kwargs["label"] for _, kwargs in drawn["step"]] == [*(f"a{i}" for i in range(10)), "a30", "a35"]


def test_lines_of_one_width_can_all_be_seen(tmp_path, drawn):
    """Of those that lie on one another the upper ones are thinner, and no two look the same."""
    assert draw_history(history(widths={f"a{i}": 3 for i in range(MOST_LINES)}), tmp_path / "h.png") is True
    thickness = [kwargs["linewidth"] for _, kwargs in drawn["step"]]
    assert all(a - b > 0.5 for a, b in pairwise(thickness))
    assert thickness[-1] > 1
    assert len({(kwargs["color"], kwargs["linestyle"]) for _, kwargs in drawn["step"]}) == MOST_LINES


def test_an_axis_that_goes_ends_with_a_cross(tmp_path, drawn):
    rows = history()
    for row in rows[4:]:
        row["widths"] = {"b": row["widths"]["b"]}
    assert draw_history(rows, tmp_path / "h.png") is True
    is_a_picture(tmp_path / "h.png")
    lines = {kwargs["label"]: args for args, kwargs in drawn["step"]}
    assert lines["a"][1] == [3, 4, 4, 5, None, None, None]
    (cross,) = [args for args, kwargs in drawn["plot"] if kwargs.get("marker") == "x"]
    assert cross == (20, 5)


def test_losses_that_are_not_finite_are_gaps(tmp_path, drawn):
    rows = history(accuracy=False)
    rows[2]["test_loss"] = None
    assert draw_history(rows, tmp_path / "h.png") is True
    is_a_picture(tmp_path / "h.png")
    assert drawn["plot"][0][0] == ([10, 20, 30], [None, 1.0, 2.0 / 3])


def test_long_names_leave_room_for_the_lines(tmp_path, drawn):
    name = "encoder.blocks.0.attention.mix.repeats"
    assert draw_history(history(widths={name: 3}), tmp_path / "h.png") is True
    ((_, written), _) = drawn["legend"][0]
    assert written == ["encoder.bloc...n.mix.repeats"]


def test_names_cut_short_stay_apart():
    names = [f"blocks.{i}.attention.projection_of_values.{end}" for i in range(6) for end in ("layer", "norm")]
    assert len(set(map(shortened, names))) == len(names)
    assert {len(shortened(name)) for name in names} == {LONGEST_NAME}


def test_axes_that_were_inserted_later_start_later(tmp_path, drawn):
    rows = history()
    for row in rows[3:]:
        row["widths"] = {**row["widths"], "new": 5}
    assert draw_history(rows, tmp_path / "h.png") is True
    is_a_picture(tmp_path / "h.png")
    lines = {kwargs["label"]: args for args, kwargs in drawn["step"]}
    assert lines["new"][1] == [None, None, None, 5, 5, 5, 5]


def test_no_hidden_axes_is_no_legend(tmp_path, drawn):
    assert draw_history(history(widths={}), tmp_path / "h.png") is True
    is_a_picture(tmp_path / "h.png")
    assert drawn["legend"] == drawn["step"] == []


def test_names_with_an_underscore_in_front_are_in_the_legend(tmp_path):
    assert draw_history(history(widths={"_h": 3}), tmp_path / "under.png") is True
    draw_history(history(widths={"h": 3}), tmp_path / "plain.png")
    corner = [is_a_picture(tmp_path / f"{n}.png")[360:480, 700:] for n in ("under", "plain")]
    assert not np.array_equal(*corner), "the name is written out"
    assert (corner[0] < 0.5).any()


@pytest.mark.parametrize("rows", [[], history(0), [r for r in history() if r["event"] != "epoch"]])
def test_without_an_epoch_nothing_is_drawn(tmp_path, rows):
    assert draw_history(rows, tmp_path / "h.png") is False
    assert not (tmp_path / "h.png").exists()


def test_without_matplotlib_nothing_is_drawn(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert draw_history(history(), tmp_path / "h.png") is False
    assert not (tmp_path / "h.png").exists()


def test_one_epoch_and_no_growth_are_enough(tmp_path):
    assert draw_history(history(1, grown=False), tmp_path / "h.png") is True
    is_a_picture(tmp_path / "h.png")
