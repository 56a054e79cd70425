"""Pictures show every node and every edge, and nothing in them overlaps."""

from itertools import pairwise
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from irgrow.drawing import MOST_NODES, to_dot, to_mermaid, to_svg
from irgrow.errors import OptionError
from irgrow.grammar import parse, read

EXAMPLES = sorted((Path(__file__).parents[1] / "examples").glob("*.irg"))
SVG = "{http://www.w3.org/2000/svg}"
WIDEST = {"m": 0.834, "w": 0.722, "W": 0.945, "M": 0.834, "i": 0.223, "0": 0.556}  # of a capital, in Helvetica


@pytest.fixture(params=EXAMPLES, ids=lambda p: p.stem)
def graph(request):
    return read(request.param)


def boxes(svg):
    """Return the place of every box by its name."""
    found = {}
    for group in ET.fromstring(svg).iter(f"{SVG}g"):
        rect, name = group.find(f"{SVG}rect"), group.find(f"{SVG}text")
        found[name.text] = tuple(float(rect.get(k)) for k in ("x", "y", "width", "height"))
    return found


def chain(blocks):
    return parse(
        f"net n(x: [8]) {{ return x |> r: repeat({blocks}) {{ residual {{ dense(8) |> relu |> dense(8) }} }} }}"
    )


# svg -----------------------------------------------------------------------------------------------------------------


def test_a_picture_has_every_node_with_its_op_and_shape(graph):
    root = ET.fromstring(to_svg(graph))
    texts = [t.text for t in root.iter(f"{SVG}text")]
    assert sorted(texts[::2]) == sorted(node.name for node in graph)
    assert all(
        what.endswith("x".join(map(str, graph.shape(name)))) for name, what in zip(texts[::2], texts[1::2], strict=True)
    )
    assert root.find(f"{SVG}title").text == graph.name


def test_boxes_do_not_overlap_and_lie_in_the_picture(graph):
    svg = to_svg(graph)
    root, places = ET.fromstring(svg), boxes(svg)
    rows = {}
    for x, y, width, height in places.values():
        assert x >= 0
        assert x + width <= float(root.get("width"))
        assert y + height <= float(root.get("height"))
        rows.setdefault(y, []).append((x, x + width))
    for row in rows.values():
        assert all(left[1] < right[0] for left, right in pairwise(sorted(row)))
    heights = sorted(rows)
    assert all(upper + 40 < lower for upper, lower in pairwise(heights))


def test_inputs_are_above_what_reads_them(graph):
    places = boxes(to_svg(graph))
    assert all(places[i][1] < places[node.name][1] for node in graph for i in node.inputs)


def test_edges_start_and_end_at_boxes():
    graph = parse("net n(x: [4]) {\n  a = dense(x, 4)\n  return add(x, a)\n}")
    paths = [p.get("d") for p in ET.fromstring(to_svg(graph)).iter(f"{SVG}path")]
    assert len(paths) == 4, "three edges, one of them bent beside `a`"


def test_the_same_graph_gives_the_same_picture(graph):
    assert to_svg(graph) == to_svg(graph)


def test_a_long_network_is_drawn_straight_down():
    def width(svg):
        return float(ET.fromstring(svg).get("width"))

    assert width(to_svg(chain(30))) <= 2 * width(to_svg(chain(3)))


@pytest.mark.parametrize("name", ["vit", "gpt", "resnet50"])
def test_a_deep_example_is_taller_than_wide_by_far(name):
    root = ET.fromstring(to_svg(read(EXAMPLES[0].with_name(f"{name}.irg"))))
    assert float(root.get("height")) > 5 * float(root.get("width"))


@pytest.mark.parametrize("letter", WIDEST)
def test_a_label_fits_its_box(letter):
    name = letter.replace("0", "a") + letter * 29
    _, _, width, _ = boxes(to_svg(parse(f"net n(x: [4]) {{ return x |> {name}: dense(3) }}")))[name]
    assert 12 * WIDEST[letter] * 29 <= width


def test_a_single_node_is_a_picture():
    assert list(boxes(to_svg(parse("net n(x: [4]) { return x }")))) == ["x"]


def test_tied_parameters_are_marked_in_every_format():
    text = "net n(x: ids(9)[4]) {{ return x |> embed: embedding(5) |> head: dense(9, bias = false{}) }}"
    tied, free = parse(text.format(", tied = embed")), parse(text.format(""))
    root = ET.fromstring(to_svg(tied))
    dashed = {g[1].text: g[0].get("stroke-dasharray") for g in root.iter(f"{SVG}g")}
    assert dashed == {"x": None, "embed": None, "head": "5 3"}
    assert "dense (tied = embed)  4x9" in [t.text for t in root.iter(f"{SVG}text")]
    for form in (to_svg, to_dot, to_mermaid):
        assert form(tied).count("tied = embed") == 1
        assert "tied" not in form(free)
    assert "dasharray" not in to_svg(free)


def test_nets_side_by_side_are_drawn_side_by_side():
    places = boxes(to_svg(parse("net n(a: [4], b: [4]) { return a |> relu, b |> relu }")))
    assert places["a"][1] == places["b"][1]
    assert places["a"][0] != places["b"][0]


def test_an_edge_used_twice_is_no_obstacle():
    graph = parse("net n(x: [4]) {\n  a = dense(x, 4)\n  return add(a, a)\n}")
    assert len(boxes(to_svg(graph))) == 3


def test_a_picture_has_a_bound():
    text = "net n(x: [4]) {{ return x |> repeat({}) {{ relu }} }}"
    assert len(boxes(to_svg(parse(text.format(MOST_NODES - 1))))) == MOST_NODES
    with pytest.raises(OptionError, match=f"at most {MOST_NODES} nodes, `n` has {MOST_NODES + 1}; use --format dot"):
        to_svg(parse(text.format(MOST_NODES)))


def test_names_are_escaped(monkeypatch):
    """Names are words, so that this takes a label of another kind."""
    monkeypatch.setattr("irgrow.drawing._label", lambda graph, name: (f'<{name}&">', "a < b"))
    graph = parse("net n(x: [4]) { return x |> relu }")
    assert set(boxes(to_svg(graph))) == {'<x&">', '<relu_1&">'}


# text ----------------------------------------------------------------------------------------------------------------


def test_dot_has_every_node_and_edge(graph):
    lines = to_dot(graph).splitlines()
    assert lines[0] == f'digraph "{graph.name}" {{'
    assert lines[-1] == "}"
    for node in graph:
        assert sum(line.startswith(f'  "{node.name}" [label="{node.name}\\n') for line in lines) == 1
        for source in node.inputs:
            assert f'  "{source}" -> "{node.name}";' in lines
    assert sum("->" in line for line in lines) == sum(len(node.inputs) for node in graph)


def test_mermaid_has_every_node_and_edge(graph):
    lines = to_mermaid(graph).splitlines()
    numbers = {node.name: f"n{i}" for i, node in enumerate(graph)}
    assert lines[0] == "flowchart TD"
    for node in graph:
        assert any(line.startswith(f'  {numbers[node.name]}["{node.name}<br/>') for line in lines)
        for source in node.inputs:
            assert f"  {numbers[source]} --> {numbers[node.name]}" in lines


@pytest.mark.parametrize("word", ["end", "graph", "subgraph", "class", "node", "edge", "digraph", "strict"])
def test_words_of_the_other_languages_are_fine_as_names(word):
    graph = parse(f"net {word}(x: [4]) {{ return x |> {word}: dense(3) }}")
    assert f'["{word}<br/>dense  3"]' in to_mermaid(graph)
    assert f'"{word}" [label="{word}\\ndense  3"' in to_dot(graph)
    assert word in boxes(to_svg(graph))
