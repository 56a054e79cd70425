"""Backends: the reference interpreter and the torch.fx lowering (imported on its own, because it needs torch)."""

from __future__ import annotations

from irgrow.backends.reference import Result, interpret, random_params

__all__ = ["Result", "interpret", "random_params"]
