"""Side-by-side timing: the parties take turns, and the ratio is that of the medians."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from statistics import median
from typing import Any


def seconds(function: Callable[[], Any], clock: Callable[[], float] = time.perf_counter) -> float:
    """Return how long one call takes, by a clock; `time.process_time` leaves out what other programs take."""
    start = clock()
    function()
    return clock() - start


def compare(
    parties: Mapping[str, Callable[[], Any]],
    rounds: int = 15,
    warm: int = 2,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, float]:
    """Time the parties in turns, so that what disturbs one disturbs all; return the median seconds of each."""
    for function in parties.values():
        for _ in range(warm):
            function()
    times: dict[str, list[float]] = {name: [] for name in parties}
    for i in range(rounds):
        order = list(parties) if i % 2 == 0 else list(reversed(parties))
        for name in order:
            times[name].append(seconds(parties[name], clock))
    return {name: median(t) for name, t in times.items()}


def judged(label: str, value: float, bound: float, at_least: bool = False) -> str:
    """Return a line that says a figure, its bound and whether it is kept."""
    kept = value >= bound if at_least else value <= bound
    sign = ">=" if at_least else "<="
    return f"{label}: {value:.3g} ({sign} {bound:g}: {'kept' if kept else 'NOT KEPT'})"
