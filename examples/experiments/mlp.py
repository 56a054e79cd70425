"""Networks that grow while they learn, beside preset schedules and static networks: a perceptron on handwritten digits.

Two hidden layers start small. Dynamic strategies decide from activations, weights or gradients when and how many units
to add; preset ones add as many as the medium network has, over the first three quarters of training, one a time or in
eight batches; static networks are small, medium or big from the start. With `--data` it is the thesis's experiment on
MNIST with the settings of its Table 8 (Maile 2023, 6.3.3), better on a GPU (`--device cuda`).

python examples/experiments/mlp.py
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from harness import Case, Options, Strategy, arguments, conduct

from irgrow.grammar import read_program
from irgrow.training.data import DataSource, Digits, Mnist
from irgrow.training.loop import Job
from irgrow.training.settings import Adam, TrainSettings

PROGRAM = Path(__file__).with_name("mlp.irg")
STRATEGIES = {
    "static_small": Strategy(),
    "static_medium": Strategy(start="medium"),
    "static_big": Strategy(start="big"),
    "linear": Strategy("use linear(units = {more}, until = {until})"),
    "batched": Strategy("use batched(units = {more}, until = {until})"),
    "north_select": Strategy("use north_select(gamma = 0.97, {activity}, most = {most})"),
    "north_random": Strategy("use north_random(gamma = 0.97, {activity}, most = {most})"),
    "north_pre": Strategy("use north_pre(gamma = 0.97, {activity}, most = {most})"),
    "north_weight": Strategy("use north_weight(most = {most})"),
    "gradmax": Strategy("use gradmax(factor = {factor}, most = {most})"),
    "firefly": Strategy("use firefly(factor = {factor}, most = {most})"),
    "nest": Strategy("use nest(factor = {factor}, most = {most})"),
}


@dataclass(frozen=True)
class Setting:
    """The network, its sizes and how it is trained.

    On digits `lr`, `epochs`, `activity` and `factor` were chosen on held-out training data (`--validate`); on MNIST
    they are those of the thesis.
    """

    net: str
    data: DataSource
    sizes: dict[str, int]
    lr: float
    epochs: int
    batch: int
    activity: str
    factor: float


def setting(options: Options) -> Setting:
    """Return the setting: digits, or MNIST where its files are given."""
    if options.data is None:
        sizes, activity = {"small": 16, "medium": 64, "big": 256}, "epsilon = 0.1, baseline = maximum"
        return Setting("digits", Digits(), sizes, 3e-3, 60, batch=64, activity=activity, factor=0.1)
    sizes, activity = {"small": 64, "medium": 256, "big": 784}, "epsilon = 0.01"
    data = Mnist(options.data)
    return Setting("mnist", data, sizes, 3e-4, 20, batch=512, activity=activity, factor=1.0)


def cases(options: Options) -> list[Case]:
    """Return a case for each strategy."""
    chosen, program = setting(options), read_program(PROGRAM)
    epochs = options.epochs or chosen.epochs
    graphs = {name: program.graph(chosen.net, {"width": size}) for name, size in chosen.sizes.items()}
    settings = TrainSettings(
        data=chosen.data, optimizer=Adam(chosen.lr), epochs=epochs, batch=chosen.batch, init="xavier_uniform"
    )
    more = chosen.sizes["medium"] - chosen.sizes["small"]
    samples = len(options.job(Job(graphs["small"], settings), 1).settings.data.load(1).train[0])
    until = max(more, epochs * -(-samples // chosen.batch) * 3 // 4)

    def case(name: str) -> Case:
        strategy = STRATEGIES[name]
        growth = strategy.program(
            more=more, until=until, most=chosen.sizes["big"], activity=chosen.activity, factor=chosen.factor
        )
        job = Job(graphs[strategy.start], settings, growth)
        return Case(name, chosen.net, lambda seed: options.job(job, seed), graphs["medium"] if growth else None)

    return [case(name) for name in options.strategies]


def main(argv: Sequence[str] | None = None) -> None:
    """Run the experiment."""
    data = "folder with the four idx files of MNIST; scikit-learn's digits unless given"
    options = arguments(__doc__ or "", "runs/experiments/mlp", tuple(STRATEGIES), 5, argv, data)
    conduct("Perceptron with two hidden layers", cases, options, reference="static_medium")


if __name__ == "__main__":
    main()
