"""The main job on real data: grow a network from four units a layer; compare it with a static one four times as wide.

Run it with `make demo`. Three seeds; every figure it prints is measured in this run.
"""

from __future__ import annotations

import shutil
import sys
from dataclasses import replace
from pathlib import Path
from statistics import mean
from typing import Any

from irgrow.grammar import read_program
from irgrow.journal import Receipt
from irgrow.training.loop import Job, Run
from irgrow.training.watching import Watcher

SEEDS = (1, 2, 3)
TIMES = 4
PROGRAM = Path(__file__).with_name("digits.irg")


class FirstEvents(Watcher):
    """Prints the first few rewrites of a run."""

    def __init__(self, shown: int) -> None:
        self.left = shown

    def rewrite(self, receipt: Receipt, step: int) -> None:
        """Print a line for a rewrite."""
        if self.left > 0:
            print(f"  step {step}: {receipt.rewrite}: {receipt.verdict}")
        if self.left == 0:
            print("  ...")
        self.left -= 1


def trained(job: Job, folder: Path, watcher: Watcher | None = None) -> dict[str, Any]:
    """Train a network to the end in a folder and return the summary."""
    shutil.rmtree(folder, ignore_errors=True)
    summary = Run(job, folder, watcher=watcher).run()
    if summary is None:
        sys.exit("the run was stopped")
    return summary


def main(root: Path = Path("runs/demo")) -> None:
    """Grow, train the static network, compare."""
    program = read_program(PROGRAM)
    settings, growth = program.training, program.growth
    assert settings is not None
    print(f"{PROGRAM.name}: {settings.epochs} epochs of {settings.data}, seeds {', '.join(map(str, SEEDS))}\n")
    grown, static = [], []
    for seed in SEEDS:
        seeded = replace(settings, seed=seed)
        watcher = FirstEvents(4) if seed == SEEDS[0] else None
        summary = trained(Job(program.graph(), seeded, growth), root / f"grown-{seed}", watcher)
        grown.append(summary)
        widths = summary["widths"]["after"]
        wide = program.graph(None, {"first": TIMES * widths["h1"], "second": TIMES * widths["h2"]})
        static.append(trained(Job(wide, seeded), root / f"static-{seed}"))
        for name, result in (("grown ", summary), ("static", static[-1])):
            sizes = " -> ".join(f"{w['h1']}x{w['h2']}" for w in _distinct(result["widths"]))
            count = f"{result['parameters']['after']:,} parameters"
            accuracy = f"{result['test_accuracy']:.2%}"
            print(
                f"seed {seed}  {name}  hidden {sizes:<17} {count:>18}  accuracy {accuracy}  {result['seconds']:5.1f} s"
            )
    ours, theirs = (mean(s["test_accuracy"] for s in runs) for runs in (grown, static))
    size = mean(s["parameters"]["after"] for s in grown) / mean(s["parameters"]["after"] for s in static)
    print(
        f"\ntest accuracy, mean of {len(SEEDS)} seeds: "
        f"grown {ours:.2%}, static with {TIMES} times the hidden units {theirs:.2%}"
    )
    print(f"difference {100 * (ours - theirs):+.2f} points with {size:.1%} of the parameters: ", end="")
    print("within one percent" if ours >= theirs - 0.01 else "MORE than one percent worse")
    print(f"widths and accuracy over time: {root / f'grown-{SEEDS[0]}' / 'history.png'}")


def _distinct(widths: dict[str, dict[str, int]]) -> list[dict[str, int]]:
    before, after = widths["before"], widths["after"]
    return [after] if before == after else [before, after]


if __name__ == "__main__":
    main()
