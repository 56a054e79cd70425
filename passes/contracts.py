"""What a pass may ask of a graph before it and promise of the graph behind it: properties that are checked.

A pass names them in its class attributes `requires` and `ensures`; `plan` checks them. What is required and does not
hold is a refusal that names the node; what was ensured and does not hold is a mistake of the pass.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from irgrow.errors import CompilerBug, OptionError, did_you_mean
from irgrow.graph import Graph
from irgrow.ops import MASK
from irgrow.verify import verify

Property = Callable[[Graph], str | None]
"""Returns what is wrong, naming the node, or `None` if the property holds."""


def _verified(graph: Graph) -> str | None:
    violations = verify(graph)
    return violations[0].message if violations else None


def _no_batch_norm(graph: Graph) -> str | None:
    return next((f"`{n.name}` is a batch norm" for n in graph if n.op.kind == "batchnorm"), None)


def _batch_independent(graph: Graph) -> str | None:
    return next((f"`{n.name}` looks at the rest of the batch" for n in graph if n.op.facts.batch_statistics), None)


def _deterministic(graph: Graph) -> str | None:
    return next((f"`{n.name}` draws random numbers in training" for n in graph if n.op.facts.stochastic), None)


def _unmasked(graph: Graph) -> str | None:
    masked = (n.name for n in graph if any(s.name == MASK for s in graph.specs[n.name]))
    return next((f"`{name}` has masked weights" for name in masked), None)


def _untied(graph: Graph) -> str | None:
    return next((f"`{n.name}` uses the parameters of `{n.tied}`" for n in graph if n.tied is not None), None)


PROPERTIES: Mapping[str, Property] = {
    "verified": _verified,
    "no_batch_norm": _no_batch_norm,
    "batch_independent": _batch_independent,
    "deterministic": _deterministic,
    "unmasked": _unmasked,
    "untied": _untied,
}
"""The properties by name. To add one, write it above and name it here."""


def unmet(names: Iterable[str], graph: Graph) -> str | None:
    """Return the first property that does not hold, with the node to blame, or `None`.

    Raises:
        OptionError: There is no such property.

    >>> from irgrow.grammar import parse
    >>> unmet(["verified", "no_batch_norm"], parse("net n(x: [2]) { return x |> dense(3) |> b: batchnorm }"))
    '`no_batch_norm`, which does not hold: `b` is a batch norm'
    """
    for name in names:
        if name not in PROPERTIES:
            close = did_you_mean(name, PROPERTIES) or f"there are: {', '.join(PROPERTIES)}"
            raise OptionError(f"unknown property `{name}`; {close}")
        if (why := PROPERTIES[name](graph)) is not None:
            return f"`{name}`, which does not hold: {why}"
    return None


def check_ensured(names: Iterable[str], pass_: object, seed: int, before: Graph, after: Graph) -> None:
    """Check what a pass promises of its result.

    Raises:
        CompilerBug: It does not hold; carries the pass, the seed and the program.
    """
    if (why := unmet(names, after)) is not None:
        raise CompilerBug(f"`{pass_}` ensures {why}\n  seed: {seed}\n  program:\n{before}")
