"""`irgrow rewrite`: apply passes, a pipeline or a journal to a program or checkpoint, or say why one does not apply."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from irgrow.cli.common import (
    JsonOption,
    NetOption,
    SetOption,
    for_programs,
    graph_of,
    is_checkpoint,
    note,
    print_json,
    program,
    values,
)
from irgrow.errors import OptionError, ProgramError

if TYPE_CHECKING:
    from irgrow.grammar import Program
    from irgrow.graph import Graph
    from irgrow.network import Network
    from irgrow.passes import Pipeline

    Work = Callable[[Graph | Network], "Outcome"]

Rows = list[dict[str, Any]]
Outcome = tuple[Rows, "Graph | None"]
"""A row for every rewrite, and the new network; none if one was refused."""


def rewrite(
    file: Annotated[Path, typer.Argument(help="A program (.irg) or a checkpoint folder.", show_default=False)],
    passes: Annotated[
        list[str] | None, typer.Argument(help="Passes, such as 'grow_units(f1, 8)'.", show_default=False)
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Where to: a program, or for a checkpoint a folder."),
    ] = None,
    pipeline: Annotated[
        Path | None,
        typer.Option("--pipeline", help="A file of passes, one to a line or with `;` between them."),
    ] = None,
    replay: Annotated[
        Path | None,
        typer.Option("--replay", help="A journal (JSON) or a checkpoint with one, whose rewrites are done again."),
    ] = None,
    explain: Annotated[
        str | None,
        typer.Option("--explain", help="A pass: print for every site its verdict, or why it does not apply there."),
    ] = None,
    seed: Annotated[
        int | None, typer.Option("--seed", min=0, help="Of random numbers; checkpoints and journals have their own.")
    ] = None,
    require: Annotated[str, typer.Option("--require", help="any, or exact to refuse all else.")] = "any",
    net: NetOption = None,
    set_: SetOption = None,
    json: JsonOption = False,
) -> None:
    """Apply passes in order; print each verdict and the new program.

    The passes are named, or stand in a pipeline or in a journal. They are all applied or none is: exit code 1, and
    nothing is written, if one is refused or if an entry of the journal does not match. --explain applies nothing.

    Of a program only the net is rewritten: other nets, blocks, `grow` and `train` sections and the comments around them
    stay as they are. Parameters of the net become numbers, and comments inside it go.
    """
    if sum(source not in (None, []) for source in (passes, pipeline, replay, explain)) != 1:
        raise OptionError("give passes, or one of --pipeline, --replay and --explain")
    if require not in ("any", "exact"):
        raise OptionError(f"--require takes any or exact, found {require}")
    if seed is not None and (replay is not None or is_checkpoint(file)):
        raise OptionError(f"--seed is for programs, {replay or file} has its own")
    if explain is not None:
        if output is not None:
            raise OptionError("--explain writes nothing and takes no --output")
        _explain(file, explain, seed or 0, net, set_, json)
        return
    if replay is not None:
        if require != "any":
            raise OptionError("--require is for passes, a journal is replayed as it is")
        work = _replaying(replay, json)
    else:
        work = _running(_pipeline(passes or [], pipeline), require, seed or 0, json)
    if is_checkpoint(file):
        for_programs(file, net, set_)
        rows, text = _on_checkpoint(file, output, work)
    else:
        rows, text = _on_program(file, output, work, net, set_)
    if json:
        print_json({"rewrites": rows, "program": text})
    elif text is not None and output is None:
        typer.echo(text, nl=False)
    if text is None:
        raise typer.Exit(1)


# what is done --------------------------------------------------------------------------------------------------------


def _pipeline(passes: list[str], file: Path | None) -> Pipeline:
    from irgrow.grammar import parse_pass
    from irgrow.grammar.program import read_text
    from irgrow.passes import Pipeline

    if file is None:
        return Pipeline(tuple(parse_pass(text) for text in passes))
    return Pipeline.parse(read_text(file, str(file)), str(file))


def _running(pipeline: Pipeline, require: str, seed: int, json: bool) -> Work:
    """Return what runs a pipeline on a program or a network."""
    from irgrow.graph import Graph
    from irgrow.passes import Context, run

    def work(target: Graph | Network) -> Outcome:
        if isinstance(target, Graph):
            trace = run(pipeline, target, Context(seed=seed), atomic=True, require=require)
        else:
            trace = pipeline.apply(target, atomic=True, require=require)
        rows = [step.to_json() for step in trace]
        _say(rows, json)
        return rows, None if trace.given_up else trace.after

    return work


def _replaying(file: Path, json: bool) -> Work:
    """Return what replays a journal on a program or a network."""
    from irgrow.grammar import render
    from irgrow.graph import Graph
    from irgrow.passes import Mismatch, read_journal, replay

    recorded = read_journal(file)

    def work(target: Graph | Network) -> Outcome:
        graph = target if isinstance(target, Graph) else target.graph
        rows: Rows = []
        try:
            for step in replay(recorded, target):
                rows.append(step.to_json())
                _say(rows[-1:], json)
                graph = step.after
        except Mismatch as error:
            if json:
                rows.append({"pass": None, "verdict": error.diagnostic.full, "kind": "mismatch"})
            else:
                note(render([error.diagnostic]))
            return rows, None
        return rows, graph

    return work


def _say(rows: Rows, json: bool) -> None:
    for row in () if json else rows:
        note(f"{row['pass']}: {row['verdict']}")


# to what -------------------------------------------------------------------------------------------------------------


def _on_program(
    file: Path, output: Path | None, work: Work, net: str | None, set_: list[str] | None
) -> tuple[Rows, str | None]:
    """Rewrite a net of a program; return the rows and the new text of the file."""
    from irgrow.files import replace_text
    from irgrow.grammar import exchange

    parsed = program(file)
    rows, graph = work(parsed.graph(net, values(set_)))
    if graph is None:
        return rows, None
    changed = exchange(parsed, graph, output)
    _say_what_does_not_fit(changed, graph)
    if output is not None:
        replace_text(output, changed.source.text)
    return rows, changed.source.text


def _say_what_does_not_fit(changed: Program, graph: Graph) -> None:
    """Note which rules there is no place for in the rewritten net."""
    from irgrow.grammar import render

    try:
        changed.check(graph.name)
    except ProgramError as error:
        note(f"note: its sections do not fit this net; `irgrow check` says:\n{render(error.diagnostics)}")


def _on_checkpoint(folder: Path, output: Path | None, work: Work) -> tuple[Rows, str | None]:
    """Rewrite a checkpoint; return the rows and the new program."""
    from irgrow import checkpoint

    if output is None:
        raise OptionError("a rewritten checkpoint needs a place: --output FOLDER")
    saved = checkpoint.read(folder)
    if saved.run["optimizers"]:
        note("note: the optimizer state of a run is not carried by the command line; the result holds the network only")
    net = checkpoint.network(saved)
    rows, graph = work(net)
    if graph is not None:
        checkpoint.save(net, output)
    return rows, None if graph is None else str(graph)


def _explain(file: Path, text: str, seed: int, net: str | None, set_: list[str] | None, json: bool) -> None:
    """Print what a pass would come to at every site."""
    from irgrow.grammar import parse_pass
    from irgrow.passes import Context, remarks

    pass_ = parse_pass(text)
    params = None
    if is_checkpoint(file):
        from irgrow import checkpoint

        for_programs(file, net, set_)
        saved = checkpoint.read(file)
        graph, params = saved.graph, saved.params
    else:
        graph = graph_of(file, net, set_)
    found = remarks(pass_, graph, Context(params, seed))
    if json:
        print_json([row.to_json() for row in found])
    else:
        typer.echo(str(found))
