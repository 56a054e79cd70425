"""irgrow: a compiler for neural networks that change shape while they learn.

    import irgrow

    net = irgrow.build("net tiny(x: [4]) { return x |> h: dense(8) |> relu |> dense(2) }", seed=0)
    receipt = net.rewrite(irgrow.passes.GrowUnits("h", 4))

Names are loaded when they are first used, so that programs can be checked without loading torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from irgrow import passes
    from irgrow.backends import interpret
    from irgrow.checkpoint import load, save
    from irgrow.errors import IrgrowError, ProgramError, RefusedError, UserError
    from irgrow.grammar import parse, parse_program, read
    from irgrow.graph import Graph
    from irgrow.growth.controller import Controller
    from irgrow.network import Network, build

__version__ = "0.1.0"

_HOMES = {
    "Controller": "irgrow.growth.controller",
    "Graph": "irgrow.graph",
    "IrgrowError": "irgrow.errors",
    "Network": "irgrow.network",
    "ProgramError": "irgrow.errors",
    "RefusedError": "irgrow.errors",
    "UserError": "irgrow.errors",
    "build": "irgrow.network",
    "interpret": "irgrow.backends",
    "load": "irgrow.checkpoint",
    "parse": "irgrow.grammar",
    "parse_program": "irgrow.grammar",
    "passes": "",
    "read": "irgrow.grammar",
    "save": "irgrow.checkpoint",
}


def __getattr__(name: str) -> Any:
    """Load a public name when it is first used."""
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'irgrow' has no attribute {name!r}")
    return import_module("irgrow.passes") if not home else getattr(import_module(home), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])


__all__ = [
    "Controller",
    "Graph",
    "IrgrowError",
    "Network",
    "ProgramError",
    "RefusedError",
    "UserError",
    "build",
    "interpret",
    "load",
    "parse",
    "parse_program",
    "passes",
    "read",
    "save",
]
