"""What readers take over: entries that are added to biases and weights in exchange for units that go or come."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from irgrow.axes import NEW, index_map
from irgrow.edits import Impossible
from irgrow.fills import ZERO, Given
from irgrow.graph import Graph
from irgrow.morphism import Compute, Morphism, Select, source_of
from irgrow.ops import MASK, Coupling
from irgrow.passes.analyses.linear import Params, pads
from irgrow.passes.preservation import Prover
from irgrow.passes.preservation.sums import Numbers, expanded

Plus = Mapping[str, Compute | Given]


def taken_over(morphism: Morphism, plus: Plus) -> Morphism:
    """Return a rewrite with something added to parameters it carries over, by their full names; proved by numbers."""
    transfers = dict(morphism.transfers)
    for name, more in plus.items():
        transfer = transfers[name]
        if not isinstance(transfer, Select):
            rank = len(morphism.after.param_shape(name))
            transfer = Select(source_of(transfer) or name, (None,) * rank, (ZERO,) * rank)
        transfers[name] = replace(transfer, plus=more)
    return replace(morphism, transfers=transfers, by_numbers=True)


def agreed(plus: dict[str, Compute | Given], name: str, more: Compute | Given) -> None:
    """Note what is added to a parameter.

    Raises:
        Impossible: It is tied, and its uses ask for different things.
    """
    if plus.setdefault(name, more) != more:
        raise Impossible(f"`{name}` is tied and cannot take over what differs between its uses")


def why_no_bias(graph: Graph, node: str) -> str | None:
    """Return why the bias of a layer cannot take over what it reads of units that are constants, or `None`."""
    s = graph.signatures[node]
    if not any(spec.name == "bias" for spec in graph.specs[node]):
        return f"`{node}` has no bias to take over what it reads of them"
    if pads(graph, node):
        return f"`{node}` reads zeros beside the border, where the constant is missing"
    return f"`{node}` reads them in groups" if "groups" in s.axes and graph.size(s.axes["groups"]) > 1 else None


def read_by(graph: Graph, node: str, local: str = "weight") -> tuple[str, ...]:
    """Return the full names of a weight and, if it has one, its mask, as the rules want them."""
    names = (local, MASK) if any(spec.name == MASK for spec in graph.specs[node]) else (local,)
    return tuple(graph.param_name(node, name) for name in names)


def rows_of(morphism: Morphism, name: str) -> tuple[tuple[str, tuple[int, ...]], ...]:
    """Return, as an option of a rule, which rows of a parameter stay, if some go."""
    transfer = morphism.transfers[name]
    m = transfer.maps[0] if isinstance(transfer, Select) else None
    return () if m is None else (("rows", tuple(m.tolist())),)


def not_exact(morphism: Morphism, params: Params) -> str | None:
    """Return why a rewrite is not proved to leave the function as it is, or `None` if it is."""
    prover = Prover(morphism, params)
    prover.run()
    verdict = prover.verdict()
    return None if verdict.preserves else getattr(verdict, "reason", str(verdict))


def absorbed(morphism: Morphism, params: Params) -> Morphism:
    """Return a growth with what is read of new constant units taken off the biases of those that read them.

    The new columns are the ones this rewrite draws, so the numbers are known: b - W f(0), where W are the columns of
    the new units and f(0) is what they are.

    Raises:
        Impossible: New units are no constants where they are read, or a reader has nothing to make up for them with.
    """
    before, after = morphism.before, morphism.after
    found = Numbers(morphism, params)
    plus: dict[str, Compute | Given] = {}
    for node in before:
        if node.op.coupling is not Coupling.MIXING:
            continue
        s = before.signatures[node.name]
        m = index_map(s.inputs[0].dims[node.op.mixes(s)], morphism.edits, before.widths)
        if m is None or not (m == NEW).any() or node.op.mixes(s) != s.inputs[0].unit_dim:
            continue
        new = np.flatnonzero(m == NEW)
        columns = expanded(after, found.new, node.name)[0][:, new].sum(2)
        given = found.new_constants[False].of(node.inputs[0])[new]
        read = (columns != 0).any(0)
        if np.isnan(given[read]).any():
            raise Impossible(f"the new units are no constants where `{node.name}` reads them")
        amount = columns[:, read] @ given[read]
        if not given[read].any():
            continue
        if (why := why_no_bias(before, node.name)) is not None:
            raise Impossible(why)
        agreed(plus, after.param_name(node.name, "bias"), Given(-amount))
    return taken_over(morphism, plus)
