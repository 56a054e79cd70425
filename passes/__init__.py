"""Rewrites, analyses, initializers, triggers and the prover. To add one, write its file and name its class here."""

from __future__ import annotations

from irgrow.passes.base import Context, Pass, Plan, needs, plan
from irgrow.passes.deployment import Deployed, deploy
from irgrow.passes.explaining import Remarks, remarks
from irgrow.passes.initializers.base import Initializer
from irgrow.passes.initializers.given import GivenUnits
from irgrow.passes.initializers.gradmax import GradMax
from irgrow.passes.initializers.nest import Nest
from irgrow.passes.initializers.north_opt import NorthOpt
from irgrow.passes.initializers.north_pre import NorthPre
from irgrow.passes.initializers.north_select import NorthSelect
from irgrow.passes.initializers.north_weight import NorthWeight
from irgrow.passes.initializers.random import Random
from irgrow.passes.initializers.uniform_noise import UniformNoise
from irgrow.passes.initializers.variance_transfer import VarianceTransfer
from irgrow.passes.manager import Pipeline, run
from irgrow.passes.preservation import Prover, prove
from irgrow.passes.replaying import Mismatch, read_journal, replay
from irgrow.passes.rewrites.add_connection import AddConnection
from irgrow.passes.rewrites.bake_mask import BakeMask
from irgrow.passes.rewrites.duplicate_units import DuplicateUnits
from irgrow.passes.rewrites.fold_batch_norm import FoldBatchNorm
from irgrow.passes.rewrites.fold_scale import FoldScale
from irgrow.passes.rewrites.fuse_linear import FuseLinear
from irgrow.passes.rewrites.grow_edges import GrowEdges
from irgrow.passes.rewrites.grow_firefly import GrowFirefly
from irgrow.passes.rewrites.grow_units import GrowUnits
from irgrow.passes.rewrites.insert_layer import InsertLayer
from irgrow.passes.rewrites.merge_units import MergeUnits
from irgrow.passes.rewrites.prune_edges import PruneEdges
from irgrow.passes.rewrites.prune_globally import PruneGlobally
from irgrow.passes.rewrites.prune_units import PruneUnits
from irgrow.passes.rewrites.remove_connection import RemoveConnection
from irgrow.passes.rewrites.remove_dead_units import RemoveDeadUnits
from irgrow.passes.rewrites.remove_layer import RemoveLayer
from irgrow.passes.rewrites.rewire_edges import RewireEdges
from irgrow.passes.rewrites.simplify import Simplify
from irgrow.passes.rewrites.split_units import SplitUnits
from irgrow.passes.saliency.apoz import Apoz
from irgrow.passes.saliency.base import Saliency
from irgrow.passes.saliency.dormancy import Dormancy
from irgrow.passes.saliency.fisher import Fisher
from irgrow.passes.saliency.magnitude import Magnitude
from irgrow.passes.saliency.norm_gain import NormGain
from irgrow.passes.saliency.random import RandomSaliency
from irgrow.passes.saliency.redundancy import Redundancy
from irgrow.passes.saliency.taylor import Taylor
from irgrow.passes.saliency.variance import Variance
from irgrow.passes.trace import Trace, TraceStep
from irgrow.passes.triggers.base import Memory, Trigger, View
from irgrow.passes.triggers.dyno_grow import DynoGrow
from irgrow.passes.triggers.dyno_prune import DynoPrune
from irgrow.passes.triggers.effective_dimension import EffectiveDimension
from irgrow.passes.triggers.gradient_rank import GradientRank
from irgrow.passes.triggers.orthogonality_gap import OrthogonalityGap
from irgrow.passes.triggers.plateau import Plateau
from irgrow.passes.triggers.schedule import Schedule
from irgrow.passes.triggers.weight_rank import WeightRank

PASSES: tuple[type[Pass], ...] = (GrowUnits, SplitUnits, DuplicateUnits, PruneUnits, PruneGlobally, InsertLayer)
PASSES += (FoldBatchNorm, FuseLinear, FoldScale, BakeMask, Simplify)
PASSES += (GrowEdges, PruneEdges, RewireEdges)
PASSES += (RemoveLayer, AddConnection, RemoveConnection)
PASSES += (RemoveDeadUnits, MergeUnits, GrowFirefly)
INITIALIZERS: tuple[type[Initializer], ...] = (Random, NorthSelect, NorthPre, NorthWeight, NorthOpt, GradMax, Nest)
INITIALIZERS += (VarianceTransfer, UniformNoise)
SALIENCIES: tuple[type[Saliency], ...] = (
    Magnitude,
    Taylor,
    Fisher,
    Variance,
    Apoz,
    Dormancy,
    Redundancy,
    NormGain,
    RandomSaliency,
)
TRIGGERS: tuple[type[Trigger], ...] = (EffectiveDimension, OrthogonalityGap, WeightRank, GradientRank)
TRIGGERS += (DynoPrune, DynoGrow, Plateau, Schedule)

__all__ = [
    "AddConnection",
    "BakeMask",
    "Apoz",
    "Context",
    "Dormancy",
    "Fisher",
    "Magnitude",
    "NormGain",
    "RandomSaliency",
    "RemoveConnection",
    "RemoveDeadUnits",
    "RemoveLayer",
    "Redundancy",
    "SALIENCIES",
    "Saliency",
    "Taylor",
    "Variance",
    "deploy",
    "Deployed",
    "DuplicateUnits",
    "FoldBatchNorm",
    "FoldScale",
    "FuseLinear",
    "GrowEdges",
    "GivenUnits",
    "GradMax",
    "GrowFirefly",
    "GrowUnits",
    "Initializer",
    "INITIALIZERS",
    "InsertLayer",
    "needs",
    "MergeUnits",
    "Mismatch",
    "Nest",
    "NorthOpt",
    "NorthPre",
    "NorthSelect",
    "NorthWeight",
    "Pass",
    "PASSES",
    "Pipeline",
    "plan",
    "Plan",
    "prove",
    "Prover",
    "PruneEdges",
    "PruneGlobally",
    "PruneUnits",
    "Random",
    "read_journal",
    "Remarks",
    "remarks",
    "replay",
    "run",
    "RewireEdges",
    "Simplify",
    "SplitUnits",
    "DynoGrow",
    "DynoPrune",
    "EffectiveDimension",
    "GradientRank",
    "OrthogonalityGap",
    "WeightRank",
    "Memory",
    "Plateau",
    "Schedule",
    "Trace",
    "TraceStep",
    "Trigger",
    "TRIGGERS",
    "UniformNoise",
    "VarianceTransfer",
    "View",
]
