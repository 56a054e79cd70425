"""Growth programs: rules as data, published strategies as bundles, and the loop that runs them."""

from __future__ import annotations

from irgrow.growth.bundles import (
    BUNDLES,
    BatchedBundle,
    Bundle,
    LinearBundle,
    NorthRandomBundle,
    NorthSelectBundle,
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
    "Epochs",
    "EverySteps",
    "GrowthProgram",
    "Limit",
    "LinearBundle",
    "Moment",
    "NorthRandomBundle",
    "NorthSelectBundle",
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
