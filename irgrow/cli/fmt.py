"""`irgrow fmt`: put programs into the standard layout."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from irgrow.errors import OptionError


def fmt(
    files: Annotated[list[Path], typer.Argument(help="Programs (.irg); - reads standard input.", show_default=False)],
    check: Annotated[bool, typer.Option("--check", help="Write nothing; exit 1 if a file would change.")] = False,
) -> None:
    """Format programs in place; comments and line breaks stay."""
    from irgrow.grammar import format_text
    from irgrow.grammar.program import read_text

    changed = False
    for path in files:
        if str(path) == "-":
            typer.echo(format_text(sys.stdin.read(), "<stdin>"), nl=False)
            continue
        text = read_text(path, str(path))
        result = format_text(text, str(path))
        if result == text:
            continue
        changed = True
        typer.echo(f"{path}: {'would be reformatted' if check else 'reformatted'}")
        if not check:
            replace_text(path, result)
    if check and changed:
        raise typer.Exit(1)


def replace_text(path: Path, text: str) -> None:
    """Replace a file in one step, so that a crash leaves the old or the new one.

    Raises:
        OptionError: It cannot be written; the old one is still there.
    """
    staged = path.with_name(f".{path.name}.tmp-{os.getpid()}")
    try:
        staged.write_text(text, encoding="utf-8")
        if path.exists():
            staged.chmod(path.stat().st_mode)
        os.replace(staged, path)
    except OSError as error:
        staged.unlink(missing_ok=True)
        raise OptionError(f"{path}: cannot be written: {(error.strerror or str(error)).lower()}") from None
