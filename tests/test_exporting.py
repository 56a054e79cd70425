"""ONNX files compute what the network does, for any batch size, and are written whole or not at all."""

import os

import numpy as np
import pytest
import torch

from irgrow import build, exporting
from irgrow.errors import OptionError
from irgrow.exporting import example_inputs, export_onnx

TRANSFORMER = """
import std.transformer
net gpt(tokens: ids(20)[6]) {
  h = tokens |> embed: embedding(8) |> positions
    |> b: transformer(heads = 2, head_dim = 4, hidden = 12, causal = true)
  return h |> layernorm |> head: dense(20, bias = false, tied = embed)
}
"""
PROGRAMS = {
    "cnn": "net n(x: [2, 6, 6]) { return x |> conv(4, kernel = 3) |> batchnorm |> relu |> maxpool(2) |> flatten |> dense(3) }",
    "residual": "net n(x: [5]) { return x |> residual { dense(7) |> gelu |> dense(5) } |> dropout |> dense(2) }",
    "two in, two out": "net n(a: [3], b: [4]) {\n  s = add(a |> dense(5), b |> dense(5))\n  return s |> relu, s |> dense(2)\n}",
    "transformer": TRANSFORMER,
}


@pytest.fixture
def small():
    return build("net n(x: [3]) { return x |> h: dense(4) |> relu |> dense(2) }")


@pytest.mark.slow
@pytest.mark.parametrize("text", PROGRAMS.values(), ids=list(PROGRAMS))
def test_the_file_computes_what_the_network_does(tmp_path, text):
    import onnxruntime

    net = build(text, seed=2)
    assert export_onnx(net, tmp_path / "n.onnx") <= exporting.ERROR_BOUND
    session = onnxruntime.InferenceSession((tmp_path / "n.onnx").read_bytes())
    assert [i.name for i in session.get_inputs()] == list(net.graph.inputs)
    assert [o.name for o in session.get_outputs()] == list(net.graph.outputs)
    net.eval()
    for batch in (1, 2, 7):
        inputs = example_inputs(net, batch, seed=10 + batch)
        with torch.no_grad():
            wanted = net(*inputs)
        found = session.run(None, dict(zip(net.graph.inputs, (x.numpy() for x in inputs), strict=True)))
        for y, z in zip(found, wanted if isinstance(wanted, tuple) else (wanted,), strict=True):
            np.testing.assert_allclose(y, z.numpy(), rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_a_grown_network_is_exported_as_it_is_now(tmp_path, small):
    export_onnx(small, tmp_path / "before.onnx")
    small.rewrite("grow_units(h, 3)")
    export_onnx(small, tmp_path / "after.onnx")
    assert (tmp_path / "after.onnx").stat().st_size > (tmp_path / "before.onnx").stat().st_size


@pytest.mark.slow
def test_the_network_is_left_as_it_was(tmp_path, small):
    small.train()
    before = {n: v.clone() for n, v in small.state_dict().items()}
    random = torch.get_rng_state()
    export_onnx(small, tmp_path / "n.onnx")
    assert all(m.training for m in small.modules())
    assert all(torch.equal(before[n], v) for n, v in small.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random)
    assert small.rewrite("grow_units(h, 1)").applied


@pytest.mark.slow
def test_the_file_says_nothing_about_the_machine(tmp_path, small):
    export_onnx(small, tmp_path / "n.onnx")
    data = (tmp_path / "n.onnx").read_bytes()
    assert os.fsencode(os.path.dirname(exporting.__file__)) not in data
    assert b".py" not in data


@pytest.mark.slow
def test_a_file_that_computes_something_else_is_not_written(tmp_path, small, monkeypatch):
    monkeypatch.setattr(exporting, "_difference", lambda *a: float("nan"))
    with pytest.raises(OptionError, match="differs from the network by nan; nothing was written"):
        export_onnx(small, tmp_path / "n.onnx")
    assert not os.listdir(tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
def test_other_precisions_work_or_are_refused(tmp_path, small, dtype):
    try:
        export_onnx(small.to(dtype), tmp_path / "n.onnx")
    except OptionError:
        assert not os.listdir(tmp_path)


def test_example_inputs_fit_the_network():
    net = build("net n(t: ids(9)[5], x: [3, 2]) { return t |> embedding(4), x |> flatten |> dense(2) }").double()
    ids, values = example_inputs(net, 4, seed=1)
    assert (ids.shape, ids.dtype, values.shape, values.dtype) == ((4, 5), torch.int64, (4, 3, 2), torch.float64)
    assert 0 <= int(ids.min()) <= int(ids.max()) < 9
    assert torch.equal(example_inputs(net, 4, seed=1)[1], values)
    assert len(net(ids, values)) == 2
