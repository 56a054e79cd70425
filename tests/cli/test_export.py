"""`irgrow export` writes ONNX files; what they compute is tested in `tests/test_exporting.py` too."""

import os
import sys

import numpy as np
import pytest
import torch

from irgrow import build, save

NET = "net n(x: [2, 6, 6], w = 3) { return x |> c: conv(w, kernel = 3) |> batchnorm |> relu |> flatten |> dense(2) }"


def computed(path, x):
    import onnxruntime

    session = onnxruntime.InferenceSession(path.read_bytes())
    (y,) = session.run(None, {session.get_inputs()[0].name: x})
    return y


@pytest.mark.slow
def test_a_program_is_exported_with_the_values_of_its_seed(folder, fine, write):
    out = fine("export", write(NET), "n.onnx", "--seed", "3", "--set", "w=4")
    net = build(NET.replace("w = 3", "w = 4"), seed=3).eval()
    assert out.startswith(f"n.onnx: n, {net.graph.count():,} parameters, checked to ")
    for batch in (2, 5):
        x = np.random.default_rng(batch).normal(size=(batch, 2, 6, 6)).astype(np.float32)
        with torch.no_grad():
            wanted = net(torch.from_numpy(x)).numpy()
        np.testing.assert_allclose(computed(folder / "n.onnx", x), wanted, rtol=1e-4, atol=1e-5)
    assert sorted(os.listdir(folder)) == ["n.onnx", "net.irg"]


@pytest.mark.slow
def test_a_checkpoint_is_exported_with_its_own_values(folder, fine):
    net = build(NET, seed=5)
    net.train()(torch.randn(8, 2, 6, 6))
    net.rewrite("grow_units(c, 2)")
    save(net, folder / "ck")
    fine("export", "ck", "n.onnx")
    x = np.random.default_rng(0).normal(size=(3, 2, 6, 6)).astype(np.float32)
    with torch.no_grad():
        wanted = net.eval()(torch.from_numpy(x)).numpy()
    np.testing.assert_allclose(computed(folder / "n.onnx", x), wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_an_export_replaces_an_older_file(folder, fine, write):
    (folder / "n.onnx").write_text("old")
    fine("export", write(NET), "n.onnx")
    assert (folder / "n.onnx").read_bytes() != b"old"
    assert sorted(os.listdir(folder)) == ["n.onnx", "net.irg"]


@pytest.mark.parametrize("package", ["onnx", "onnxruntime", "onnxscript"])
def test_without_the_extra_the_message_says_what_to_install(mistake, write, monkeypatch, package):
    monkeypatch.setitem(sys.modules, package, None)
    assert (
        mistake("export", write(NET), "n.onnx")
        == f"error: {package} is needed for export: pip install 'irgrow[onnx]'\n"
    )


def test_a_place_is_needed(irgrow, write):
    answer = irgrow("export", write(NET))
    assert answer.code == 2
    assert "output" in answer.err
