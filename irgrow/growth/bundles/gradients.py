"""Growth by gradients: the trigger of the thesis with the initializers of others (Maile 2023, 6.3).

All of them look at gradients. Those of the pass that trains are enough but for the units of convolutions with `nest`,
for which the training loop must hand its loss to the controller as `criterion`. Without it a layer has to wait while
the one before it grows in the same steps.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from irgrow.attributes import textual_name
from irgrow.growth.bundles.base import Bundle
from irgrow.growth.cadences import EverySteps
from irgrow.growth.rules import GrowthProgram, Limit, Rule
from irgrow.ops import integer, real, word
from irgrow.passes import GradientRank, GradMax, GrowFirefly, GrowUnits, Nest, Pass


@dataclass(frozen=True)
class _Gradients(Bundle):
    """Grow as many units as the auxiliary gradient has directions that outweigh those of the weights there are."""

    requires: ClassVar[str] = "any"

    factor: float = real(1.0, low=0.0, open_low=True)
    every: int = integer(1)
    most: int = integer(512)

    def _pass(self) -> Pass:
        raise NotImplementedError

    def program(self) -> GrowthProgram:
        name, limit = textual_name(type(self)), (Limit("width", self.most),)
        trigger, every = GradientRank(self.factor), EverySteps(self.every)
        return GrowthProgram((Rule(name, self._pass(), trigger, every, limit=limit, require=self.requires),))


@dataclass(frozen=True)
class GradMaxBundle(_Gradients):
    """GradMax: new units are zero, and read so that their fan-in has the largest gradient (Evci et al. 2022).

    ReLU has no slope at zero and is refused; write `right_relu` instead.

    Args:
        factor: What the gradients of the weights there are count, c; 0.5 in the authors' code.
        every: Steps between looks.
        most: The largest width.
        borders: How convolutions are bridged: `exact`, or by the `kernel` of the paper.
    """

    textual: ClassVar[str] = "gradmax"
    requires: ClassVar[str] = "exact"

    borders: str = word("exact", "kernel", default="exact")

    def _pass(self) -> Pass:
        return GrowUnits(init=GradMax(self.borders))


@dataclass(frozen=True)
class FireflyBundle(_Gradients):
    """Firefly: splits of old units and new ones compete, those with the largest gradients stay (Wu et al. 2020).

    The function changes, to the order of `epsilon`.

    Args:
        factor: What the gradients of the weights there are count, c; 0.5 in the authors' code.
        every: Steps between looks.
        most: The largest width.
        epsilon: Size of the noise that parts a split, and of the fan-out of new units.
        candidates: Candidates beyond those needed; 0 for the thesis's.
        noise: What parts splits: `uniform` as printed, or `normal`.
    """

    textual: ClassVar[str] = "firefly"

    epsilon: float = real(1e-4, low=1e-6)
    candidates: int = integer(0, low=0)
    noise: str = word("uniform", "normal", default="uniform")

    def _pass(self) -> Pass:
        return GrowFirefly(epsilon=self.epsilon, candidates=self.candidates, noise=self.noise)


@dataclass(frozen=True)
class NestBundle(_Gradients):
    """NeST: new units stand for the missing synapses with the largest gradients (Dai et al. 2019).

    The function changes on purpose.

    Args:
        factor: What the gradients of the weights there are count, c; 0.5 in the authors' code.
        every: Steps between looks.
        most: The largest width.
        beta: Share of the entries of the auxiliary gradient a unit stands for.
    """

    textual: ClassVar[str] = "nest"

    beta: float = real(0.4, low=0.0, high=1.0, open_low=True)

    def _pass(self) -> Pass:
        return GrowUnits(init=Nest(self.beta))
