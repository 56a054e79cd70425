"""Options of passes, drawn from their declarations one after the other and not at random.

Every value of every option stands in the smallest set of options that some program accepts: alone where that is
enough, else together with others (a saliency needs to know how many units go). So a pass that is registered is tried
with all it offers, without a list that somebody must keep in step.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import islice, product
from typing import Any
from zlib import crc32

from irgrow import registry
from irgrow.attributes import Attribute, attributes
from irgrow.graph import Graph
from irgrow.passes import Pass
from irgrow.passes.analyses.places import editable_axes
from irgrow.testing.idioms import IDIOMS, idiom

Options = Mapping[str, Any]

_FIRST = ("masked layers", "masked convolutions", "residual with batch norms", "pre-norm transformer")
_JUDGES = (*_FIRST, *(name for name in IDIOMS if name not in _FIRST))
_FEW = {"word": 8, "flag": 1, "real": 2, "integer": 1, "integers": 1, "plan": 1}


def values(attribute: Attribute) -> tuple[Any, ...]:
    """Return values of an option beside its default, the telling ones first.

    >>> from irgrow.passes import SplitUnits
    >>> [values(a) for a in attributes(SplitUnits) if a.name in ("noise", "between")]
    [(0.0, 0.3, 0.7), ('fan_in',)]
    """
    found: tuple[Any, ...] = ()
    match attribute.kind:
        case "integer":
            found = (2, 3, 1, 4)
        case "integers":
            found = ((0,), (1, 2))
        case "real":
            found = (attribute.low, 0.3, 0.7, attribute.high)
        case "flag":
            found = (True, False)
        case "word":
            found = attribute.choices
        case "plan":
            found = tuple(cls() for cls in registry.group(attribute.choices[0]).values())
    fitting = (v for v in found if v is not None and v != attribute.default and attribute.problem(v) is None)
    return tuple(dict.fromkeys(fitting))


def sites(cls: type[Pass], graph: Graph) -> tuple[dict[str, str], ...]:
    """Return where a pass can be asked to work: every axis or node, and for a second site every other node.

    An option called `axis` is given every expression that some value has for its units once, under the name of the
    axis or of the first node that carries it.
    """
    given = [a for a in attributes(cls) if a.kind == "site"]
    places = [_axes(graph) if a.name == "axis" else _nodes(graph, a) for a in given]
    return tuple(dict(zip((a.name for a in given), found, strict=True)) for found in product(*places))


def _axes(graph: Graph) -> tuple[str, ...]:
    named = {str(graph.axis(name)): name for name in reversed([*editable_axes(graph), *graph.by_name])}
    return tuple(reversed(named.values()))


def _nodes(graph: Graph, attribute: Attribute) -> tuple[Any, ...]:
    standard = () if attribute.required or attribute.default == "" else (attribute.default,)
    return (*standard, *graph.by_name)


_KNOWN: dict[tuple[type[Pass], bool], tuple[Options, ...]] = {}


def option_sets(cls: type[Pass], few: bool = True) -> tuple[Options, ...]:
    """Return sets of options that together hold every value of every option; the first one is the plainest.

    Args:
        cls: The pass.
        few: Look at some values only of options with many.
    """
    if (cls, few) not in _KNOWN:
        _KNOWN[cls, few] = _smallest(cls, few)
    return _KNOWN[cls, few]


def _smallest(cls: type[Pass], few: bool) -> tuple[Options, ...]:
    """Return for every value of every option the smallest set of options with it that is accepted."""
    singles: list[Options] = []
    for a in attributes(cls):
        singles += [{a.name: v} for v in islice(values(a), _FEW.get(a.kind, 0) if few else None)]
    found: list[Options] = [s for s in ({}, *singles) if _accepted(cls, s)]
    waiting = [s for s in singles if s not in found]
    while waiting:
        new = {i: extended for i, s in enumerate(waiting) if (extended := _extended(cls, s, found, singles))}
        if not new:
            break
        for options in new.values():
            found += [] if options in found else [options]
        waiting = [s for i, s in enumerate(waiting) if i not in new]
    return (*found, *waiting)


def _extended(cls: type[Pass], single: Options, found: list[Options], singles: list[Options]) -> Options | None:
    """Return the first set of options that holds a value and is accepted."""
    tried = ({**other, **single} for other in (*found, *singles) if other.keys().isdisjoint(single))
    return next((options for options in tried if _accepted(cls, options)), None)


def _accepted(cls: type[Pass], options: Options) -> bool:
    """Whether a pass with these options applies somewhere."""
    for graph in map(idiom, _JUDGES):
        for where in sites(cls, graph):
            pass_ = cls(**where, **options)
            if pass_.match(graph, pass_.site) is None:
                return True
    return False


def rewrites_of(cls: type[Pass], graph: Graph, few: int | None = 2, at: str | None = None) -> Iterator[Pass]:
    """Yield a pass at every site of a graph, with its plainest options and some of the others in turn.

    Args:
        cls: The pass.
        graph: The program.
        few: How many of the other sets of options are tried at a site, and how many second sites that are accepted
            for each first one; all if `None`.
        at: Yield only what works at this node, or on an axis that runs through it.
    """
    plain, *others = option_sets(cls, few is not None)
    turn = crc32(str(graph).encode()) if at is None else -1
    for where in _places(cls, plain, graph, few):
        if at is not None and where and not any(_is_at(graph, at, *site) for site in where.items()):
            continue
        yield cls(**where, **plain)
        for _ in range(len(others) if few is None else min(few, len(others))):
            turn += 1
            yield cls(**where, **others[turn % len(others)])


def _is_at(graph: Graph, at: str, option: str, name: str) -> bool:
    """Whether a site is a node, or an axis that runs through it."""
    return name == at or (option == "axis" and name in graph.reach[at])


def _places(cls: type[Pass], plain: Options, graph: Graph, few: int | None) -> Iterator[dict[str, str]]:
    """Yield where a pass is tried: of second sites a few that are accepted and one that is not."""
    by_first: dict[str, list[dict[str, str]]] = {}
    for where in sites(cls, graph):
        by_first.setdefault(next(iter(where.values()), ""), []).append(where)
    for found in by_first.values():
        if few is None or len(found) == 1:
            yield from found
            continue
        good = [w for w in found if (pass_ := cls(**w, **plain)).match(graph, pass_.site) is None]
        yield from good[:: max(len(good) // few, 1)][:few]
        yield from [w for w in found if w not in good][:1]


__all__ = ["Options", "option_sets", "rewrites_of", "sites", "values"]
