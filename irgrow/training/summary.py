"""The figures of a run: widths of its axes, and the summary it leaves behind."""

from __future__ import annotations

from collections.abc import Collection
from math import isfinite
from typing import Any

from irgrow.cost import cost
from irgrow.graph import Graph
from irgrow.passes.analyses.places import editable_axes


def widths(graph: Graph, also: Collection[str] = ()) -> dict[str, int]:
    """Return the sizes of the editable axes, and of others that are asked about and still there, in program order.

    >>> from irgrow.grammar import parse
    >>> g = parse("net n(x: [2]) { s = x |> stem: dense(3) return s + (s |> h: dense(4) |> dense(3)) |> dense(1) }")
    >>> widths(g), widths(g, also=["x", "gone"])
    ({'stem': 3, 'h': 4}, {'x': 2, 'stem': 3, 'h': 4})
    """
    editable = set(editable_axes(graph))
    return {name: graph.widths[name] for name in graph.leaves if name in editable or name in also}


def scored(loss: float, accuracy: float | None) -> dict[str, Any]:
    """Return what was measured on the test data as entries of a row: a loss that is not finite is no number of JSON.

    >>> scored(0.5, None)
    {'test_loss': 0.5, 'test_accuracy': None}
    >>> scored(float("inf"), 0.9)
    {'test_loss': None, 'test_accuracy': 0.9, 'warning': 'the test loss is inf'}
    """
    if isfinite(loss):
        return {"test_loss": loss, "test_accuracy": accuracy}
    return {"test_loss": None, "test_accuracy": accuracy, "warning": f"the test loss is {loss}"}


def summarised(
    before: Graph, after: Graph, history: list[dict[str, Any]], axes: dict[str, int], **other: Any
) -> dict[str, Any]:
    """Return the summary of a run.

    Args:
        before: The network it began with.
        after: The network now.
        history: Its rows.
        axes: Every axis that was shown, with its latest width.
        other: What only the run knows.
    """
    epochs = [row for row in history if row["event"] == "epoch"]
    last = epochs[-1] if epochs else {}
    now = widths(after, axes)
    return {
        "network": after.name,
        **other,
        "rewrites": sum(row["event"] == "rewrite" for row in history),
        "test_loss": last.get("test_loss"),
        "test_accuracy": last.get("test_accuracy"),
        "parameters": {"before": before.count(), "after": after.count()},
        "macs": {"before": cost(before).macs, "after": cost(after).macs},
        "widths": {
            "before": widths(before),
            "after": now,
            "gone": {name: width for name, width in axes.items() if name not in now},
        },
        "warnings": [f"epoch {row['epoch']}: {row['warning']}" for row in epochs if "warning" in row],
    }
