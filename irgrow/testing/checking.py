"""Checking a pass of your own in three lines."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from irgrow.graph import Graph
from irgrow.passes import Pass
from irgrow.testing.laws import LAWS, Broken, Case, verdict_is_sound
from irgrow.testing.programs import graphs
from irgrow.testing.rewriting import pass_of


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
    cls: type[Pass],
    examples: int = 100,
    options: Callable[[Graph], st.SearchStrategy[Pass]] | None = None,
    programs: st.SearchStrategy[Graph] | None = None,
) -> None:
    """Run every law on a pass, on random programs with random options.

    Args:
        cls: The pass; its fields are declared with the helpers of `irgrow.attributes`.
        examples: How many cases.
        options: Draws a pass for a graph; by the kinds and ranges of its options unless given.
        programs: Draws programs; random ones over the whole op set unless given.

    Raises:
        Broken: A law does not hold; shows the smallest program found, the pass, the seed and the numbers.
    """
    draw_pass = options or (lambda graph: pass_of(cls, graph))

    @settings(max_examples=examples, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(st.data())
    def run(data: Any) -> None:
        graph = data.draw(programs if programs is not None else graphs())
        case = Case(graph, data.draw(draw_pass(graph)), data.draw(st.integers(0, 1000)), data.draw(st.integers(2, 4)))
        for law in LAWS:
            law(case)

    run()


__all__ = ["Broken", "assert_preserves", "check_pass"]
