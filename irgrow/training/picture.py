"""A picture of a run: accuracy or loss, and the widths of the hidden axes, over the training steps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

MOST_LINES = 12


def draw_history(history: list[dict[str, Any]], path: Path) -> bool:
    """Draw a run's history; return whether it was drawn (matplotlib is there and an epoch has passed)."""
    epochs = [row for row in history if row["event"] == "epoch"]
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        return False
    if not epochs:
        return False
    steps = [row["step"] for row in epochs]
    figure = Figure(figsize=(8, 6), layout="constrained")
    FigureCanvasAgg(figure)
    above, below = figure.subplots(2, 1, sharex=True)
    if epochs[-1]["test_accuracy"] is not None:
        above.plot(steps, [100 * row["test_accuracy"] for row in epochs], marker="o", markersize=3, color="C0")
        above.set_ylabel("test accuracy (%)")
    else:
        above.plot(steps, [row["test_loss"] for row in epochs], marker="o", markersize=3, color="C0")
        above.set_ylabel("test loss")
    above.set_title(f"{epochs[-1]['parameters']:,} parameters after {steps[-1]:,} steps")
    names = list(epochs[-1]["widths"])
    lines = []
    for name in names[:MOST_LINES]:
        sizes = [row["widths"].get(name) for row in history]
        lines += below.step([row["step"] for row in history], sizes, where="post", label=name)
    for row in history:
        if row["event"] == "rewrite":
            above.axvline(row["step"], color="0.85", linewidth=0.8, zorder=0)
    below.set_ylabel("width (units)")
    below.set_xlabel("training step")
    below.set_ylim(bottom=0)
    if names:
        more = f" (first {MOST_LINES} of {len(names)})" if len(names) > MOST_LINES else ""
        below.legend(lines, names[:MOST_LINES], fontsize=8, title=f"hidden axes{more}", loc="upper left")
    for axes in (above, below):
        axes.grid(visible=True, alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=120)
    return True
