"""Synapses that are switched on or off: the function stays if the effective weights do, number by number."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from irgrow.morphism import Keep, Morphism
from irgrow.ops import MASK


def same_synapses(morphism: Morphism, node: str, params: Mapping[str, Any] | None) -> bool:
    """Return whether weight times mask is, entry by entry, what it was; without the numbers nothing is known."""
    if params is None:
        return False
    import torch

    from irgrow.transfer import move

    old = {name: torch.as_tensor(value) for name, value in params.items()}
    before, after = morphism.before, morphism.after
    weight, mask = before.param_name(node, "weight"), before.param_name(node, MASK)
    was = old[weight] * old[mask] if mask in old else old[weight]
    found = []
    for local in ("weight", MASK):
        name = after.param_name(node, local)
        if name not in after.params:
            continue
        transfer = morphism.transfers[name]
        moved = old[transfer.name] if isinstance(transfer, Keep) else None
        if moved is None:
            moved = move(transfer, old, after.param_shape(name), name, morphism.seed)
        found.append(moved)
    now = found[0] * found[1].to(found[0]) if len(found) > 1 else found[0]
    return now.shape == was.shape and bool((now == was).all())
