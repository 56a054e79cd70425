"""Morphisms put together by hand, to ask the prover about things no pass does yet."""

from dataclasses import replace

import numpy as np

from irgrow.backends import random_params
from irgrow.fills import ZERO
from irgrow.grammar import parse
from irgrow.graph import Graph
from irgrow.morphism import Select
from irgrow.ops import Role
from irgrow.passes import Prover
from irgrow.passes.primitives import by_role, resize
from irgrow.testing.numbers import output_error, random_inputs


def net(body, shape="x: [4]"):
    return parse(f"net n({shape}) {{ return x |> {body} }}")


def resized(graph, makes=ZERO, reads=ZERO, bias=ZERO, **maps):
    edits = {name.replace("_DOT_", "."): np.array(m, dtype=np.int64) for name, m in maps.items()}
    return resize(graph, edits, by_role(makes, reads, bias), 5)


def scaled(morphism, name, dim, factor):
    t = morphism.transfers[name]
    scale = list(t.scale or (None,) * len(t.maps))
    scale[dim] = np.asarray(factor, dtype=float)
    return replace(morphism, transfers={**morphism.transfers, name: replace(t, scale=tuple(scale))})


def with_op(morphism, node, **changes):
    nodes = tuple(replace(n, op=replace(n.op, **changes)) if n.name == node else n for n in morphism.after)
    after = morphism.after
    return replace(morphism, after=Graph(after.name, nodes, after.outputs, after.sizes, after.named, after.fixed))


def verdict(morphism, params=None, spread=1.0):
    """Return the prover's verdict after holding it against the numbers, in both modes."""
    prover = Prover(morphism, params)
    prover.run()
    found = prover.verdict()
    values = params or random_params(morphism.before, 3)
    drawn = random_inputs(morphism.before, 3)
    inputs = {k: v * spread if v.dtype.kind == "f" else v for k, v in drawn.items()}
    errors = [output_error(morphism, values, inputs, training) for training in (False, True)]
    if found.preserves:
        assert max(errors) < 1e-10, f"{found}, and yet {errors}"
    else:
        assert max(errors) > 1e-9, f"{found}, and yet the outputs agree: needless caution"
    return found


def select(morphism, name):
    found = morphism.transfers[name]
    assert isinstance(found, Select)
    return found


__all__ = ["Role", "net", "resized", "scaled", "select", "verdict", "with_op"]
