"""Messages between the processes of a data-parallel training: a JSON document and tensors, as bytes.

Nothing is pickled: a message is the length of the JSON text, the text, and a safetensors file. A morphism becomes a
message with the program after it as text, every transfer as JSON and every array in it as a tensor, so all numbers an
initializer computed travel bit for bit.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from datetime import timedelta
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from irgrow import registry
from irgrow.errors import UserError
from irgrow.graph import Graph
from irgrow.morphism import Morphism
from irgrow.transfer_json import transfer_from_json, transfer_to_json
from irgrow.verdict import Approximate, Changes, Exact, Improving, Refused, Verdict

FRAME = 512
"""Bytes of the first frame of a broadcast; most messages fit into it."""

_HEAD = 8


class ParallelError(UserError):
    """The processes of a training are not in the same state, or have lost each other; every one of them raises it."""


class Message(dict[str, Any]):
    """A JSON document, with the tensors that go with it."""

    def __init__(self, data: Mapping[str, Any], tensors: Mapping[str, Tensor] | None = None) -> None:
        super().__init__(data)
        self.tensors = dict(tensors or {})

    def packed(self) -> bytes:
        """Return it as bytes."""
        text = json.dumps(self).encode()
        plain = {n: t.detach().cpu().contiguous().clone() for n, t in self.tensors.items()}
        return len(text).to_bytes(_HEAD, "little") + text + (save_tensors(plain) if plain else b"")

    @classmethod
    def unpacked(cls, data: bytes) -> Message:
        """Read one back."""
        size = _HEAD + int.from_bytes(data[:_HEAD], "little")
        return cls(json.loads(data[_HEAD:size]), load_tensors(data[size:]) if len(data) > size else {})


class Channel:
    """How the processes of a group talk: the first one leads, the others follow.

    It has a group of its own on the CPU, so that a process that does not answer is noticed after `timeout` seconds
    and not after the half hour that gradients are waited for.

    Raises:
        ParallelError: From every method, if a process has died or does not answer.
    """

    def __init__(self, group: Any = None, timeout: float = 120.0) -> None:
        ranks = dist.get_process_group_ranks(group if group is not None else dist.group.WORLD)
        self.timeout = timeout
        within = timedelta(seconds=timeout)
        self.group = dist.new_group(ranks, within, "gloo", use_local_synchronization=True)
        self.rank, self.size = dist.get_rank(self.group), dist.get_world_size(self.group)

    @property
    def leads(self) -> bool:
        """Whether this process is the first."""
        return self.rank == 0

    def run(self, call: Callable[[], Any]) -> Any:
        """Call something that all processes do together."""
        try:
            return call()
        except RuntimeError as error:
            first = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise ParallelError(
                f"the processes have lost each other: one has died, or did not answer for {self.timeout:g} seconds "
                f"because it does not ask its controller, or does so at another step ({first})"
            ) from None

    def exchange(self, values: Tensor) -> list[Tensor]:
        """Return the values of all, in order; everybody gives a tensor of one shape and type."""
        found = [torch.empty_like(values) for _ in range(self.size)]
        self.run(lambda: dist.all_gather(found, values, group=self.group))
        return found

    def tell(self, message: Message) -> None:
        """Send a message to all followers."""
        data = message.packed()
        framed = bytearray(FRAME)
        framed[:_HEAD] = len(data).to_bytes(_HEAD, "little")
        first = data[: FRAME - _HEAD]
        framed[_HEAD : _HEAD + len(first)] = first
        self._broadcast(torch.frombuffer(framed, dtype=torch.uint8))
        if len(data) > FRAME - _HEAD:
            self._broadcast(torch.frombuffer(bytearray(data[FRAME - _HEAD :]), dtype=torch.uint8))

    def hear(self) -> Message:
        """Wait for the leader's message."""
        frame = torch.empty(FRAME, dtype=torch.uint8)
        self._broadcast(frame)
        data = frame.numpy().tobytes()
        size = int.from_bytes(data[:_HEAD], "little")
        data = data[_HEAD : _HEAD + size]
        if size > FRAME - _HEAD:
            rest = torch.empty(size - (FRAME - _HEAD), dtype=torch.uint8)
            self._broadcast(rest)
            data += rest.numpy().tobytes()
        return Message.unpacked(data)

    def _broadcast(self, frame: Tensor) -> None:
        self.run(lambda: dist.broadcast(frame, group=self.group, group_src=0))

    def collect(self, message: Message) -> list[Message]:
        """Bring the messages of all, in order, to the leader; the others get nothing."""
        data = b"" if self.leads else message.packed()
        sizes = self.exchange(torch.tensor([len(data)]))
        if not self.leads:
            own = torch.frombuffer(bytearray(data), dtype=torch.uint8)
            self.run(lambda: dist.send(own, group=self.group, group_dst=0))
            return []
        found = [message]
        for rank in range(1, self.size):
            buffer = torch.empty(int(sizes[rank]), dtype=torch.uint8)
            self._receive(buffer, rank)
            found.append(Message.unpacked(buffer.numpy().tobytes()))
        return found

    def _receive(self, buffer: Tensor, rank: int) -> None:
        self.run(lambda: dist.recv(buffer, group=self.group, group_src=rank))


# morphisms -----------------------------------------------------------------------------------------------------------


def morphism_message(morphism: Morphism) -> Message:
    """Return a morphism as a message."""
    tensors: dict[str, Tensor] = {}
    put = partial(_put, tensors)
    data = {
        "before": morphism.before.digest,
        "after": str(morphism.after),
        "transfers": {name: transfer_to_json(t, put) for name, t in morphism.transfers.items()},
        "edits": {atom: put(m) for atom, m in morphism.edits.items()},
        "seed": morphism.seed,
        "summary": morphism.summary,
        "by_numbers": morphism.by_numbers,
        "notes": list(morphism.notes),
    }
    return Message(data, tensors)


def morphism_of(message: Message, before: Graph) -> Morphism:
    """Read a morphism of a program back.

    Raises:
        ParallelError: It is of another program.
    """
    if message["before"] != before.digest:
        raise ParallelError(f"the edit is of the program {message['before'][:12]}, this one is {before.digest[:12]}")
    after: Graph = registry.call("parse", message["after"])

    def array(key: str) -> NDArray[Any]:
        return message.tensors[key].numpy()

    transfers = {name: transfer_from_json(t, array) for name, t in message["transfers"].items()}
    edits = {atom: array(key) for atom, key in message["edits"].items()}
    rest = (message["seed"], message["summary"], message["by_numbers"], tuple(message["notes"]))
    return Morphism(before, after, {n: transfers[n] for n in after.params}, edits, *rest)


def _put(tensors: dict[str, Tensor], values: NDArray[Any]) -> str:
    """Put an array among the tensors of a message and return its name there."""
    key = str(len(tensors))
    tensors[key] = torch.from_numpy(np.array(values, order="C"))
    return key


# verdicts ------------------------------------------------------------------------------------------------------------

_VERDICTS: dict[str, type[Verdict]] = {v.word: v for v in (Exact, Approximate, Improving, Changes, Refused)}


def verdict_to_json(verdict: Verdict) -> dict[str, Any]:
    """Return a verdict as JSON, without places in a text."""
    return {"word": verdict.word, **{k: v for k, v in vars(verdict).items() if k != "span"}}


def verdict_from_json(data: Mapping[str, Any]) -> Verdict:
    """Read a verdict back."""
    return _VERDICTS[data["word"]](**{k: v for k, v in data.items() if k != "word"})
