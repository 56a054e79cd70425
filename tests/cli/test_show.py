"""`irgrow show` tells the nodes, the totals and which axes can be edited."""

import json

import pytest

from irgrow.cost import cost
from irgrow.grammar import read

KEYS = {"net", "nodes", "axes", "total"}


@pytest.fixture
def lenet(examples):
    return examples / "lenet.irg"


def test_the_table_has_a_line_for_every_node_and_axis(fine, lenet):
    lines = [line.split() for line in fine("show", lenet).splitlines()]
    graph = read(lenet)
    assert [line[0] for line in lines[1 : len(graph) + 1]] == [node.name for node in graph]
    assert ["c2", "conv", "16x10x10", "c2", "2,416", "240,000"] in lines
    assert ["total", "61,706", "416,520"] in lines
    assert ["f1", "120", "yes"] in lines


def test_locked_axes_say_why(fine, lenet):
    assert "locked: interface: `head` is an output of the network" in fine("show", lenet)


@pytest.mark.parametrize("name", ["lenet", "mobilenet", "gpt", "llama", "digits"])
def test_json_says_what_the_graph_does(fine, examples, name):
    graph = read(examples / f"{name}.irg")
    found = json.loads(fine("show", examples / f"{name}.irg", "--json"))
    assert set(found) == KEYS
    assert found["net"] == graph.name
    assert [n["node"] for n in found["nodes"]] == [n.name for n in graph]
    assert all(set(n) == {"node", "op", "output", "axis", "parameters", "macs"} for n in found["nodes"])
    assert {n["node"]: tuple(n["output"]) for n in found["nodes"]} == {n.name: graph.shape(n.name) for n in graph}
    assert {a["axis"]: a["size"] for a in found["axes"]} == {name: graph.widths[name] for name in graph.leaves}
    total = cost(graph)
    assert found["total"] == {"parameters": total.parameters, "buffers": total.buffers, "macs": total.macs}
    assert sum(n["macs"] for n in found["nodes"]) == total.macs


def test_buffers_are_counted(fine, write):
    assert "buffers: 7 entries" in fine("show", write("net n(x: [3]) { return x |> batchnorm |> dense(2) }"))


def test_a_setting_changes_the_sizes(fine, lenet):
    axes = json.loads(fine("show", lenet, "--json", "--set", "classes=7"))["axes"]
    assert axes[-1]["size"] == 7


def test_one_of_several_nets_is_named(fine, mistake, write):
    write("net a(x: [4]) { return x |> relu }\nnet b(x: [2]) { return x |> relu }")
    assert json.loads(fine("show", "net.irg", "--net", "b", "--json"))["net"] == "b"
    assert mistake("show", "net.irg") == "error: net.irg has several nets, name one: a, b\n"


def test_a_checkpoint_shows_its_network(fine, folder, lenet):
    from irgrow import build, save

    net = build(read(lenet))
    net.rewrite("grow_units(f1, 8)")
    save(net, folder / "ck")
    found = json.loads(fine("show", "ck", "--json"))
    assert {a["axis"]: a["size"] for a in found["axes"]}["f1"] == 128


@pytest.mark.parametrize("verb", [("show", "ck"), ("rewrite", "ck", "grow_units(f1, 1)"), ("export", "ck", "x.onnx")])
def test_options_of_programs_are_refused_for_checkpoints(mistake, folder, lenet, verb):
    from irgrow import build, save

    save(build(read(lenet)), folder / "ck")
    for options in (("--net", "lenet"), ("--set", "classes=3")):
        assert mistake(*verb, *options) == "error: --net and --set are for programs, ck is a checkpoint\n"
