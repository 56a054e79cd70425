"""Convolutional and residual networks that grow while they learn, beside static ones, on small images.

A VGG-like and a WRN-like network start at a quarter of their widths; every axis may grow up to twice (VGG) or six
times (WRN) its width, as in the thesis (Maile 2023, Table 8), residual streams too. The images are scikit-learn's
digits, enlarged to 16x16, and the networks an eighth and half as wide as the thesis's. With `--data` they are VGG-11
and WRN-28 on CIFAR-10 with the settings of Table 8, for a GPU (`--device cuda`).

python examples/experiments/images.py
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from harness import Case, Options, Strategy, arguments, conduct

from irgrow.grammar import read_program
from irgrow.graph import Graph
from irgrow.growth import GrowthProgram, Limit, Where
from irgrow.passes.analyses.places import editable_axes
from irgrow.training.data import Cifar, DataSource, Digits
from irgrow.training.loop import Job
from irgrow.training.settings import Adam, Cosine, TrainSettings

HERE = Path(__file__).parent
STRATEGIES = {
    "static_small": Strategy(),
    "static_medium": Strategy(start="medium"),
    "static_big": Strategy(start="big"),
    "north_select": Strategy("use north_select(gamma = {gamma}, epsilon = {epsilon}, baseline = maximum)"),
    "north_random": Strategy("use north_random(gamma = {gamma}, epsilon = {epsilon}, baseline = maximum)"),
}


@dataclass(frozen=True)
class Setting:
    """A network, its sizes and how it is trained.

    On digits `lr`, `epochs`, `gamma` and `epsilon` were chosen on held-out training data (`--validate`), of seed 1; on
    CIFAR-10 they are those of the thesis.
    """

    panel: str
    file: str
    net: str
    data: DataSource
    sizes: dict[str, int]
    lr: float
    epochs: int
    batch: int
    gamma: float
    epsilon: float = 0.01


def settings(options: Options) -> list[Setting]:
    """Return what is compared: on digits, or on CIFAR-10 where its files are given."""
    if options.data is None:
        vgg, wrn = {"small": 2, "medium": 8, "big": 16}, {"small": 2, "medium": 8, "big": 48}
        return [
            Setting("VGG-like", "vgg.irg", "small", Digits(16), vgg, 3e-3, 30, batch=64, gamma=0.97, epsilon=0.1),
            Setting("WRN-like", "wrn.irg", "small", Digits(16), wrn, 3e-3, 8, batch=64, gamma=0.97, epsilon=0.2),
        ]
    vgg, wrn = {"small": 16, "medium": 64, "big": 128}, {"small": 4, "medium": 16, "big": 96}
    cifar = Cifar(options.data)
    return [
        Setting("VGG-11", "vgg.irg", "cifar", cifar, vgg, lr=3e-4, epochs=100, batch=128, gamma=0.9),
        Setting("WRN-28", "wrn.irg", "cifar", cifar, wrn, lr=3e-3, epochs=50, batch=128, gamma=0.9),
    ]


def each_axis(program: GrowthProgram, most: Graph) -> GrowthProgram:
    """Return rules for each axis by itself, residual streams too, with the widths of a network as the limits."""
    return GrowthProgram(
        tuple(
            replace(rule, name=f"{rule.name}_{i}", where=Where((axis,)), limit=(Limit("width", most.widths[axis]),))
            for rule in program.rules
            for i, axis in enumerate(editable_axes(most))
        )
    )


def cases(options: Options) -> list[Case]:
    """Return a case for each network and strategy."""
    return [_case(options, s, name) for s in settings(options) for name in options.strategies]


def _case(options: Options, setting: Setting, name: str) -> Case:
    program, strategy = read_program(HERE / setting.file), STRATEGIES[name]
    graphs = {size: program.graph(setting.net, {"base": base}) for size, base in setting.sizes.items()}
    growth = strategy.program(gamma=setting.gamma, epsilon=setting.epsilon)
    train = TrainSettings(
        data=setting.data,
        optimizer=Adam(setting.lr),
        schedule=Cosine(),
        epochs=options.epochs or setting.epochs,
        batch=setting.batch,
        init="xavier_uniform",
    )
    job = Job(graphs[strategy.start], train, growth and each_axis(growth, graphs["big"]))
    return Case(name, setting.panel, lambda seed: options.job(job, seed), graphs["medium"] if growth else None)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the experiment."""
    data = "folder with the binary files of CIFAR-10; scikit-learn's digits, enlarged, unless given"
    options = arguments(__doc__ or "", "runs/experiments/images", tuple(STRATEGIES), 5, argv, data)
    conduct("Small images", cases, options, reference="static_medium")


if __name__ == "__main__":
    main()
