"""Modules that hold what their program says, and nothing that anybody puts into them."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from irgrow.errors import OptionError


class Closed(nn.Module):
    """A module that refuses modules, parameters and buffers: they would take no part, and be lost unnoticed.

    Other attributes, hooks among them, are as those of any module.
    """

    def __setattr__(self, name: str, value: Any) -> None:
        if isinstance(value, nn.Module):
            raise _refused(name)
        super().__setattr__(name, value)

    def add_module(self, name: str, module: nn.Module | None) -> None:
        """Refuse a module; the next rewrite would lose it."""
        raise _refused(name)

    def register_parameter(self, name: str, param: nn.Parameter | None) -> None:
        """Refuse a parameter; it would have no name in the graph."""
        raise _refused(name)

    def register_buffer(self, name: str, tensor: Tensor | None, persistent: bool = True) -> None:
        """Refuse a buffer; it would have no name in the graph."""
        raise _refused(name)


def _refused(name: str) -> OptionError:
    return OptionError(
        f"`{name}` cannot be put into the network: it holds what its program has, and a rewrite would lose the rest; "
        "keep it beside it, in a module that has both"
    )
