"""A picture of a run: accuracy or loss, and the widths of its axes, over the training steps."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MOST_LINES = 12
COLOURS = 10
THINNEST = 1.2
LONGEST_NAME = 28


def draw_history(history: list[dict[str, Any]], path: Path) -> bool:
    """Draw a run's history; return whether it was drawn (matplotlib is there and an epoch has passed).

    Every axis that was there in some row has a line, which ends with a cross where the axis went; lines become thinner,
    so that axes of one width are all seen. Of more axes than there is room for, those that changed come first.
    """
    epochs = [row for row in history if row["event"] == "epoch"]
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        return False
    if not epochs:
        return False
    figure = Figure(figsize=(8, 6), layout="constrained")
    FigureCanvasAgg(figure)
    above, below = figure.subplots(2, 1, sharex=True)
    _draw_score(above, epochs)
    for row in history:
        if row["event"] == "rewrite":
            above.axvline(row["step"], color="0.85", linewidth=0.8, zorder=0)
    _draw_widths(below, history)
    for axes in (above, below):
        axes.grid(visible=True, alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=120)
    return True


def _draw_score(axes: Axes, epochs: list[dict[str, Any]]) -> None:
    steps = [row["step"] for row in epochs]
    style: dict[str, Any] = {"marker": "o", "markersize": 3, "color": "C0"}
    if epochs[-1]["test_accuracy"] is not None:
        axes.plot(steps, [100 * row["test_accuracy"] for row in epochs], **style)
        axes.set_ylabel("test accuracy (%)")
    else:
        axes.plot(steps, [row["test_loss"] for row in epochs], **style)
        axes.set_ylabel("test loss")
    axes.set_title(f"{epochs[-1]['parameters']:,} parameters after {steps[-1]:,} steps")


def _draw_widths(axes: Axes, history: list[dict[str, Any]]) -> None:
    steps = [row["step"] for row in history]
    lines, names = [], shown_axes(history)
    for i, name in enumerate(names):
        sizes = [row["widths"].get(name) for row in history]
        colour, style = f"C{i % COLOURS}", "-" if i < COLOURS else "--"
        thickness = THINNEST + min(1.6, 7 / len(names)) * (len(names) - 1 - i)
        lines += axes.step(steps, sizes, where="post", label=name, color=colour, linestyle=style, linewidth=thickness)
        last = max(j for j, size in enumerate(sizes) if size is not None)
        if last + 1 < len(sizes):
            axes.plot(steps[last + 1], sizes[last], marker="x", color=colour)
    axes.set_ylabel("width (units)")
    axes.set_xlabel("training step")
    axes.set_ylim(bottom=0)
    axes.locator_params(axis="y", integer=True)
    count = len({name for row in history for name in row["widths"]})
    if names:
        more = f" ({len(names)} of {count})" if count > len(names) else ""
        written = [name if len(name) <= LONGEST_NAME else shortened(name) for name in names]
        axes.legend(lines, written, fontsize=8, title=f"axes{more}", loc="upper left", bbox_to_anchor=(1.0, 1.0))


def shown_axes(history: list[dict[str, Any]]) -> list[str]:
    """Return the axes that are drawn, in the order they came: all, or as many as there is room for, changed ones first.

    >>> shown_axes([{"widths": {"a": 1, "b": 2}}, {"widths": {"a": 1, "c": 3}}])
    ['a', 'b', 'c']
    """
    names = list(dict.fromkeys(name for row in history for name in row["widths"]))
    constant = {name for name in names if len({row["widths"].get(name) for row in history}) == 1}
    chosen = set(sorted(names, key=lambda name: name in constant)[:MOST_LINES])
    return [name for name in names if name in chosen]


def shortened(name: str) -> str:
    """Return a name without its middle: those of blocks differ at the front, those of layers at the end.

    >>> shortened("blocks.0.attention.projection_of_values.layer")
    'blocks.0.att...ues.layer'
    """
    front = (LONGEST_NAME - 3) // 2
    return f"{name[:front]}...{name[front + 3 - LONGEST_NAME :]}"
