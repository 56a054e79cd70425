"""Write docs/preservation.md, what every rewrite does to the function of a network, by running it: `python docs/operators.py`."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import torch

from irgrow.attributes import textual_name
from irgrow.passes import PASSES, Pass
from irgrow.testing.idioms import IDIOMS, OPERATORS, idiom, operator
from irgrow.testing.trials import Trial, size_of_error, tally, tried

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from preservation_rows import ROWS  # noqa: E402
from preservation_table import lines  # noqa: E402

PAGE = Path(__file__).with_name("preservation.md")

INTRODUCTION = """# What is preserved

Written by `python docs/operators.py`, which runs what it reports; the tests compare. Every cell says how often a rewrite came
to which verdict, over all places of a program and over options drawn from the declaration of the pass; where a pass found
nothing to do it was tried again on parameters with dead units and with copies.

- `exact`: the outputs are the old ones, in training and in evaluation; held to 1e-10 of the largest output in float64, with
  parameters and statistics of norms that are not trivial. `exact in evaluation`: only there.
- `approximate`: nearly the old ones. `improving`: others, on purpose. `changes`: others.
- `refused`: nothing was done, and why was said. Many refusals mean only that a pass has no business at a place.

Everything that was done also printed and parsed to itself, was lowered to torch, computed there what its definition says, and
passed finite gradients back.
"""

BATTERY = """## Idioms

The programs stand in `irgrow/testing/idioms.py`. The last column is the largest error among all that is exact.
"""

MATRIX = """## Operators

Small programs in which the operator stands on the edited axis, or is the node that is worked on. Of options with many values
the first ones are tried.
"""

TABLE = """## The table

What the literature says of operators that preserve the function, 52 rows, and what irgrow makes of them. Class: R exact up to
rounding, B bitwise, C on conditions, N not preserving. `▸` stands for the pipe of the language. The error is measured in
float64; what learns has a gradient in the first backward pass. Where irgrow does not do what the row says the verdict is
bold.

| # | operator | class | rewrite | verdict | error | learns at once | as the table says |
|---|---|---|---|---|---|---|---|
"""

Row = Callable[[str, str], str]


def passes() -> list[str]:
    """Return the names of the passes, the columns."""
    return [textual_name(cls) for cls in PASSES]


def cells(name: str, trials: Mapping[type[Pass], list[Trial]]) -> list[str]:
    """Return the first cells of a line: the name and what came of every pass."""
    return [name, *(tally(found) for found in trials.values())]


def _line(found: list[str]) -> str:
    return f"| {' | '.join(found)} |"


def idiom_line(name: str, trials: Mapping[type[Pass], list[Trial]]) -> str:
    """Return the line of an idiom."""
    errors = (t.error for found in trials.values() for t in found if t.outcome.startswith("exact"))
    return _line([*cells(name, trials), size_of_error(max(errors, default=0.0))])


def operator_line(word: str, trials: Mapping[type[Pass], list[Trial]]) -> str:
    """Return the line of an operator."""
    return _line(cells(f"`{word}`", trials))


def idiom_trials(name: str) -> dict[type[Pass], list[Trial]]:
    """Try every pass on an idiom."""
    return tried(idiom(name))


def operator_trials(word: str) -> dict[type[Pass], list[Trial]]:
    """Try every pass at an operator."""
    return tried(operator(word), few=6, at="it")


def computed(section: str, key: str) -> str:
    """Return a line, by running what it reports."""
    if section == "Idioms":
        return idiom_line(key, idiom_trials(key))
    if section == "Operators":
        return operator_line(key, operator_trials(key))
    return "\n".join(lines(ROWS[int(key) - 1]))


def written(page: str) -> Row:
    """Return what looks a line up on a page that is there; one that is not is empty."""

    def look_up(section: str, key: str) -> str:
        body = page.partition(f"\n## {section}\n")[2].partition("\n## ")[0]
        key = f"`{key}`" if section == "Operators" else key
        return "\n".join(re.findall(rf"^\| {re.escape(key)} \|.*$", body, re.MULTILINE))

    return look_up


def page(row: Row) -> str:
    """Return the whole page, its lines looked up or computed."""
    parts = [INTRODUCTION, BATTERY, *_head(["idiom", *passes(), "error"])]
    parts += [row("Idioms", name) for name in IDIOMS]
    parts += ["", MATRIX, *_head(["operator", *passes()])]
    parts += [row("Operators", word) for word in OPERATORS]
    parts += ["", TABLE.rstrip("\n"), *(row("The table", str(r.number)) for r in ROWS)]
    return "\n".join(parts) + "\n"


def _head(names: list[str]) -> list[str]:
    return [_line(names), "|---" * len(names) + "|"]


if __name__ == "__main__":
    torch.set_num_threads(1)
    PAGE.write_text(page(computed))
