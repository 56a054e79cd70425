"""Deployment: a copy without what only training needs, the same function, stock modules, nothing done to the original."""

import doctest
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from torch import nn

import irgrow.passes.deployment
from irgrow.backends import random_params
from irgrow.errors import DataError, OptionError
from irgrow.grammar import parse
from irgrow.network import Network, build
from irgrow.ops import BatchNorm, Dropout, Identity, Scale, integers, site
from irgrow.passes import Deployed, PruneUnits, deploy
from irgrow.testing.laws import same_snapshot, snapshot
from irgrow.testing.numbers import as_tensors, random_inputs

EXAMPLES = Path(__file__).parents[2] / "examples"
EVERYTHING = """net all(x: [3, 8, 8]) {
  h = conv(x, 6, kernel = 3, padding = 1, bias = false) |> batchnorm(eps = 1e-2) |> scale |> relu |> relu
  h = depthwise(h, kernel = 3) |> batchnorm |> identity |> conv(8, kernel = 1, masked = true) |> dropout |> batchnorm
  h = h |> gelu |> avgpool |> dense(5) |> dropout(p = 0.2) |> dense(4) |> tanh
  return dense(h, 9, masked = true) |> scale
}"""


def live(graph, dtype=torch.float64, seed=1):
    return Network(graph, as_tensors(graph, random_params(graph, seed), dtype))


def kinds(graph):
    return {type(node.op) for node in graph}


def inputs(graph, size=2, dtype=torch.float64):
    return tuple(torch.as_tensor(random_inputs(graph, 0, size)[n], dtype=dtype) for n in graph.inputs)


@pytest.mark.parametrize(
    ("name", "options", "norms"), [("resnet18", {"base": 8}, 20), ("mobilenet", {}, 17), ("vgg11", {}, 0)]
)
def test_examples(name, options, norms):
    source = (EXAMPLES / f"{name}.irg").read_text()
    if name == "vgg11":
        source = source.replace("224", "32").replace("4096", "32")
    graph = parse(source, **options)
    net = live(graph)
    batch = inputs(graph)
    before = net.eval()(*batch).detach()
    found = deploy(net, batch=batch)
    after = found.network(*batch).detach()
    assert float((after - before).abs().max() / before.abs().max()) < 1e-9
    assert found.error is not None
    assert found.error < 1e-9
    assert not kinds(found.network.graph) & {BatchNorm, Dropout, Identity, Scale}
    assert not any(isinstance(m, nn.BatchNorm2d | nn.Dropout) for m in found.network.modules())
    assert sum(step.rewrite.startswith("fold_batch_norm") for step in found.steps) == norms
    assert found.parameters == (graph.count(), found.network.graph.count())
    assert found.macs[0] == found.macs[1]
    assert found.nodes[1] == found.nodes[0] - len(found.steps)
    assert found.left == ()
    assert all(type(leaf).__module__.startswith("torch.nn.") for leaf in found.network.module.meta["leaves"].values())


def test_everything_at_once_prints_readably():
    graph = parse(EVERYTHING)
    found = deploy(live(graph), batch=inputs(graph))
    assert isinstance(found, Deployed)
    kept = [node.op.kind for node in found.network.graph]
    assert kept == [
        "input",
        "conv",
        "activate",
        "depthwise",
        "conv",
        "activate",
        "avgpool",
        "dense",
        "activate",
        "dense",
    ]
    assert found.error < 1e-12
    lines = str(found).splitlines()
    assert lines[0] == "all, ready to run"
    assert [line.split() for line in lines[1:5]] == [
        ["before", "after"],
        ["nodes", "20", "10"],
        ["parameters", *(f"{n:,}" for n in found.parameters)],
        ["MACs", *(f"{n:,}" for n in found.macs)],
    ]
    assert "2 bake_mask" in lines[5]
    assert "3 fold_batch_norm" in lines[5]
    assert lines[6].startswith("  measured on the batch: relative error ")
    assert all(step.verdict.preserves for step in found.steps)


def test_the_original_is_left_as_it_is():
    graph = parse(EVERYTHING)
    net = live(graph).train()
    net.track(torch.optim.Adam(net.parameters()))
    before = snapshot(net)
    found = deploy(net)
    assert same_snapshot(before, snapshot(net)) is None
    assert net.training
    assert not found.network.training
    assert all(m.training for m in net.modules())
    shared = {v.data_ptr() for v in net.params.values()} & {v.data_ptr() for v in found.network.params.values()}
    assert not shared
    assert found.error is None
    assert "measured" not in str(found)


def test_a_graph_with_parameters():
    graph = parse(EVERYTHING)
    params = random_params(graph, 4)
    (batch,) = inputs(graph)
    from_arrays = deploy(graph, params, batch)
    from_tensors = deploy(graph, live(graph, torch.float32, 4).params, batch.float())
    assert from_arrays.error < 1e-12
    assert from_tensors.error < 1e-4
    assert {p.dtype for p in from_tensors.network.parameters()} == {torch.float32}
    wanted = live(graph, seed=4).eval()(batch).detach()
    assert float((from_arrays.network(batch).detach() - wanted).abs().max()) < 1e-12


def test_bad_input_is_refused():
    graph = parse("net n(x: [3]) { return x |> h: dense(2) }")
    with pytest.raises(OptionError, match="a graph has no parameters"):
        deploy(graph)
    with pytest.raises(OptionError, match="a network has its parameters"):
        deploy(live(graph), {})
    params = random_params(graph, 0)
    with pytest.raises(DataError, match=r"`h\.bias` is missing"):
        deploy(graph, {"h.weight": params["h.weight"]})
    with pytest.raises(DataError, match=r"`h\.bias`: expected shape \[2\], found \[3\]"):
        deploy(graph, {**params, "h.bias": params["h.bias"].repeat(2)[:3]})


def test_what_cannot_go_is_named():
    graph = parse("""net n(x: [4]) {
      h = batchnorm(x) |> dense(4, masked = true, bias = false) |> relu
      t = dense(h, 4, bias = false, tied = dense_1)
      return add(scale(relu(t)), t)
    }""")
    found = deploy(live(graph), batch=inputs(graph))
    assert found.left == (
        "fold_batch_norm(batchnorm_1): `batchnorm_1` reads `x`, which is neither a dense layer nor a convolution",
        "bake_mask(dense_1): `t` uses the weight of `dense_1` without its mask",
        "fold_scale(scale_1): `relu_1` before it is neither a dense layer nor a convolution, and `add_1` behind it is "
        "neither a dense layer nor a convolution over all channels",
    )
    assert str(found).count("\n  left: ") == 3
    assert "nothing to do" in str(found)


def test_many_reasons_are_cut_short():
    body = " |> ".join(["relu |> batchnorm"] * 8)
    found = deploy(build(f"net n(x: [4]) {{ return x |> dense(4) |> {body} }}"))
    assert len(found.left) == 8
    assert str(found).splitlines()[-1] == "  left: 3 more"


def test_layers_are_fused_only_if_that_makes_nothing_larger():
    narrow = deploy(build("net n(x: [20]) { return x |> dense(2) |> dense(30) |> tanh }"))
    assert narrow.steps == ()
    wide = deploy(build("net n(x: [20]) { return x |> dense(50) |> dense(30) |> tanh }"))
    assert [step.rewrite for step in wide.steps] == ["fuse_linear(dense_1)"]
    assert wide.parameters == (1050 + 1530, 630)
    assert wide.macs == (2500, 600)


def test_what_one_pass_takes_away_opens_the_way_for_others():
    found = deploy(
        build("net n(x: [6]) { return x |> dense(8) |> dropout |> batchnorm |> identity |> dense(3) |> tanh }")
    )
    assert [node.op.kind for node in found.network.graph] == ["input", "dense", "activate"]


@dataclass(frozen=True)
class RemoveFirst(PruneUnits):
    """Stands for a pass that finds dead units: it always proposes the first of `h`."""

    whole: ClassVar[bool] = True

    axis: str = site("h")
    units: tuple[int, ...] = integers((0,), low=0)


def test_units_that_are_proved_dead_go_and_no_others(monkeypatch):
    graph = parse("net n(x: [6]) { return x |> h: dense(8) |> tanh |> dense(3) }")
    net = live(graph)
    with torch.no_grad():
        net.params["dense_1.weight"][:, :2] = 0
    assert deploy(net).steps == ()
    monkeypatch.setattr(irgrow.passes.deployment, "ORDER", (RemoveFirst,))
    found = deploy(net, batch=inputs(graph))
    assert len(found.steps) == 2, "the third one is alive"
    assert found.network.graph.shape("h") == (6,)
    assert found.error < 1e-13


def test_batches_of_one_and_single_precision():
    graph = parse(EVERYTHING)
    found = deploy(live(graph, torch.float32), batch=inputs(graph, 1, torch.float32))
    assert found.error < 1e-4


def test_examples_in_docstrings():
    assert doctest.testmod(irgrow.passes.deployment).failed == 0
