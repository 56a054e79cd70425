"""Insert a layer behind a node so that the function stays what it is.

    identity      W = I, b = 0, then `activation`: exact where the activation leaves the node's range unchanged, as ReLU
                  does behind ReLU; for images a 1x1 convolution
    dirac         the same with an odd kernel whose centre tap is the identity; for images
    plus_minus    [I, -I] f([I; -I] x): exact for every f with f(z) - f(-z) = c z (ReLU, GELU, SiLU, Hardswish)
    residual      x + W2 f(W1 x) with W2 = 0 and W1 random

The new layer has the width of the node it stands behind. All parameters of `identity`, `dirac` and `plus_minus` receive
a gradient at once, of `residual` W2 first. What was read from the node, and the network's output if it is one, is read
from the new layer instead.

Source: Chen et al. (2016), Net2DeeperNet; Kreis et al. (2024), sensitivity-based layer insertion; Maile (2023), 3.1.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

from irgrow.axes import Atom
from irgrow.errors import OptionError
from irgrow.fills import ZERO, Eye, Fill
from irgrow.graph import Graph, Node
from irgrow.morphism import Morphism
from irgrow.ops import ACTIVATIONS, Activate, Add, Conv, Dense, Op, integer, site, word
from irgrow.passes.base import Context, Pass
from irgrow.passes.primitives import splice


@dataclass
class _Draft:
    """New nodes behind a node, while they are put together."""

    graph: Graph
    after: str
    prefix: str
    kernel: int
    nodes: list[Node] = field(default_factory=list)
    sizes: dict[str, int] = field(default_factory=dict)
    fills: dict[str, Fill] = field(default_factory=dict)

    @property
    def units(self) -> int:
        """Units of the node they stand behind."""
        value = self.graph.types[self.after]
        return self.graph.size(value.dims[0] if self.image else value.dims[-1])

    @property
    def image(self) -> bool:
        """Whether the value has positions behind its units."""
        value = self.graph.types[self.after]
        return value.rank > 1 and value.features == 0

    def add(self, word: str, op: Op, *inputs: str) -> str:
        """Add a node; without inputs it reads the last one."""
        name = f"{self.prefix}.{word}"
        span = self.graph[self.after].span
        self.nodes.append(Node(name, op, inputs or (self.nodes[-1].name if self.nodes else self.after,), None, span))
        return name

    def layer(self, word: str, size: int, weight: Fill | None, bias: bool = True) -> str:
        """Add a dense layer, or a convolution that keeps the positions."""
        name = f"{self.prefix}.{word}"
        units = Atom(name)
        self.sizes[name] = size
        op: Op = Conv(units, self.kernel, padding=self.kernel // 2, bias=bias) if self.image else Dense(units, bias)
        if weight is not None:
            self.fills[f"{name}.weight"] = weight
            if bias:
                self.fills[f"{name}.bias"] = ZERO
        return self.add(word, op)


def _identity(draft: _Draft, activation: Op) -> None:
    draft.layer("layer", draft.units, Eye())
    draft.add("act", activation)


def _plus_minus(draft: _Draft, activation: Op) -> None:
    slope = activation.facts.odd_slope or 1.0
    draft.layer("up", 2 * draft.units, Eye((1.0, -1.0)))
    draft.add("act", activation)
    draft.layer("down", draft.units, Eye((1.0 / slope, -1.0 / slope), "columns"))


def _residual(draft: _Draft, activation: Op) -> None:
    draft.layer("inner", draft.units, None)
    draft.add("act", activation)
    draft.layer("outer", draft.units, ZERO)
    draft.add("add", Add(), draft.after, f"{draft.prefix}.outer")


_FORMS: dict[str, Callable[[_Draft, Op], None]] = {
    "identity": _identity,
    "dirac": _identity,
    "plus_minus": _plus_minus,
    "residual": _residual,
}


@dataclass(frozen=True)
class InsertLayer(Pass):
    """Insert a layer behind a node.

    Args:
        after: The node.
        form: What is inserted; see the module.
        activation: The activation of the new layer.
        kernel: Kernel of the new convolutions, odd; 1 unless the form is `dirac` or it is given.

    >>> str(InsertLayer("relu_1", form="plus_minus", activation="gelu"))
    'insert_layer(relu_1, plus_minus, gelu)'
    """

    after: str = site("")
    form: str = word(*_FORMS, default="identity")
    activation: str = word(*ACTIVATIONS, default="relu")
    kernel: int | None = integer(None)

    @property
    def site(self) -> str:
        return self.after

    def at(self, site: str, units: int) -> InsertLayer:
        return replace(self, after=self.after or site)

    def match(self, graph: Graph, site: str) -> str | None:
        if site not in graph:
            try:
                graph.axis(site)
            except OptionError as error:
                return str(error)
            return f"`{site}` is an axis; a layer is inserted behind a node"
        value = graph.types[site]
        if value.ids is not None:
            return f"`{site}` holds integer ids"
        image = value.rank > 1 and value.features == 0
        if self.form == "dirac" and not image:
            return f"`{site}` has no positions for a kernel; use the form `identity`"
        if self.kernel is not None and (self.kernel % 2 == 0 or not image):
            return "a kernel must be odd" if image else f"`{site}` has no positions for a kernel"
        if self.form == "plus_minus" and ACTIVATIONS[self.activation].facts.odd_slope is None:
            return f"plus_minus needs f(z) - f(-z) = c z, which does not hold for {self.activation}"
        if self.form == "residual" and ACTIVATIONS[self.activation].facts.at_zero is None:
            return f"{self.activation} has parameters"
        return None

    def rewrite(self, graph: Graph, site: str, context: Context) -> Morphism:
        kernel = self.kernel or (3 if self.form == "dirac" else 1)
        draft = _Draft(graph, site, _fresh_prefix(graph, site), kernel)
        _FORMS[self.form](draft, Activate(self.activation))
        summary = f"insert {self.form} layer after {site}"
        return splice(graph, site, draft.nodes, draft.sizes, draft.fills, context.seed, summary)


def _fresh_prefix(graph: Graph, after: str) -> str:
    """Return a name under which nothing stands yet."""
    taken = set(graph.by_name) | set(graph.typed.axes.sizes)
    stem = after.replace(".", "_")
    number = 1
    while any(name == f"{stem}_deep{number}" or name.startswith(f"{stem}_deep{number}.") for name in taken):
        number += 1
    return f"{stem}_deep{number}"
