"""How wide do growing layers become when only some of the features are independent?

Networks with one or two hidden layers start with four units each and grow while they learn the thesis's toy data (Maile
2023, 6.3.2): 64 features, some of them independent and Gaussian, the rest random combinations of those; the label says
whether their sum, with a little noise, is above its mean. The settings are those of the thesis's Table 8, but for two
that were chosen on held-out training data (`--validate`): singular values up to 0.1 count as zero, and a layer's
dimension is compared with the largest it ever was. With the thesis's 0.01 (`--strategies north_select_fine`) layers
grow to hundreds of units even for four independent features, and it takes some ten times as long.

python examples/experiments/toy.py
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from figures import COLORS, canvas, tidy
from harness import Case, Options, Strategy, arguments, conduct
from outcomes import Outcome, chosen, names, panels
from tables import Spread

from irgrow.grammar import read_program
from irgrow.graph import Graph
from irgrow.training.data import ToyFeatures
from irgrow.training.loop import Job
from irgrow.training.settings import Adam, TrainSettings

PROGRAM = Path(__file__).with_name("toy.irg")
STRATEGIES = {
    "north_select": Strategy("use north_select(gamma = 0.97, epsilon = 0.1, baseline = maximum, most = 512)"),
    "north_random": Strategy("use north_random(gamma = 0.97, epsilon = 0.1, baseline = maximum, most = 512)"),
    "north_select_fine": Strategy("use north_select(gamma = 0.97, most = 512)"),
    "north_random_fine": Strategy("use north_random(gamma = 0.97, most = 512)"),
}
USUAL = ("north_select", "north_random")
INDEPENDENT = (4, 8, 16, 32, 64)
DEPTHS = {"one": "1 hidden layer", "two": "2 hidden layers"}
EPOCHS = 40


def cases(options: Options) -> list[Case]:
    """Return a case for each depth, strategy and number of independent features."""
    program = read_program(PROGRAM)
    return [
        _case(options, program.graph(net), panel, name, independent)
        for net, panel in DEPTHS.items()
        for name in options.strategies
        for independent in INDEPENDENT
    ]


def _case(options: Options, graph: Graph, panel: str, name: str, independent: int) -> Case:
    settings = TrainSettings(
        data=ToyFeatures(independent, noise_of="feature"),
        optimizer=Adam(3e-4),
        epochs=options.epochs or EPOCHS,
        batch=128,
        init="xavier_uniform",
    )
    job = Job(graph, settings, STRATEGIES[name].program())
    return Case(f"{name} {independent}", panel, lambda seed: options.job(job, seed))


def draw_independent(outcomes: list[Outcome], folder: Path) -> None:
    """Draw the final widths against the number of independent features."""
    shown = panels(outcomes)
    made = canvas(len(shown), 1, (4.2 * len(shown) + 2.0, 4.2))
    if made is None:
        return
    figure, grid = made
    strategies = list(dict.fromkeys(name.split()[0] for name in names(outcomes)))
    for axes, panel in zip(grid[0], shown, strict=True):
        for color, strategy in zip(COLORS, strategies, strict=False):
            for axis, form in zip(("h1", "h2"), ("-o", "--s"), strict=True):
                points = []
                for independent in INDEPENDENT:
                    runs = chosen(outcomes, panel, f"{strategy} {independent}")
                    if runs and axis in runs[0].widths:
                        points.append((independent, Spread.of([float(r.widths[axis]) for r in runs])))
                if points:
                    x, y, away = [p[0] for p in points], [p[1].mean for p in points], [p[1].deviation for p in points]
                    errors = [a or 0.0 for a in away]
                    axes.errorbar(x, y, errors, fmt=form, color=color, capsize=3, label=f"{strategy}, {axis}")
        axes.plot(INDEPENDENT, INDEPENDENT, color="0.6", linewidth=1, linestyle=":", label="as many as independent")
        axes.set_xscale("log", base=2)
        axes.set_yscale("log", base=2)
        axes.set_xticks(INDEPENDENT, [str(i) for i in INDEPENDENT])
        axes.yaxis.set_major_formatter("{x:.0f}")
        axes.set_title(panel)
        axes.set_xlabel("independent features of 64")
        tidy(axes)
    grid[0][0].set_ylabel("final width (units)")
    figure.legend(*grid[0][-1].get_legend_handles_labels(), loc="outside right center", fontsize=8)
    figure.savefig(folder / "independent.png", dpi=120)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the experiment."""
    options = arguments(__doc__ or "", "runs/experiments/toy", tuple(STRATEGIES), 5, argv, usual=USUAL)
    conduct("Toy features", cases, options, finish=draw_independent)


if __name__ == "__main__":
    main()
