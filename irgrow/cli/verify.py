"""`irgrow verify`: put a program, or the claim of a pass, to the numbers."""

from __future__ import annotations

from typing import Annotated

import typer

from irgrow.cli.common import FileArgument, JsonOption, NetOption, SetOption, graph_of, print_json


def verify(
    file: FileArgument,
    passes: Annotated[
        list[str] | None, typer.Argument(help="Passes whose verdicts are to be checked.", show_default=False)
    ] = None,
    samples: Annotated[int, typer.Option("--samples", min=1, help="Samples of random data.")] = 4,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of parameters and data.")] = 0,
    net: NetOption = None,
    set_: SetOption = None,
    json: JsonOption = False,
) -> None:
    """Check numerically, in float64 on random data and non-trivial parameters.

    Without passes: the lowered module against the reference interpreter. With passes: each verdict against the measured
    difference of the outputs. Exit code 1 if a claim does not hold.
    """
    from irgrow.grammar import parse_pass
    from irgrow.testing.numbers import check_lowering, check_verdict

    graph = graph_of(file, net, set_)
    if not passes:
        results = [check_lowering(graph, seed, samples)]
    else:
        results = []
        for text in passes:
            result, graph = check_verdict(parse_pass(text), graph, seed, samples)
            results.append(result)
    if json:
        print_json([vars(r) for r in results])
    else:
        for result in results:
            typer.echo(str(result))
    if not all(r.holds for r in results):
        raise typer.Exit(1)
