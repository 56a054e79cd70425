"""Rewrites, analyses, initializers, triggers and the prover. To add one, write its file and name its class here."""

from __future__ import annotations

from irgrow.passes.base import Context, Pass, Plan, needs, plan
from irgrow.passes.explaining import Remarks, remarks
from irgrow.passes.initializers.base import Initializer
from irgrow.passes.initializers.north_select import NorthSelect
from irgrow.passes.initializers.random import Random
from irgrow.passes.manager import Pipeline, run
from irgrow.passes.preservation import Prover, prove
from irgrow.passes.replaying import Mismatch, read_journal, replay
from irgrow.passes.rewrites.duplicate_units import DuplicateUnits
from irgrow.passes.rewrites.grow_units import GrowUnits
from irgrow.passes.rewrites.insert_layer import InsertLayer
from irgrow.passes.rewrites.prune_units import PruneUnits
from irgrow.passes.rewrites.split_units import SplitUnits
from irgrow.passes.trace import Trace, TraceStep
from irgrow.passes.triggers.base import Memory, Trigger, View
from irgrow.passes.triggers.effective_dimension import EffectiveDimension
from irgrow.passes.triggers.plateau import Plateau
from irgrow.passes.triggers.schedule import Schedule

PASSES: tuple[type[Pass], ...] = (GrowUnits, SplitUnits, DuplicateUnits, PruneUnits, InsertLayer)
INITIALIZERS: tuple[type[Initializer], ...] = (Random, NorthSelect)
TRIGGERS: tuple[type[Trigger], ...] = (EffectiveDimension, Plateau, Schedule)

__all__ = [
    "Context",
    "DuplicateUnits",
    "GrowUnits",
    "Initializer",
    "INITIALIZERS",
    "InsertLayer",
    "needs",
    "Mismatch",
    "NorthSelect",
    "Pass",
    "PASSES",
    "Pipeline",
    "plan",
    "Plan",
    "prove",
    "Prover",
    "PruneUnits",
    "Random",
    "read_journal",
    "Remarks",
    "remarks",
    "replay",
    "run",
    "SplitUnits",
    "EffectiveDimension",
    "Memory",
    "Plateau",
    "Schedule",
    "Trace",
    "TraceStep",
    "Trigger",
    "TRIGGERS",
    "View",
]
