"""The few things the core asks of the folders around it, by name and only when they are needed.

Dependencies point one way: grammar, passes and backends import the core. Where the core must call one of them, as
`str(graph)` must call the printer, it does so through this table.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

_TABLE = {
    "print": "irgrow.grammar:print_graph",
    "parse": "irgrow.grammar:parse",
    "lower": "irgrow.backends.torch_fx:lower",
    "prove": "irgrow.passes:prove",
    "parse_pass": "irgrow.passes:parse_pass",
}


def lookup(name: str) -> Any:
    """Return a registered function."""
    module, attribute = _TABLE[name].split(":")
    return getattr(import_module(module), attribute)


def call(name: str, *args: Any, **kwargs: Any) -> Any:
    """Call a registered function."""
    return lookup(name)(*args, **kwargs)
