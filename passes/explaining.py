"""Why not here: for every site of a graph the verdict a pass would get there, or the reason why it does not apply."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from irgrow.attributes import attributes, textual_name
from irgrow.errors import OptionError
from irgrow.graph import Graph
from irgrow.passes.base import Context, Pass, plan
from irgrow.passes.trace import table
from irgrow.verdict import Refused, Verdict


@dataclass(frozen=True)
class Remark:
    """What a pass would come to at one site.

    Args:
        site: An axis or a node.
        rewrite: The pass at that site.
        verdict: Its verdict there.
        place: Line and column of the node in the program; `None` for an axis of no node, or without a text.
    """

    site: str
    rewrite: Pass
    verdict: Verdict
    place: tuple[int, int] | None = None

    def __str__(self) -> str:
        return f"refused: {self.verdict.reason}" if isinstance(self.verdict, Refused) else str(self.verdict)

    def to_json(self) -> dict[str, Any]:
        """Return a JSON form."""
        row = {"site": self.site, "pass": str(self.rewrite), "kind": self.verdict.word, "verdict": str(self)}
        return row | {"line": self.place and self.place[0], "column": self.place and self.place[1]}


@dataclass(frozen=True)
class Remarks:
    """The remarks of a pass on every site of a graph; prints as a table."""

    rows: tuple[Remark, ...]

    def __iter__(self) -> Iterator[Remark]:
        return iter(self.rows)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, site: str) -> Remark:
        """Return the remark on a site.

        Raises:
            KeyError: There is none.
        """
        for row in self.rows:
            if row.site == site:
                return row
        raise KeyError(site)

    def __str__(self) -> str:
        placed = (":".join(map(str, r.place)) if r.place else "" for r in self.rows)
        return table(
            [("site", "at", "verdict"), *((r.site, at, str(r)) for r, at in zip(self.rows, placed, strict=True))]
        )


def remarks(rewrite: Pass | type[Pass], graph: Graph, context: Context | None = None) -> Remarks:
    """Say for every site of a graph what a pass would come to there; nothing is touched.

    Args:
        rewrite: A pass, whose other options are kept, or a class, whose defaults are taken.
        graph: The network; its sites are its nodes and axes.
        context: Parameters and what was recorded; with parameters more can be proved.

    Raises:
        OptionError: A class has options without a default.

    >>> from irgrow.grammar import parse
    >>> from irgrow.passes import GrowUnits
    >>> print(remarks(GrowUnits, parse("net n(x: [2]) { return x |> h: dense(3) |> y: dense(1) }")))
    site  at    verdict
    x     1:7   refused: axis `x` is locked: interface: `x` is an input of the network
    h     1:32  exact
    y     1:47  refused: axis `y` is locked: interface: `y` is an output of the network
    """
    pass_ = _made(rewrite) if isinstance(rewrite, type) else rewrite
    field = _site_field(pass_, graph)
    sites = dict.fromkeys([*graph.by_name, *graph.leaves]) if field else [pass_.site]
    rows = []
    for site in sites:
        here = replace(pass_, **{field: site}) if field else pass_
        span = graph[site].span if site in graph else None
        place = None if span is None else span.source.position(span.start)
        rows.append(Remark(site, here, plan(here, graph, context).verdict, place))
    return Remarks(tuple(rows))


def _made(cls: type[Pass]) -> Pass:
    missing = [a.name for a in attributes(cls) if a.required]
    if missing:
        raise OptionError(f"{textual_name(cls)} needs {', '.join(missing)}; give a pass with its options")
    return cls()


def _site_field(pass_: Pass, graph: Graph) -> str | None:
    """Return the option that says where a pass works, or `None` if it says so itself."""
    if pass_.whole or not len(graph):
        return None
    probe = next(iter(graph.by_name))
    for a in attributes(type(pass_)):
        if a.kind == "site":
            try:
                if replace(pass_, **{a.name: probe}).site == probe:
                    return a.name
            except OptionError:
                continue
    return None
