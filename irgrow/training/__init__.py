"""Training: data sources, settings and the loop of `irgrow train`."""

from __future__ import annotations

from irgrow.training.data import DATA, Dataset, DataSource
from irgrow.training.settings import OPTIMIZERS, SCHEDULES, OptimizerSettings, ScheduleSettings, TrainSettings

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
