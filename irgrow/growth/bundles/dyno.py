"""DYNO: growing and pruning in one loop, alone or with surgical fine-tuning (Maile 2023, section 7)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from irgrow.errors import OptionError
from irgrow.growth.bundles.base import Bundle
from irgrow.growth.cadences import EverySteps
from irgrow.growth.rates import AutoRGN
from irgrow.growth.rules import GrowthProgram, Limit, Rule
from irgrow.ops import flag, integer, real, word
from irgrow.passes import DynoGrow, DynoPrune, GrowUnits, NorthSelect, PruneUnits, Redundancy


@dataclass(frozen=True)
class DynoBundle(Bundle):
    """DYNO: every hidden layer loses the units its activity has no dimension for, then gains those it has.

    Every `every` steps each layer is pruned (dormant units first, then those most alike to the others), then, with
    dimensions measured again on the latest batches, grown as NORTH-Select does; then comes the next one (Algorithm 5).
    What a layer's dimension is compared with is measured right after its last change.

    Args:
        delta: By what share the dimension must have moved.
        epsilon: Singular values up to it count as zero.
        every: Steps between looks.
        least: The smallest width.
        most: The largest width.
        saturated: Whether a layer that uses all its dimensions grows by a unit; the text has no such rule, and then a
            layer with more than 1 / (1 + delta) of them can never grow.
        candidates: Candidates drawn for each new unit.
        order: `sites` as printed, or `rules` to prune all layers before any grows.
        least_dense: The smallest width of dense layers; 0 for as many as the network has outputs, as in the authors'
            code. The text has 1.
        share: Share of the width at the first look that every layer keeps.
    """

    textual: ClassVar[str] = "dyno"

    delta: float = real(0.03, low=0.0, high=1.0, open_low=True, open_high=True)
    epsilon: float = real(0.01, low=0.0, open_low=True)
    every: int = integer(50)
    least: int = integer(1)
    most: int = integer(4096)
    saturated: bool = flag(True)
    candidates: int = integer(100)
    order: str = word("sites", "rules", default="sites")
    least_dense: int = integer(0, low=0)
    share: float = real(0.0, low=0.0, high=1.0)

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("least", "least_dense"):
            if (least := getattr(self, name)) > self.most:
                raise OptionError(f"`{name}` must be at most `most`, {self.most}; found {least}")

    def program(self) -> GrowthProgram:
        every = EverySteps(self.every)
        prune = PruneUnits(by=Redundancy("norm"), least=self.least)
        grow = GrowUnits(init=NorthSelect(epsilon=self.epsilon, per_unit=self.candidates))
        goes = DynoPrune(self.delta, self.epsilon, least_dense=self.least_dense, share=self.share)
        wants = DynoGrow(self.delta, self.epsilon, cap="saturated" if self.saturated else "none")
        return GrowthProgram(
            (
                Rule("dyno_prune", prune, goes, every, require="any", order=self.order),
                Rule("dyno_grow", grow, wants, every, limit=(Limit("width", self.most),), order=self.order),
            )
        )


@dataclass(frozen=True)
class DynoSftBundle(DynoBundle):
    """DYNO with surgical fine-tuning: Auto-RGN gives every tensor a learning rate of its own, renewed with each look.

    Optimizer state is kept and norms keep the base rate; the authors build the optimizer anew each time.

    Args:
        delta: By what share the dimension must have moved.
        epsilon: Singular values up to it count as zero.
        every: Steps between looks.
        least: The smallest width.
        most: The largest width.
        saturated: Whether a layer that uses all its dimensions grows by a unit.
        candidates: Candidates drawn for each new unit.
        order: `sites` as printed, or `rules` to prune all layers before any grows.
        least_dense: The smallest width of dense layers; 0 for as many as the network has outputs.
        share: Share of the width at the first look that every layer keeps.
        batches: Gradients that the rates are averaged over.
    """

    textual: ClassVar[str] = "dyno_sft"

    batches: int = integer(3)

    def program(self) -> GrowthProgram:
        return GrowthProgram(super().program().rules, AutoRGN(self.every, min(self.batches, self.every)))
