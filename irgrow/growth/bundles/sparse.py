"""Sparse training: synapses are exchanged while their number stays."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from irgrow.attributes import textual_name
from irgrow.errors import OptionError
from irgrow.growth.bundles.base import Bundle
from irgrow.growth.cadences import Cadence, Epochs, EverySteps, Steps
from irgrow.growth.rules import GrowthProgram, Rule
from irgrow.ops import integer, real, word
from irgrow.passes import PruneEdges, RewireEdges, Schedule


@dataclass(frozen=True)
class _Sparse(Bundle):
    """Sparse from the first step on, at a density that stays: synapses are exchanged, not added."""

    density: float = real(0.2, low=0.0, high=1.0, open_low=True, open_high=True)
    fraction: float = real(0.3, low=0.0, high=1.0, open_low=True, open_high=True)
    every: int = integer(1)
    allocation: str = word("uniform", "erk", default="erk")
    spare: str = word("none", "first", "last", "ends", default="none")

    def _rules(self, rewire: RewireEdges, when: Schedule, every: Cadence) -> GrowthProgram:
        name = textual_name(type(self))
        start = PruneEdges(by="random", density=self.density, allocation=self.allocation, spare=self.spare)
        once = Rule(f"{name}_start", start, Schedule(1, total=1), Steps((1,)), require="any")
        return GrowthProgram((once, Rule(name, rewire, when, every, require="any")))


@dataclass(frozen=True)
class SetBundle(_Sparse):
    """SET: random topology, then a share of the smallest weights is exchanged for random ones (Mocanu et al. 2018).

    The topology is drawn after the first step. The paper's share is that of the positive and of the negative weights
    each; here it is that of both together.

    Args:
        density: Share of the synapses that is on.
        fraction: Share of those that is exchanged, zeta.
        every: Epochs between exchanges.
        allocation: How the density is shared out among the weights.
        spare: Weights that stay dense.
    """

    textual: ClassVar[str] = "set"

    def program(self) -> GrowthProgram:
        rewire = RewireEdges(prune="magnitude", grow="random", fraction=self.fraction, spare=self.spare)
        return self._rules(rewire, Schedule(1), Epochs(self.every))


@dataclass(frozen=True)
class RigLBundle(_Sparse):
    """RigL: random topology, then the smallest weights go and those with the largest gradient come (Evci et al. 2020).

    The topology is drawn after the first step. The share that is exchanged falls as a cosine. The gradient is that of
    the step's batch: the training loop must hand its loss to the controller as `criterion`.

    Args:
        density: Share of the synapses that is on; 0.2 is the paper's sparsity of 80 %.
        fraction: Share of those that is exchanged at first, alpha.
        every: Steps between exchanges, Delta T.
        allocation: How the density is shared out among the weights.
        spare: Weights that stay dense.
        until: The step at which it ends, three quarters of the training in the paper.
    """

    textual: ClassVar[str] = "rigl"

    every: int = integer(100)
    until: int = integer(25000)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.until <= self.every:
            raise OptionError(f"`until` must be more than `every`, {self.every}; found {self.until}")

    def program(self) -> GrowthProgram:
        rewire = RewireEdges(
            prune="magnitude", grow="gradient", fraction=self.fraction, until=self.until, spare=self.spare
        )
        times = (self.until - 1) // self.every
        return self._rules(rewire, Schedule(1, total=times), EverySteps(self.every))
