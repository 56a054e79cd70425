"""Drawing graphs: DOT and Mermaid as text, and SVG with a layered layout of our own, no other program needed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from html import escape
from itertools import pairwise

from irgrow.errors import OptionError
from irgrow.graph import Graph
from irgrow.ops import Coupling, word_of

MOST_NODES = 2000
_COLOURS = {
    Coupling.SOURCE: "#cfe8cf",
    Coupling.MIXING: "#cfe0f5",
    Coupling.ATTENTION: "#e3d3f2",
    Coupling.STATISTICS: "#fbe5c8",
    Coupling.SUM: "#f3d3d3",
    Coupling.PRODUCT: "#f3d3d3",
    Coupling.MOVEMENT: "#eeeeee",
    Coupling.PER_UNIT: "#f7f7f0",
}


def _label(graph: Graph, name: str) -> tuple[str, str]:
    """Return the two lines of a box: the name, and the op, whose parameters it takes, and its output."""
    shape = "x".join(map(str, graph.shape(name)))
    node = graph[name]
    tied = f" (tied = {node.tied})" if node.tied else ""
    return name, f"{word_of(node.op)}{tied}  {shape}"


def to_dot(graph: Graph) -> str:
    """Return the graph in the DOT language of Graphviz."""
    lines = [f'digraph "{graph.name}" {{', "  node [shape=box, style=filled, fontname=Helvetica];"]
    for node in graph:
        name, what = _label(graph, node.name)
        colour = _COLOURS[node.op.coupling]
        lines.append(f'  "{name}" [label="{name}\\n{what}", fillcolor="{colour}"];')
        lines.extend(f'  "{source}" -> "{name}";' for source in node.inputs)
    return "\n".join([*lines, "}"]) + "\n"


def to_mermaid(graph: Graph) -> str:
    """Return the graph as a Mermaid flowchart."""
    numbers = {node.name: f"n{i}" for i, node in enumerate(graph)}
    lines = ["flowchart TD"]
    for node in graph:
        name, what = _label(graph, node.name)
        lines.append(f'  {numbers[name]}["{name}<br/>{what}"]')
        lines.extend(f"  {numbers[source]} --> {numbers[name]}" for source in node.inputs)
    return "\n".join(lines) + "\n"


# layout --------------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Box:
    """A node in its layer, or a bend of an edge that crosses the layer."""

    name: str | None
    width: float
    x: float = 0.0
    above: list[_Box] = field(default_factory=list)
    below: list[_Box] = field(default_factory=list)


HEIGHT, GAP_X, GAP_Y, BEND = 40.0, 24.0, 34.0, 10.0


def _length(text: str, size: float) -> float:
    """Return about how long a text is, rather too long than too short."""
    return size * sum(1.0 if c in "mwMW@%" else 0.72 if c.isupper() else 0.58 for c in text)


def _layers(graph: Graph) -> tuple[list[list[_Box]], dict[str, int]]:
    """Put every node one layer below its lowest input, and a bend into every layer an edge crosses."""
    depth: dict[str, int] = {}
    for node in graph:
        depth[node.name] = 1 + max((depth[i] for i in node.inputs), default=-1)
    rows: list[list[_Box]] = [[] for _ in range(max(depth.values()) + 1)]
    boxes: dict[str, _Box] = {}
    for node in graph:
        name, what = _label(graph, node.name)
        width = 18 + max(_length(name, 12), _length(what, 10))
        boxes[node.name] = _Box(node.name, width)
        rows[depth[node.name]].append(boxes[node.name])
    for node in graph:
        for source in dict.fromkeys(node.inputs):
            upper = boxes[source]
            for layer in range(depth[source] + 1, depth[node.name]):
                bend = _Box(None, BEND)
                rows[layer].append(bend)
                upper.below.append(bend)
                bend.above.append(upper)
                upper = bend
            upper.below.append(boxes[node.name])
            boxes[node.name].above.append(upper)
    return rows, depth


def _centre(box: _Box) -> float:
    return box.x + box.width / 2


def _spread(row: list[_Box]) -> None:
    """Move boxes apart where they overlap, keeping their order and, as far as possible, their places."""
    shift = sum(b.x for b in row) / len(row)
    for left, right in pairwise(row):
        right.x = max(right.x, left.x + left.width + GAP_X)
    shift -= sum(b.x for b in row) / len(row)
    for box in row:
        box.x += shift


def _arrange(rows: list[list[_Box]]) -> None:
    """Order the boxes of each row by their neighbours, then pull them towards them."""
    for row in rows:
        _spread(row)
    for sweep in range(8):
        downward = sweep % 2 == 0
        neighbours: Callable[[_Box], list[_Box]] = (lambda b: b.above) if downward else (lambda b: b.below)
        for row in rows if downward else reversed(rows):
            for box in row:
                around = neighbours(box)
                if around:
                    box.x = sum(map(_centre, around)) / len(around) - box.width / 2
            row.sort(key=_centre)
            _spread(row)
    for _ in range(4):
        for row in rows:
            for box in row:
                around = box.above + box.below
                box.x = sum(map(_centre, around)) / len(around) - box.width / 2 if around else box.x
            _spread(row)
    left = min(b.x for row in rows for b in row)
    for row in rows:
        for box in row:
            box.x += 16 - left


def to_svg(graph: Graph) -> str:
    """Return the graph as an SVG picture: inputs at the top, one row per depth, dashed what has tied parameters.

    Raises:
        OptionError: The graph has more than 2000 nodes.
    """
    if len(graph) > MOST_NODES:
        raise OptionError(
            f"a picture has at most {MOST_NODES} nodes, `{graph.name}` has {len(graph)}; use --format dot"
        )
    rows, depth = _layers(graph)
    _arrange(rows)
    width = max(b.x + b.width for row in rows for b in row) + 16
    height = 16 + len(rows) * (HEIGHT + GAP_Y)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:.0f}" height="{height:.0f}" '
        f'viewBox="0 0 {width:.0f} {height:.0f}" font-family="Helvetica, Arial, sans-serif">',
        f"<title>{escape(graph.name)}</title>",
        f'<rect width="{width:.0f}" height="{height:.0f}" fill="white"/>',
    ]
    for layer, row in enumerate(rows):
        for box in row:
            parts.extend(_edge(box, other, layer) for other in box.below)
    for layer, row in enumerate(rows):
        parts.extend(_drawn(graph, box, layer) for box in row if box.name is not None)
    assert depth
    return "\n".join([*parts, "</svg>"]) + "\n"


def _top(layer: int) -> float:
    return 16 + layer * (HEIGHT + GAP_Y)


def _edge(upper: _Box, lower: _Box, layer: int) -> str:
    x0, x1 = _centre(upper), _centre(lower)
    y0, y1 = _top(layer) + HEIGHT, _top(layer + 1)
    straight = f"M{x0:.1f} {y0 - HEIGHT:.1f}V{y0:.1f}" if upper.name is None else f"M{x0:.1f} {y0:.1f}"
    middle = (y0 + y1) / 2
    curve = f"C{x0:.1f} {middle:.1f} {x1:.1f} {middle:.1f} {x1:.1f} {y1:.1f}"
    return f'<path d="{straight}{curve}" fill="none" stroke="#667" stroke-width="1.2"/>'


def _drawn(graph: Graph, box: _Box, layer: int) -> str:
    assert box.name is not None
    name, what = (escape(line) for line in _label(graph, box.name))
    y, middle = _top(layer), _centre(box)
    colour = _COLOURS[graph[box.name].op.coupling]
    stroke = "#223" if box.name in graph.outputs or box.name in graph.inputs else "#889"
    dashes = ' stroke-dasharray="5 3"' if graph[box.name].tied else ""
    return (
        f'<g><rect x="{box.x:.1f}" y="{y:.1f}" width="{box.width:.1f}" height="{HEIGHT}" rx="5" fill="{colour}" '
        f'stroke="{stroke}"{dashes}/>'
        f'<text x="{middle:.1f}" y="{y + 17:.1f}" font-size="12" text-anchor="middle">{name}</text>'
        f'<text x="{middle:.1f}" y="{y + 32:.1f}" font-size="10" fill="#556" text-anchor="middle">{what}</text></g>'
    )


FORMATS: dict[str, Callable[[Graph], str]] = {"svg": to_svg, "dot": to_dot, "mermaid": to_mermaid}
