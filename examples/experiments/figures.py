"""Pictures of an experiment: accuracy against size, and widths over time."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from outcomes import Outcome, chosen, names, panels
from tables import Spread

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST_LINES = 16
MARKS = "osD^v<>Pp*Xhd8"
COLORS = [f"C{i}" for i in range(10) if i != 7]  # the seventh is the grey of the static networks


def canvas(columns: int, rows: int, size: tuple[float, float]) -> tuple[Figure, NDArray[Any]] | None:
    """Return a figure and its axes, (rows, columns); `None` without matplotlib."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        print("no pictures: they need matplotlib, pip install 'irgrow[examples]'")
        return None
    figure = Figure(figsize=size, layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots(rows, columns, squeeze=False)


def tidy(axes: Axes) -> None:
    """Give axes a grid and no frame."""
    axes.grid(visible=True, alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)


def draw_accuracy(title: str, outcomes: list[Outcome], path: Path) -> bool:
    """Draw one point for each strategy, with deviations over the seeds; return whether it was drawn.

    Static networks are grey and joined; the parameters stand on a logarithmic axis.
    """
    shown = [panel for panel in panels(outcomes) if len(names(outcomes, panel)) > 1] or panels(outcomes)
    made = canvas(len(shown), 1, (4.2 * len(shown) + 2.4, 4.4))
    if made is None:
        return False
    figure, grid = made
    every = names([o for o in outcomes if o.panel in shown])
    static = [name for name in every if name.startswith("static")]
    dynamic = [name for name in every if name not in static]
    handles: dict[str, Any] = {}
    for axes, panel in zip(grid[0], shown, strict=True):
        for name in names(outcomes, panel):
            runs = chosen(outcomes, panel, name)
            size, right = Spread.of([r.parameters for r in runs]), Spread.of([100 * r.accuracy for r in runs])
            group = static if name in static else dynamic
            place = group.index(name)
            color = "0.35" if group is static else COLORS[place % len(COLORS)]
            handles[name] = axes.errorbar(
                size.mean,
                right.mean,
                xerr=size.deviation or 0.0,
                yerr=right.deviation or 0.0,
                fmt=MARKS[place % len(MARKS)],
                color=color,
                markerfacecolor="white" if group is static else color,
                markersize=7,
                capsize=3,
                elinewidth=1,
            )
        line = [chosen(outcomes, panel, name) for name in static]
        points = sorted((Spread.of([r.parameters for r in x]).mean, _percent(x)) for x in line if x)
        axes.plot([p[0] for p in points], [p[1] for p in points], color="0.7", linewidth=1, zorder=0)
        axes.set_xscale("log")
        _label_sizes(axes)
        axes.set_title(panel)
        axes.set_xlabel("parameters")
        tidy(axes)
    grid[0][0].set_ylabel("test accuracy (%)")
    figure.suptitle(title)
    figure.legend([handles[n] for n in every], every, loc="outside right center", fontsize=8)
    figure.savefig(path, dpi=120)
    return True


def _label_sizes(axes: Axes) -> None:
    """Label a logarithmic axis at 1, 2 and 5 times the powers of ten, or at the powers if it is long."""
    from matplotlib.ticker import EngFormatter, LogLocator, NullFormatter

    low, high = axes.get_xlim()
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if high < 50 * low else (1.0,)))
    axes.xaxis.set_minor_locator(LogLocator(subs=range(1, 10)))
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.xaxis.set_minor_formatter(NullFormatter())
    if high < 4 * low:
        axes.xaxis.set_major_locator(LogLocator(subs=range(1, 10)))


def _percent(runs: list[Outcome]) -> float:
    return Spread.of([100 * r.accuracy for r in runs]).mean


def draw_widths(title: str, outcomes: list[Outcome], path: Path, columns: int = 4) -> bool:
    """Draw the widths of every case that changes over the training steps; return whether it was drawn.

    Lines are means over the seeds, the shade behind them reaches from the smallest to the largest.
    """
    cases = [(p, n) for p in panels(outcomes) for n in names(outcomes, p) if _changes(chosen(outcomes, p, n))]
    if not cases:
        return False
    columns = min(columns, len(cases))
    rows = -(-len(cases) // columns)
    made = canvas(columns, rows, (3.1 * columns + 1.9, 2.5 * rows + 0.5))
    if made is None:
        return False
    figure, grid = made
    several = len({panel for panel, _ in cases}) > 1
    legends: list[tuple[str, ...]] = []
    for axes, (panel, name) in zip(grid.flat, cases, strict=False):
        runs = chosen(outcomes, panel, name)
        last = max(row["step"] for run in runs for row in run.history)
        steps = np.linspace(0, last, 200)
        most = 0.0
        for axis in list(runs[0].widths)[:MOST_LINES]:
            curves = np.array([_curve(run, axis, steps) for run in runs])
            (drawn,) = axes.plot(steps, curves.mean(0), label=axis, linewidth=1.4)
            axes.fill_between(steps, curves.min(0), curves.max(0), color=drawn.get_color(), alpha=0.15, linewidth=0)
            most = max(most, curves.max())
        axes.set_title(f"{panel}: {name}" if several else name, fontsize=9)
        axes.set_ylim(0, 1.05 * most)
        axes.set_xlabel("training step", fontsize=8)
        axes.tick_params(labelsize=8)
        tidy(axes)
        if len(legends) < 2 and (here := tuple(runs[0].widths)) not in legends:
            heading = f"axes of {panel}" if several else "axes"
            if len(here) > MOST_LINES:
                heading += f" (first {MOST_LINES} of {len(here)})"
            handles, labels = axes.get_legend_handles_labels()
            figure.legend(
                handles,
                labels,
                loc="outside right lower" if legends else "outside right upper",
                fontsize=7,
                title=heading,
                title_fontsize=8,
            )
            legends.append(here)
    for axes in list(grid.flat)[len(cases) :]:
        axes.set_axis_off()
    for axes in grid[:, 0]:
        axes.set_ylabel("width (units)", fontsize=8)
    figure.suptitle(f"{title}: widths over time")
    figure.savefig(path, dpi=120)
    return True


def _changes(runs: list[Outcome]) -> bool:
    return any(run.summary["widths"]["before"] != run.summary["widths"]["after"] for run in runs)


def _curve(run: Outcome, axis: str, steps: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the width of an axis at these steps; it changes at once."""
    at = np.array([row["step"] for row in run.history])
    sizes = np.array([row["widths"].get(axis, 0) for row in run.history], float)
    return sizes[np.searchsorted(at, steps, side="right") - 1]
