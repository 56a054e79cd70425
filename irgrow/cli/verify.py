"""`irgrow verify`: put a program, or the claim of a pass, to the numbers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from irgrow.cli.common import FileArgument, JsonOption, NetOption, SetOption, graph_of, note, print_json

if TYPE_CHECKING:
    from irgrow.graph import Graph
    from irgrow.testing.numbers import Result

NOTHING = "a rewrite that is refused has nothing to verify"


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
    difference of the outputs. Exit code 1 if a claim does not hold. A pass that is refused claims nothing: it ends the
    check, with exit code 2.
    """
    from irgrow.testing.numbers import check_lowering

    graph = graph_of(file, net, set_)
    if passes:
        results, refused = _claims(passes, graph, seed, samples)
    else:
        results, refused = [check_lowering(graph, seed, samples)], None
    if json:
        rows = [vars(r) for r in results]
        print_json(rows if refused is None else [*rows, {**vars(refused), "holds": None, "detail": NOTHING}])
    else:
        for result in results:
            typer.echo(str(result))
        if refused is not None:
            note(f"error: {NOTHING}: {refused.claim}")
    if not all(r.holds for r in results):
        raise typer.Exit(1)
    if refused is not None:
        raise typer.Exit(2)


def _claims(passes: list[str], graph: Graph, seed: int, samples: int) -> tuple[list[Result], Result | None]:
    """Measure the claims of passes, one on what the other made, up to one that is refused."""
    from irgrow.grammar import parse_pass
    from irgrow.testing.numbers import check_verdict

    results: list[Result] = []
    for pass_ in [parse_pass(text) for text in passes]:
        result, graph = check_verdict(pass_, graph, seed, samples)
        if result.error is None:
            return results, result
        results.append(result)
    return results, None
