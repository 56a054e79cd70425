"""The preservation prover: verdicts are derived here, not asserted by passes."""

from __future__ import annotations

from irgrow.passes.preservation.liveness import inseparable_copies, newborns_without_gradient
from irgrow.passes.preservation.prover import Prover, prove

__all__ = ["Prover", "inseparable_copies", "newborns_without_gradient", "prove"]
