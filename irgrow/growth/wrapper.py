"""A network on several processes: the wrapper that averages gradients, made anew after every rewrite."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from irgrow.errors import OptionError
from irgrow.growth.messages import Channel, ParallelError
from irgrow.network import Network


class DataParallel(nn.Module):
    """Trains a network on several processes, each on its share of the batch, and goes on after rewrites.

    A `DistributedDataParallel` sorts the parameters it was given into buckets, once; parameters that replace them are
    never averaged, mostly without an error. So it is made anew at the first training pass after every rewrite. If one
    process made a new one and another did not, both would wait for each other; so before every training pass all
    compare their programs. Passes that do not train go to the network itself and need no other process.

    Args:
        net: The network; its optimizer is made from `net.parameters()` and tracked by it.
        group: The processes; all of them unless given.
        timeout: Seconds that one process waits for another before a pass.
        **options: For `DistributedDataParallel`.

    Raises:
        OptionError: There is no process group.
        ParallelError: From a training pass: the processes have different programs, or one does not take part.
    """

    def __init__(self, net: Network, group: Any = None, timeout: float = 120.0, **options: Any) -> None:
        super().__init__()
        if not dist.is_initialized():
            raise OptionError("call torch.distributed.init_process_group first")
        self.net = net
        self._options = {"process_group": group, **options}
        self._channel = Channel(group, timeout)
        self._made_for: Any = None

    def forward(self, *inputs: Tensor) -> Any:
        if not (self.training and torch.is_grad_enabled()):
            return self.net(*inputs)
        if self._stale():
            self._wrap()
        return self.__dict__["_wrapper"](*inputs)

    def _stale(self) -> bool:
        """Return whether the network of any process was rewritten since it was wrapped."""
        program, rewrites = int(self.net.graph.digest[:15], 16), self.net.journal.counter
        own = torch.tensor([program, rewrites, self._made_for is not self.net.module])
        found = torch.stack(self._channel.exchange(own))
        if len(found[:, :2].unique(dim=0)) > 1:
            raise ParallelError(
                f"the processes have different programs, after {', '.join(map(str, found[:, 1].tolist()))} rewrites: "
                "a rewrite must be done on all of them, as the ParallelController does"
            )
        return bool(found[:, 2].any())

    def _wrap(self) -> None:
        """Make a new wrapper; it is kept out of the submodules, which would double every name."""
        self.__dict__.pop("_wrapper", None)
        self.__dict__["_wrapper"] = DistributedDataParallel(self.net, **self._options)
        self._made_for = self.net.module
