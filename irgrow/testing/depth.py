"""Hypothesis strategies for rewrites that insert and remove layers and connections."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from hypothesis import strategies as st

from irgrow.graph import Graph
from irgrow.passes import AddConnection, InsertLayer, Pass, RemoveConnection, RemoveLayer
from irgrow.passes.layer_forms import FORMS, FUNCTIONS, NORMS

Draw = Callable[[st.SearchStrategy[Any]], Any]

_OPTIONS: Mapping[str, st.SearchStrategy[Any]] = {
    "activation": st.sampled_from(FUNCTIONS),
    "slope": st.floats(-1.0, 1.0),
    "kernel": st.sampled_from([1, 3, 5, 2]),
    "norm": st.sampled_from(tuple(NORMS)),
    "heads": st.integers(1, 3),
    "hidden": st.integers(1, 2),
    "causal": st.booleans(),
    "norm_first": st.booleans(),
}


@st.composite
def _insertions(draw: Draw, graph: Graph, cls: type[InsertLayer]) -> Pass:
    """Draw a form with options it takes, behind any node; `leaky_relu` comes with its slope."""
    form = draw(st.sampled_from(tuple(FORMS)))
    chosen = [o for o in _OPTIONS if o in FORMS[form].takes and o != "slope" and draw(st.booleans())]
    options = {name: draw(_OPTIONS[name]) for name in chosen}
    if options.get("activation") == "leaky_relu" and draw(st.booleans()):
        options["slope"] = draw(_OPTIONS["slope"])
    return cls(draw(st.sampled_from(tuple(graph.by_name))), form, **options)


@st.composite
def _removals(draw: Draw, graph: Graph, cls: type[RemoveLayer]) -> Pass:
    """Draw a node, or it and another that depends on it or not."""
    nodes = st.sampled_from(tuple(graph.by_name))
    first = draw(nodes)
    readers = graph.users[first]
    last = draw(st.one_of(st.none(), st.sampled_from(readers) if readers else nodes, nodes))
    return cls(first, last, draw(st.booleans()))


@st.composite
def _additions(draw: Draw, graph: Graph, cls: type[AddConnection]) -> Pass:
    """Draw two nodes, the source mostly the earlier one."""
    names = tuple(graph.by_name)
    a, b = draw(st.sampled_from(names)), draw(st.sampled_from(names))
    if names.index(a) > names.index(b) and draw(st.integers(0, 3)):
        a, b = b, a
    return cls(a, b, draw(st.sampled_from(("projected", "zero"))))


@st.composite
def _disconnections(draw: Draw, graph: Graph, cls: type[RemoveConnection]) -> Pass:
    """Draw an input of a sum, or any two nodes."""
    sums = [(i, n.name) for n in graph if n.op.kind == "add" for i in n.inputs]
    names = st.sampled_from(tuple(graph.by_name))
    if sums and draw(st.integers(0, 3)):
        source, total = draw(st.sampled_from(sums))
        return cls(source, draw(st.sampled_from((None, total))))
    return cls(draw(names), draw(st.one_of(st.none(), names)))


DEPTH: Mapping[type[Pass], Callable[[Graph, Any], st.SearchStrategy[Pass]]] = {
    InsertLayer: _insertions,
    RemoveLayer: _removals,
    AddConnection: _additions,
    RemoveConnection: _disconnections,
}
"""For each pass how it is drawn."""
