"""Hypothesis strategies for rewrites of a given graph."""

from __future__ import annotations

from collections.abc import Callable
from math import inf
from typing import Any

from hypothesis import strategies as st

from irgrow.attributes import Attribute, attributes
from irgrow.graph import Graph
from irgrow.passes import PASSES, SALIENCIES, GrowEdges, Pass, PruneEdges, PruneUnits, RewireEdges, Saliency
from irgrow.passes.analyses.density import maskable
from irgrow.passes.analyses.places import editable_axes
from irgrow.testing.depth import DEPTH

Draw = Callable[[st.SearchStrategy[Any]], Any]


def sites(graph: Graph) -> st.SearchStrategy[str]:
    """Draw where a rewrite may work: editable axes mostly, nodes and locked axes too."""
    editable = editable_axes(graph)
    anything = st.sampled_from([*graph.leaves, *graph.by_name])
    return st.one_of(st.sampled_from(editable), st.sampled_from(editable), anything) if editable else anything


def _option(attribute: Attribute, graph: Graph) -> st.SearchStrategy[Any]:
    """Draw a value for an option by its kind and range."""
    low = int(attribute.low or 0)
    match attribute.kind:
        case "site":
            return sites(graph)
        case "integer":
            numbers: st.SearchStrategy[Any] = st.integers(low, low + 4)
            return st.one_of(st.none(), numbers) if attribute.optional else numbers
        case "integers":
            return st.lists(st.integers(low, low + 5), min_size=1, max_size=3, unique=True).map(tuple)
        case "real":
            start = float(attribute.low if attribute.low is not None else -1.0)
            end = min(start + 2.0, attribute.high if attribute.high is not None else inf)
            floats = st.floats(start, end, exclude_min=attribute.open_low, exclude_max=attribute.open_high)
            return st.one_of(st.none(), floats) if attribute.optional else floats
        case "flag":
            return st.booleans()
        case "word":
            return st.sampled_from(attribute.choices)
        case "plan" if attribute.choices == ("saliency",):
            return saliencies()
    return st.just(attribute.default)


def saliencies() -> st.SearchStrategy[Saliency]:
    """Draw a saliency with its default options."""
    return st.sampled_from([cls() for cls in SALIENCIES])


@st.composite
def _units(draw: Draw, graph: Graph, cls: type[PruneUnits]) -> PruneUnits:
    """Draw given units, or a saliency and one way of saying how many."""
    site = draw(sites(graph))
    size = graph.size(graph.axis(site))
    if draw(st.booleans()):
        units = draw(st.lists(st.integers(0, max(size - 1, 0)), min_size=1, max_size=3, unique=True))
        return cls(site, tuple(sorted(units)))
    amounts = {"count": st.integers(1, 4), "fraction": st.floats(0.1, 0.9), "threshold": st.floats(-1.0, 2.0)}
    name = draw(st.sampled_from(tuple(amounts)))
    least, multiple = draw(st.sampled_from([None, 1, 2])), draw(st.integers(1, 3))
    options = {name: draw(amounts[name]), "least": least, "multiple": multiple}
    return cls(site, by=draw(saliencies()), **options)


@st.composite
def _edges(draw: Draw, graph: Graph, cls: type[Pass]) -> Pass:
    """Draw options for the synapses of all weights, of one or of any node, with one way of saying how many."""
    found = {node: synapses for synapses in maskable(graph) for node in synapses.nodes}
    usual = st.sampled_from(["all", *found])
    where = draw(st.one_of(usual, usual, usual, sites(graph)))
    known = {a.name: a for a in attributes(cls) if a.name not in ("where", "until")}
    amounts = [n for n in ("fraction", "count", "density", "threshold") if n in known and known[n].optional]
    options = {n: draw(_option(a, graph)) for n, a in known.items() if n not in amounts}
    share = st.floats(0.2, 0.9)
    options |= {"fraction": draw(share)} if "fraction" in options else {}
    if options.get("by") == "nest":
        options["allocation"], amounts = draw(st.sampled_from(["uniform", "global"])), ["fraction"]
    if "kernels" in options and not any(s.has_kernels for n, s in found.items() if where in ("all", n)):
        options["kernels"] = False
    numbers = {"count": st.integers(1, 5), "threshold": st.floats(-0.5, 0.5)}
    if amounts:
        name = draw(st.sampled_from(amounts))
        options[name] = draw(numbers.get(name, share))
        options |= {"allocation": "uniform"} if name == "threshold" else {}
    return cls(where=where, **options)  # type: ignore[call-arg]


def pass_of(cls: type[Pass], graph: Graph) -> st.SearchStrategy[Pass]:
    """Draw a pass of a class with random options, at a random site of a graph."""
    if issubclass(cls, PruneUnits):
        return _units(graph, cls)
    if issubclass(cls, (GrowEdges, PruneEdges, RewireEdges)):
        return _edges(graph, cls)
    for kind, draw in DEPTH.items():
        if issubclass(cls, kind):
            return draw(graph, cls)
    return st.builds(cls, **{a.name: _option(a, graph) for a in attributes(cls)})


def rewrites(graph: Graph) -> st.SearchStrategy[Pass]:
    """Draw a pass of irgrow with random options for a graph; it may turn out to be refused.

    Example::

        @given(st.data())
        def test_something(data):
            graph = data.draw(graphs())
            rewrite = data.draw(rewrites(graph))
    """
    return st.one_of(*(pass_of(cls, graph) for cls in PASSES))
