"""Grow units: more of them on an axis, starting with zero fan-out, or with zero fan-in where that can live.

With zero fan-out the new units' weights into every reader are zero, so whatever they compute, the function is what it
was; their fan-in is random, so the fan-out receives a gradient at once and the fan-in one step later. With zero fan-in
the new units are zero themselves, if their activation maps zero to zero; fan-in and bias then receive the gradient,
unless the activation's slope at zero is zero (ReLU) or a batch norm stands in between, which is refused. Where the
activation gives f(0) != 0 (sigmoid, softplus) the new units are constants; with `absorb` the biases of those that read
them start at b - W f(0), which makes it exact, and where that cannot be it is refused.

Where the units of a residual stream are normalised together, zero fan-in is the way: a root-mean-square norm sees zeros
join, and multiplying its old gains by sqrt(d / d') and its eps by d / d' makes up for them exactly. A layer norm needs
new units that are the mean of the old ones (`zero = mean`: every new row of what writes to the stream is the mean of
the old rows), which it centres to zero; or zeros, where the stream is centred already. What reads the norm is random.

On the head dimension of attention nothing reads the new entries of queries and keys but their product, so the new rows
of the query are zero. Exact in training and evaluation up to rounding; where units are normalised together, or a reader
has no weights (a sum, a product with another stream), the verdict says why it is not.

Source: Maile (2023), 3.1 and 6.2; Chen et al. (2016), Net2Net.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, cast

from irgrow.edits import Edits, Impossible, growth
from irgrow.errors import OptionError
from irgrow.fills import ZERO, Fill, Masked, Mean, XavierUniform
from irgrow.graph import Graph
from irgrow.morphism import Morphism
from irgrow.ops import Op, flag, integer, plan, site, word
from irgrow.passes.absorbing import absorbed, not_exact
from irgrow.passes.analyses.beside import added_along, contracted, passed_on
from irgrow.passes.base import Context, Pass
from irgrow.passes.initializers.base import Initializer, Newborns
from irgrow.passes.initializers.random import Random
from irgrow.passes.preservation import Prover
from irgrow.passes.preservation.liveness import normalised_zeros
from irgrow.passes.primitives import FillOf, by_role, resize
from irgrow.passes.sharing import filled_up, regained

if TYPE_CHECKING:
    from irgrow.passes.records.base import Watch
    from irgrow.passes.triggers.base import View
    from irgrow.probing import Probed


@dataclass(frozen=True)
class GrowUnits(Pass):
    """Add `count` units to an axis.

    Args:
        axis: An axis, or a node that carries it.
        count: How many units more.
        init: How the side that is not zero starts.
        zero: The side that starts at zero: `fan_out` or `fan_in`; with `mean` units start as the mean of the old ones,
            which a layer norm makes zero of; with `neither` both sides start as `init` says. Unless given it is
            `fan_out`, or what the initializer says, as `gradmax` does.
        absorb: Whether biases make up for new units with zero fan-in that are not zero.

    >>> str(GrowUnits("f1", 8))
    'grow_units(f1, 8)'
    """

    counted: ClassVar[bool] = True

    axis: str = site("")
    count: int = integer(1, high=1 << 24)
    init: Initializer = plan("initializer", Random())
    zero: str = word("auto", "fan_out", "fan_in", "mean", "neither", default="auto")
    absorb: bool = flag(False)

    @property
    def site(self) -> str:
        return self.axis

    def at(self, site: str, units: int) -> GrowUnits:
        return replace(self, axis=site, count=units)

    @property
    def contradiction(self) -> str | None:
        if (problem := super().contradiction) is not None:
            return problem
        if self.absorb and self.zero != "fan_in":
            return "`absorb` makes up for units with zero fan-in; it goes with `zero = fan_in`"
        if self.init.zero is not None and self.zero not in ("auto", self.init.zero):
            return f"`{self.init}` says itself which side of new units is zero; leave `zero = {self.zero}` out"
        return None

    def match(self, graph: Graph, site: str) -> str | None:
        if (problem := self.contradiction) is not None:
            return problem
        try:
            edits = growth(graph, graph.axis(site), self.count)
        except (Impossible, OptionError) as reason:
            return str(reason)
        return self.init.match(graph, edits)

    def needs(self, graph: Graph, site: str) -> tuple[str, ...]:
        if self.init.zero is None and self.zero in ("fan_in", "mean"):
            return ()
        return self.init.needs(graph, growth(graph, graph.axis(site), self.count))

    def batch_size(self, graph: Graph, site: str) -> int:
        if self.match(graph, site) is not None or not self.needs(graph, site) or self.init.wants_gradients:
            return 0
        return self.init.batch_size(graph, growth(graph, graph.axis(site), self.count))

    def wants_gradients(self, graph: Graph, site: str) -> bool:
        return self.init.wants_gradients

    def watches(self, graph: Graph, site: str) -> tuple[Watch, ...]:
        if self.match(graph, site) is not None:
            return ()
        return self.init.watches(graph, growth(graph, graph.axis(site), self.count))

    def recorded(self, view: View) -> Probed | None:
        if self.match(view.graph, self.site) is not None:
            return None
        edits = growth(view.graph, view.graph.axis(self.site), self.count)
        return self.init.recorded(view.graph, edits, view.recorded)

    def rewrite(self, graph: Graph, site: str, context: Context) -> Morphism:
        edits = growth(graph, graph.axis(site), self.count)
        newborns = Newborns(graph, edits, context)
        given = self.init.given(newborns)
        zero = self.init.zero or ("fan_out" if self.zero == "auto" else self.zero)
        made = self._on_stream(newborns, given) if zero in ("fan_in", "mean") else self._beside(newborns, given, zero)
        return replace(self.init.finished(newborns, made), notes=tuple(newborns.notes))

    def _beside(self, newborns: Newborns, given: Mapping[str, Fill], zero: str) -> Morphism:
        """Grow with units that compute something and, unless `zero` is `neither`, are not read yet."""
        graph, edits, context = newborns.graph, newborns.edits, newborns.context
        chosen = self.init.chosen(newborns)
        reads = ZERO if zero == "fan_out" else self.init.default()
        makes = self.init.default()
        morphism = self._resize(graph, edits, context, by_role(makes, reads, ZERO, chosen, given))
        morphism = replace(morphism, by_numbers=self.init.by_numbers)
        if zero == "neither" or not contracted(graph, edits):
            return morphism
        prover = Prover(morphism)
        prover.run()
        if not prover.wishes:
            return morphism
        for node, rows in prover.wishes.items():
            for spec in graph.specs[node]:
                name = graph.param_name(node, spec.name)
                chosen[name] = Masked(chosen.get(name, makes), tuple(sorted(rows)))
        return self._resize(graph, edits, context, by_role(makes, ZERO, ZERO, chosen, given))

    def _on_stream(self, newborns: Newborns, given: Mapping[str, Fill]) -> Morphism:
        """Grow with units that are zero, or the mean of the old ones, and with norms that make up for them."""
        graph, edits, context = newborns.graph, newborns.edits, newborns.context
        made: Fill = Mean() if self.zero == "mean" else ZERO
        chosen = dict.fromkeys(passed_on(graph, edits), cast(Fill, XavierUniform(match=True)))
        chosen |= dict.fromkeys(added_along(graph, edits), made)
        norms = filled_up(graph, edits)
        ops = {name: op for name, (op, _) in norms.items()}
        fills = by_role(made, self.init.columns(), made, chosen, given)
        morphism = regained(self._resize(graph, edits, context, fills, ops), norms)
        return self._absorbing(self._checked(morphism), context) if self.absorb else self._checked(morphism)

    def _resize(
        self, graph: Graph, edits: Edits, context: Context, fills: FillOf, ops: Mapping[str, Op] | None = None
    ) -> Morphism:
        return resize(graph, edits, fills, context.seed, f"grow {self.axis} by {self.count}", ops)

    def _absorbing(self, morphism: Morphism, context: Context) -> Morphism:
        """Let biases take over what is read of new units that are constants; nothing less than exact will do."""
        if context.params is None:
            raise Impossible("`absorb` needs the parameters of the network")
        made = absorbed(morphism, context.params)
        if (why := not_exact(made, context.params)) is not None:
            raise Impossible(f"the new units cannot be absorbed: {why}")
        return made

    def _checked(self, morphism: Morphism) -> Morphism:
        """Refuse a zero fan-in that is not zero where it is read, or whose first step would be a leap."""
        prover = Prover(morphism)
        prover.run()
        if norm := normalised_zeros(prover):
            raise Impossible(f"zero fan-in behind `{norm}`: its variance would be zero; use zero fan-out")
        return morphism
