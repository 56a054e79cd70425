"""The forms in which layers are inserted: the nodes of each and what their parameters start from.

Every form begins at one value and ends in one of the same shape. `x` is the value, `W` weights, `f` an activation.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np

from irgrow.axes import Atom
from irgrow.edits import Impossible
from irgrow.fills import ZERO, Eye, Fill, Given
from irgrow.graph import Graph, Node
from irgrow.ops import (
    ACTIVATIONS,
    Activate,
    Add,
    BatchNorm,
    Conv,
    Dense,
    DotProductAttention,
    LayerNorm,
    LeakyReLU,
    Op,
    RMSNorm,
    Scale,
)
from irgrow.shapes import as_array

LEAKY = "leaky_relu"
NORMS: Mapping[str, type[BatchNorm | LayerNorm | RMSNorm]] = {
    "batchnorm": BatchNorm,
    "layernorm": LayerNorm,
    "rmsnorm": RMSNorm,
}


@dataclass(frozen=True)
class Choices:
    """What is chosen about the new nodes; not every form has a use for everything.

    Args:
        activation: The activation of the new layer.
        slope: Slope of `leaky_relu` below zero.
        kernel: Kernel of new convolutions.
        norm: The norm, if there is one.
        heads: Attention heads.
        hidden: Hidden units of a block, in multiples of the units.
        causal: Whether attention looks at earlier positions only.
        norm_first: Whether a block normalises what its branches read, or its sums.
    """

    activation: str
    slope: float = 0.01
    kernel: int = 1
    norm: str | None = None
    heads: int = 1
    hidden: int = 4
    causal: bool = False
    norm_first: bool = True

    @property
    def function(self) -> Op:
        """The op of the activation."""
        return LeakyReLU(self.slope) if self.activation == LEAKY else Activate(self.activation)


@dataclass
class Draft:
    """New nodes behind a node, while they are put together.

    Args:
        graph: The network.
        after: The node.
        prefix: What the names of the new nodes begin with.
        chosen: What is chosen about them.
        value: The values of the node on a batch, if they are known.
    """

    graph: Graph
    after: str
    prefix: str
    chosen: Choices
    value: object | None = None
    nodes: list[Node] = field(default_factory=list)
    sizes: dict[str, int] = field(default_factory=dict)
    fills: dict[str, Fill] = field(default_factory=dict)

    @property
    def units(self) -> int:
        """Units of the dimension that new layers mix."""
        value = self.graph.types[self.after]
        return self.graph.size(value.dims[0] if self.image else value.dims[-1])

    @property
    def image(self) -> bool:
        """Whether the value has positions behind its units."""
        return is_image(self.graph, self.after)

    def add(self, word: str, op: Op, *inputs: str) -> str:
        """Add a node; without inputs it reads the last one."""
        name = f"{self.prefix}.{word}"
        span = self.graph[self.after].span
        self.nodes.append(Node(name, op, inputs or (self.nodes[-1].name if self.nodes else self.after,), None, span))
        return name

    def layer(self, word: str, size: int, weight: Fill | None, source: str | None = None) -> str:
        """Add a dense layer, or a convolution that keeps the positions; without a fill it starts at random."""
        name = f"{self.prefix}.{word}"
        units, kernel = Atom(name), self.chosen.kernel
        self.sizes[name] = size
        if weight is not None:
            self.fills[f"{name}.weight"] = weight
            self.fills[f"{name}.bias"] = ZERO
        op: Op = Conv(units, kernel, padding=kernel // 2) if self.image else Dense(units)
        return self.add(word, op, *((source,) if source else ()))

    def norm(self, word: str, *inputs: str) -> str:
        """Add the norm that was chosen."""
        assert self.chosen.norm is not None
        return self.add(word, NORMS[self.chosen.norm](), *inputs)

    def function(self) -> str:
        """Add the activation."""
        return self.add("act", self.chosen.function)


def is_image(graph: Graph, name: str) -> bool:
    """Return whether a value has positions behind its units.

    >>> from irgrow.grammar import parse
    >>> is_image(parse("net n(x: [2, 4, 4]) { return relu(x) }"), "x")
    True
    """
    value = graph.types[name]
    return value.rank > 1 and value.unit_dim == 0


# forms ---------------------------------------------------------------------------------------------------------------


def identity(draft: Draft) -> None:
    """An identity: f(norm(W x)) with W = I, the norm undoing itself."""
    draft.layer("layer", draft.units, Eye())
    if draft.chosen.norm is not None:
        _undone(draft, draft.norm("norm"))
    draft.function()


def _undone(draft: Draft, norm: str) -> None:
    """Let a batch norm multiply and add again what it divides by and subtracts on the batch (Net2DeeperNet)."""
    if draft.value is None:
        raise Impossible(f"a batch norm behind an identity needs the values of `{draft.after}` on a batch")
    values = as_array(draft.value)
    if not np.isfinite(values).all():
        raise Impossible(f"the values of `{draft.after}` on the batch are not finite")
    over = (0, *range(2, values.ndim))
    mean, var = values.mean(over), values.var(over)
    fills = {"running_mean": mean, "running_var": var, "weight": np.sqrt(var + BatchNorm().eps), "bias": mean}
    draft.fills.update({f"{norm}.{name}": Given(given) for name, given in fills.items()})


def linear(draft: Draft) -> None:
    """An identity without an activation: W x with W = I."""
    draft.layer("layer", draft.units, Eye())


def plus_minus(draft: Draft) -> None:
    """Two layers that undo each other: [c I, -c I] f([I; -I] x), where f(z) - f(-z) = z / c."""
    slope = draft.chosen.function.facts.odd_slope or 1.0
    draft.layer("up", 2 * draft.units, Eye((1.0, -1.0)))
    draft.function()
    draft.layer("down", draft.units, Eye((1.0 / slope, -1.0 / slope), "columns"))


def residual(draft: Draft) -> None:
    """A zero branch beside x: x + W2 f(norm(W1 x)) with W2 = 0; a norm over the units reads x instead."""
    inside = draft.chosen.norm == "batchnorm"
    if draft.chosen.norm is not None and not inside:
        draft.norm("norm")
    draft.layer("inner", draft.units, None)
    if inside:
        draft.norm("norm")
    draft.function()
    outer = draft.layer("outer", draft.units, ZERO)
    draft.add("add", Add(), draft.after, outer)


def gate(draft: Draft) -> None:
    """A gate beside x: x + a f(W x) with a = 0, one a per unit."""
    draft.layer("layer", draft.units, None)
    draft.function()
    _gated(draft)


def _gated(draft: Draft) -> None:
    scale = draft.add("gate", Scale(0.0))
    draft.add("add", Add(), draft.after, scale)


def block(draft: Draft) -> None:
    """A transformer block.

    With `norm_first` it is h = x + Wo attention(norm(x)), h + W2 f(W1 norm(h)) with Wo and W2 zero, biases as well.
    Without, its sums are normalised instead, nothing in it is zero, and it stands behind a gate: x + a block(x).
    """
    first, ends = draft.chosen.norm_first, ZERO if draft.chosen.norm_first else None
    source = draft.norm("norm1") if first else draft.after
    whole = draft.add("add1", Add(), draft.after, _attention(draft, source, ends))
    if not first:
        whole = draft.norm("norm1")
    draft.layer("up", draft.chosen.hidden * draft.units, None, draft.norm("norm2") if first else whole)
    draft.function()
    draft.add("add2", Add(), whole, draft.layer("down", draft.units, ends))
    if not first:
        draft.norm("norm2")
        _gated(draft)


def _attention(draft: Draft, source: str, out: Fill | None) -> str:
    """Add attention with its projections; return the last of them."""
    projected = [draft.layer(f"attn.{word}", draft.units, None, source) for word in ("query", "key", "value")]
    heads = Atom(f"{draft.prefix}.attn.mix.heads")
    draft.sizes[heads.name] = draft.chosen.heads
    draft.add("attn.mix", DotProductAttention(heads, causal=draft.chosen.causal), *projected)
    return draft.layer("attn.out", draft.units, out)


@dataclass(frozen=True)
class Form:
    """One form.

    Args:
        make: Adds its nodes to a draft.
        takes: The options it has a use for.
        norms: The norms it takes.
        activation: The activation unless another is chosen.
    """

    make: Callable[[Draft], None]
    takes: frozenset[str]
    norms: tuple[str, ...] = ()
    activation: str = "relu"


def _takes(*options: str) -> frozenset[str]:
    return frozenset(options)


FORMS: Mapping[str, Form] = {
    "identity": Form(identity, _takes("activation", "slope", "kernel", "norm"), ("batchnorm",)),
    "dirac": Form(identity, _takes("activation", "slope", "kernel", "norm"), ("batchnorm",)),
    "linear": Form(linear, _takes("kernel")),
    "plus_minus": Form(plus_minus, _takes("activation", "slope", "kernel")),
    "residual": Form(residual, _takes("activation", "slope", "kernel", "norm"), tuple(NORMS)),
    "gate": Form(gate, _takes("activation", "slope", "kernel")),
    "block": Form(
        block,
        _takes("activation", "slope", "norm", "heads", "hidden", "causal", "norm_first"),
        ("layernorm", "rmsnorm"),
        "gelu",
    ),
}
"""The forms by name. To add one, write it above and name it here."""

FUNCTIONS = (*ACTIVATIONS, LEAKY)
"""The activations a new layer may have."""
