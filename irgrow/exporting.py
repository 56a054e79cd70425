"""Export to ONNX: evaluation mode, any batch size, checked against the network before the file is put in place."""

from __future__ import annotations

import io
import logging
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from irgrow.errors import OptionError
from irgrow.files import replace_bytes
from irgrow.network import Network
from irgrow.probing import evaluating

ERROR_BOUND = 1e-4


def example_inputs(net: Network, batch: int, seed: int = 0) -> tuple[Tensor, ...]:
    """Return random inputs of a network."""
    rng = np.random.default_rng(seed)
    dtype = next((p.dtype for p in net.parameters()), torch.float32)
    found = []
    for name in net.graph.inputs:
        shape, ids = (batch, *net.graph.shape(name)), net.graph.types[name].ids
        values = rng.normal(size=shape) if ids is None else rng.integers(0, ids, shape)
        found.append(torch.from_numpy(values).to(torch.int64 if ids is not None else dtype))
    return tuple(found)


def export_onnx(net: Network, path: str | Path) -> float:
    """Write a network as an ONNX file.

    Args:
        net: The network; it is not changed.
        path: The file.

    Returns:
        The largest difference between the file in onnxruntime and the network, relative to the largest output.

    Raises:
        OptionError: The extra `irgrow[onnx]` is not installed, or the file computes something else.
    """
    try:
        import onnx
        import onnxruntime
        import onnxscript
    except ImportError as error:
        raise OptionError(f"{error.name} is needed for export: pip install 'irgrow[onnx]'") from None
    assert onnxscript
    path = Path(path)
    inputs = example_inputs(net, 2)
    batch = torch.export.Dim("batch", min=1)
    names = [f"x{i}" for i in range(len(inputs))]
    with evaluating(net), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logging.getLogger("torch.onnx").setLevel(logging.ERROR)
        program = torch.onnx.export(
            net.module,
            inputs,
            dynamo=True,
            input_names=list(net.graph.inputs),
            output_names=list(net.graph.outputs),
            dynamic_shapes={name: {0: batch} for name in names},
            verbose=False,
        )
    assert program is not None
    model = program.model_proto
    _strip(model)
    buffer = io.BytesIO()
    onnx.save(model, buffer)
    worst = _difference(onnxruntime, buffer.getvalue(), net)
    if not worst <= ERROR_BOUND:
        raise OptionError(f"the exported file differs from the network by {worst:.3g}; nothing was written")
    replace_bytes(path, buffer.getvalue())
    return worst


def _strip(model: Any) -> None:
    """Remove metadata; it holds paths of the machine that exported."""
    del model.metadata_props[:]
    for holder in (model.graph, *model.functions):
        del holder.metadata_props[:]
        holder.doc_string = ""
        for node in holder.node:
            del node.metadata_props[:]
            node.doc_string = ""
    for value in (*model.graph.input, *model.graph.output, *model.graph.value_info, *model.graph.initializer):
        del value.metadata_props[:]


def _difference(onnxruntime: Any, data: bytes, net: Network) -> float:
    """Compare the file with the network on batches of other sizes than the one it was made with."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    try:
        session = onnxruntime.InferenceSession(data, options)
    except Exception as error:  # onnxruntime's exceptions have no common base of their own
        raise OptionError(f"onnxruntime cannot run the exported file: {error}; nothing was written") from None
    worst = 0.0
    for batch in (1, 3):
        inputs = example_inputs(net, batch, seed=batch)
        with evaluating(net):
            wanted = net.module(*inputs)
        named = dict(zip(net.graph.inputs, (x.numpy() for x in inputs), strict=True))
        found = session.run(None, named)
        for a, b in zip(found, wanted if isinstance(wanted, tuple) else (wanted,), strict=True):
            scale = max(float(b.abs().max()), 1e-12)
            worst = max(worst, float(np.abs(a - b.numpy()).max()) / scale)
    return worst
