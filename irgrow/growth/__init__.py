"""Growth programs: rules as data, published strategies as bundles, and the loop that runs them."""

from __future__ import annotations

from irgrow.growth.bundles import (
    BUNDLES,
    BatchedBundle,
    Bundle,
    DynoBundle,
    DynoSftBundle,
    FireflyBundle,
    GradMaxBundle,
    LinearBundle,
    NestBundle,
    NorthPreBundle,
    NorthRandomBundle,
    NorthSelectBundle,
    NorthWeightBundle,
    RigLBundle,
    SetBundle,
    StaticBundle,
)
from irgrow.growth.cadences import CADENCES, Cadence, Epochs, EverySteps, Moment, Plateau, Steps
from irgrow.growth.rates import RATES, AutoRGN, Rates
from irgrow.growth.rules import GrowthProgram, Limit, Rule, Where

__all__ = [
    "AutoRGN",
    "BUNDLES",
    "BatchedBundle",
    "CADENCES",
    "Bundle",
    "Cadence",
    "DynoBundle",
    "DynoSftBundle",
    "Epochs",
    "EverySteps",
    "FireflyBundle",
    "GradMaxBundle",
    "GrowthProgram",
    "Limit",
    "LinearBundle",
    "Moment",
    "NestBundle",
    "NorthPreBundle",
    "NorthRandomBundle",
    "NorthSelectBundle",
    "NorthWeightBundle",
    "Plateau",
    "RATES",
    "Rates",
    "RigLBundle",
    "Rule",
    "SetBundle",
    "StaticBundle",
    "Steps",
    "Where",
]
