"""Property-testing networks and rewrites: strategies for programs and inputs, and checks of a pass of your own.

A pass of your own is held to the laws in three lines:

    from irgrow.testing import check_pass

    def test_my_pass():
        check_pass(MyPass)
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from irgrow.testing.checking import assert_preserves, check_pass
    from irgrow.testing.programs import graphs, inputs
    from irgrow.testing.rewriting import rewrites

_HOMES = {
    "assert_preserves": "irgrow.testing.checking",
    "check_pass": "irgrow.testing.checking",
    "graphs": "irgrow.testing.programs",
    "inputs": "irgrow.testing.programs",
    "rewrites": "irgrow.testing.rewriting",
}


def __getattr__(name: str) -> Any:
    """Load what is asked for; the strategies need Hypothesis, the rest of irgrow does not."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


__all__ = ["assert_preserves", "check_pass", "graphs", "inputs", "rewrites"]
