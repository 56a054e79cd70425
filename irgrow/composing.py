"""One rewrite after another as one: for every parameter the steps that lead to it from the old ones.

What comes out is bitwise what doing one after the other gives, on values, gradients and slots. Two selections are
joined only where no number is drawn and no product of factors would be rounded anew; everything else stays a chain. A
step that reads parameters beside the one it continues (a rule of linear algebra, what a bias takes over) keeps with it
how those come about, because the earlier rewrite may have changed them as well.
"""

from __future__ import annotations

from dataclasses import replace

from irgrow.axes import NEW, compose
from irgrow.morphism import Chain, Compute, Cut, Gather, Keep, Morphism, Scale, Select, Step, Transfer, source_of


def composed(first: Morphism, second: Morphism) -> dict[str, Transfer]:
    """Return where every parameter of the last graph comes from in the first one."""
    return {name: _simplified(_led(first, _steps(second, name, t))) for name, t in second.transfers.items()}


def _steps(morphism: Morphism, name: str, t: Transfer) -> tuple[Step, ...]:
    """Return a transfer of a morphism as steps."""
    return t.steps if isinstance(t, Chain) else (Step(t, morphism.seed, name, morphism.after.param_shape(name)),)


def _led(first: Morphism, steps: tuple[Step, ...]) -> tuple[Step, ...]:
    """Return steps that start one rewrite earlier."""
    steps = tuple(_reading(first, step) for step in steps)
    source = source_of(steps[0].transfer)
    return steps if source is None else (*_steps(first, source, first.transfers[source]), *steps)


def _reading(first: Morphism, step: Step) -> Step:
    """Return a step that finds what it reads beside its predecessor one rewrite earlier."""
    known = {read.name: read for read in step.reads}
    reads = []
    for name in _beside(step.transfer):
        shape = first.after.param_shape(name) if name not in known else known[name].shape
        read = known.get(name) or Step(Keep(name), first.seed, name, shape)
        way = read.transfer.steps if isinstance(read.transfer, Chain) else (read,)
        transfer = _simplified(_led(first, way))
        if transfer != Keep(name):
            reads.append(replace(read, transfer=transfer, reads=()))
    return replace(step, reads=tuple(reads))


def _beside(t: Transfer) -> tuple[str, ...]:
    """Return the parameters a transfer reads beside the one it continues."""
    if isinstance(t, Select):
        return _beside(t.plus) if isinstance(t.plus, Compute) else ()
    return tuple(dict.fromkeys(t.names)) if isinstance(t, Compute) else ()


def _simplified(steps: tuple[Step, ...]) -> Transfer:
    """Drop what only keeps, join selections that draw and round nothing twice, and unwrap a chain of one."""
    done: list[Step] = []
    for step in steps:
        t, previous = step.transfer, done[-1].transfer if done else None
        if isinstance(previous, Keep) and isinstance(t, Keep | Select | Gather | Cut):
            done[-1] = replace(step, transfer=replace(t, name=previous.name))
        elif isinstance(t, Keep) and previous is not None:
            continue
        elif isinstance(previous, Select) and isinstance(t, Select) and _joinable(previous, t):
            done[-1] = replace(step, transfer=_joined(previous, t))
        else:
            done.append(step)
    if len(done) == 1 and _settled(done[0].transfer) and not done[0].reads:
        return done[0].transfer
    return Chain(tuple(done))


def _settled(t: Transfer) -> bool:
    """Whether a transfer draws no numbers, so that its seed does not matter."""
    if isinstance(t, Select):
        drawn = any(t.noise) or t.plus is not None
        return not drawn and not any(m is not None and bool((m == NEW).any()) for m in t.maps)
    return isinstance(t, Keep | Compute | Cut) or (isinstance(t, Gather) and not bool((t.index == NEW).any()))


def _joinable(first: Select, second: Select) -> bool:
    """Whether two selections are one bit for bit: no random numbers, and no product of factors to be rounded anew."""
    values = _factors(first.scale) and _factors(second.scale)
    gradients = _factors(first.grad) and _factors(second.grad)
    return _settled(first) and _settled(second) and not values and not gradients


def _factors(factors: tuple[Scale | None, ...]) -> bool:
    return any(f is not None for f in factors)


def _joined(first: Select, second: Select) -> Select:
    dims = range(len(second.maps))
    maps = tuple(compose(second.maps[d], first.maps[d]) for d in dims)
    scale = tuple(_either(first.factor(d), second.factor(d), second, d) for d in dims)
    grad = tuple(_either(first.grad_factor(d), second.grad_factor(d), second, d) for d in dims)
    return Select(first.name, maps, second.fills, scale, grad)


def _either(first: Scale | None, second: Scale | None, t: Select, dim: int) -> Scale | None:
    """Return the factors along a dimension, those of the first selection where the second moves them."""
    m = t.maps[dim]
    return second if first is None else first if m is None else first[m]
