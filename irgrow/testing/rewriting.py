"""Hypothesis strategies for rewrites of a given graph."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from math import inf
from typing import Any

from hypothesis import strategies as st

from irgrow import registry
from irgrow.attributes import Attribute, attributes
from irgrow.errors import OptionError
from irgrow.graph import Graph
from irgrow.passes import PASSES, SALIENCIES, GrowEdges, GrowUnits, Pass, PruneEdges, PruneUnits, RewireEdges, Saliency
from irgrow.passes.analyses.density import maskable
from irgrow.passes.analyses.places import editable_axes
from irgrow.testing.depth import DEPTH

Draw = Callable[[st.SearchStrategy[Any]], Any]


def sites(graph: Graph) -> st.SearchStrategy[str]:
    """Draw where a rewrite may work: editable axes mostly, nodes and locked axes too."""
    editable = editable_axes(graph)
    anything = st.sampled_from([*graph.leaves, *graph.by_name])
    return st.one_of(st.sampled_from(editable), st.sampled_from(editable), anything) if editable else anything


def _option(attribute: Attribute, graph: Graph, size: int = 6, nested: bool = False) -> st.SearchStrategy[Any]:
    """Draw a value for an option by its kind and range; positions are those of an axis of `size` units."""
    found = _value(attribute, graph, size, nested)
    if found is None:
        return st.just(attribute.default)
    return st.one_of(st.none(), found) if attribute.optional else found


def _value(attribute: Attribute, graph: Graph, size: int, nested: bool) -> st.SearchStrategy[Any] | None:
    """Draw a value other than nothing; `None` where there is only the default."""
    low = int(attribute.low or 0)
    high = low + 4 if attribute.high is None else min(low + 4, int(attribute.high))
    match attribute.kind:
        case "site":
            return sites(graph)
        case "integer" | "width" | "window":
            return st.integers(low, high)
        case "integers":
            return st.lists(st.integers(low, max(low, size - 1)), min_size=1, max_size=3, unique=True).map(
                lambda units: tuple(sorted(units))
            )
        case "real":
            start = float(attribute.low if attribute.low is not None else -1.0)
            end = min(start + 2.0, attribute.high if attribute.high is not None else inf)
            return st.floats(start, end, exclude_min=attribute.open_low, exclude_max=attribute.open_high)
        case "flag":
            return st.booleans()
        case "word":
            return st.sampled_from(attribute.choices)
        case "text" if attribute.required:
            return st.sampled_from(["a", "b"])
        case "plan" if attribute.choices == ("saliency",):
            return saliencies()
        case "plan":
            return _registered(attribute, graph, nested)
    return None


def _registered(attribute: Attribute, graph: Graph, nested: bool) -> st.SearchStrategy[Any] | None:
    """Draw an object of a registered group: the default, or one of a class with random options."""
    if not attribute.required and (nested or attribute.default is None):
        return None
    classes = list(registry.group(attribute.choices[0]).values())
    others = [_made(graph, cls, nested=True) for cls in classes]
    return st.one_of(*others) if attribute.required else st.one_of(st.just(attribute.default), *others)


@st.composite
def _made(draw: Draw, graph: Graph, cls: type[Any], nested: bool = False) -> Any:
    """Draw an object with random options; where they do not go together, with the defaults of those that have one."""
    known = attributes(cls)
    places = {a.name: draw(_option(a, graph)) for a in known if a.kind == "site"}
    size = graph.size(graph.axis(next(iter(places.values())))) if places else 6
    options = {a.name: draw(_or_default(a, _option(a, graph, size, nested))) for a in known if a.kind != "site"}
    try:
        made = cls(**places, **options)
    except OptionError:
        needed = {a.name for a in known if a.required}
        made = cls(**places, **{name: value for name, value in options.items() if name in needed})
    return draw(_fitting(made, graph, *places)) if isinstance(made, Pass) and len(places) == 1 else made


def _or_default(attribute: Attribute, found: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Leave every other option as it is: many go together with the defaults of the others only."""
    return found if attribute.required else st.one_of(st.just(attribute.default), found)


def _fitting(rewrite: Pass, graph: Graph, place: str) -> st.SearchStrategy[Pass]:
    """Draw where a pass works: mostly where it applies, if that is anywhere."""
    moved = (replace(rewrite, **{place: site}) for site in dict.fromkeys([*graph.leaves, *graph.by_name]))
    fit = [m for m in moved if m.match(graph, m.site) is None]
    here = st.just(rewrite)
    return st.one_of(here, st.sampled_from(fit), st.sampled_from(fit)) if fit else here


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
    if issubclass(cls, GrowUnits):
        return _made(graph, cls).map(lambda found: found if found.zero == "fan_in" else replace(found, absorb=False))
    for kind, draw in DEPTH.items():
        if issubclass(cls, kind):
            return draw(graph, cls)
    return _made(graph, cls)


def drawn(rewrite: type[Pass] | Pass, graph: Graph) -> st.SearchStrategy[Pass]:
    """Draw a pass of a class, or a given pass, which stays where it is if the graph has such a place."""
    if isinstance(rewrite, type):
        return pass_of(rewrite, graph)
    given = {a.name: getattr(rewrite, a.name) for a in attributes(type(rewrite)) if a.kind == "site"}
    standard = {a.name: a.default for a in attributes(type(rewrite)) if a.default != ""}
    lost = [name for name, v in given.items() if v != standard.get(name, "") and not _is_place(v, graph)]
    lost += [name for name, v in given.items() if v == ""]
    return st.fixed_dictionaries({name: sites(graph) for name in lost}).map(lambda found: replace(rewrite, **found))


def _is_place(name: str, graph: Graph) -> bool:
    return name in graph or name in graph.typed.axes.sizes


def rewrites(graph: Graph) -> st.SearchStrategy[Pass]:
    """Draw a pass of irgrow with random options for a graph; it may turn out to be refused.

    Example::

        @given(st.data())
        def test_something(data):
            graph = data.draw(graphs())
            rewrite = data.draw(rewrites(graph))
    """
    return st.one_of(*(pass_of(cls, graph) for cls in PASSES))
