"""Rewrites, analyses, initializers, triggers and the prover. To add one, write its file and name its class here."""

from __future__ import annotations

from irgrow.passes.base import Context, Pass, Plan, call_text, plan, textual_name
from irgrow.passes.initializers.base import Initializer
from irgrow.passes.initializers.north_select import NorthSelect
from irgrow.passes.initializers.random import Random
from irgrow.passes.preservation import Prover, prove
from irgrow.passes.rewrites.grow_units import GrowUnits
from irgrow.passes.rewrites.insert_layer import InsertLayer
from irgrow.passes.rewrites.prune_units import PruneUnits

PASSES: tuple[type[Pass], ...] = (GrowUnits, PruneUnits, InsertLayer)
INITIALIZERS: tuple[type[Initializer], ...] = (Random, NorthSelect)

__all__ = [
    "call_text",
    "Context",
    "GrowUnits",
    "Initializer",
    "INITIALIZERS",
    "InsertLayer",
    "NorthSelect",
    "Pass",
    "PASSES",
    "plan",
    "Plan",
    "prove",
    "Prover",
    "PruneUnits",
    "Random",
    "textual_name",
]
