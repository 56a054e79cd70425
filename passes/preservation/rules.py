"""The table of rules: what each coupling does to what is known."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from irgrow.graph import Node
from irgrow.ops import Coupling
from irgrow.passes.preservation.attention import attention
from irgrow.passes.preservation.joins import entrywise, source
from irgrow.passes.preservation.known import Known
from irgrow.passes.preservation.mixing import mixing
from irgrow.passes.preservation.movement import movement
from irgrow.passes.preservation.per_unit import per_unit
from irgrow.passes.preservation.prover import Prover
from irgrow.passes.preservation.statistics import statistics

Rule = Callable[[Prover, Node, Node, list[Known]], Known]

RULES: Mapping[Coupling, Rule] = {
    Coupling.PER_UNIT: per_unit,
    Coupling.MIXING: mixing,
    Coupling.STATISTICS: statistics,
    Coupling.MOVEMENT: movement,
    Coupling.SUM: entrywise,
    Coupling.PRODUCT: entrywise,
    Coupling.ATTENTION: attention,
    Coupling.SOURCE: source,
}
