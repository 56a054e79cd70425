"""The ways on which new units reach the layers that read them, and what is done to them on each.

Activations, norms, sums, pooling, concatenation, padding, transposition and a flatten of everything are followed; what
is made of units by other weights, such as filters of a depthwise convolution or the other factor of a product, is not.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any

from irgrow.axes import NEW, Atom, atoms, positions
from irgrow.edits import Impossible
from irgrow.graph import Graph, Node
from irgrow.ops import (
    ACTIVATIONS,
    Activate,
    AvgPool,
    BatchNorm,
    Concat,
    Conv,
    Coupling,
    Dense,
    Flatten,
    InstanceNorm,
    LeakyReLU,
    MaxPool,
    Pad,
    Role,
    Transpose,
)
from irgrow.ops.conv import per_dim

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Route:
    """A layer that reads the new units.

    Args:
        node: The layer.
        weight: Full name of its weight.
        shape: Shape of the fan-out entries of one unit: outputs, then kernel taps or the positions of a flatten.
        slope: Product of the slopes at zero on the way, summed over the ways.
        direct: Whether nothing else is done to the units on the way.
    """

    node: str
    weight: str
    shape: tuple[int, ...]
    slope: float
    direct: bool


def plain(graph: Graph, node: str) -> bool:
    """Return whether a layer is dense or a convolution that is not grouped."""
    op = graph[node].op
    return not isinstance(op, Conv) or "reads" not in graph.signatures[node].axes


class Walk:
    """Follows the units of a layer to those that read them: what is done to them on the way, and with what slopes.

    With numbers it takes along one channel per fan-in entry; without, it only finds the routes.

    Args:
        graph: The network.
        axis: The leaf axis of the units.
        maker: The layer that makes them.
        sloped: Whether to multiply by the slopes at zero of the activations on the way.
        entries: The channels, laid out as the output of the maker with one per unit.
        active: Whether the channels are new units themselves, to which activations and norms are done.

    Attributes:
        routes: The readers met.
        read: What each of them reads, by node; laid out as its input, after a flatten (samples, entries, positions).
    """

    def __init__(
        self, graph: Graph, axis: str, maker: str, sloped: bool, entries: Tensor | None = None, active: bool = False
    ) -> None:
        self.graph, self.axis, self.sloped, self.active = graph, axis, sloped, active
        self.routes: list[Route] = []
        self.read: dict[str, Tensor] = {}
        self._values: dict[str, Tensor | None] = {maker: entries}
        self._slopes = {maker: 1.0}
        self._direct = {maker: True}
        self._flat: dict[str, int] = {}
        for node in graph:
            if node.name != maker and any(i in self._slopes for i in node.inputs):
                self._pass(node)

    def _pass(self, node: Node) -> None:
        known = [i for i in node.inputs if i in self._slopes]
        value, slope, direct = self._values[known[0]], self._slopes[known[0]], all(self._direct[i] for i in known)
        if known[0] in self._flat:
            self._flat[node.name] = self._flat[known[0]]
        match node.op:
            case Dense() | Conv():
                self._flat.pop(node.name, None)
                self._reader(node, known[0])
                return
            case _ if node.op.coupling is Coupling.SUM:
                slope = sum(self._slopes[i] for i in known)
                summed = [v for i in known if (v := self._values[i]) is not None]
                value = summed[0] if summed else None
                for other in summed[1:]:
                    value = value + other if value is not None else other
            case MaxPool() | AvgPool():
                value, direct = self._pooled(node, value), False
            case Flatten() | Pad() | Transpose():
                value, direct = self._moved(node, known[0], value), False
            case Concat() if len(known) == 1 and self._along_units(node):
                pass
            case _ if node.op.coupling is Coupling.STATISTICS and not (self.active or node.op.kind == "softmax"):
                pass
            case _ if node.op.coupling is Coupling.PER_UNIT and self._by_itself(node) and self.active:
                value = None if value is None else self._done(node, value)
            case _ if node.op.coupling is Coupling.PER_UNIT and self._by_itself(node):
                own = node.op.facts.slope_at_zero if self.sloped else 1.0
                slope = slope * own
                value = value if value is None or own == 1.0 else value * own
            case _:
                raise Impossible(f"units of `{self.axis}` pass through `{node.name}`; there is no bridge around it")
        self._values[node.name], self._slopes[node.name], self._direct[node.name] = value, slope, direct

    def _by_itself(self, node: Node) -> bool:
        """Whether a per-unit op does to a unit what it does to any other: it has no filters, only gains and shifts."""
        filters = [s for s in self.graph.specs[node.name] if len(s.dims) > 1 and not node.op.facts.additive]
        return not filters and self.graph.types[node.name].dims == self.graph.types[node.inputs[0]].dims

    def _done(self, node: Node, value: Tensor) -> Tensor:
        """Do to new units what an activation does, or a norm with gain 1 and shift 0 over the batch."""
        from torch.nn import functional as F

        match node.op:
            case Activate(function):
                after: Tensor = ACTIVATIONS[function].layer()(value)
                return after
            case LeakyReLU(slope):
                return F.leaky_relu(value, slope)
            case BatchNorm(eps):
                over = (0,) if node.name in self._flat else tuple(d for d in range(value.dim()) if d != 1)
                centred = value - value.mean(over, keepdim=True)
                return centred / (centred.pow(2).mean(over, keepdim=True) + eps).sqrt()
            case InstanceNorm():
                raise Impossible(f"units of `{self.axis}` pass through `{node.name}`; candidates are not tried there")
        return value

    def _along_units(self, node: Node) -> bool:
        at = [d for d, dim in enumerate(self.graph.types[node.name].dims) if Atom(self.axis) in atoms(dim)]
        along = node.op.dim if isinstance(node.op, Concat) else None
        return at == [self.graph.types[node.name].features if along is None else along]

    def _reader(self, node: Node, source: str) -> None:
        """Note a layer that reads the units."""
        graph = self.graph
        weight = graph.params[graph.param_name(node.name, "weight")]
        found = positions(weight.spec.dims[1], graph.widths).get(self.axis, [])
        columns = sum(int((at != NEW).sum()) for at in found)
        units_at = [d for d, dim in enumerate(graph.types[source].dims) if Atom(self.axis) in atoms(dim)]
        mixed = node.op.mixes(graph.signatures[node.name])
        once = columns == graph.widths[self.axis] * self._flat.get(source, 1) and units_at == [mixed]
        if not once or not plain(graph, node.name):
            raise Impossible(f"`{node.name}` does not read every unit of `{self.axis}` once, with weights of its own")
        if weight.roles(1) != {Role.READS} or Atom(self.axis) in atoms(weight.spec.dims[0]):
            raise Impossible(f"`{weight.name}` makes and reads units of `{self.axis}`")
        places = (self._flat[source],) if source in self._flat else graph.param_shape(weight.name)[2:]
        shape = (graph.param_shape(weight.name)[0], *places)
        self.routes.append(Route(node.name, weight.name, shape, self._slopes[source], self._direct[source]))
        value = self._values[source]
        if value is not None:
            self.read[node.name] = value

    def _pooled(self, node: Node, value: Tensor | None) -> Tensor | None:
        import torch.nn.functional as F

        op, graph = node.op, self.graph
        assert isinstance(op, MaxPool | AvgPool)
        if value is None:
            return None
        mean = isinstance(op, AvgPool)
        if op.kernel is None:
            features = graph.types[node.inputs[0]].features
            over = tuple(d for d in range(1, value.dim()) if d != 1 + features)
            return value.mean(over) if mean else value.amax(over)
        kernel, stride, padding, _ = op._windows(value.dim() - 2).values()
        pools: Any = (F.avg_pool1d, F.avg_pool2d) if mean else (F.max_pool1d, F.max_pool2d)
        pooled: Tensor = pools[value.dim() - 3](value, kernel, stride, padding)
        return pooled

    def _moved(self, node: Node, source: str, value: Tensor | None) -> Tensor | None:
        """Follow a flatten of everything, a padding or a transposition."""
        import torch.nn.functional as F

        op, graph = node.op, self.graph
        if source in self._flat:
            raise Impossible(f"units of `{self.axis}` pass through `{node.name}`, already flattened")
        if isinstance(op, Flatten):
            if op.start != 0:
                raise Impossible(f"`{node.name}` flattens a part of the dimensions only; there is no bridge around it")
            at = next(d for d, dim in enumerate(graph.types[source].dims) if Atom(self.axis) in atoms(dim))
            self._flat[node.name] = prod(n for d, n in enumerate(graph.shape(source)) if d != at)
            return None if value is None else value.movedim(1 + at, 1).flatten(2)
        if value is None:
            return None
        if isinstance(op, Pad):
            sizes = per_dim(op.size, value.dim() - 2)
            return F.pad(value, [p for size in reversed(sizes) for p in (size, size)])
        assert isinstance(op, Transpose)
        return value.permute(0, *(i + 1 for i in op._order(value.dim() - 1)))


def flat_at_zero(graph: Graph, axis: str) -> str | None:
    """Return the first function with slope zero at zero that units of an axis pass through, or `None`."""
    passed = (n for n in graph if n.op.coupling is Coupling.PER_UNIT and Atom(axis) in atoms(graph.types[n.name].units))
    return next((n.name for n in passed if n.op.facts.slope_at_zero == 0.0), None)
