"""Writing files so that a crash leaves the old one or the new one."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from irgrow.errors import OptionError


def replace_text(path: Path, text: str) -> None:
    """Replace a text file; see `replace_bytes`."""
    replace_bytes(path, text.encode())


def replace_bytes(path: Path, data: bytes) -> None:
    """Replace a file in one step, so that a crash leaves the old or the new one; links are followed.

    Raises:
        OptionError: It cannot be written; the old one is still there.
    """
    real = path.resolve()
    staged = real.with_name(f".{real.name}.tmp-{os.getpid()}")
    try:
        if real.exists() and not real.is_file() and not real.is_dir():
            real.write_bytes(data)
            return
        staged.write_bytes(data)
        if real.exists():
            staged.chmod(real.stat().st_mode)
        os.replace(staged, real)
    except OSError as error:
        with suppress(OSError):
            staged.unlink()
        raise OptionError(f"{path}: cannot be written: {(error.strerror or str(error)).lower()}") from None
