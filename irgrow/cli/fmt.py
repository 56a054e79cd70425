"""`irgrow fmt`: put programs into the standard layout."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from irgrow.files import replace_text


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
            text = sys.stdin.read()
            result = format_text(text, "<stdin>")
            changed |= result != text
            if check and result != text:
                typer.echo("<stdin>: would be reformatted")
            elif not check:
                typer.echo(result, nl=False)
            continue
        text = read_text(path, str(path))
        result = format_text(text, str(path))
        if result == text:
            continue
        changed = True
        if not check:
            replace_text(path, result)
        typer.echo(f"{path}: {'would be reformatted' if check else 'reformatted'}")
    if check and changed:
        raise typer.Exit(1)
