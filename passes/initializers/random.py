"""Random fan-in: Xavier-uniform, scaled to the mean norm of the units that are there (Maile 2023, 6.2.2)."""

from __future__ import annotations

from dataclasses import dataclass

from irgrow.fills import Fill, XavierUniform
from irgrow.passes.initializers.base import Initializer


@dataclass(frozen=True)
class Random(Initializer):
    """Draw the fan-in of new units at random."""

    def default(self) -> Fill:
        return XavierUniform(match=True)

    def columns(self) -> Fill:
        return XavierUniform()
