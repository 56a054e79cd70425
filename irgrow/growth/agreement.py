"""Agreement: 32 bytes that say in what state a training is, compared by all processes after every rewrite.

They cover the program, the names of parameters in order, their shapes, the values of all parameters and buffers, the
groups of the tracked optimizers with their options, and the optimizers' state of what the rewrite touched.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable

import torch
from torch import Tensor

from irgrow.growth.messages import Channel, ParallelError
from irgrow.network import Network

REPORT = 1024
"""Bytes in which a process says what it found, if they differ."""

PARTS = ("program", "names", "shapes", "values", "optimizers")
_SAID = {
    "program": "the program",
    "names": "the names of parameters or their order",
    "shapes": "the shapes of parameters",
    "values": "the values of parameters or buffers",
    "optimizers": "the groups, options or state of the optimizers",
}


def fingerprints(net: Network, touched: Iterable[str] = ()) -> dict[str, bytes]:
    """Return 32 bytes for every part of a training's state.

    Args:
        net: The network.
        touched: The parameters whose optimizer state is looked at.
    """
    params = net.params
    order = [name for name, _ in net.named_parameters()]
    registered = {id(p): n for n, p in params.items()}
    modules = [registered.get(id(p), "?") for p in net.module.parameters()]
    return {
        "program": _hash(net.graph.digest),
        "names": _hash(list(params), order, modules),
        "shapes": _hash([(list(t.shape), str(t.dtype), t.requires_grad) for t in params.values()]),
        "values": _values(params.values()),
        "optimizers": _optimizers(net, registered, set(touched)),
    }


def digest(parts: dict[str, bytes]) -> bytes:
    """Return the 32 bytes that stand for all parts.

    >>> len(digest({"program": b"a", "names": b"b"}))
    32
    """
    return hashlib.sha256(b"".join(parts.values())).digest()


def compare(channel: Channel, where: str, parts: dict[str, bytes] | None, failure: Exception | None = None) -> None:
    """Compare 32 bytes with all other processes; what differs is looked at only if they do.

    Args:
        channel: The processes.
        where: What the error says first.
        parts: This process's fingerprints; `None` if something failed.
        failure: What failed.

    Raises:
        ParallelError: They differ, or something failed on one of them; everybody raises the same.
    """
    own = bytes(32) if parts is None else digest(parts)
    found = channel.exchange(torch.frombuffer(bytearray(own), dtype=torch.uint8))
    if parts is not None and all(torch.equal(f, found[0]) for f in found):
        return
    failed = "" if failure is None else f"{type(failure).__name__}: {failure}"[:300]
    shown = {name: hashlib.sha256(part).hexdigest()[:16] for name, part in (parts or {}).items()}
    frame = json.dumps({"failed": failed, "parts": shown}).encode().ljust(REPORT)
    reports = channel.exchange(torch.frombuffer(bytearray(frame[:REPORT]), dtype=torch.uint8))
    found_parts = [json.loads(r.numpy().tobytes()) for r in reports]
    wrong = [f"process {rank} failed with {r['failed']}" for rank, r in enumerate(found_parts) if not r["parts"]]
    what = "; ".join(wrong) or f"the processes differ in {difference([r['parts'] for r in found_parts])}"
    raise ParallelError(f"{where}: {what}; nothing was changed")


def difference(all_parts: list[dict[str, str]]) -> str:
    """Say in what the processes differ from the first one."""
    found = []
    for part in PARTS:
        others = [str(r) for r, parts in enumerate(all_parts) if parts[part] != all_parts[0][part]]
        if others:
            found.append(f"{_SAID[part]} (process {', '.join(others)} against 0)")
    return "; ".join(found)


def _hash(*data: object) -> bytes:
    return hashlib.sha256(json.dumps(data, default=str).encode()).digest()


def _values(tensors: Iterable[Tensor]) -> bytes:
    found = hashlib.sha256()
    for tensor in tensors:
        plain = tensor.detach().cpu().contiguous().reshape(-1)
        found.update(plain.view(torch.uint8).numpy().data if plain.numel() else b"")
    return found.digest()


def _optimizers(net: Network, names: dict[int, str], touched: set[str]) -> bytes:
    layout: list[object] = []
    slots: list[Tensor] = []
    for tracked in net.tracked:
        optimizer = tracked.optimizer
        for group in optimizer.param_groups:
            options = {k: float(v) if isinstance(v, Tensor) else v for k, v in group.items() if k != "params"}
            layout.append((type(optimizer).__name__, options, [names.get(id(p), "?") for p in group["params"]]))
        for param, state in sorted(optimizer.state.items(), key=lambda item: names.get(id(item[0]), "?")):
            for key, value in sorted(state.items()):
                shape = list(value.shape) if isinstance(value, Tensor) else value
                layout.append((names.get(id(param), "?"), key, shape))
                if isinstance(value, Tensor) and names.get(id(param)) in touched:
                    slots.append(value)
    return hashlib.sha256(_hash(layout) + _values(slots)).digest()
