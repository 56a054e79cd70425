"""Checkpoints: a folder with the program as text, tensors in safetensors, the rest in JSON, and a manifest.

    manifest.json       format version, SHA-256 and size of every file, digest of the program; written last
    net.irg             the program
    model.safetensors   parameters and buffers by their names in the graph
    optim.safetensors   optimizer slots, `<optimizer>/<parameter>/<slot>`, averages, and tensors of the run
    run.json            seed, modes, journal, parameter groups, schedulers, and whatever the caller adds

Files are written to a folder beside the target, flushed to disk, and renamed into place, so that a crash leaves either
the old checkpoint or the new one. Nothing is pickled and no code is loaded. Reading checks the manifest before anything
else; a flipped byte, a missing file, a newer version or another program is one clear error, and nothing is half loaded.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor, nn

from irgrow import __version__, registry
from irgrow.errors import CheckpointError, ProgramError
from irgrow.graph import Graph
from irgrow.journal import Journal
from irgrow.network import Network
from irgrow.resuming import resume, written

FORMAT = 2
LARGEST_MANIFEST = 16 << 20
MANIFEST, PROGRAM, MODEL, OPTIM, RUN = "manifest.json", "net.irg", "model.safetensors", "optim.safetensors", "run.json"
FILES = (PROGRAM, MODEL, OPTIM, RUN)
_RUN_KEYS = {"name", "seed", "training", "frozen", "journal", "optimizers", "extra"}


@dataclass(frozen=True)
class Saved:
    """A checkpoint that was read and checked.

    Args:
        graph: The program.
        params: Parameters and buffers.
        tensors: Optimizer slots and tensors of the run.
        run: The rest.
    """

    graph: Graph
    params: dict[str, Tensor]
    tensors: dict[str, Tensor]
    run: dict[str, Any]


# writing -------------------------------------------------------------------------------------------------------------


def save(
    net: Network,
    folder: str | Path,
    extra: Mapping[str, Any] | None = None,
    tensors: Mapping[str, Tensor] | None = None,
) -> Path:
    """Save a network with its tracked optimizers, schedulers and averages.

    What an optimizer holds of other modules is not saved; save it with them.

    Args:
        net: The network.
        folder: Where; an older checkpoint there is replaced.
        extra: JSON values to keep beside it.
        tensors: Tensors to keep beside it.

    Raises:
        CheckpointError: It cannot be written, or something of an optimizer or scheduler is neither a number, a text nor
            a tensor, nor made of them; what was there before is still there.
    """
    folder = Path(folder)
    slots: dict[str, Tensor] = {f"run/{k}": v for k, v in (tensors or {}).items()}
    optimizers = [written(net, i, slots) for i in range(len(net.tracked))]
    leaves = net.module.meta["leaves"]
    run = {
        "name": net.graph.name,
        "seed": net.seed,
        "training": net.training,
        "modes": {n: leaf.training for n, leaf in leaves.items() if leaf.training != net.training},
        "frozen": [n for n, p in net.named_parameters() if not p.requires_grad],
        "journal": net.journal.to_json(),
        "optimizers": optimizers,
        "extra": dict(extra or {}),
    }
    files = {
        PROGRAM: str(net.graph).encode(),
        MODEL: save_tensors({n: _plain(t) for n, t in net.params.items()}),
        OPTIM: save_tensors({n: _plain(t) for n, t in slots.items()}),
        RUN: json.dumps(run, allow_nan=True).encode(),
    }
    write_folder(folder, files, net.graph.digest)
    return folder


def _plain(tensor: Tensor) -> Tensor:
    return tensor.detach().cpu().contiguous().clone()


def write_folder(folder: Path, files: Mapping[str, bytes], digest: str) -> None:
    """Write files and their manifest into a folder, all or nothing.

    Raises:
        CheckpointError: It cannot be written; what was there before is still there.
    """
    staged = folder.with_name(f".tmp-{folder.name}-{os.getpid()}")
    manifest = {
        "format": FORMAT,
        "irgrow": __version__,
        "torch": torch.__version__.split("+")[0],
        "threads": torch.get_num_threads(),
        "program": digest,
        "files": {n: {"sha256": hashlib.sha256(d).hexdigest(), "size": len(d)} for n, d in files.items()},
    }
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(staged, ignore_errors=True)
        staged.mkdir()
        for name, data in files.items():
            _write(staged / name, data)
        _write(staged / MANIFEST, _sealed(manifest))
        _sync_folder(staged)
        _put_in_place(staged, folder)
        _sync_folder(folder.parent)
    except OSError as error:
        shutil.rmtree(staged, ignore_errors=True)
        raise CheckpointError(f"{folder}: cannot be written: {(error.strerror or str(error)).lower()}") from None


def _sealed(manifest: dict[str, Any]) -> bytes:
    """Return a manifest as text, with the hash of the rest of it as its last entry."""
    body = {k: v for k, v in manifest.items() if k != "sha256"}
    seal = hashlib.sha256(json.dumps(body, indent=1).encode()).hexdigest()
    return json.dumps({**body, "sha256": seal}, indent=1).encode()


def _write(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _aside(folder: Path) -> Path:
    """Return where an older checkpoint stands while a newer one takes its place."""
    return folder.with_name(f".old-{folder.name}")


def _put_in_place(staged: Path, folder: Path) -> None:
    aside = _aside(folder)
    if not folder.exists():
        os.replace(staged, folder)
        shutil.rmtree(aside, ignore_errors=True)
        return
    if not folder.is_dir() or (any(folder.iterdir()) and not (folder / MANIFEST).exists()):
        raise OSError(17, "exists and is not a checkpoint")
    shutil.rmtree(aside, ignore_errors=True)
    os.replace(folder, aside)
    try:
        os.replace(staged, folder)
    except OSError:
        os.replace(aside, folder)
        raise
    shutil.rmtree(aside, ignore_errors=True)


# reading -------------------------------------------------------------------------------------------------------------


def read(folder: str | Path) -> Saved:
    """Read and check a checkpoint.

    Raises:
        CheckpointError: It is missing, damaged, newer than this version, or its tensors are not those of its program.
    """
    folder = Path(folder)
    if not folder.exists() and _aside(folder).exists():
        folder = _aside(folder)
    data = _checked_files(folder)
    try:
        graph: Graph = registry.call("parse", data[PROGRAM].decode())
        run: dict[str, Any] = json.loads(data[RUN])
        params, tensors = load_tensors(data[MODEL]), load_tensors(data[OPTIM])
        if not isinstance(run, dict) or not set(run) >= _RUN_KEYS:
            raise CheckpointError(f"{folder / RUN}: damaged: expected {', '.join(sorted(_RUN_KEYS))}")
    except ProgramError as error:
        raise CheckpointError(f"{folder / PROGRAM}: {error.diagnostics[0].message}") from None
    except (SafetensorError, ValueError, KeyError) as error:
        raise CheckpointError(f"{folder}: {error}") from None
    _check_tensors(folder, graph, params)
    return Saved(graph, params, tensors, run)


def _checked_files(folder: Path) -> dict[str, bytes]:
    """Return the files of a checkpoint after comparing them with the manifest."""
    if not folder.is_dir():
        raise CheckpointError(f"{folder}: no such checkpoint")
    path = folder / MANIFEST
    try:
        if path.stat().st_size > LARGEST_MANIFEST:
            raise CheckpointError(f"{path}: a manifest has at most {LARGEST_MANIFEST} bytes")
        text = path.read_bytes()
        manifest = json.loads(text)
        found, listed = manifest["format"], manifest["files"]
    except FileNotFoundError:
        raise CheckpointError(f"{path}: missing; the folder is not a complete checkpoint") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path}: damaged: {error}") from None
    if not isinstance(found, int) or found > FORMAT:
        raise CheckpointError(f"{path}: format {found} needs a newer irgrow; this one reads up to {FORMAT}")
    if text != _sealed(manifest):
        raise CheckpointError(f"{path}: damaged: its SHA-256 is not the one it names")
    if not isinstance(listed, dict) or set(listed) != set(FILES):
        raise CheckpointError(f"{path}: damaged: expected the files {', '.join(FILES)}")
    return {name: _checked_file(folder / name, listed[name]) for name in FILES}


def _checked_file(path: Path, expected: Any) -> bytes:
    if path.is_symlink() or (path.exists() and path.stat().st_nlink > 1):
        raise CheckpointError(f"{path}: a link; checkpoints hold plain files only")
    try:
        data = path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"{path}: {(error.strerror or str(error)).lower()}") from None
    if not isinstance(expected, dict) or hashlib.sha256(data).hexdigest() != expected.get("sha256"):
        raise CheckpointError(f"{path}: damaged: its SHA-256 is not the one in the manifest")
    return data


def _check_tensors(folder: Path, graph: Graph, params: Mapping[str, Tensor]) -> None:
    for name in graph.params:
        if name not in params:
            raise CheckpointError(f"{folder / MODEL}: `{name}` is missing")
        if tuple(params[name].shape) != graph.param_shape(name):
            shape = list(graph.param_shape(name))
            raise CheckpointError(f"{folder / MODEL}: `{name}`: expected {shape}, found {list(params[name].shape)}")
    for name in params:
        if name not in graph.params:
            raise CheckpointError(f"{folder / MODEL}: the program has no parameter `{name}`")


def load(folder: str | Path, device: str | torch.device = "cpu") -> Network:
    """Load a network; needs nothing but the folder.

    Args:
        folder: The checkpoint.
        device: Where its tensors go.

    Raises:
        CheckpointError: It is missing, damaged or newer than this version.
    """
    return network(read(folder), device)


def network(saved: Saved, device: str | torch.device = "cpu") -> Network:
    """Make the network of a checkpoint that was read.

    Raises:
        CheckpointError: It is damaged.
    """
    frozen = set(saved.run["frozen"])
    tensors: dict[str, Tensor] = {}
    for name, param in saved.graph.params.items():
        value = saved.params[name].clone()
        tensors[name] = nn.Parameter(value, name not in frozen) if param.spec.trainable else value
    net = Network(saved.graph, tensors, saved.run["seed"]).to(device)
    net.journal = Journal.from_json(saved.run["journal"])
    net.train(saved.run["training"])
    leaves, modes = net.module.meta["leaves"], saved.run.get("modes", {})  # the first format has none
    for name in modes:
        if name not in leaves:
            raise CheckpointError(f"damaged: `{name}` has a mode and no module")
        leaves[name].training = bool(modes[name])
    return net


def restore(net: Network, saved: Saved) -> None:
    """Give the tracked optimizers, schedulers, scalers and averages of a network the state they were saved with.

    Track them first, in the order they were tracked when the checkpoint was written. Parameters get their places in the
    groups back; what an optimizer holds of other modules stays in it with its state, at the places it had. What only
    the checkpoint has, and a scheduler or scaler that only the network has, is left as it is.

    Raises:
        CheckpointError: The checkpoint is of another program or other optimizers, or damaged; nothing was changed.
    """
    if net.graph != saved.graph:
        raise CheckpointError("the checkpoint is of another program")
    listed = saved.run["optimizers"]
    if len(listed) != len(net.tracked):
        raise CheckpointError(f"the checkpoint has {len(listed)} optimizers, the network tracks {len(net.tracked)}")
    resume(net, listed, saved.tensors)
