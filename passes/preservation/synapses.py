"""Synapses that are switched on or off: the function stays if the effective weights do, number by number."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from irgrow.graph import Graph
from irgrow.morphism import Morphism
from irgrow.ops import MASK


def same_synapses(morphism: Morphism, node: str, params: Mapping[str, Any] | None) -> bool:
    """Return whether weight times mask is, entry by entry, what it was; without the numbers nothing is known."""
    return params is not None and other_synapses(morphism, node, params) == 0


def other_synapses(morphism: Morphism, node: str, params: Mapping[str, Any]) -> int | None:
    """Return how many entries of weight times mask are not what they were; `None` if the shape is another one.

    Numbers that are not finite are other ones: a weight that is infinite, times zero, is not zero.
    """
    import torch

    from irgrow.transfer import move

    before, after = morphism.before, morphism.after
    old = {name: torch.as_tensor(value).detach() for name, value in params.items()}
    new = {}
    for name in _parts(after, node):
        new[name] = move(morphism.transfers[name], old, after.param_shape(name), name, morphism.seed)
    was, now = _effective(before, node, old), _effective(after, node, new)
    return int((now != was).sum()) if now.shape == was.shape else None


def other_weights(morphism: Morphism, node: str, params: Mapping[str, Any] | None) -> str:
    """Say that a node has other weights, and how many of its synapses do if some were switched."""
    masked = any(spec.name == MASK for graph in (morphism.before, morphism.after) for spec in graph.specs[node])
    if not masked or params is None or not (count := other_synapses(morphism, node, params)):
        return f"`{node}` has other weights"
    return (
        f"{count} synapses of `{node}` have other weights" if count > 1 else f"a synapse of `{node}` has another weight"
    )


def _parts(graph: Graph, node: str) -> list[str]:
    """Return the full names of the weight and, if it has one, the mask of a node."""
    known = {spec.name for spec in graph.specs[node]}
    return [graph.param_name(node, local) for local in ("weight", MASK) if local in known]


def _effective(graph: Graph, node: str, tensors: Mapping[str, Any]) -> Any:
    weight, *mask = (tensors[name] for name in _parts(graph, node))
    return weight * mask[0].to(weight) if mask else weight
