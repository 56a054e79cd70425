"""Fine-tuning a network whose layers shrink and grow: DYNO, with and without surgical fine-tuning, beside plain.

A VGG-like network learns the digits 0 to 4, enlarged to 16x16. It is then fine-tuned for a thousand steps (Maile 2023,
7.3: batches of 64, Adam with 3e-4 and weight decay 1e-3, a look at the widths every 50 steps) on two other tasks: the
digits 5 to 9, with a new head, and the digits 0 to 4 turned, inverted and noisy, with the old one.

python examples/experiments/transfer.py
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from harness import Case, Options, Strategy, arguments, conduct

from irgrow import checkpoint
from irgrow.grammar import read_program
from irgrow.graph import Graph
from irgrow.network import Network, build
from irgrow.training.data import DataSource, Digits
from irgrow.training.derived import Only, Shifted
from irgrow.training.folder import latest
from irgrow.training.loop import Job
from irgrow.training.settings import Adam, TrainSettings

PROGRAM = Path(__file__).with_name("vgg.irg")
TEXT = """
  rule dyno_prune {{
    every = 50
    when = dyno_prune(baseline = 1.0)
    apply = prune_units(by = redundancy(norm), least = 5)
    require = any
    order = sites
  }}
  rule dyno_grow {{
    every = 50
    when = dyno_grow(baseline = 1.0, cap = none)
    apply = grow_units(init = north_select(100))
    order = sites
  }}
"""
"""DYNO as in the thesis's text, without a cap; layers are taken to have had all their dimensions, as in its code."""
STRATEGIES = {
    "fine_tune": Strategy(),
    "dyno": Strategy("use dyno"),
    "dyno_sft": Strategy("use dyno_sft"),
    "dyno_text": Strategy(TEXT),
    "dyno_text_sft": Strategy(f"rates = auto_rgn(batches = 3) {TEXT}"),
}
SOURCE = "source"
LOW = Only(Digits(16), (0, 1, 2, 3, 4))
TASKS: dict[str, tuple[DataSource, bool]] = {
    "digits 5 to 9": (Only(Digits(16), (5, 6, 7, 8, 9)), True),
    "digits 0 to 4, shifted": (Shifted(LOW), False),
}
"""The data of each task, and whether its classes are other ones, so that the head starts anew."""
SOURCE_EPOCHS = 20
EPOCHS = 84
"""A thousand steps: five classes are about 720 samples, twelve batches."""
BATCH = 64


def cases(options: Options) -> list[Case]:
    """Return the source network and a case for each task and strategy."""
    graph = read_program(PROGRAM).graph("small", {"classes": 5})
    settings = TrainSettings(
        data=LOW, optimizer=Adam(1e-3), epochs=min(SOURCE_EPOCHS, options.epochs or SOURCE_EPOCHS), batch=BATCH
    )
    source = Case(SOURCE, "digits 0 to 4", lambda seed: options.job(Job(graph, settings), seed))
    return [source] + [_case(options, source, graph, task, name) for task in TASKS for name in options.strategies]


def _case(options: Options, source: Case, graph: Graph, task: str, name: str) -> Case:
    data, anew = TASKS[task]
    settings = TrainSettings(
        data=data,
        optimizer=Adam(3e-4, weight_decay=1e-3),
        epochs=options.epochs or EPOCHS,
        batch=BATCH,
    )
    job = Job(graph, settings, STRATEGIES[name].program())

    def start(seed: int) -> Network:
        saved = latest(options.out / "runs" / source.file(seed))
        net = checkpoint.network(saved)
        return with_new_head(net, seed) if anew else net

    return Case(name, task, lambda seed: options.job(job, seed), start=start)


def with_new_head(net: Network, seed: int) -> Network:
    """Give a network a head as wide as the old one, with fresh values."""
    fresh = build(net.graph, seed).state_dict()
    with torch.no_grad():
        for name, value in net.named_parameters():
            if name.startswith("head."):
                value.copy_(fresh[name])
    return net


def main(argv: Sequence[str] | None = None) -> None:
    """Run the experiment."""
    options = arguments(__doc__ or "", "runs/experiments/transfer", tuple(STRATEGIES), 5, argv)
    conduct("Transfer", cases, options, reference="fine_tune")


if __name__ == "__main__":
    main()
