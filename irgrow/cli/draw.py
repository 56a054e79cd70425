"""`irgrow draw`: a picture of a network."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from irgrow.cli.common import NetOption, SetOption, graph_of
from irgrow.errors import OptionError


def draw(
    file: Annotated[Path, typer.Argument(help="A program (.irg) or a checkpoint folder.", show_default=False)],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Where to; standard output unless given.")
    ] = None,
    format: Annotated[
        str | None, typer.Option("--format", help="svg, dot or mermaid; else by the file's ending.")
    ] = None,
    net: NetOption = None,
    set_: SetOption = None,
) -> None:
    """Draw a network as SVG (no other program needed), or as DOT or Mermaid text."""
    from irgrow.drawing import FORMATS
    from irgrow.files import replace_text

    endings = {".svg": "svg", ".dot": "dot", ".gv": "dot", ".mmd": "mermaid", ".md": "mermaid"}
    ending = output.suffix.lower() if output else ""
    chosen = format or endings.get(ending, ending.removeprefix(".") or "svg")
    if chosen not in FORMATS:
        raise OptionError(f"unknown format `{chosen}`; use {', '.join(FORMATS)}")
    text = FORMATS[chosen](graph_of(file, net, set_))
    if output is None:
        typer.echo(text, nl=False)
    else:
        replace_text(output, text)
