"""Probing in data-parallel training: every process runs its share of the batch, the first puts the results together.

Values of nodes are joined, batch by batch and in each in the order of the processes, as a single one would have them.
The loss of all is the mean of theirs, as it is for the gradients that are averaged in training; so gradients of
parameters are averaged, and those of values, joined, are divided by the number of processes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import ceil
from typing import Any

import torch
from torch import Tensor, nn

from irgrow.errors import DataError
from irgrow.growth.messages import Channel, Message
from irgrow.growth.recent import Batch, Recent, joined
from irgrow.network import Network
from irgrow.probing import Probed, probe

Criterion = Callable[..., Tensor] | None


class Shares:
    """What a process knows of the batch of a step: its own share.

    Args:
        channel: The processes.
        net: The network.
        recent: Its shares of the latest batches.
    """

    def __init__(self, channel: Channel, net: Network, recent: Recent) -> None:
        self.channel, self.net, self.recent = channel, net, recent
        self.inputs: Batch | None = None
        self.criterion: Criterion = None
        self._own = Probed()

    def take(self, inputs: Batch | None, criterion: Criterion) -> None:
        """Take this process's share of a step."""
        self.inputs, self.criterion, self._own = inputs, criterion, Probed()

    # what every process does ----------------------------------------------------------------------------------------

    def batches(self, count: int) -> list[Batch]:
        """Return its shares of the latest batches, or that of this step where one is enough (`count` is 0)."""
        return self.recent.last(count) or ([] if self.inputs is None else [self.inputs])

    def probe(self, told: Message) -> Message:
        """Run the shares of the latest batches and return what was asked for, or why that failed."""
        try:
            batches = self.batches(told["batches"])
            if not batches:
                raise DataError("no batch was given")
            take_norms(self.net, told)
            loss = self.criterion if told["gradients"] else None
            net = self.net
            self._own = probe(net.graph, net.module, net.params, joined(batches), tuple(told["nodes"]), loss)
        except Exception as error:
            return Message({"failed": f"{type(error).__name__}: {error}"})
        parts = {"value": self._own.values, "gradient": self._own.gradients, "signal": self._own.signals}
        tensors = {f"{kind}/{n}": t for kind, found in parts.items() for n, t in (found or {}).items()}
        return Message({"failed": None, "sizes": [len(batch[0]) for batch in batches]}, tensors)

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

    def reaching(self, samples: int) -> int:
        """Return how many of the latest batches have so many samples, the shares of all processes counted."""
        return self.recent.reaching(ceil(samples / self.channel.size))

    def probed(self, nodes: tuple[str, ...], gradients: bool, count: int = 0) -> Probed:
        """Return the values of whole batches, and the gradients of the mean of the losses.

        Args:
            nodes: The nodes.
            gradients: Whether gradients are asked for, which needs the loss of this step.
            count: How many of the latest batches; 0 for that of this step.

        Raises:
            DataError: It failed on a process.
        """
        wanted = {"do": "probe", "nodes": list(nodes), "gradients": gradients, "batches": count}
        told = Message(wanted, norms_message(self.net))
        self.channel.tell(told)
        found = _checked(self.channel.collect(self.probe(told)))
        device = next(iter(self.net.params.values())).device

        def parts(kind: str) -> dict[str, list[Tensor]]:
            names = [n.partition("/")[2] for n in found[0].tensors if n.startswith(f"{kind}/")]
            return {n: [m.tensors[f"{kind}/{n}"].to(device) for m in found] for n in names}

        values = {n: _in_turn(v, [m["sizes"] for m in found]) for n, v in parts("value").items()}
        if not gradients:
            return Probed(values)
        means = {n: torch.stack(g).mean(0) for n, g in parts("gradient").items()}
        signals = {n: torch.cat(s) / len(found) for n, s in parts("signal").items()}
        sizes = [sum(m["sizes"]) for m in found]
        return Probed(values, means, signals, lambda added: self._tried(added, sizes))

    def _tried(self, added: Mapping[str, Any], sizes: list[int]) -> float:
        """Return the mean of the losses if something were added, to each process its share."""
        told = Message({"do": "trial", "sizes": sizes}, {n: torch.as_tensor(v) for n, v in added.items()})
        self.channel.tell(told)
        found = _checked(self.channel.collect(self.trial(told)))
        return float(sum(m["loss"] for m in found) / len(found))


def running(net: Network) -> dict[str, Tensor]:
    """Return the running statistics of norms over the batch, which every process has its own of between two passes."""
    nodes = [n for n in net.graph if n.op.facts.batch_statistics]
    params = net.params
    return {
        p: params[p] for n in nodes for p in net.graph.own_params[n.name] if not isinstance(params[p], nn.Parameter)
    }


def norms_message(net: Network) -> dict[str, Tensor]:
    """Return the running statistics of this process as the tensors of a message."""
    return {f"norm/{name}": value for name, value in running(net).items()}


def take_norms(net: Network, told: Message) -> None:
    """Take the running statistics of the first process, as the wrapper does before every pass that trains."""
    for name, value in running(net).items():
        value.copy_(told.tensors[f"norm/{name}"])


def _in_turn(shares: list[Tensor], sizes: list[list[int]]) -> Tensor:
    """Join the shares of several batches batch by batch; the last ones of all processes belong together."""
    parts = [share.split(size) for share, size in zip(shares, sizes, strict=True)]
    ages = range(max(map(len, parts)), 0, -1)
    return torch.cat([own[-age] for age in ages for own in parts if age <= len(own)])


def _checked(found: list[Message]) -> list[Message]:
    for rank, message in enumerate(found):
        if message["failed"] is not None:
            raise DataError(f"process {rank}: {message['failed']}")
    return found
