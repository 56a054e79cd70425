"""Parameters computed from several old ones: a node may then compute another old value than its own.

The rule a parameter was made by proves nothing. What proves something is the old graph: a layer whose rows were divided
by the deviation of a norm computes that norm's value if the norm read that layer and nothing else, with the very eps
and statistics the rule was given. So each question below is put to the old graph, and the transfers must be exactly
what the answer asks for, in order. Whatever does not match is left to the ordinary rules, which know nothing of it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from irgrow.axes import ONE
from irgrow.graph import Graph, Node
from irgrow.morphism import Compute, Keep, Transfer
from irgrow.ops import MASK, BatchNorm, Conv, Coupling, Dense, Depthwise, Op, Scale
from irgrow.passes.preservation.known import SAME, Known, uniform
from irgrow.passes.preservation.ranges import value_range

if TYPE_CHECKING:
    from irgrow.passes.preservation.prover import Prover


def hands_on(graph: Graph, name: str) -> bool:
    """Return whether a node gives its input back as it is, at least in evaluation mode.

    >>> from irgrow.grammar import parse
    >>> g = parse("net n(x: [3]) { return x |> relu |> a: dropout |> b: relu |> c: tanh }")
    >>> [hands_on(g, name) for name in "abc"]
    [True, True, False]
    """
    node = graph[name]
    if len(node.inputs) != 1 or node.op.coupling is not Coupling.PER_UNIT or graph.specs[name]:
        return False
    facts = node.op.facts
    if facts.fixed_on is None or not facts.entrywise or graph.types[name] != graph.types[node.inputs[0]]:
        return False
    low, high = value_range(graph, node.inputs[0])
    return facts.fixed_on[0] <= low and high <= facts.fixed_on[1]


def seen_as(p: Prover, k: Known, name: str) -> Known:
    """Return knowledge as knowledge of an old value, if nodes of the old graph handed on to it what it is about."""
    stochastic, at = False, name
    while k.base != at:
        if not hands_on(p.before, at):
            return k
        stochastic |= p.before[at].op.facts.stochastic
        (at,) = p.before[at].inputs
    if at != name:
        p.eval_only |= stochastic
        return k.named(name)
    return k


def computed(p: Prover, node: Node, old: Node, inputs: list[Known]) -> Known | None:
    """Return what a node with computed parameters computes, `None` if that is not one old value as it was."""
    if p.morphism.edits or not any(isinstance(_transfer(p, node, s), Compute) for s in ("weight", "bias")):
        return None
    for question in _QUESTIONS:
        base = question(p, node, old, inputs)
        if base is not None and p.after.shape(node.name) == p.before.shape(base):
            return uniform(base, SAME)
    return None


# what is asked of the old graph --------------------------------------------------------------------------------------


def _normed(p: Prover, node: Node, old: Node, inputs: list[Known]) -> str | None:
    """A layer does what it and the batch norm that read it did, in evaluation mode."""
    for norm in _readers(p, old, BatchNorm) if _reads(p, inputs, old.inputs) else ():
        eps, affine = norm.op.eps, norm.op.affine
        bias = getattr(old.op, "bias")  # noqa: B009
        shift, gain, mean, var = (_old(p, norm, s) for s in ("bias", "weight", "running_mean", "running_var"))
        names = ((shift, gain) if affine else ()) + ((_old(p, old, "bias"),) if bias else ()) + (mean, var)
        options = ("eps", eps), ("bias", bias), ("affine", affine)
        factors = (_old(p, old, "weight"), var) + ((gain,) if affine else ())
        if (
            _is_op(node, old.op, bias=True)
            and _transfer(p, node, "weight") == Compute("fold_norm_weight", factors, (("eps", eps),))
            and _transfer(p, node, "bias") == Compute("fold_norm_bias", names, options)
            and _kept(p, node, old, MASK)
        ):
            p.eval_only = True
            return norm.name
    return None


def _scaled(p: Prover, node: Node, old: Node, inputs: list[Known]) -> str | None:
    """A layer does what it and the scale that read it did."""
    for scale in _readers(p, old, Scale) if _reads(p, inputs, old.inputs) else ():
        factor = _old(p, scale, "weight")
        made = ("weight", "bias") if getattr(old.op, "bias") else ("weight",)  # noqa: B009
        if (
            _is_op(node, old.op)
            and all(_transfer(p, node, s) == Compute("scale_rows", (_old(p, old, s), factor)) for s in made)
            and _kept(p, node, old, MASK)
        ):
            return scale.name
    return None


def _read_scaled(p: Prover, node: Node, old: Node, inputs: list[Known]) -> str | None:
    """A layer does itself what the scale it read did."""
    scale = p.before[old.inputs[0]]
    if not isinstance(scale.op, Scale) or not isinstance(old.op, Dense | Conv) or _groups(old.op):
        return None
    same = (
        _reads(p, inputs, scale.inputs)
        and _is_op(node, old.op)
        and old.op.mixes(p.before.signatures[old.name]) == p.before.types[scale.name].unit_dim
        and _transfer(p, node, "weight") == Compute("scale_columns", (_old(p, old, "weight"), _old(p, scale, "weight")))
        and _kept(p, node, old, "bias")
        and _kept(p, node, old, MASK)
    )
    return old.name if same else None


def _fused(p: Prover, node: Node, old: Node, inputs: list[Known]) -> str | None:
    """A layer does what it and the linear layer that it read did."""
    first = p.before[old.inputs[0]]
    inner, outer = first.op, old.op
    linear = (isinstance(inner, Dense) and isinstance(outer, Dense)) or (
        isinstance(inner, Conv) and isinstance(outer, Conv) and _pointwise(outer)
    )
    if not linear or not _reads(p, inputs, first.inputs) or _groups(inner) or _groups(outer):
        return None
    assert isinstance(inner, Dense | Conv)
    assert isinstance(outer, Dense | Conv)
    if inner.masked or outer.masked or not _is_op(node, inner, units=outer.units, bias=inner.bias or outer.bias):
        return None
    weight = _old(p, old, "weight")
    if _transfer(p, node, "weight") != Compute("fuse_weight", (weight, _old(p, first, "weight"))):
        return None
    more = (_old(p, old, "bias"),) if outer.bias else ()
    wanted = Compute("fuse_bias", (*more, _old(p, first, "bias"), weight)) if inner.bias else None
    fine = _kept(p, node, old, "bias") if wanted is None else _transfer(p, node, "bias") == wanted
    return old.name if fine else None


def _baked(p: Prover, node: Node, old: Node, inputs: list[Known]) -> str | None:
    """A layer that was masked has its mask in its weight."""
    if not getattr(old.op, "masked", False) or not _reads(p, inputs, old.inputs):
        return None
    made = Compute("bake_mask", (_old(p, old, "weight"), _old(p, old, MASK)))
    fine = _is_op(node, old.op, masked=False) and _transfer(p, node, "weight") == made and _kept(p, node, old, "bias")
    return old.name if fine else None


_QUESTIONS: tuple[Callable[[Prover, Node, Node, list[Known]], str | None], ...] = (
    _normed,
    _scaled,
    _read_scaled,
    _fused,
    _baked,
)


# how it is asked -----------------------------------------------------------------------------------------------------


def _reads(p: Prover, inputs: list[Known], names: tuple[str, ...]) -> bool:
    """Whether these are the old values of these names."""
    return len(inputs) == len(names) and all(
        (seen := seen_as(p, k, name)).same and seen.base == name for k, name in zip(inputs, names, strict=True)
    )


def _readers(p: Prover, layer: Node, kind: type[Op]) -> list[Any]:
    """Return the old nodes of a kind that read a layer and work unit by unit on its rows."""
    if not isinstance(layer.op, Dense | Conv | Depthwise):
        return []
    rows = layer.op.mixes(p.before.signatures[layer.name])
    found = (p.before[name] for name in p.before.users[layer.name])
    return [n for n in found if type(n.op) is kind and p.before.types[n.name].unit_dim == rows]


def _is_op(node: Node, op: Op, **changes: Any) -> bool:
    return node.op == replace(op, **changes)


def _old(p: Prover, node: Node, local: str) -> str:
    """Return the full name of a parameter in the old graph; for one that is not there, what no parameter is called."""
    return p.before.param_name(node.name, local) if p.spec(node.name, local) is not None else ""


def _transfer(p: Prover, node: Node, local: str) -> Transfer | None:
    """Return where a parameter of the new graph comes from, `None` if there is none."""
    if not any(s.name == local for s in p.after.specs[node.name]):
        return None
    return p.morphism.transfers[p.after.param_name(node.name, local)]


def _kept(p: Prover, node: Node, old: Node, local: str) -> bool:
    """Whether a parameter is the old one, or there is none now and there was none."""
    if p.spec(old.name, local) is None:
        return _transfer(p, node, local) is None
    return _transfer(p, node, local) == Keep(_old(p, old, local))


def _groups(op: Op) -> bool:
    return isinstance(op, Conv) and op.groups != ONE


def _pointwise(op: Conv) -> bool:
    """Whether a convolution reads the position it writes and no other."""
    windows = ((op.kernel, 1), (op.stride, 1), (op.padding, 0))
    return all(n == wanted for found, wanted in windows for n in (found if isinstance(found, tuple) else (found,)))
