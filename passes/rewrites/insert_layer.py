"""Insert a layer behind a node so that the function stays what it is.

    identity      f(W x) with W = I, b = 0: exact where the activation f leaves the node's range unchanged, as ReLU does
                  behind ReLU; for images a 1x1 convolution
    dirac         the same with an odd kernel whose centre tap is the identity; for images
    linear        W x with W = I, without an activation: exact anywhere, and what `fuse_linear` would take out again
    plus_minus    [c I, -c I] f([I; -I] x): exact for every f with f(z) - f(-z) = z / c (ReLU, GELU, SiLU, Hardswish,
                  leaky ReLU of slope s with c = 1 / (1 + s))
    residual      x + W2 f(W1 x) with W2 = 0 and W1 random
    gate          x + a f(W x) with W random and a scale a = 0 per unit
    block         a transformer block over (positions, units): pre-norm with the last layer of both branches zero, or
                  post-norm (`norm_first = false`) behind a gate

The new layer has the width of the node it stands behind. All parameters of `identity`, `dirac`, `linear` and
`plus_minus` receive a gradient at once, of `residual` and pre-norm blocks the zero layers first, of `gate` and
post-norm blocks the gate first. What was read from the node, and the network's output if it is one, is read from the
new layer instead.

A `norm` in `residual` stands inside the zero branch, so it changes nothing in any mode. A batch norm in `identity` or
`dirac` takes its statistics from a batch, and its gain and shift from them, so that it undoes itself in evaluation; in
training it normalises by the batch at hand and the function is only the same on that very batch. As everywhere, a batch
norm over vectors cannot be trained on a single sample.

Source: Chen et al. (2016), Net2DeeperNet; Kreis et al. (2024), sensitivity-based layer insertion; Maile (2023), 3.1.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from irgrow.attributes import attributes, show
from irgrow.graph import Graph
from irgrow.morphism import Morphism
from irgrow.ops import flag, integer, real, site, word
from irgrow.passes.base import Context, Pass
from irgrow.passes.layer_forms import FORMS, FUNCTIONS, LEAKY, NORMS, Choices, Draft, Form, is_image
from irgrow.passes.primitives import splice, unused_prefix
from irgrow.passes.reparametrizing import not_a_node

_FLATTEST = 1e-3


@dataclass(frozen=True)
class InsertLayer(Pass):
    """Insert a layer behind a node.

    Args:
        after: The node.
        form: What is inserted; see the module.
        activation: The activation of the new layer; ReLU, of a block GELU, unless given.
        kernel: Kernel of the new convolutions, odd; 1, of `dirac` 3, unless given.
        norm: A norm inside the new layer; a block has layer norms unless given.
        slope: Slope of `leaky_relu` below zero; 0.01 unless given.
        heads: Attention heads of a block; 1 unless given.
        hidden: Hidden units of a block in multiples of the node's units; 4 unless given.
        causal: Whether the attention of a block looks at earlier positions only.
        norm_first: Whether a block normalises what its branches read (pre-norm), or its sums (post-norm).

    >>> str(InsertLayer("relu_1", form="plus_minus", activation="gelu"))
    'insert_layer(relu_1, plus_minus, gelu)'
    """

    stays: ClassVar[bool] = True

    after: str = site("")
    form: str = word(*FORMS, default="identity")
    activation: str | None = word(*FUNCTIONS, default=None)
    kernel: int | None = integer(None)
    norm: str | None = word(*NORMS, default=None)
    slope: float | None = real(None, low=-1.0, high=1.0)
    heads: int | None = integer(None)
    hidden: int | None = integer(None, high=64)
    causal: bool = flag(False)
    norm_first: bool = flag(True)

    @property
    def site(self) -> str:
        return self.after

    def at(self, site: str, units: int) -> InsertLayer:
        return replace(self, after=self.after or site)

    def match(self, graph: Graph, site: str) -> str | None:
        if (reason := not_a_node(graph, site)) is not None:
            return reason
        if graph.types[site].ids is not None:
            return f"`{site}` holds integer ids"
        form = FORMS[self.form]
        for a in attributes(InsertLayer):
            given = getattr(self, a.name) != a.default
            if given and a.name not in (*form.takes, "after", "form"):
                return f"the form `{self.form}` has no use for `{a.name} = {show(getattr(self, a.name))}`"
        return self._wrong_function() or self._wrong_kernel(graph, site) or self._wrong_norm(graph, site, form)

    def _wrong_function(self) -> str | None:
        choices = self._choices()
        if self.slope is not None and choices.activation != LEAKY:
            return f"`slope` is that of {LEAKY}, the activation is {choices.activation}"
        if self.form != "plus_minus":
            return None
        odd = choices.function.facts.odd_slope
        if odd is None:
            return f"plus_minus needs f(z) - f(-z) = c z, which does not hold for {choices.activation}"
        return f"plus_minus divides by 1 + {choices.slope:g}, which is too near zero" if odd < _FLATTEST else None

    def _wrong_kernel(self, graph: Graph, site: str) -> str | None:
        image = is_image(graph, site)
        if self.form == "dirac" and not image:
            return f"`{site}` has no positions for a kernel; use the form `identity`"
        if self.kernel is not None and (self.kernel % 2 == 0 or not image):
            return "a kernel must be odd" if image else f"`{site}` has no positions for a kernel"
        return None

    def _wrong_norm(self, graph: Graph, site: str, form: Form) -> str | None:
        value = graph.types[site]
        if self.form == "block":
            if (value.rank, value.unit_dim) != (2, 1):
                return f"`{site}` is not a (positions, units) value"
            units = graph.size(value.units)
            if units % (self.heads or 1):
                return f"`{site}` has {units} units, not a multiple of {self.heads} heads"
        if self.norm is None:
            return None
        if self.norm not in form.norms:
            return f"the form `{self.form}` takes {' or '.join(form.norms)}, found {self.norm}"
        if self.norm == "batchnorm" and (value.unit_dim != 0 or value.rank > 3):
            return f"a batch norm takes units first, those of `{site}` are last"
        if self.norm != "batchnorm" and value.unit_dim != value.rank - 1:
            return f"{self.norm} takes units last, those of `{site}` are first"
        return None

    def needs(self, graph: Graph, site: str) -> tuple[str, ...]:
        return (site,) if self.form in ("identity", "dirac") and self.norm is not None else ()

    def _choices(self) -> Choices:
        """Return what is chosen, with the defaults of the form."""
        return Choices(
            self.activation or FORMS[self.form].activation,
            0.01 if self.slope is None else self.slope,
            self.kernel or (3 if self.form == "dirac" else 1),
            self.norm or ("layernorm" if self.form == "block" else None),
            self.heads or 1,
            self.hidden or 4,
            self.causal,
            self.norm_first,
        )

    def rewrite(self, graph: Graph, site: str, context: Context) -> Morphism:
        prefix = unused_prefix(graph, f"{site}_deep")
        draft = Draft(graph, site, prefix, self._choices(), context.statistics.get(site))
        FORMS[self.form].make(draft)
        summary = f"insert {self.form} layer after {site}"
        return splice(graph, site, draft.nodes, draft.sizes, draft.fills, context.seed, summary)
