"""Published strategies as named bundles of rules. To add one, write its class and name it in `BUNDLES`."""

from __future__ import annotations

from irgrow.growth.bundles.base import Bundle
from irgrow.growth.bundles.dyno import DynoBundle, DynoSftBundle
from irgrow.growth.bundles.gradients import FireflyBundle, GradMaxBundle, NestBundle
from irgrow.growth.bundles.north import NorthPreBundle, NorthRandomBundle, NorthSelectBundle, NorthWeightBundle
from irgrow.growth.bundles.presets import BatchedBundle, LinearBundle, StaticBundle
from irgrow.growth.bundles.sparse import RigLBundle, SetBundle

BUNDLES: tuple[type[Bundle], ...] = (NorthSelectBundle, NorthRandomBundle, NorthPreBundle, NorthWeightBundle)
BUNDLES += (GradMaxBundle, FireflyBundle, NestBundle, DynoBundle, DynoSftBundle)
BUNDLES += (LinearBundle, BatchedBundle, StaticBundle)
BUNDLES += (SetBundle, RigLBundle)

__all__ = [
    "BUNDLES",
    "BatchedBundle",
    "Bundle",
    "DynoBundle",
    "DynoSftBundle",
    "FireflyBundle",
    "GradMaxBundle",
    "LinearBundle",
    "NestBundle",
    "NorthPreBundle",
    "NorthRandomBundle",
    "NorthSelectBundle",
    "NorthWeightBundle",
    "RigLBundle",
    "SetBundle",
    "StaticBundle",
]
