"""What is taken out leaves the function as it is if putting it back, with the numbers it has, does.

The proof goes the other way round: from the small network to the large one, the parameters that went being new ones
with given numbers. What is proved of that insertion holds for any parameters of the small network, so also for those it
has.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from irgrow.fills import Given, Normal
from irgrow.morphism import Keep, Morphism, New, Transfer
from irgrow.shapes import as_array

_ANYTHING = New(Normal())
"""Numbers of which nothing is known."""


def put_back(morphism: Morphism, params: Mapping[str, Any] | None) -> Morphism | None:
    """Return the rewrite that puts back what one takes out; `None` if it does anything else.

    Args:
        morphism: A rewrite.
        params: The parameters before it; without them those that went may have been anything.
    """
    before, after = morphism.before, morphism.after
    if morphism.edits or any(t != Keep(name) for name, t in morphism.transfers.items()):
        return None
    if any(before.sizes.get(axis) != size for axis, size in after.sizes.items()):
        return None
    for node in after:
        old = before.by_name.get(node.name)
        if old is None or old.op != node.op or before.own_params[node.name] != after.own_params[node.name]:
            return None
    transfers: dict[str, Transfer] = {}
    for name in before.params:
        if name in after.params:
            transfers[name] = Keep(name)
        elif params is None:
            transfers[name] = _ANYTHING
        else:
            value = params[name]
            transfers[name] = New(Given(as_array(value.double() if hasattr(value, "double") else value)))
    return Morphism(after, before, transfers, {}, morphism.seed, f"put back: {morphism.summary}")
