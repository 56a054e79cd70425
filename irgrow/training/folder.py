"""What lies in the folder of a run: its checkpoints and its history."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from irgrow import checkpoint
from irgrow.errors import CheckpointError


def saved_steps(folder: Path) -> list[Path]:
    """Return the checkpoints of a run, oldest first."""
    found = {p for p in (folder / "checkpoints").glob("step-*") if (p / checkpoint.MANIFEST).exists()}
    found |= {p.with_name(p.name.removeprefix(".old-")) for p in (folder / "checkpoints").glob(".old-step-*")}
    return sorted(found)


def history_rows(path: Path, count: int) -> list[dict[str, Any]]:
    """Read the first rows of a history.

    Raises:
        CheckpointError: There are fewer, or they are damaged.
    """
    try:
        rows = [json.loads(line) for line in path.read_text().splitlines()[:count]]
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: {error}") from None
    if len(rows) < count:
        raise CheckpointError(f"{path}: expected {count} rows, found {len(rows)}")
    return rows


def latest(folder: Path) -> checkpoint.Saved:
    """Read the latest checkpoint of a run that is complete and undamaged.

    Raises:
        CheckpointError: There is none.
    """
    found = saved_steps(folder)
    if not found:
        raise CheckpointError(f"{folder}: no checkpoint to resume from")
    for path in reversed(found):
        try:
            return checkpoint.read(path)
        except CheckpointError:
            if path == found[0]:
                raise
    raise CheckpointError(f"{folder}: no checkpoint to resume from")
