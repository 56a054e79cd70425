"""Fold a batch norm into the dense layer or the convolution it reads: one layer less, the same function in evaluation.

    before   y = (W x + b - mean) g / sqrt(var + eps) + shift
    after    y = W' x + b',  W' = W g / sqrt(var + eps) row by row,  b' = (b - mean) g / sqrt(var + eps) + shift

The layer keeps its name, and its mask if it has one; what read the norm reads the layer. Exact in evaluation mode up to
rounding. In training the norm would have used the statistics of the batch; the folded layer does not.

The state an optimizer holds for the new parameters starts afresh. The weight takes the place of the old weight in the
optimizer's groups, the bias that of the shift, or of the old bias where there is no shift; a bias made of the running
mean alone is frozen, as the running mean was.

Source: Jacob et al. (2018), Quantization and Training of Neural Networks, 3.2.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from irgrow.graph import Graph
from irgrow.morphism import Compute, Morphism
from irgrow.ops import BatchNorm, Conv, Dense, Depthwise, site
from irgrow.passes.base import Context, Pass
from irgrow.passes.reparametrizing import makes, not_a_node, read_elsewhere, reparametrize, tied


@dataclass(frozen=True)
class FoldBatchNorm(Pass):
    """Fold a batch norm into the layer before it.

    Args:
        node: The norm.

    >>> str(FoldBatchNorm("bn1"))
    'fold_batch_norm(bn1)'
    """

    stays: ClassVar[bool] = True

    node: str = site("")

    @property
    def site(self) -> str:
        return self.node

    def at(self, site: str, units: int) -> FoldBatchNorm:
        return replace(self, node=self.node or site)

    def match(self, graph: Graph, site: str) -> str | None:
        if reason := not_a_node(graph, site):
            return reason
        norm = graph[site]
        if not isinstance(norm.op, BatchNorm):
            return f"`{site}` is not a batch norm"
        (name,) = norm.inputs
        if not isinstance(graph[name].op, Dense | Conv | Depthwise):
            return f"`{site}` reads `{name}`, which is neither a dense layer nor a convolution"
        if makes(graph, name)[0] != graph.types[site].unit_dim:
            return f"`{name}` works along the positions, not the units that `{site}` normalises"
        return read_elsewhere(graph, name, site) or tied(graph, name) or tied(graph, site)

    def rewrite(self, graph: Graph, site: str, context: Context) -> Morphism:
        norm = graph[site].op
        assert isinstance(norm, BatchNorm)
        (name,) = graph[site].inputs
        layer = graph[name].op
        assert isinstance(layer, Dense | Conv | Depthwise)
        weight, bias = f"{name}.weight", f"{name}.bias"
        mean, var = f"{site}.running_mean", f"{site}.running_var"
        learned = (f"{site}.bias", f"{site}.weight") if norm.affine else ()
        more = (bias,) if layer.bias else ()
        options = (("eps", norm.eps),)
        flags = (("bias", layer.bias), ("affine", norm.affine))
        computed = {
            weight: Compute("fold_norm_weight", (weight, var, *learned[1:]), options),
            bias: Compute("fold_norm_bias", (*learned, *more, mean, var), (*options, *flags)),
        }
        summary = f"fold {site} into {name}"
        return reparametrize(graph, {name: replace(layer, bias=True)}, {site: name}, computed, context.seed, summary)
