"""Fuse two linear layers with nothing between them: the second one does the work of both.

    before   y = W2 (W1 x + b1) + b2
    after    y = W x + b,  W = W2 W1,  b = W2 b1 + b2

Both are dense layers, or a convolution is followed by a 1x1 convolution with stride 1 and no padding; the first may
have any kernel, stride, padding and dilation, which the second then has. The second keeps its name. Exact in training
and evaluation up to rounding, though the two train differently: W2 W1 is learned as one. A fused layer may cost more
than the two did, if there were fewer units between them than before and behind.

The state an optimizer holds for the new parameters starts afresh; they take the places of those of the second layer.

Source: growth.md section 9, row 45; the reverse of inserting a linear layer (Chen et al. 2016, Net2Net).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from irgrow.axes import ONE
from irgrow.graph import Graph
from irgrow.morphism import Compute, Morphism, Transfer
from irgrow.ops import BatchNorm, Conv, Dense, Op, site
from irgrow.passes.base import Context, Pass
from irgrow.passes.reparametrizing import not_a_node, read_elsewhere, reparametrize, tied


@dataclass(frozen=True)
class FuseLinear(Pass):
    """Fuse a layer with the one that reads it.

    Args:
        first: The first of the two.

    >>> str(FuseLinear("up"))
    'fuse_linear(up)'
    """

    stays: ClassVar[bool] = True

    first: str = site("")

    @property
    def site(self) -> str:
        return self.first

    def at(self, site: str, units: int) -> FuseLinear:
        return replace(self, first=self.first or site)

    def match(self, graph: Graph, site: str) -> str | None:
        if reason := not_a_node(graph, site):
            return reason
        first = graph[site].op
        if not isinstance(first, Dense | Conv):
            return f"`{site}` is neither a dense layer nor a convolution over all channels"
        readers = graph.users[site]
        if not readers:
            return f"nothing reads `{site}`"
        if reason := read_elsewhere(graph, site, readers[0]):
            return reason
        reader = readers[0]
        second = graph[reader].op
        if isinstance(second, BatchNorm):
            return f"the batch norm `{reader}` is between; fold it first"
        if type(second) is not type(first):
            return f"`{reader}`, which reads `{site}`, is not a layer of the same kind"
        why = _not_plain(site, first) or _not_plain(reader, second) or _not_pointwise(reader, second)
        return why or tied(graph, site) or tied(graph, reader)

    def rewrite(self, graph: Graph, site: str, context: Context) -> Morphism:
        (second,) = graph.users[site]
        inner, outer = graph[site].op, graph[second].op
        assert isinstance(inner, Dense | Conv)
        assert isinstance(outer, Dense | Conv)
        weight, bias = f"{second}.weight", f"{second}.bias"
        computed: dict[str, Transfer] = {weight: Compute("fuse_weight", (weight, f"{site}.weight"))}
        if inner.bias:
            more = (bias,) if outer.bias else ()
            computed[bias] = Compute("fuse_bias", (*more, f"{site}.bias", weight))
        op = replace(inner, units=outer.units, bias=inner.bias or outer.bias)
        gone = {site: graph[site].inputs[0]}
        return reparametrize(graph, {second: op}, gone, computed, context.seed, f"fuse {site} and {second}")


def _not_plain(name: str, op: Op) -> str | None:
    """Return why a layer's weight is not a matrix over all it reads, or `None`."""
    if getattr(op, "masked", False):
        return f"`{name}` is masked; bake the mask in first"
    return f"`{name}` works in groups" if isinstance(op, Conv) and op.groups != ONE else None


def _not_pointwise(name: str, op: Op) -> str | None:
    """Return why a layer reads other positions than the one it writes, or `None`."""
    for attribute, wanted in ("kernel", 1), ("stride", 1), ("padding", 0):
        found = getattr(op, attribute, wanted)
        if any(n != wanted for n in (found if isinstance(found, tuple) else (found,))):
            return f"`{name}` has {attribute} {found}; only a 1x1 convolution with stride 1 and no padding can be fused"
    return None
