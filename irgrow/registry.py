"""The few things the core asks of the folders around it, by name and only when they are needed.

Dependencies point one way: grammar, passes and backends import the core. Where the core must call one of them, as
`str(graph)` must call the printer, it does so through this table.
"""

from __future__ import annotations

from functools import cache
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any

from irgrow.attributes import textual_name

_TABLE = {
    "print": "irgrow.grammar:print_graph",
    "parse": "irgrow.grammar:parse",
    "lower": "irgrow.backends.torch_fx:lower",
    "param_path": "irgrow.backends.torch_fx:param_path",
    "module_path": "irgrow.backends.torch_fx:module_path",
    "word": "irgrow.ops:word_of",
    "plan": "irgrow.passes:plan",
    "prove": "irgrow.passes:prove",
    "needs": "irgrow.passes:needs",
    "context": "irgrow.passes:Context",
    "parse_pass": "irgrow.grammar:parse_pass",
}

_GROUPS = {
    "pass": "irgrow.passes:PASSES",
    "initializer": "irgrow.passes:INITIALIZERS",
    "saliency": "irgrow.passes:SALIENCIES",
    "trigger": "irgrow.passes:TRIGGERS",
    "cadence": "irgrow.growth:CADENCES",
    "bundle": "irgrow.growth:BUNDLES",
    "rates": "irgrow.growth:RATES",
    "data": "irgrow.training:DATA",
    "optimizer": "irgrow.training:OPTIMIZERS",
    "schedule": "irgrow.training:SCHEDULES",
}
"""What words in programs may stand for, by group; installed plugins add to the same groups."""


@cache
def group(name: str) -> dict[str, type]:
    """Return the classes of a group by their names in programs, those of installed plugins included.

    A plugin registers a class under the entry-point group `irgrow.<group>`; a program can only name what is registered.
    """
    module, attribute = _GROUPS[name].split(":")
    found: dict[str, type] = {textual_name(cls): cls for cls in getattr(import_module(module), attribute)}
    for entry in entry_points(group=f"irgrow.{name}"):
        found.setdefault(entry.name, entry.load())
    return found


def lookup(name: str) -> Any:
    """Return a registered function."""
    module, attribute = _TABLE[name].split(":")
    return getattr(import_module(module), attribute)


def call(name: str, *args: Any, **kwargs: Any) -> Any:
    """Call a registered function."""
    return lookup(name)(*args, **kwargs)
