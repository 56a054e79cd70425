"""What lies in the folder of a run: its checkpoints, its history, its program and its summary."""

from __future__ import annotations

import json
import os
import shutil
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from irgrow import checkpoint
from irgrow.errors import CheckpointError, OptionError

if TYPE_CHECKING:
    from collections.abc import Iterator

CHECKPOINTS, HISTORY, PROGRAM, SUMMARY = "checkpoints", "history.jsonl", "program.irg", "summary.json"


# beginning and ending ------------------------------------------------------------------------------------------------


def check_free(folder: Path) -> None:
    """Refuse a folder that a new run cannot have for itself.

    Raises:
        OptionError: It is a file or not empty; says what can be done.
    """
    if not folder.exists():
        return
    if not folder.is_dir():
        raise OptionError(f"{folder} is not a folder")
    if not any(folder.iterdir()):
        return
    if saved_steps(folder):
        remedy = f"give another --out, or go on with the run in it: --resume {folder}"
    elif (folder / HISTORY).exists():
        remedy = "it holds a run that ended before its first checkpoint; remove it, or give another --out"
    else:
        remedy = "give another --out"
    raise OptionError(f"{folder} is not empty; {remedy}")


@contextmanager
def begun(folder: Path) -> Iterator[None]:
    """Make the folder of a new run; if it ends with an error before its first checkpoint, nothing is left behind.

    Raises:
        OptionError: It cannot be made, or is not free.
    """
    check_free(folder)
    made = [p for p in (folder, *folder.parents) if not p.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OptionError(f"{folder}: cannot be made: {_plain(error)}") from None
    try:
        yield
    except BaseException:
        if not saved_steps(folder):
            shutil.rmtree(folder / CHECKPOINTS, ignore_errors=True)
            with suppress(OSError):
                (folder / HISTORY).unlink(missing_ok=True)
                for place in made:
                    place.rmdir()
        raise


# files ---------------------------------------------------------------------------------------------------------------


def _plain(error: OSError) -> str:
    return (error.strerror or str(error)).lower()


@contextmanager
def named(path: Path) -> Iterator[None]:
    """Name a file in the message when it cannot be written.

    Raises:
        OptionError: It cannot.
    """
    try:
        yield
    except OSError as error:
        raise OptionError(f"{path}: cannot be written: {_plain(error)}") from None


def write_text(path: Path, text: str) -> None:
    """Write a file: afterwards it is the old one or the new one, whatever happens.

    Raises:
        OptionError: It cannot be written.
    """
    draft = path.with_name(f".{path.name}")
    with named(path):
        try:
            draft.write_text(text, encoding="utf-8")
            os.replace(draft, path)
        except OSError:
            draft.unlink(missing_ok=True)
            raise


def append_text(path: Path, text: str) -> None:
    """Write to the end of a file.

    Raises:
        OptionError: It cannot be written.
    """
    with named(path), path.open("a", encoding="utf-8") as file:
        file.write(text)


# checkpoints and history ---------------------------------------------------------------------------------------------


def saved_steps(folder: Path) -> list[Path]:
    """Return the checkpoints of a run, oldest first."""
    found = {p for p in (folder / CHECKPOINTS).glob("step-*") if (p / checkpoint.MANIFEST).exists()}
    found |= {p.with_name(p.name.removeprefix(".old-")) for p in (folder / CHECKPOINTS).glob(".old-step-*")}
    return sorted(found)


def history_rows(path: Path, count: int) -> list[dict[str, Any]]:
    """Read the first rows of a history.

    Raises:
        CheckpointError: There are fewer, or they are damaged.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()[:count]
        rows = [json.loads(line, parse_constant=lambda name: None) for line in lines]  # older runs wrote Infinity
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: {error}") from None
    if len(rows) < count:
        raise CheckpointError(f"{path}: expected {count} rows, found {len(rows)}")
    return rows


def history_text(rows: list[dict[str, Any]]) -> str:
    """Return rows of a history as lines of JSON."""
    return "".join(f"{json.dumps(row, allow_nan=False)}\n" for row in rows)


def read_summary(folder: Path) -> dict[str, Any]:
    """Return the summary of a run, empty if there is none that can be read."""
    try:
        found = json.loads((folder / SUMMARY).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


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
