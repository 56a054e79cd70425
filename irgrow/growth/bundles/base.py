"""What a bundle is: a published strategy as rules, with its paper's defaults."""

from __future__ import annotations

from dataclasses import dataclass

from irgrow.attributes import Options
from irgrow.growth.rules import GrowthProgram


@dataclass(frozen=True)
class Bundle(Options):
    """Base of bundles."""

    def program(self) -> GrowthProgram:
        """Return the rules."""
        raise NotImplementedError
