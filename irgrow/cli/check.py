"""`irgrow check`: parse, elaborate, type and verify."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from irgrow.cli.common import JsonOption, NetOption, SetOption, print_json, values
from irgrow.errors import OptionError, ProgramError


def check(
    files: Annotated[list[Path], typer.Argument(help="Programs (.irg).", show_default=False)],
    net: NetOption = None,
    set_: SetOption = None,
    json: JsonOption = False,
) -> None:
    """Check programs and say what each net is. Exit code 2 if one is not well-formed."""
    from irgrow.grammar import render

    rows: list[dict[str, Any]] = []
    failed = False
    for path in files:
        try:
            rows.extend(_checked(path, net, values(set_)))
        except ProgramError as error:
            failed = True
            rows.append({"file": str(path), "ok": False, "errors": [_error(d) for d in error.diagnostics]})
            if not json:
                typer.echo(render(error.diagnostics), err=True)
        except OptionError as error:
            failed = True
            rows.append({"file": str(path), "ok": False, "errors": [{"message": str(error)}]})
            if not json:
                typer.echo(f"error: {error}", err=True)
    if json:
        print_json(rows)
    for row in rows if not json else ():
        if row["ok"]:
            typer.echo(row["text"])
    if failed:
        raise typer.Exit(2)


def _error(d: Any) -> dict[str, Any]:
    line, column = d.span.source.position(d.span.start) if d.span else (None, None)
    return {"message": d.message, "code": d.code, "line": line, "column": column, "help": d.help}


def _checked(path: Path, net: str | None, given: dict[str, Any]) -> list[dict[str, Any]]:
    """Check one file and describe its nets."""
    from irgrow.cost import cost
    from irgrow.grammar import read_program

    program = read_program(path)
    own = any(block.source is program.source for block in program.blocks.values())
    if not program.nets and net is None and own and not program.sections:
        return [{"file": str(path), "ok": True, "text": f"{path}: ok, blocks only"}]
    rows = []
    for graph in program.check(net, given):
        total = cost(graph)
        text = f"{path}: ok, net {graph.name}: {len(graph)} nodes, {total.parameters:,} parameters, {total.macs:,} MACs"
        row = {"file": str(path), "ok": True, "net": graph.name, "nodes": len(graph), "text": text}
        rows.append({**row, "parameters": total.parameters, "macs": total.macs})
    return rows
