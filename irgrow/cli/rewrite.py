"""`irgrow rewrite`: apply passes to a program or a checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from irgrow.cli.common import JsonOption, NetOption, SetOption, for_programs, graph_of, is_checkpoint, note, print_json
from irgrow.errors import OptionError

if TYPE_CHECKING:
    from irgrow.passes import Pass


def rewrite(
    file: Annotated[Path, typer.Argument(help="A program (.irg) or a checkpoint folder.", show_default=False)],
    passes: Annotated[list[str], typer.Argument(help="Passes, such as 'grow_units(f1, 8)'.", show_default=False)],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Where to: a program, or for a checkpoint a folder."),
    ] = None,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of random numbers.")] = 0,
    require: Annotated[str, typer.Option("--require", help="any, or exact to refuse all else.")] = "any",
    net: NetOption = None,
    set_: SetOption = None,
    json: JsonOption = False,
) -> None:
    """Apply passes in order; print each verdict and the new program. Exit code 1 if one is refused."""
    from irgrow.grammar import parse_pass

    if require not in ("any", "exact"):
        raise OptionError(f"--require takes any or exact, found {require}")
    parsed = [parse_pass(text) for text in passes]
    if is_checkpoint(file):
        for_programs(file, net, set_)
        rows, text = _on_checkpoint(file, parsed, output, require)
    else:
        rows, text = _on_program(file, parsed, output, require, seed, net, set_)
    if json:
        print_json({"rewrites": rows, "program": text})
    else:
        for row in rows:
            note(f"{row['pass']}: {row['verdict']}")
        if text is not None and output is None:
            typer.echo(text, nl=False)
    if text is None:
        raise typer.Exit(1)


def _row(pass_: Pass, verdict: Any, before: Any, after: Any) -> dict[str, Any]:
    from irgrow.cost import cost

    row = {"pass": str(pass_), "verdict": str(verdict), "kind": verdict.word}
    if after is not None:
        row["parameters"] = cost(after).parameters - cost(before).parameters
        row["macs"] = cost(after).macs - cost(before).macs
    return row


def _on_program(
    file: Path,
    parsed: list[Pass],
    output: Path | None,
    require: str,
    seed: int,
    net: str | None,
    set_: list[str] | None,
) -> tuple[list[dict[str, Any]], str | None]:
    from irgrow.files import replace_text
    from irgrow.passes import Context, plan
    from irgrow.verdict import Refused

    graph = graph_of(file, net, set_)
    rows: list[dict[str, Any]] = []
    for pass_ in parsed:
        planned = plan(pass_, graph, Context(seed=seed))
        verdict = planned.verdict
        if require == "exact" and verdict.applies and not verdict.preserves:
            verdict = Refused(f"an exact rewrite is required, this one {verdict}", pass_.site)
        if planned.morphism is None or not verdict.applies:
            rows.append(_row(pass_, verdict, graph, None))
            return rows, None
        rows.append(_row(pass_, verdict, graph, planned.morphism.after))
        graph = planned.morphism.after
    text = str(graph)
    if output is not None:
        replace_text(output, text)
    return rows, text


def _on_checkpoint(
    folder: Path, parsed: list[Pass], output: Path | None, require: str
) -> tuple[list[dict[str, Any]], str | None]:
    from irgrow import checkpoint

    if output is None:
        raise OptionError("a rewritten checkpoint needs a place: --output FOLDER")
    saved = checkpoint.read(folder)
    if saved.run["optimizers"]:
        note("note: the optimizer state of a run is not carried by the command line; the result holds the network only")
    net = checkpoint.network(saved)
    rows = []
    for pass_ in parsed:
        before = net.graph
        receipt = net.rewrite(pass_, require=require)
        rows.append(_row(pass_, receipt.verdict, before, net.graph if receipt.applied else None))
        if not receipt.applied:
            return rows, None
    checkpoint.save(net, output)
    return rows, str(net.graph)
