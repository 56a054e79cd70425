"""Forward passes whose backward pass may still come: a rewrite would lose their gradients.

Each is marked on the autograd graph of its outputs, and so is forgotten with them.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor


class Forward:
    """Lives as long as the autograd graph of one forward pass; knows whether it was used."""

    __slots__ = ("__weakref__", "done")

    def __init__(self) -> None:
        self.done = False


Forwards = list[weakref.ref[Forward]]


def watch(forwards: Forwards, outputs: Any) -> None:
    """Add a forward pass, until its autograd graph is used or dropped; let go of those that were."""
    made = Forward()
    for value in outputs if isinstance(outputs, tuple) else (outputs,):
        if isinstance(value, Tensor) and value.grad_fn is not None:
            marks: Any = value.grad_fn.metadata
            marks["irgrow"] = made
            value.register_hook(_marker(weakref.ref(made)))
    forwards[:] = [*(p for p in forwards if outstanding([p])), weakref.ref(made)]


def outstanding(forwards: Sequence[weakref.ref[Forward]]) -> bool:
    """Return whether the backward pass of any has not run and can still come."""
    return any((p := r()) is not None and not p.done for r in forwards)


def _marker(made: weakref.ref[Forward]) -> Callable[[Tensor], None]:
    def mark(grad: Tensor) -> None:
        if (p := made()) is not None:
            p.done = True

    return mark
