"""Applying transfers to tensors: weights, buffers, gradients, optimizer slots and averages by the same maps."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from enum import Enum
from functools import partial
from itertools import product
from math import prod

import numpy as np
import torch
from torch import Tensor

from irgrow.axes import NEW, Layout
from irgrow.computing import compute
from irgrow.errors import CompilerBug
from irgrow.fills import ZERO, Constant, Fill, Given, generator
from irgrow.morphism import (
    Chain,
    Compute,
    Cut,
    Gather,
    Keep,
    Morphism,
    New,
    Select,
    Step,
    Transfer,
    predecessor,
    source_of,
)
from irgrow.shapes import Array

Draws = Callable[[], np.random.Generator]
"""Makes the generator of a tensor's random entries; most tensors have none."""


class Kind(Enum):
    """What a tensor holds, which says how it follows a rewrite."""

    VALUE = "value"  # the parameter itself, or an average of it: scaled as the value, filled as the parameter
    GRADIENT = "gradient"  # linear in the gradient: scaled as the gradient
    SQUARE = "square"  # quadratic in the gradient: scaled by its square
    MAGNITUDE = "magnitude"  # absolute value of the gradient: scaled by the absolute value
    FREE = "free"  # does not scale with the gradient: step sizes, normalised updates


def move(
    transfer: Transfer,
    old: Mapping[str, Tensor],
    shape: tuple[int, ...],
    name: str,
    seed: int,
    kind: Kind = Kind.VALUE,
    fill: Fill | None = None,
    like: Tensor | None = None,
) -> Tensor:
    """Return the tensor a transfer makes.

    Args:
        transfer: Where it comes from.
        old: Old tensors by parameter name; for a slot, that slot of every parameter.
        shape: The new shape.
        name: The new parameter, part of the seed of random fills.
        seed: The seed of the rewrite.
        kind: What the tensor holds.
        fill: What new entries are filled with, instead of the transfer's own fills.
        like: Whose device and precision a fresh tensor takes.
    """
    match transfer:
        case Keep(source):
            return old[source]
        case Select():
            made = _select(transfer, old[transfer.name], shape, partial(generator, seed, name), kind, fill)
            if transfer.plus is not None and kind is Kind.VALUE:
                plus = transfer.plus
                more = torch.from_numpy(plus.values) if isinstance(plus, Given) else _computed(plus, old)
                made = made + more.to(made)
            return made
        case Gather():
            return _gather(transfer, old[transfer.name], partial(generator, seed, name), fill)
        case New():
            drawn = (fill or transfer.fill).draw(shape, generator(seed, name), transfer.fan_in)
            tensor = torch.from_numpy(np.asarray(drawn, order="C"))
            return tensor if like is None else tensor.to(like)
        case Cut(source, kept):
            return old[source].masked_fill(torch.from_numpy(~kept).to(old[source].device), 0)
        case Compute():
            return _computed(transfer, old)
        case Chain(steps):
            return _chained(steps, old, kind, fill, like)
    raise CompilerBug(f"unknown transfer {transfer}")


def _chained(
    steps: tuple[Step, ...], old: Mapping[str, Tensor], kind: Kind, fill: Fill | None, like: Tensor | None
) -> Tensor:
    """Apply steps one after the other; beside the tensor it continues, a step reads what stood in front of it."""
    made: Tensor | None = None
    for step in steps:
        reads = step.reads if kind is Kind.VALUE else ()
        seen = {r.name: move(r.transfer, old, r.shape, r.name, r.seed, like=like) for r in reads}
        source = source_of(step.transfer)
        if made is not None and source is not None:
            seen[source] = made
        made = move(step.transfer, {**old, **seen} if seen else old, step.shape, step.name, step.seed, kind, fill, like)
    assert made is not None, "a chain has a step"
    return made


def _select(t: Select, old: Tensor, shape: tuple[int, ...], rng: Draws, kind: Kind, fill: Fill | None) -> Tensor:
    new = _gathered(t, old)
    for dim in range(len(t.maps)):
        factor = t.factor(dim) if kind is Kind.VALUE else t.grad_factor(dim)
        if factor is not None and kind is not Kind.FREE:
            new = new * _along(_powered(factor, kind), dim, new)
    if kind is Kind.VALUE and any(t.noise):
        new = _parted(t, new, old, rng)
    _fill(t, new, old, rng, fill)
    if shape and tuple(new.shape) != shape:
        raise CompilerBug(f"`{t.name}` was to have shape {list(shape)}, its maps give {list(new.shape)}")
    return new


def _computed(t: Compute, old: Mapping[str, Tensor]) -> Tensor:
    return compute(t.rule, t.names, t.options, old)


def _parted(t: Select, new: Tensor, old: Tensor, rng: Draws) -> Tensor:
    """Add noise to the copies of an entry; it sums to zero over the copies of one."""
    draws = rng()
    draw = _uniform if t.drawn == "uniform" else _normal
    for dim, (size, m) in enumerate(zip(t.noise, t.maps, strict=True)):
        if not size or m is None:
            continue
        noise = np.zeros(tuple(new.shape))
        scales = size * _sizes(old, dim, t.drawn)
        for unit in np.unique(m[m != NEW]):
            copies = np.flatnonzero(m == unit)
            if len(copies) > 1:
                place = (slice(None),) * dim + (copies,)
                noise[place] = draw(draws, float(scales[unit]), noise[place].shape, dim)
        new = new + torch.from_numpy(noise).to(new)
    return new


def _sizes(old: Tensor, dim: int, drawn: str) -> Array:
    """Return what the noise of every unit is relative to: its norm, or the root mean square of all entries."""
    if not old.numel():
        return np.zeros(old.shape[dim])
    squares = old.detach().double().pow(2).movedim(dim, 0).flatten(1)
    found = squares.sum(1).sqrt() if drawn == "uniform" else squares.mean().sqrt().expand(len(squares))
    return np.asarray(found.cpu().numpy())


def _normal(draws: np.random.Generator, scale: float, shape: tuple[int, ...], dim: int) -> Array:
    """Return noise for the copies of a unit that sums to zero over them."""
    part = draws.normal(0.0, scale, shape)
    return part - part.mean(dim, keepdims=True)


def _uniform(draws: np.random.Generator, scale: float, shape: tuple[int, ...], dim: int) -> Array:
    """Return noise of this length for the copies of a unit, in pairs of both signs; of an odd number one stays."""
    part = np.zeros(shape)
    lines = np.moveaxis(part, dim, 0)
    for first in range(0, len(lines) - 1, 2):
        line = draws.uniform(-1.0, 1.0, lines.shape[1:])
        lines[first] = line * (scale / float(np.sqrt((line**2).sum())))
        lines[first + 1] = -lines[first]
    return part


_MOST_BLOCKS = 8


def _gathered(t: Select, old: Tensor) -> Tensor:
    """Return the old entries at their new places; what stands at new ones is undefined.

    Units that keep their order are copied in blocks, which is what appending and most pruning come to; an index is
    only gathered where it is torn.
    """
    edited = [(dim, found) for dim, found in enumerate(t.layouts) if found is not None]
    if prod(len(found.blocks) for _, found in edited) > _MOST_BLOCKS:
        for dim, m in enumerate(t.maps):
            if m is not None:
                old = old.index_select(dim, torch.from_numpy(np.maximum(m, 0)).to(old.device))
        return old
    shape = list(old.shape)
    for dim, found in edited:
        shape[dim] = found.size
    new = old.new_empty(shape)
    for blocks in product(*(found.blocks for _, found in edited)):
        target, source = new, old
        for (dim, found), (at, start, length) in zip(edited, blocks, strict=True):
            target = target if length == found.size else target.narrow(dim, at, length)
            source = source if length == old.shape[dim] else source.narrow(dim, start, length)
        target.copy_(source)
    return new


def put(tensor: Tensor, dim: int, place: Layout, values: Tensor | float) -> None:
    """Write the new entries along a dimension: a number, or a tensor that is spread over them."""
    if place.run is not None:
        part = tensor.narrow(dim, *place.run)
        part.copy_(values) if isinstance(values, Tensor) else part.fill_(values)
        return
    index = torch.from_numpy(place.added).to(tensor.device)
    if isinstance(values, Tensor):
        shape = (*tensor.shape[:dim], len(index), *tensor.shape[dim + 1 :])
        tensor.index_copy_(dim, index, values.to(tensor).expand(shape))
    else:
        tensor.index_fill_(dim, index, values)


def _powered(factor: np.ndarray, kind: Kind) -> np.ndarray:
    if kind is Kind.SQUARE:
        return factor**2
    return np.abs(factor) if kind is Kind.MAGNITUDE else factor


def _along(values: np.ndarray, dim: int, like: Tensor) -> Tensor:
    shape = [1] * like.ndim
    shape[dim] = -1
    return torch.from_numpy(values.reshape(shape)).to(like)


def _fill(t: Select, new: Tensor, old: Tensor, rng: Draws, fill: Fill | None) -> None:
    """Write the new entries: random ones first, zeros last, because zero wins where two dimensions are new."""
    draws: np.random.Generator | None = None
    jobs = [(fill or t.fills[dim], dim) for dim in t.added]
    for chosen, dim in sorted(jobs, key=lambda job: (job[0].is_zero, job[1])):
        place = t.added[dim]
        if isinstance(chosen, Constant):
            put(new, dim, place, chosen.value)
            continue
        draws = draws or rng()
        slab = chosen.slab(tuple(new.shape), dim, place.added, draws)
        if chosen.averages:
            kept = torch.from_numpy(np.setdiff1d(np.arange(place.size), place.added)).to(new.device)
            mean = new.detach().index_select(dim, kept).double().mean(dim, keepdim=True)
            slab = np.broadcast_to(mean.cpu().numpy(), slab.shape).copy()
        if chosen.matched:
            slab = slab * _match(slab, old, dim)
        put(new, dim, place, torch.from_numpy(np.ascontiguousarray(slab)))


def _match(slab: np.ndarray, old: Tensor, dim: int) -> np.ndarray:
    """Return factors that give new units along `dim` the mean norm of the old ones."""
    over = tuple(d for d in range(old.ndim) if d != dim)
    target = float(_norms(old, dim).mean()) if prod(old.shape) else 0.0
    norms = np.sqrt((slab**2).sum(over, keepdims=True))
    return np.where(norms > 0, target / np.where(norms > 0, norms, 1.0), 1.0) if target > 0 else np.ones_like(norms)


_PART = 1 << 18
"""How many numbers are turned into float64 at once."""

_GROUP = 128
"""How many squares are added up in float32."""

_LEAST = 1e-12


def _norms(old: Tensor, dim: int) -> Tensor:
    """Return the norm of every unit along a dimension, added up in float64; of a vector that of the whole.

    `torch.linalg.vector_norm` takes one number at a time where it has to convert them, which is several times as slow.
    So large rows of float32 are added up in groups first, each as short as that it is added in one order whatever the
    number of threads.
    """
    over = tuple(d for d in range(old.ndim) if d != dim)
    if old.dtype == torch.float64:
        return torch.linalg.vector_norm(old, dim=over)
    if dim == 0 and old.dtype == torch.float32 and old.is_contiguous() and old.numel() % (len(old) * _GROUP) == 0:
        groups = torch.linalg.vector_norm(old.view(-1, _GROUP), dim=1)
        if _LEAST < float(groups.max()) < 1 / _LEAST:  # else squares may have left the range of float32
            return groups.view(len(old), -1).double().square_().sum(1).sqrt_()
    parts = old.split(max(1, _PART * len(old) // old.numel()))
    room = torch.empty(parts[0].shape, dtype=torch.float64, device=old.device)
    squares = [room[: len(part)].copy_(part).square_().sum(over) for part in parts]
    total = torch.cat(squares) if dim == 0 and over else torch.stack(squares).sum(0)
    return total.sqrt_()


def _gather(t: Gather, old: Tensor, rng: Draws, fill: Fill | None) -> Tensor:
    flat = old.reshape(-1)[torch.from_numpy(np.where(t.index == NEW, 0, t.index)).to(old.device)]
    added = np.flatnonzero(t.index == NEW)
    chosen = fill or t.fill
    if added.size:
        values = 0 if chosen == ZERO else torch.from_numpy(chosen.draw((added.size,), rng())).to(old)
        flat[torch.from_numpy(added).to(old.device)] = values
    return flat.reshape(t.shape)


def carried_params(morphism: Morphism, old: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the parameters of the new graph; kept ones are the same objects, the others new tensors without grad.

    Args:
        morphism: The rewrite.
        old: The old parameters and buffers by full name.
    """
    like = next(iter(old.values()), torch.empty(0))
    found: dict[str, Tensor] = {}
    with torch.no_grad():
        for name, transfer in morphism.transfers.items():
            if isinstance(transfer, Keep):
                found[name] = old[transfer.name]
                continue
            shape = morphism.after.param_shape(name)
            template = _template(transfer, old, like)
            made = move(transfer, old, shape, name, morphism.seed, like=template)
            dtype = torch.int64 if morphism.after.params[name].spec.integer else template.dtype
            found[name] = made.detach().to(device=template.device, dtype=dtype)
    return found


def _template(transfer: Transfer, old: Mapping[str, Tensor], like: Tensor) -> Tensor:
    """Return an old tensor whose device and precision a new one takes."""
    source = predecessor(transfer)
    if source is not None:
        return old[source]
    floats = (t for t in old.values() if t.is_floating_point())
    return next(floats, like)
