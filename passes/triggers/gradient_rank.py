"""Growth by the auxiliary gradient: a layer gets the units that would learn faster than those it has.

T = #{i : sigma_i(A_l) >= c sum_m (||dL/dw_m_in|| + ||dL/dw_m_out||)}, A_l = dL/dZ_{l+1} H_{l-1}^T the gradient that
the fan-in of new units would receive for every fan-out (`irgrow.passes.analyses.auxiliary`), the sum over the units of
the layer, all of the same training step and its mean loss; never more than the outputs of the layers that read the
units (Maile 2023, eq. 32). The text has c = 1 and >, the authors' code c = 1/2 and >=: `factor` and `strict`. The norms
are 2-norms of fan-in and fan-out weights, biases left out. On a residual stream A_l is that of the first layer that
writes to it, of all layers that read it, one above the other. Where no unit receives anything, every direction in which
a new one would counts. Units that run in several lanes, such as one for every head, are counted by what all their lanes
receive together (`Bridged.directions_above`).

Cost. Forming A_l and counting its singular values takes longer than the step itself, so A_l is formed only if it could
hold a singular value that large. No singular value exceeds the Frobenius norm; that norm is estimated from what
`sketch` new units with random fan-outs would receive (`Bridged.estimate`), and if 1.5 times the estimate stays below
the threshold the count is taken to be 0; if not, so it is if 1.25 times the estimate from four times as many does. What
is certain: a count that is not 0 is exact, and with `sketch = 0` every count is. What is an estimate: that the count is
0. For `sketch = 8` and A_l of rank one, the worst, a singular value equal to the threshold is missed at a chance of
at most 0.17, one twice as large at 1.2e-3, one four times as large at 6e-6 (chi-squared with 8 degrees of freedom below
3.56, 0.89 and 0.22, and with 32 below 20.5, 5.1 and 1.3); the next step asks again.

What was recorded is of the network that made the step: if the layer before has grown since, the count is that without
its new units, which nothing reads yet.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite

from irgrow.attributes import textual_name
from irgrow.edits import Impossible
from irgrow.errors import OptionError
from irgrow.graph import Graph
from irgrow.ops import flag, integer, real, word
from irgrow.passes.analyses.auxiliary import BORDERS
from irgrow.passes.analyses.bridge import bridge
from irgrow.passes.records.bridge import Bridged, Bridging
from irgrow.passes.triggers.base import Memory, Trigger, View

LOOKS = ((1, 1.5), (4, 1.25))
"""Looks before anything is formed: times how many fan-outs, and by what factor the estimate must stay below."""


@dataclass(frozen=True)
class GradientRank(Trigger):
    """Add as many units as the auxiliary gradient has singular values above the gradients of the units there are.

    Args:
        factor: What the sum of these gradients' norms is multiplied with: 1 in the text, 0.5 in the authors' code.
        strict: Whether a singular value must exceed that; or may equal it, as in the code.
        borders: `exact`, the gradient of the product of two kernels; or `kernel`, that of the printed bridge kernel.
        sketch: Random fan-outs tried to see that there is nothing to count; 0 to count always.

    >>> str(GradientRank(0.5))
    'gradient_rank(factor = 0.5)'
    """

    factor: float = real(1.0, low=0.0, open_low=True)
    strict: bool = flag(False)
    borders: str = word(*BORDERS, default="exact")
    sketch: int = integer(8, low=0)

    def watches(self, graph: Graph, site: str) -> tuple[Bridging, ...]:
        try:
            bridge(graph, site)
        except Impossible as impossible:
            raise OptionError(f"`{textual_name(type(self))}` at `{site}`: {impossible.reason}") from None
        return (Bridging(axis=site, borders=self.borders),)

    def wanted(self, view: View, site: str, memory: Memory) -> int:
        record: Bridged | None = view.recorded.get(Bridging(axis=site, borders=self.borders).key)
        if record is None:
            return 0
        if record.frozen:
            who = f"`{textual_name(type(self))}` at `{site}`"
            raise OptionError(f"{who} compares with the gradient of `{record.frozen[0]}`, which is frozen")
        if not record.ready:
            return 0
        try:
            return self._count(record, site)
        except Impossible as impossible:
            raise OptionError(f"`{textual_name(type(self))}` at `{site}`: {impossible.reason}") from None

    def _count(self, record: Bridged, site: str) -> int:
        threshold = self.factor * record.gradients()
        if not isfinite(threshold):
            raise Impossible("the gradients of its weights are not finite")
        for times, margin in LOOKS if self.sketch else ():
            if margin * record.estimate(times * self.sketch) < threshold:
                return 0
        return min(record.outputs, record.directions_above(threshold, self.strict))
