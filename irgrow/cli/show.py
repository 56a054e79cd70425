"""`irgrow show`: a table of the nodes, the totals, and which axes can be edited."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from irgrow.cli.common import JsonOption, NetOption, SetOption, graph_of, print_json

if TYPE_CHECKING:
    from irgrow.graph import Graph


def show(
    file: Annotated[Path, typer.Argument(help="A program (.irg) or a checkpoint folder.", show_default=False)],
    net: NetOption = None,
    set_: SetOption = None,
    json: JsonOption = False,
) -> None:
    """Show node, op, output, axis, parameters and MACs, the totals, and which axes are locked and why."""
    graph = graph_of(file, net, set_)
    if json:
        print_json(described(graph))
    else:
        _print_tables(graph)


def described(graph: Graph) -> dict[str, Any]:
    """Return everything the tables show as JSON values."""
    from irgrow.axes import Atom
    from irgrow.cost import cost
    from irgrow.grammar import print_call

    costs = cost(graph)
    nodes = [
        {
            "node": node.name,
            "op": print_call(node, graph) if node.inputs else node.op.kind,
            "output": list(graph.shape(node.name)),
            "axis": str(graph.types[node.name].units),
            "parameters": costs.nodes[node.name].parameters,
            "macs": costs.nodes[node.name].macs,
        }
        for node in graph
    ]
    axes = [
        {"axis": name, "size": graph.widths[name], "locked": str(why) if (why := graph.locked(Atom(name))) else None}
        for name in graph.leaves
    ]
    totals = {"parameters": costs.parameters, "buffers": costs.buffers, "macs": costs.macs}
    return {"net": graph.name, "nodes": nodes, "axes": axes, "total": totals}


def _print_tables(graph: Graph) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console() if sys.stdout.isatty() else Console(width=200)
    data = described(graph)
    table = Table(box=None, pad_edge=False)
    for column in ("node", "op", "output", "axis"):
        table.add_column(column, overflow="fold")
    for column in ("parameters", "MACs"):
        table.add_column(column, justify="right", no_wrap=True)
    for node, row in zip(graph, data["nodes"], strict=True):
        op = row["op"].split("(", 1)[0]
        shape = "x".join(map(str, row["output"]))
        counts = (f"{row['parameters']:,}" if row["parameters"] else "", f"{row['macs']:,}" if row["macs"] else "")
        table.add_row(node.name, op, shape, row["axis"], *counts)
    table.add_section()
    total = data["total"]
    table.add_row("total", "", "", "", f"{total['parameters']:,}", f"{total['macs']:,}")
    console.print(table, highlight=False)
    if total["buffers"]:
        console.print(f"buffers: {total['buffers']:,} entries", highlight=False)
    console.print()
    axes = Table(box=None, pad_edge=False)
    axes.add_column("axis", overflow="fold")
    axes.add_column("size", justify="right")
    axes.add_column("editable", overflow="fold")
    for row in data["axes"]:
        axes.add_row(row["axis"], str(row["size"]), "yes" if row["locked"] is None else f"locked: {row['locked']}")
    console.print(axes, highlight=False)
