"""Checking a pass of your own in three lines."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from irgrow.attributes import textual_name
from irgrow.graph import Graph
from irgrow.passes import Pass
from irgrow.testing.cases import Broken, Case
from irgrow.testing.idioms import IDIOMS, idiom
from irgrow.testing.laws import LAWS, verdict_is_sound
from irgrow.testing.programs import graphs
from irgrow.testing.rewriting import Draw, drawn
from irgrow.verdict import Refused

TRIES = 8
"""How many of the programs of a strategy of your own are drawn for one case, until the pass applies to one."""


def assert_preserves(graph: Graph, rewrite: Pass, seed: int = 0) -> None:
    """Assert that a rewrite is proved exact on a graph, and that the numbers agree.

    Raises:
        Broken: It is not; says why, with the program, the pass, the seed and what was measured.
    """
    case = Case(graph, rewrite, seed)
    verdict = case.plan().verdict
    if not verdict.preserves:
        raise case.broken("preservation", f"the verdict is: {verdict}")
    verdict_is_sound(case)


def check_pass(
    rewrite: type[Pass] | Pass,
    examples: int | None = None,
    options: Callable[[Graph], st.SearchStrategy[Pass]] | None = None,
    programs: st.SearchStrategy[Graph] | None = None,
) -> None:
    """Run every law on a pass, on random programs with random options; the laws are those of `irgrow.testing.laws`.

    Args:
        rewrite: The pass; its fields are declared with the helpers of `irgrow.attributes`. Of a class the options are
            drawn; a pass keeps its own, and works where it says if there is such a place, else at random ones.
        examples: How many cases; unless given as many as the profile of Hypothesis says, which is 100 unless it is set.
        options: Draws a pass for a graph; by the kinds and ranges of its options unless given.
        programs: Draws programs; unless given random ones over the whole op set, and the idioms of `IDIOMS`.

    Raises:
        Broken: A law does not hold; shows the smallest program found, the pass, the seed and the numbers. Or the pass
            was refused on every program, so that nothing was checked.
    """
    draw_pass = options or (lambda graph: drawn(rewrite, graph))
    counts: Counter[bool] = Counter()
    reasons: list[str] = []

    checks = list(HealthCheck)

    @settings(
        max_examples=settings().max_examples if examples is None else examples,
        deadline=None,
        database=None,
        suppress_health_check=checks,
        report_multiple_bugs=False,
    )
    @given(st.data())
    def run(data: Any) -> None:
        seed, batch = data.draw(st.integers(0, 1000)), data.draw(st.integers(2, 4))
        for program in _programs(data.draw, programs):
            graph = data.draw(program)
            case = Case(graph, data.draw(draw_pass(graph)), seed, batch)
            if case.plan().verdict.applies:
                break
        for law in LAWS:
            law(case)
        verdict = case.plan().verdict
        counts[verdict.applies] += 1
        if isinstance(verdict, Refused):
            reasons[:] = [verdict.reason]

    run()
    if not counts[True]:
        name = textual_name(rewrite if isinstance(rewrite, type) else type(rewrite))
        raise Broken(
            f"nothing was checked: {name} was refused on all {counts[False]} programs; give `programs` or `options` "
            f"for which it applies\n  the last reason: {reasons[0] if reasons else 'none'}"
        )


def _programs(draw: Draw, own: st.SearchStrategy[Graph] | None) -> Iterator[st.SearchStrategy[Graph]]:
    """Yield what to draw programs from until the pass applies: a random one, then, half of the time, every idiom."""
    yield graphs() if own is None else own
    if draw(st.booleans()):
        return
    if own is not None:
        yield from [own] * (TRIES - 1)
        return
    names = tuple(IDIOMS)
    first = draw(st.integers(0, len(names) - 1))
    yield from (st.just(idiom(name)) for name in (*names[first:], *names[:first]))


__all__ = ["Broken", "assert_preserves", "check_pass"]
