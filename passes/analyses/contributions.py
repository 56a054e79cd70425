"""What new units with fan-in and fan-out would add to the layers that read them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from irgrow.edits import Impossible
from irgrow.graph import Graph
from irgrow.ops import Conv
from irgrow.passes.analyses.auxiliary import recorded
from irgrow.passes.analyses.bridge import bridge
from irgrow.passes.analyses.kernels import entries, windows
from irgrow.passes.analyses.routes import Walk
from irgrow.shapes import Array

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Candidates:
    """Units that could be added.

    Args:
        splits: The old units that would be split, distinct.
        fan_in: Of the new ones, shape (units, fan_in, *taps).
        fan_outs: Of the new ones by weight that reads them, shape (units, *fan-out entries).
    """

    splits: NDArray[np.int64]
    fan_in: Array
    fan_outs: dict[str, Array]

    def chosen(self, best: NDArray[np.int64]) -> Candidates:
        """Return some of them, by their positions, splits first."""
        splits, new = best[best < len(self.splits)], best[best >= len(self.splits)] - len(self.splits)
        return Candidates(self.splits[splits], self.fan_in[new], {w: v[new] for w, v in self.fan_outs.items()})


def untried(graph: Graph, axis: str) -> str | None:
    """Return why `contributions` cannot say what new units of an axis would add; `None` if it can.

    Raises:
        Impossible: There is no bridge.
    """
    found = bridge(graph, axis)
    if found.lanes > 1:
        return f"units of `{axis}` run in {found.lanes} lanes; candidates are not tried there"
    through = [*found.attended, *(name for name, _ in found.borrowed)]
    return f"units of `{axis}` go through `{through[0]}`; candidates are not tried there" if through else None


def contributions(graph: Graph, axis: str, value: Any, fan_in: Any, fan_outs: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return what new units would add to the outputs of the layers that read them, by layer, batch first.

    It is differentiable by fan-in and fan-outs.

    Args:
        graph: The network.
        axis: The axis.
        value: What its first layer reads on a batch.
        fan_in: One row of entries per new unit, shape (units, fan_in, *taps).
        fan_outs: By weight that reads them, one row of entries per new unit, shape (units, *shape).

    Raises:
        Impossible: There is no bridge, or the value is not finite.
    """
    import torch
    from torch.nn import functional as F

    found = bridge(graph, axis)
    maker, source = found.maker, graph[found.maker].inputs[0]
    if (why := untried(graph, axis)) is not None:
        raise Impossible(why)
    x = recorded(source, {source: value}, "the values")
    weight = torch.as_tensor(fan_in).to(x).flatten(1)
    dim = 1 if isinstance(graph[maker].op, Conv) else -1
    before = torch.tensordot(entries(graph, maker, 1, x).movedim(dim, -1), weight.T, 1).movedim(-1, dim)
    walk = Walk(graph, axis, maker, False, before, active=True)
    added: dict[str, Tensor] = {}
    for route in walk.routes:
        count, out = len(route.origins), torch.as_tensor(fan_outs[route.weight]).to(x)
        read = walk.read[route.node].unflatten(0, (count, -1))
        out = out.reshape(len(out), route.shape[0], count, *route.shape[1 + (count > 1) :])
        if isinstance(graph[route.node].op, Conv):
            _, stride, padding, dilation = windows(graph, route.node)
            convolve: Any = F.conv1d if read.dim() == 4 else F.conv2d
            kernels = out.transpose(0, 2).transpose(0, 1).flatten(1, 2)
            added[route.node] = convolve(read.transpose(0, 1).flatten(1, 2), kernels, None, stride, padding, dilation)
        else:
            added[route.node] = torch.einsum("kn...u,uok->n...o", read, out)
    return added
