"""The pytest plugin: passes of a module as test items, each held to every law by `check_pass`.

    pytest --irgrow-passes mypackage.passes
    pytest --irgrow-passes mypackage.passes:GrowUnits --irgrow-examples 1000

It is loaded in every run of pytest where irgrow is installed, so it imports nothing but the standard library and pytest
until its option is given.
"""

from __future__ import annotations

import sys
from argparse import ArgumentTypeError
from importlib import import_module
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from irgrow.passes import Pass

EXAMPLES = 100
_FOUND = pytest.StashKey[dict[str, list["type[Pass]"]]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options."""
    group = parser.getgroup("irgrow", "passes of irgrow")
    group.addoption(
        "--irgrow-passes",
        action="append",
        default=[],
        metavar="MODULE[:NAME]",
        help="check the passes defined in a module, or one of them, on random programs; may be repeated",
    )
    group.addoption(
        "--irgrow-examples",
        type=_positive,
        default=EXAMPLES,
        metavar="N",
        help=f"on how many programs each pass is checked (default: {EXAMPLES})",
    )


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise ArgumentTypeError(f"expected a number from 1, found {text!r}")
    return int(text)


def pytest_configure(config: pytest.Config) -> None:
    """Find the passes that were asked for, before anything is collected."""
    wanted = config.getoption("--irgrow-passes")
    if wanted:
        config.stash[_FOUND] = {target: _passes(target) for target in dict.fromkeys(wanted)}


def _passes(target: str) -> list[type[Pass]]:
    """Return the passes of a module, or the one that is named.

    Raises:
        UsageError: The module cannot be imported, or there is no such pass.
    """
    name, _, wanted = target.partition(":")
    try:
        import_module("hypothesis")
        base = import_module("irgrow.passes").Pass
    except ImportError as error:
        raise pytest.UsageError(f"--irgrow-passes needs irgrow[testing]: {error}") from None
    try:
        module = import_module(name)
    except Exception as error:
        hint = "; is its folder on the path (`python -m pytest`, or `pythonpath` in the configuration)?"
        lost = hint if isinstance(error, ModuleNotFoundError) and error.name == name.partition(".")[0] else ""
        raise pytest.UsageError(f"--irgrow-passes {target}: {type(error).__name__}: {error}{lost}") from None
    found: dict[str, type[Pass]] = {
        key: value for key, value in vars(module).items() if isinstance(value, type) and issubclass(value, base)
    }
    if wanted:
        if wanted not in found:
            listed = ", ".join(k for k, v in found.items() if v is not base) or "none"
            raise pytest.UsageError(f"--irgrow-passes {target}: `{name}` has no pass `{wanted}`; it has: {listed}")
        return [found[wanted]]
    own = [cls for key, cls in found.items() if _is_own(cls, key, name) and vars(base)["rewrite"] is not cls.rewrite]
    if not own:
        raise pytest.UsageError(f"--irgrow-passes {target}: `{name}` defines no pass, which is a subclass of `Pass`")
    return list(dict.fromkeys(own))


def _is_own(cls: type, key: str, module: str) -> bool:
    """Whether a class is defined in a module, or in a part of it, and is not a private base."""
    defined = cls.__module__ == module or cls.__module__.startswith(f"{module}.")
    return defined and not key.startswith("_")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(session: pytest.Session, config: pytest.Config, items: list[pytest.Item]) -> None:
    """Add an item for every pass; `-k` and the like choose among them as among other tests."""
    for target, passes in config.stash.get(_FOUND, {}).items():
        name = target.partition(":")[0]
        collector = Passes.from_parent(session, name=name, nodeid=name, passes=passes)
        items.extend(session.genitems(collector))


class Passes(pytest.Collector):
    """The passes of one module."""

    def __init__(self, passes: list[type[Pass]], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.passes = passes

    def collect(self) -> list[pytest.Item]:
        """Return an item for every pass."""
        return [CheckedPass.from_parent(self, name=cls.__name__, pass_=cls) for cls in self.passes]


class CheckedPass(pytest.Item):
    """One pass, held to every law."""

    def __init__(self, pass_: type[Pass], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.pass_ = pass_

    def runtest(self) -> None:
        """Check it."""
        from irgrow.testing import check_pass

        check_pass(self.pass_, examples=self.config.getoption("--irgrow-examples"))

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: Any = None) -> Any:
        """Show a law that does not hold with its program; anything else with its traceback."""
        from irgrow.testing.checking import Broken

        if isinstance(excinfo.value, Broken):
            return str(excinfo.value)
        return super().repr_failure(excinfo, style)

    def reportinfo(self) -> tuple[str, int | None, str]:
        """Say where the pass is defined."""
        import inspect

        path = sys.modules[self.pass_.__module__].__file__ or ""
        try:
            line = inspect.getsourcelines(self.pass_)[1] - 1
        except OSError:
            line = None
        return path, line, f"{self.pass_.__module__}.{self.pass_.__name__}"
