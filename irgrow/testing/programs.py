"""Hypothesis strategies for random programs over the whole op set, and for their inputs.

A program is drawn as a list of steps. Each step looks only at the value it continues from, so a failing program shrinks
to the steps that matter.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from hypothesis import strategies as st

from irgrow.builder import GraphBuilder
from irgrow.graph import Graph
from irgrow.ops import (
    Dense,
    Embedding,
    Flatten,
    Input,
)
from irgrow.testing.drafts import Draft, Draw
from irgrow.testing.numbers import random_inputs
from irgrow.testing.steps import layer, steps_for


@st.composite
def graphs(draw: Draw, steps: int = 6, dropout: bool = True) -> Graph:
    """Draw a well-formed graph over the whole op set.

    Args:
        draw: Given by Hypothesis.
        steps: The most steps; a step is one op, or an idiom of a few.
        dropout: Whether dropout may occur.

    Example::

        @given(graphs())
        def test_something(graph):
            assert irgrow.parse(str(graph)) == graph
    """
    d = Draft(draw, GraphBuilder("random"))
    kind = d.pick("vector", "image", "signal", "ids")
    shapes: dict[str, Callable[[], tuple[int, ...]]] = {
        "vector": lambda: (d.small(),),
        "image": lambda: (d.small(1, 3), d.small(2, 4), d.small(2, 4)),
        "signal": lambda: (d.small(1, 3), d.small(2, 5)),
        "ids": lambda: (d.small(2, 4),),
    }
    d.build.add("x", Input(shapes[kind](), 7 if kind == "ids" else None))
    d.current = "x"
    if kind == "ids":
        d.add("embed", Embedding(d.width("", d.small(2, 5), "embed")))
    else:
        layer(d, d.small())
    for _ in draw(st.lists(st.just(None), min_size=1, max_size=steps)):
        if int(np.prod(d.shape())) <= 400:
            d.pick(*steps_for(d.type(), dropout))(d)
    _head(d)
    return d.build.finish([d.current])


def _head(d: Draft) -> None:
    """End in a layer, so that the axes before it are not part of the interface; tied to the embedding if it fits."""
    value = d.type()
    embed = next((n.name for n in d.build.nodes if isinstance(n.op, Embedding)), None)
    last = value.unit_dim == value.rank - 1
    if embed is not None and last and d.units() == d.units(embed) and d.flag():
        d.add("head", Dense(d.width("", 7, "head"), d.flag()), tied=embed)
    elif last:
        d.dense(d.small())
    elif d.flag():
        d.conv(d.small())
    else:
        d.add("flat", Flatten())
        d.dense(d.small())


def inputs(graph: Graph) -> st.SearchStrategy[dict[str, Any]]:
    """Draw inputs of a graph by name, batch first; the batch may be a single sample."""
    return st.builds(lambda seed, batch: random_inputs(graph, seed, batch), st.integers(0, 2**31), st.integers(1, 4))
