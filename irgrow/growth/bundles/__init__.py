"""Published strategies as named bundles of rules. To add one, write its class and name it in `BUNDLES`."""

from __future__ import annotations

from irgrow.growth.bundles.base import Bundle
from irgrow.growth.bundles.north import NorthRandomBundle, NorthSelectBundle
from irgrow.growth.bundles.presets import BatchedBundle, LinearBundle, StaticBundle
from irgrow.growth.bundles.sparse import RigLBundle, SetBundle

BUNDLES: tuple[type[Bundle], ...] = (NorthSelectBundle, NorthRandomBundle)
BUNDLES += (LinearBundle, BatchedBundle, StaticBundle)
BUNDLES += (SetBundle, RigLBundle)

__all__ = [
    "BUNDLES",
    "BatchedBundle",
    "Bundle",
    "LinearBundle",
    "NorthRandomBundle",
    "NorthSelectBundle",
    "RigLBundle",
    "SetBundle",
    "StaticBundle",
]
