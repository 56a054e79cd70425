"""Deployment: what training needed and running does not is folded, fused and taken out, until nothing more applies."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from irgrow.attributes import textual_name
from irgrow.cost import cost
from irgrow.errors import CompilerBug, OptionError
from irgrow.graph import Graph, Node
from irgrow.ops import MASK, BatchNorm, Dropout, Identity, Op, Scale
from irgrow.passes.base import Pass, plan
from irgrow.passes.rewrites.bake_mask import BakeMask
from irgrow.passes.rewrites.fold_batch_norm import FoldBatchNorm
from irgrow.passes.rewrites.fold_scale import FoldScale
from irgrow.passes.rewrites.fuse_linear import FuseLinear
from irgrow.passes.rewrites.remove_dead_units import RemoveDeadUnits
from irgrow.passes.rewrites.simplify import Simplify

if TYPE_CHECKING:
    from torch import Tensor

    from irgrow.journal import Receipt
    from irgrow.network import Network

ORDER: tuple[type[Pass], ...] = (BakeMask, Simplify, FoldScale, FoldBatchNorm, FuseLinear, RemoveDeadUnits)
"""The passes, in the order that leaves each most to do: what is taken out brings layers next to each other."""

_SHOWN = 5

_FOR_TRAINING: Mapping[type[Op], type[Pass]] = {
    Identity: Simplify,
    Dropout: Simplify,
    Scale: FoldScale,
    BatchNorm: FoldBatchNorm,
}


@dataclass(frozen=True, eq=False)
class Deployed:
    """A network made ready to run.

    Args:
        network: The network, in evaluation mode; the one it was made from is as it was.
        steps: The receipts of the rewrites, in order.
        nodes: Number of nodes before and after.
        parameters: Trainable parameters before and after.
        macs: Multiply-accumulate operations for one sample, before and after.
        error: max |y' - y| / max |y| of the outputs on the batch, if one was given.
        left: For each node that only training needs and that is still there, the pass and why it was refused.
    """

    network: Network
    steps: tuple[Receipt, ...]
    nodes: tuple[int, int]
    parameters: tuple[int, int]
    macs: tuple[int, int]
    error: float | None = None
    left: tuple[str, ...] = ()

    def __str__(self) -> str:
        rows = [("", "before", "after")]
        counts = (("nodes", self.nodes), ("parameters", self.parameters), ("MACs", self.macs))
        rows += [(what, f"{before:,}", f"{after:,}") for what, (before, after) in counts]
        widths = [max(len(row[i]) for row in rows) for i in range(3)]
        lines = [f"{self.network.graph.name}, ready to run"]
        lines += [f"  {a.ljust(widths[0])}  {b.rjust(widths[1])}  {c.rjust(widths[2])}" for a, b, c in rows]
        done = Counter(step.rewrite.partition("(")[0] for step in self.steps)
        lines.append("  " + (", ".join(f"{count} {name}" for name, count in done.items()) or "nothing to do"))
        if self.error is not None:
            lines.append(f"  measured on the batch: relative error {self.error:.2g}")
        lines += [f"  left: {reason}" for reason in self.left[:_SHOWN]]
        if len(self.left) > _SHOWN:
            lines.append(f"  left: {len(self.left) - _SHOWN} more")
        return "\n".join(lines)


def deploy(
    source: Network | Graph, params: Mapping[str, Any] | None = None, batch: Tensor | tuple[Tensor, ...] | None = None
) -> Deployed:
    """Return a copy of a network without what only training needs.

    Masks are baked in, dropout and identities taken out, scales and batch norms folded, linear layers fused where that
    makes the network no larger, dead units removed; again and again until nothing applies. Every
    step is proved to preserve the function in evaluation mode. What is left runs on stock modules of torch and on the
    few of irgrow's that torch lacks.

    Args:
        source: A network, or a graph with `params`.
        params: Every parameter and buffer of the graph by full name, arrays or tensors.
        batch: Inputs to measure the error on.

    Raises:
        OptionError: A graph without parameters, or a network with them.
        DataError: Parameters that are missing, unknown or of another shape.

    >>> from irgrow.network import build
    >>> net = build("net n(x: [4]) { return x |> dense(8) |> batchnorm |> relu |> dropout |> dense(2) }")
    >>> print(deploy(net))
    n, ready to run
                  before  after
      nodes            6      4
      parameters      74     58
      MACs            48     48
      1 simplify, 1 fold_batch_norm
    """
    from irgrow.probing import as_inputs
    from irgrow.transaction import relative_error

    net = _copy(source, params)
    graph = net.graph
    inputs = None if batch is None else as_inputs(batch)
    wanted = None if inputs is None else _run(net, inputs)
    steps: list[Receipt] = []
    while found := _round(net):
        steps += found
    _check_leaves(net)
    error = None if inputs is None else relative_error(_run(net, inputs), wanted)
    old, new = cost(graph), cost(net.graph)
    return Deployed(
        net,
        tuple(steps),
        (len(graph), len(net.graph)),
        (old.parameters, new.parameters),
        (old.macs, new.macs),
        error,
        tuple(_left(net.graph)),
    )


def _copy(source: Network | Graph, params: Mapping[str, Any] | None) -> Network:
    """Return a network of its own, in evaluation mode."""
    import torch

    from irgrow.network import build

    if not isinstance(source, Graph):
        if params is not None:
            raise OptionError("a network has its parameters; `params` is for a graph")
        return deepcopy(source).eval()
    if params is None:
        raise OptionError("a graph has no parameters; give `params`, or a network")
    values = {name: torch.as_tensor(value).detach() for name, value in params.items()}
    like = next((v for v in values.values() if v.is_floating_point()), torch.empty(0))
    net = build(source, dtype=like.dtype, device=like.device)
    net.load_state_dict(values)
    return net.eval()


def _run(net: Network, inputs: tuple[Tensor, ...]) -> Any:
    import torch

    with torch.no_grad():
        return net.module(*inputs)


def _round(net: Network) -> list[Receipt]:
    """Apply every pass at every place once; return what was done."""
    done = []
    for cls in ORDER:
        for rewrite in _everywhere(cls, net.graph):
            before = net.graph
            if not _worthwhile(rewrite, before):
                continue
            receipt = net.rewrite(rewrite, require="exact")
            done += [receipt] if receipt.applied and net.graph != before else []
    return done


def _everywhere(cls: type[Pass], graph: Graph) -> Iterator[Pass]:
    """Yield a pass at every node, or once if it chooses its own sites; nodes that went are no sites any more."""
    if cls.whole:
        yield cls()
        return
    for node in graph:
        yield cls().at(node.name, 0)


def _worthwhile(rewrite: Pass, graph: Graph) -> bool:
    """Return whether a pass applies and makes nothing larger."""
    if rewrite.match(graph, rewrite.site) is not None:
        return False
    if not isinstance(rewrite, FuseLinear):
        return True
    morphism = plan(rewrite, graph).morphism
    if morphism is None:
        return False
    old, new = cost(graph), cost(morphism.after)
    return new.macs <= old.macs and new.parameters <= old.parameters


def _wanted(node: Node, graph: Graph) -> type[Pass] | None:
    """Return the pass that should have taken a node away, or changed it; `None` if it is needed to run."""
    if any(s.name == MASK for s in graph.specs[node.name]):
        return BakeMask
    return _FOR_TRAINING.get(type(node.op))


def _left(graph: Graph) -> list[str]:
    found = []
    for node in graph:
        cls = _wanted(node, graph)
        if cls is not None:
            rewrite = cls().at(node.name, 0)
            why = rewrite.match(graph, node.name) or str(plan(rewrite, graph).verdict)
            found.append(f"{textual_name(cls)}({node.name}): {why}")
    return found


def _check_leaves(net: Network) -> None:
    """Check that a module of irgrow's own is left only where torch has none.

    Raises:
        CompilerBug: It is not so.
    """
    from irgrow.ops import leaves

    unique = {leaves.Part, leaves.Pad, leaves.ChannelShuffle, leaves.DotProductAttention}
    for name, leaf in net.module.meta["leaves"].items():
        masked = any(s.name == MASK for s in net.graph.specs[name])
        if not (masked or type(leaf) in unique or type(leaf).__module__.startswith("torch.nn.")):
            raise CompilerBug(f"`{name}` runs on {type(leaf).__name__}, which is not a module of torch")
