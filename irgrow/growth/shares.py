"""Probing in data-parallel training: every process runs its share of the batch, the first puts the results together.

Values of nodes are joined, in the order of the processes. The loss of all is the mean of theirs, as it is for the
gradients that are averaged in training; so gradients of parameters are averaged, and those of values, joined, are
divided by the number of processes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from irgrow.errors import DataError
from irgrow.growth.messages import Channel, Message
from irgrow.network import Network
from irgrow.probing import Probed, probe

Criterion = Callable[..., Tensor] | None


class Shares:
    """What a process knows of the batch of a step: its own share.

    Args:
        channel: The processes.
        net: The network.
    """

    def __init__(self, channel: Channel, net: Network) -> None:
        self.channel, self.net = channel, net
        self.inputs: tuple[Tensor, ...] | None = None
        self.criterion: Criterion = None
        self._own = Probed()

    def take(self, inputs: tuple[Tensor, ...] | None, criterion: Criterion) -> None:
        """Take this process's share of a step."""
        self.inputs, self.criterion, self._own = inputs, criterion, Probed()

    # what every process does ----------------------------------------------------------------------------------------

    def probe(self, nodes: list[str], gradients: bool) -> Message:
        """Run the share and return what was asked for, or why that failed."""
        try:
            if self.inputs is None:
                raise DataError("no batch was given")
            loss = self.criterion if gradients else None
            net = self.net
            self._own = probe(net.graph, net.module, net.params, self.inputs, tuple(nodes), loss)
        except Exception as error:
            return Message({"failed": f"{type(error).__name__}: {error}"})
        parts = {"value": self._own.values, "gradient": self._own.gradients, "signal": self._own.signals}
        tensors = {f"{kind}/{n}": t for kind, found in parts.items() for n, t in (found or {}).items()}
        return Message({"failed": None, "size": len(self.inputs[0])}, tensors)

    def trial(self, told: Message) -> Message:
        """Return the loss of the share if something were added to the values of nodes."""
        rank, sizes = self.channel.rank, told["sizes"]
        start, total = sum(sizes[:rank]), sum(sizes)
        own = {
            n: t.narrow(0, start, sizes[rank]) if t.dim() and len(t) == total else t for n, t in told.tensors.items()
        }
        try:
            assert self._own.trial is not None, "a trial follows a probe with gradients"
            return Message({"failed": None, "loss": float(self._own.trial(own))})
        except Exception as error:
            return Message({"failed": f"{type(error).__name__}: {error}"})

    # what the first one does ----------------------------------------------------------------------------------------

    def probed(self, nodes: tuple[str, ...], gradients: bool) -> Probed:
        """Return the values of the whole batch, and the gradients of the mean of the losses.

        Raises:
            DataError: It failed on a process.
        """
        self.channel.tell(Message({"do": "probe", "nodes": list(nodes), "gradients": gradients}))
        found = _checked(self.channel.collect(self.probe(list(nodes), gradients)))
        device = next(iter(self.net.params.values())).device

        def parts(kind: str) -> dict[str, list[Tensor]]:
            names = [n.partition("/")[2] for n in found[0].tensors if n.startswith(f"{kind}/")]
            return {n: [m.tensors[f"{kind}/{n}"].to(device) for m in found] for n in names}

        values = {n: torch.cat(v) for n, v in parts("value").items()}
        if not gradients:
            return Probed(values)
        means = {n: torch.stack(g).mean(0) for n, g in parts("gradient").items()}
        signals = {n: torch.cat(s) / len(found) for n, s in parts("signal").items()}
        sizes = [m["size"] for m in found]
        return Probed(values, means, signals, lambda added: self._tried(added, sizes))

    def _tried(self, added: Mapping[str, Any], sizes: list[int]) -> float:
        """Return the mean of the losses if something were added, to each process its share."""
        told = Message({"do": "trial", "sizes": sizes}, {n: torch.as_tensor(v) for n, v in added.items()})
        self.channel.tell(told)
        found = _checked(self.channel.collect(self.trial(told)))
        return float(sum(m["loss"] for m in found) / len(found))


def _checked(found: list[Message]) -> list[Message]:
    for rank, message in enumerate(found):
        if message["failed"] is not None:
            raise DataError(f"process {rank}: {message['failed']}")
    return found
