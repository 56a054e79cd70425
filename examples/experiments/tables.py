"""Tables of an experiment: every run, and every case over its seeds, compared with a reference."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean, stdev

from outcomes import Outcome, chosen, names, panels


@dataclass(frozen=True)
class Spread:
    """Mean and sample standard deviation; one value has none."""

    mean: float
    deviation: float | None

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Return those of some values.

        >>> Spread.of([1.0, 3.0]), Spread.of([2.0])
        (Spread(mean=2.0, deviation=1.4142135623730951), Spread(mean=2.0, deviation=None))
        """
        return cls(mean(values), stdev(values) if len(values) > 1 else None)

    def text(self, unit: float = 1.0, form: str = ".0f") -> str:
        """Write it as `mean ± deviation`."""
        rest = "" if self.deviation is None else f" ± {self.deviation * unit:{form}}"
        return f"{self.mean * unit:{form}}{rest}"


@dataclass(frozen=True)
class Line:
    """A case over its seeds, and beside the reference on the seeds that both have."""

    panel: str
    name: str
    seeds: int
    accuracy: Spread
    parameters: Spread
    macs: Spread
    seconds: Spread
    widths: dict[str, float]
    refused: int
    difference: Spread | None = None
    paired: int = 0
    share: float | None = None

    @property
    def judged(self) -> str:
        """Say whether it reaches the reference: at least as good, lower but within two standard errors, or lower."""
        if self.difference is None:
            return ""
        if self.difference.mean >= 0:
            return "reached"
        if self.difference.deviation is None:
            return "lower, one seed"
        error = self.difference.deviation / self.paired**0.5
        return "lower, within 2 errors" if self.difference.mean >= -2 * error else "lower"


def line(outcomes: list[Outcome], panel: str, name: str, reference: str) -> Line:
    """Return the line of a case."""
    runs = chosen(outcomes, panel, name)
    axes = list(dict.fromkeys(axis for run in runs for axis in run.widths))
    made = Line(
        panel,
        name,
        len(runs),
        accuracy=Spread.of([run.accuracy for run in runs]),
        parameters=Spread.of([run.parameters for run in runs]),
        macs=Spread.of([run.macs for run in runs]),
        seconds=Spread.of([run.seconds for run in runs]),
        widths={axis: mean(run.widths.get(axis, 0) for run in runs) for axis in axes},
        refused=sum(run.refused for run in runs),
    )
    beside = {run.seed: run for run in chosen(outcomes, panel, reference)}
    pairs = [(run, beside[run.seed]) for run in runs if run.seed in beside]
    if name == reference or not pairs:
        return made
    difference = Spread.of([run.accuracy - other.accuracy for run, other in pairs])
    share = mean(run.parameters for run, _ in pairs) / mean(other.parameters for _, other in pairs)
    return replace(made, difference=difference, paired=len(pairs), share=share)


def lines(outcomes: list[Outcome], reference: str) -> list[Line]:
    """Return the lines of all cases, panel by panel."""
    return [line(outcomes, p, n, reference) for p in panels(outcomes) for n in names(outcomes, p)]


def write_tables(title: str, outcomes: list[Outcome], folder: Path, reference: str) -> None:
    """Write `runs.csv`, `results.csv` and `results.md`."""
    found = lines(outcomes, reference)
    write_csv(folder / "runs.csv", [_run_cells(o) for o in outcomes])
    write_csv(folder / "results.csv", [_line_cells(x) for x in found])
    (folder / "results.md").write_text(markdown(title, found, reference))


def _run_cells(o: Outcome) -> dict[str, object]:
    return {
        "panel": o.panel,
        "strategy": o.name,
        "seed": o.seed,
        "accuracy": o.accuracy,
        "parameters": o.parameters,
        "macs": o.macs,
        "widths": _sizes(o.widths),
        "rewrites": o.summary["rewrites"],
        "refused": o.refused,
        "seconds": round(o.seconds, 2),
    }


def _line_cells(x: Line) -> dict[str, object]:
    return {
        "panel": x.panel,
        "strategy": x.name,
        "seeds": x.seeds,
        "accuracy": x.accuracy.mean,
        "accuracy_deviation": x.accuracy.deviation,
        "parameters": x.parameters.mean,
        "parameters_deviation": x.parameters.deviation,
        "macs": x.macs.mean,
        "seconds": round(x.seconds.mean, 2),
        "widths": _sizes(x.widths),
        "refused": x.refused,
        "difference": None if x.difference is None else x.difference.mean,
        "difference_deviation": None if x.difference is None else x.difference.deviation,
        "parameter_share": x.share,
    }


def _sizes(widths: dict[str, int] | dict[str, float]) -> str:
    return " ".join(f"{axis}={size:g}" for axis, size in widths.items())


def write_csv(path: Path, rows: list[dict[str, object]]) -> None:
    """Write rows with the same columns; what is unknown stays empty."""
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def markdown(title: str, found: list[Line], reference: str) -> str:
    """Return the lines as a table in Markdown, one for each panel."""
    text = f"# {title}\n\nMean and sample standard deviation over the seeds; widths are means, in program order.\n"
    for panel in dict.fromkeys(x.panel for x in found):
        here = [x for x in found if x.panel == panel]
        compared = any(x.difference is not None for x in here)
        heads = ["strategy", "seeds", "accuracy (%)", "parameters", "MACs", "widths", "seconds"]
        heads += [f"points above {reference}", "share of its parameters", "accuracy"] if compared else []
        text += f"\n## {panel}\n\n| {' | '.join(heads)} |\n|{'---|' * len(heads)}\n"
        for x in here:
            cells = [x.name, str(x.seeds), x.accuracy.text(100, ".2f"), x.parameters.text(1, ",.0f")]
            cells += [f"{x.macs.mean:,.0f}", " ".join(f"{size:.0f}" for size in x.widths.values())]
            cells += [x.seconds.text(1, ".1f")]
            if compared and x.difference is not None and x.share is not None:
                cells += [x.difference.text(100, "+.2f").replace("± +", "± "), f"{x.share:.0%}", x.judged]
            elif compared:
                cells += ["", "", ""]
            text += f"| {' | '.join(cells)} |\n"
        if refused := [f"{x.name} {x.refused}" for x in here if x.refused]:
            text += f"\nRewrites refused: {', '.join(refused)}.\n"
    return text
