"""`irgrow draw` writes pictures; what is in them is tested in `tests/test_drawing.py`."""

import os
import stat
from xml.etree import ElementTree as ET

import pytest

from irgrow.drawing import FORMATS
from irgrow.grammar import read


@pytest.fixture
def lenet(examples):
    return examples / "lenet.irg"


def test_svg_goes_to_standard_output(fine, lenet):
    out = fine("draw", lenet)
    assert ET.fromstring(out).tag == "{http://www.w3.org/2000/svg}svg"
    assert out == FORMATS["svg"](read(lenet))


@pytest.mark.parametrize(
    ("name", "format"),
    [("a.svg", "svg"), ("a.dot", "dot"), ("a.gv", "dot"), ("a.mmd", "mermaid"), ("a.md", "mermaid"), ("a", "svg")],
)
def test_the_ending_says_the_format(folder, fine, lenet, name, format):
    assert fine("draw", lenet, "-o", name) == ""
    assert (folder / name).read_text() == FORMATS[format](read(lenet))
    assert os.listdir(folder) == [name]


@pytest.mark.parametrize("format", FORMATS)
def test_the_format_is_a_choice(folder, fine, lenet, format):
    assert fine("draw", lenet, "--format", format) == FORMATS[format](read(lenet))
    fine("draw", lenet, "--format", format, "-o", "a.svg")
    assert (folder / "a.svg").read_text() == FORMATS[format](read(lenet))


def test_an_unknown_format_is_refused(mistake, lenet):
    assert mistake("draw", lenet, "--format", "bmp") == "error: unknown format `bmp`; use svg, dot, mermaid\n"


def test_an_ending_of_another_format_is_refused(mistake, lenet):
    assert "png" in mistake("draw", lenet, "-o", "a.png")


def test_the_net_is_chosen_and_set(fine, write):
    write("net a(x: [4]) { return x |> relu }\nnet b(x: [2], w = 3) { return x |> h: dense(w) }")
    assert "dense  5" in fine("draw", "net.irg", "--net", "b", "--set", "w=5")


def test_a_graph_too_large_for_a_picture_is_refused(mistake, fine, write):
    write("net n(x: [4]) { return x |> repeat(2000) { relu } }")
    assert "at most 2000 nodes, `n` has 2001; use --format dot" in mistake("draw", "net.irg")
    assert fine("draw", "net.irg", "--format", "dot").count("->") == 2000


def test_a_picture_replaces_an_older_one(folder, fine, lenet):
    (folder / "a.svg").write_text("old")
    fine("draw", lenet, "-o", "a.svg")
    assert (folder / "a.svg").read_text().startswith("<svg")


def test_a_pipe_or_device_is_written_to_and_not_replaced(folder, fine, lenet):
    os.mkfifo(folder / "pipe")
    reader = os.open(folder / "pipe", os.O_RDWR | os.O_NONBLOCK)
    try:
        fine("draw", lenet, "-o", "pipe")
        assert stat.S_ISFIFO((folder / "pipe").stat().st_mode)
        assert os.read(reader, 4) == b"<svg"
    finally:
        os.close(reader)
