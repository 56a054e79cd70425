"""Training: data sources, settings and the loop of `irgrow train`."""

from __future__ import annotations

from irgrow.training.data import SOURCES, Dataset, DataSource
from irgrow.training.derived import DERIVED
from irgrow.training.settings import OPTIMIZERS, SCHEDULES, OptimizerSettings, ScheduleSettings, TrainSettings

DATA: tuple[type[DataSource], ...] = SOURCES + DERIVED

__all__ = [
    "DATA",
    "OPTIMIZERS",
    "SCHEDULES",
    "DataSource",
    "Dataset",
    "OptimizerSettings",
    "ScheduleSettings",
    "TrainSettings",
]
