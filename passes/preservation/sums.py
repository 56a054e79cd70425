"""Weighted sums compared number by number, where units that went, or came, are constants or copies of others.

A row of the old layer is brought to a form that speaks only of units that are nobody's copy and no constant: the
column of a copy, times its multiple, is added to that of the unit it copies, and what is read of constants goes to the
bias (at the border of a padded convolution a constant is not read, so there it stays apart, by kernel position). The
row of the new layer is brought to the same form. If the two forms agree, so do the sums, whatever rule made the new
numbers. A wrong rule, or a right one with wrong units or values, makes other numbers and proves nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from irgrow.axes import NEW, IndexMap, in_full
from irgrow.graph import Graph, Node
from irgrow.morphism import Keep, Morphism, Select
from irgrow.passes.analyses.constants import Constants
from irgrow.passes.analyses.copies import Copies
from irgrow.passes.analyses.linear import Params, pads, weights
from irgrow.passes.preservation.blocks import rounding
from irgrow.passes.preservation.known import ANY, SAME, ZERO, Known
from irgrow.shapes import Array

if TYPE_CHECKING:
    from irgrow.passes.preservation.prover import Prover

_ROUNDINGS = 16
"""How many roundings of a stored number two forms may be apart, relative to the sum of what was added up."""

Flags = NDArray[np.bool_]


class NewParams(Mapping[str, Any]):
    """The parameters a morphism makes of old ones, each when it is asked for."""

    def __init__(self, morphism: Morphism, params: Params) -> None:
        import torch

        self._morphism = morphism
        tensors = {n: v if isinstance(v, torch.Tensor) else torch.as_tensor(np.array(v)) for n, v in params.items()}
        self._old = {name: value.detach() for name, value in tensors.items()}
        self._made: dict[str, Any] = {}

    def __getitem__(self, name: str) -> Any:
        from irgrow.transfer import move

        if name not in self._made:
            like = next((t for t in self._old.values() if t.is_floating_point()), None)
            shape, seed = self._morphism.after.param_shape(name), self._morphism.seed
            self._made[name] = move(self._morphism.transfers[name], self._old, shape, name, seed, like=like)
        return self._made[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._morphism.transfers)

    def __len__(self) -> int:
        return len(self._morphism.transfers)


class Numbers:
    """What is known of the numbers of the old and the new network, in both modes; worked out when it is asked for."""

    def __init__(self, morphism: Morphism, params: Params) -> None:
        self.before, self.after, self.old = morphism.before, morphism.after, params
        self.new = NewParams(morphism, params)
        modes = (False, True)
        self.constants = {evaluation: Constants(self.before, self.old, evaluation) for evaluation in modes}
        self.new_constants = {evaluation: Constants(self.after, self.new, evaluation) for evaluation in modes}
        self.copies = {evaluation: Copies(self.before, self.old, evaluation) for evaluation in modes}


@dataclass(frozen=True)
class _Form:
    """Rows brought to their form: coefficients of units (rows, units, taps), constants (rows, taps), biases (rows,).

    `sizes` holds the sums of the absolute values of what was added up.
    """

    units: Array
    constant: Array
    bias: Array
    sizes: tuple[Array, Array]


def same_by_numbers(p: Prover, node: Node, old: Node, k: Known) -> tuple[Flags, Flags]:
    """Return which rows of a mixing node are the old ones, and which new ones are zero, by their numbers.

    Args:
        p: The prover.
        node: A node that sums over the dimension along which the units of what it reads are told apart.
        old: The node it continues.
        k: What is known of what it reads.
    """
    s = p.before.signatures[node.name]
    dim = old.op.mixes(s)
    axis = s.output.dims[dim]
    m = p.map_of(axis)
    rows = in_full(m, p.size(axis))
    same, zero = np.zeros(len(rows), dtype=bool), np.zeros(len(rows), dtype=bool)
    found = p.numbers
    if found is None or dim != s.inputs[0].unit_dim or bool((k.status == ANY).all()):
        return same, zero
    was, was_bias = expanded(p.before, found.old, node.name)
    if _hopeless(p, node, k, was, found.constants[True].of(old.inputs[0])):
        return same, zero
    now, now_bias = expanded(p.after, found.new, node.name)
    zero = (rows == NEW) & ~(now != 0).any((1, 2)) & (now_bias == 0)
    for evaluation in (False, True) if _depends_on_mode(p.before) else (False,):
        more = _compared(p, node, old, k, rows, (was, was_bias), (now, now_bias), evaluation) & ~same
        p.eval_only |= evaluation and bool(more.any())
        same = same | more
    return same, zero


def _depends_on_mode(graph: Graph) -> bool:
    return any(n.op.facts.stochastic or n.op.facts.batch_statistics for n in graph)


def expanded(graph: Graph, params: Params, node: str) -> tuple[Array, Array]:
    """Return weight (rows, units, taps) and bias (rows,); zeros for units of other groups."""
    w, bias = weights(graph, params, node)
    groups, rows, local, taps = w.shape
    if groups == 1:
        return w[0], bias
    whole = np.zeros((groups, rows, groups, local, taps))
    whole[np.arange(groups), :, np.arange(groups)] = w
    return whole.reshape(groups * rows, groups * local, taps), bias


def _hopeless(p: Prover, node: Node, k: Known, was: Array, constant: Array) -> bool:
    """Whether a unit that is no constant went, was read, and nothing was added to the weights in exchange."""
    transfer = p.morphism.transfers[p.after.param_name(node.name, "weight")]
    if not (isinstance(transfer, Keep) or (isinstance(transfer, Select) and transfer.plus is None)):
        return False
    if any(s is not None for s in getattr(transfer, "scale", ())):
        return False
    lost = np.setdiff1d(np.arange(was.shape[1]), in_full(k.map, was.shape[1]))
    lost = lost[(was[:, lost] != 0).any((0, 2))]
    return bool(np.isnan(constant[lost]).any())


def _compared(
    p: Prover,
    node: Node,
    old: Node,
    k: Known,
    rows: IndexMap,
    was: tuple[Array, Array],
    now: tuple[Array, Array],
    evaluation: bool,
) -> Flags:
    """Return which new rows have the form of the old row they continue."""
    size, width = now[0].shape[1], was[0].shape[1]
    status, factor = k.spread(size), k.factors(size)
    source = in_full(k.map, size)
    carried = (status == SAME) & (source != NEW)
    assert p.numbers is not None
    constant = p.numbers.constants[evaluation].of(old.inputs[0])
    read = (now[0] != 0).any((0, 2))
    fixed = np.where(status == ZERO, 0.0, np.where(carried, factor * constant[np.maximum(source, 0)], np.nan))
    strange = (source == NEW) & ~carried & (status != ZERO) & read
    if strange.any():
        fixed[strange] = p.numbers.new_constants[evaluation].of(node.inputs[0])[strange]
    unknown = ~carried & np.isnan(fixed)
    possible = (rows != NEW) & ~(now[0][:, unknown] != 0).any((1, 2))
    if not possible.any() or (unknown & (source != NEW)).any():  # weights that are zero would get other gradients
        return np.zeros_like(possible)
    here = np.flatnonzero(possible)
    now, was = (now[0][here], now[1][here]), (was[0][rows[here]], was[1][rows[here]])
    every, ones = np.arange(width), np.ones(width)
    fine = _agree(p, node, _form(*was, every, ones, constant, width), _form(*now, source, factor, fixed, width))
    if not fine.all() and _exchanged(p, node):
        alike = p.numbers.copies[evaluation].of(old.inputs[0])
        first, times = alike.first[np.maximum(source, 0)], alike.times[np.maximum(source, 0)]
        first = np.where(carried, first, NEW)
        fine |= _agree(
            p,
            node,
            _form(*was, alike.first, alike.times, constant, width),
            _form(*now, first, factor * times, fixed, width),
        )
    possible[here] = fine
    return possible


def _exchanged(p: Prover, node: Node) -> bool:
    """Whether the weight is more than entries of the old one, so that columns may have taken over others."""
    return p.after.param_name(node.name, "weight") in p.morphism.touched


def _form(weight: Array, bias: Array, unit: IndexMap, times: Array, fixed: Array, width: int) -> _Form:
    """Bring rows to their form.

    Args:
        weight: (rows, units read, taps).
        bias: (rows,).
        unit: Which old unit each unit read is a multiple of.
        times: The multiple.
        fixed: What each unit read always is, NaN if it is no constant.
        width: The number of old units.
    """
    live = np.flatnonzero(np.isnan(fixed) & (unit != NEW))
    settled = np.flatnonzero(~np.isnan(fixed))
    part = weight[:, live] * times[live][:, None]
    units, sizes = (np.zeros((len(weight), width, weight.shape[2])) for _ in range(2))
    first = np.zeros(live.size, dtype=bool)
    first[np.unique(unit[live], return_index=True)[1]] = True
    for found, terms in ((units, part), (sizes, np.abs(part))):
        found[:, unit[live[first]]] = terms[:, first]
        np.add.at(found.swapaxes(0, 1), unit[live[~first]], terms[:, ~first].swapaxes(0, 1))
    constants = weight[:, settled] * fixed[settled][:, None]
    return _Form(units, constants.sum(1), bias, (sizes, np.abs(constants).sum(1)))


def _agree(p: Prover, node: Node, a: _Form, b: _Form) -> Flags:
    """Return for which rows two forms are the same up to rounding."""
    allowed = _ROUNDINGS * rounding(p)
    fine = (np.abs(a.units - b.units) <= allowed * (a.sizes[0] + b.sizes[0])).all((1, 2))
    constant, size = a.constant - b.constant, a.sizes[1] + b.sizes[1]
    bias, bias_size = a.bias - b.bias, np.abs(a.bias) + np.abs(b.bias)
    if pads(p.before, node.name):
        apart = (np.abs(constant) <= allowed * size).all(1) & (np.abs(bias) <= allowed * bias_size)
        return fine & apart
    return fine & (np.abs(constant.sum(1) + bias) <= allowed * (size.sum(1) + bias_size))
