"""What a bundle is: a published strategy as rules, with its paper's defaults."""

from __future__ import annotations

from dataclasses import dataclass

from irgrow.attributes import attributes, call_text
from irgrow.errors import OptionError
from irgrow.growth.rules import GrowthProgram


@dataclass(frozen=True)
class Bundle:
    """Base of bundles; the fields of a subclass are its options.

    Raises:
        OptionError: An option is out of range.
    """

    def __post_init__(self) -> None:
        for a in attributes(type(self)):
            if problem := a.problem(getattr(self, a.name)):
                raise OptionError(problem)

    def __str__(self) -> str:
        return call_text(self)

    def program(self) -> GrowthProgram:
        """Return the rules."""
        raise NotImplementedError
