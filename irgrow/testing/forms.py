"""Laws of form: what is written is read back as it was, and the same seed gives the same bits."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import torch

from irgrow import registry
from irgrow.attributes import textual_name
from irgrow.errors import ProgramError
from irgrow.grammar import parse, parse_pass
from irgrow.passes import Pass
from irgrow.testing.cases import Case
from irgrow.testing.numbers import carried
from irgrow.transfer_json import transfer_from_json, transfer_to_json


@contextmanager
def _known(cls: type[Pass]) -> Iterator[None]:
    """Let the language know a pass that is not registered."""
    group, name = registry.group("pass"), textual_name(cls)
    before = group.get(name)
    group[name] = cls
    try:
        yield
    finally:
        if before is None:
            del group[name]
        else:
            group[name] = before


def text_of_options(case: Case) -> None:
    """A pass written as text is read back as the same pass."""
    with _known(type(case.rewrite)):
        try:
            back = parse_pass(str(case.rewrite))
        except ProgramError as error:
            raise case.broken("text form", f"it cannot be read back: {error.diagnostics[0].message}") from None
    if back != case.rewrite:
        raise case.broken("text form", f"it is read back as {back!r}, it was {case.rewrite!r}")


def result_is_a_program(case: Case) -> None:
    """The new graph prints and parses to itself (law 1)."""
    morphism = case.plan().morphism
    if morphism is None:
        return
    try:
        back = parse(str(morphism.after))
    except ProgramError as error:
        found = f"the result cannot be read back: {error.diagnostics[0]}\n{morphism.after}"
        raise case.broken("print and parse", found) from None
    if back != morphism.after:
        raise case.broken("print and parse", f"the result is read back differently:\n{morphism.after}")


def morphism_survives_json(case: Case) -> None:
    """Every transfer written as JSON is read back as one that makes the same bits."""
    morphism = case.plan().morphism
    if morphism is None:
        return
    back = {}
    for name, transfer in morphism.transfers.items():
        try:
            data = json.loads(json.dumps(transfer_to_json(transfer)))
            back[name] = transfer_from_json(data)
        except (TypeError, ValueError, KeyError, AttributeError) as error:
            found = f"where `{name}` comes from cannot be written as JSON and read back: {error!r}"
            raise case.broken("JSON", found) from None
    again = replace(morphism, transfers=back)
    old, new = carried(morphism, case.params), carried(again, case.params)
    for name, value in old.items():
        if not np.array_equal(value, new[name], equal_nan=True):
            raise case.broken("JSON", f"`{name}` comes out differently after a round trip")


def same_seed_same_numbers(case: Case) -> None:
    """Doing it twice gives the same bits, and no global generator is touched (law 9)."""
    states = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()  # type: ignore[index]
    first, second = case.plan(), case.plan()
    if first.morphism is not None and second.morphism is not None:
        a, b = carried(first.morphism, case.params), carried(second.morphism, case.params)
        if a.keys() != b.keys() or any(not np.array_equal(a[name], b[name], equal_nan=True) for name in a):
            raise case.broken("determinism", "the same seed gave other numbers")
    if (first.verdict, first.morphism is None) != (second.verdict, second.morphism is None):
        raise case.broken("determinism", f"the same seed gave another verdict: {first.verdict}; {second.verdict}")
    after = torch.get_rng_state(), np.random.get_state()[1], random.getstate()  # type: ignore[index]
    if not torch.equal(states[0], after[0]) or not np.array_equal(states[1], after[1]) or states[2] != after[2]:
        raise case.broken("determinism", "a global generator was touched")
