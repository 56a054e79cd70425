"""Growth by effective dimension since the last change: DYNO's counterpart of `dyno_prune`.

TRIG_GROW = max(0, floor(M (phi - min((1 + delta) phi*, cap)))), phi and phi* as for `dyno_prune` (Maile 2023, eq. 39,
printed with min and without the cap). Since phi is at most 1, a layer with phi* above 1 / (1 + delta) could never grow:
`cap = saturated` is 1 - 1/M, so that a layer that uses all its dimensions wants one unit; `cap = none` is the text, and
`most` a share, such as the 0.95 of a remark in the authors' code. A rounding error does not eat the unit: a difference
within 1e-9 of an integer is it.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import floor, inf

from irgrow.errors import OptionError
from irgrow.ops import real, word
from irgrow.passes.triggers.base import Memory, View, entries
from irgrow.passes.triggers.dyno_prune import Dyno


@dataclass(frozen=True)
class DynoGrow(Dyno):
    """Add units because the activity has gained dimensions, or has all of them.

    Args:
        delta: By what share the dimension must rise above that after the last change.
        epsilon: Singular values up to it count as zero.
        baseline: The dimension, as a share of the width, that a layer is taken to have had before it is first
            changed; what is measured at the first look if it is not given.
        samples: Columns of activity kept; at least twice the units are.
        scale: What the activity is divided by the root of: the number of `columns`, or of `neurons` as in NeurOps.
        cap: Above which dimension a layer grows whatever it was: `saturated`, all but one unit; or `none`.
        most: That dimension as a share of the width, instead of a `cap`.

    Raises:
        OptionError: `most` was given and `cap` is `none`.

    >>> str(DynoGrow(cap="none"))
    'dyno_grow(cap = none)'
    """

    cap: str = word("saturated", "none", default="saturated")
    most: float | None = real(None, low=0.0, high=1.0, open_low=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.most is not None and self.cap == "none":
            raise OptionError("`most` is a cap and `cap = none` says there is none; give one of them")

    def wanted(self, view: View, site: str, memory: Memory) -> int:
        found = self.look(view, site, memory)
        if found is None:
            return 0
        rank, width, before = found
        if self.most is not None:
            ceiling = self.most * width
        else:
            ceiling = width - 1 if self.cap == "saturated" else inf
        gained = max(0, floor(rank - min((1.0 + self.delta) * before, ceiling) + 1e-9))
        return -(-gained // entries(view, site, width))
