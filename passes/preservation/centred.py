"""Values whose units always add up to zero, because every layer that makes them was centred; read off the numbers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from irgrow.ops import Coupling
from irgrow.shapes import as_array

if TYPE_CHECKING:
    from irgrow.passes.preservation.prover import Prover

_TOLERANCE = 64 * np.finfo(np.float64).eps


def is_centred(p: Prover, name: str) -> bool:
    """Return whether the mean over the units of an old value is zero for every input, up to rounding in float64."""
    if p.params is None:
        return False
    pending, seen = [name], set()
    while pending:
        node = p.before[pending.pop()]
        if node.name in seen:
            continue
        seen.add(node.name)
        match node.op.coupling:
            case Coupling.SUM:
                pending.extend(node.inputs)
            case Coupling.MIXING if node.op.mixes(s := p.before.signatures[node.name]) == s.output.unit_dim:
                if not all(_centred_rows(p, node.name, spec.name, 0) for spec in p.before.specs[node.name]):
                    return False
            case Coupling.SOURCE if node.inputs:
                if not all(_centred_rows(p, node.name, spec.name, -1) for spec in p.before.specs[node.name]):
                    return False
            case _:
                if not node.op.facts.additive:
                    return False
                if not all(_centred_rows(p, node.name, spec.name, -1) for spec in p.before.specs[node.name]):
                    return False
                pending.extend(node.inputs)
    return True


def _centred_rows(p: Prover, node: str, local: str, dim: int) -> bool:
    """Return whether a parameter adds up to zero along the dimension of its units."""
    assert p.params is not None
    value = as_array(p.params[p.before.param_name(node, local)]).astype(np.float64)
    largest = float(np.abs(value).max(initial=0.0))
    return bool((np.abs(value.mean(dim)) <= _TOLERANCE * largest).all())
