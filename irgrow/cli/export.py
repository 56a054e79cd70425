"""`irgrow export`: ONNX files of programs and checkpoints."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from irgrow.cli.common import NetOption, SetOption, for_programs, graph_of, is_checkpoint


def export(
    file: Annotated[Path, typer.Argument(help="A checkpoint folder, or a program (.irg).", show_default=False)],
    output: Annotated[Path, typer.Argument(help="The ONNX file to write.", show_default=False)],
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of the initial values, for a program.")] = 0,
    net: NetOption = None,
    set_: SetOption = None,
) -> None:
    """Export a network in evaluation mode to ONNX, with any batch size (needs the extra `irgrow[onnx]`)."""
    from irgrow.exporting import export_onnx

    if is_checkpoint(file):
        from irgrow.checkpoint import load

        for_programs(file, net, set_)
        network = load(file)
    else:
        from irgrow.network import build

        network = build(graph_of(file, net, set_), seed)
    error = export_onnx(network, output)
    typer.echo(f"{output}: {network.graph.name}, {network.graph.count():,} parameters, checked to {error:.1g}")
