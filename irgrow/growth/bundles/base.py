"""What a bundle is: a published strategy as rules, with its paper's defaults."""

from __future__ import annotations

from dataclasses import dataclass

from irgrow.attributes import call_text, problem_of
from irgrow.errors import OptionError
from irgrow.growth.rules import GrowthProgram


@dataclass(frozen=True)
class Bundle:
    """Base of bundles; the fields of a subclass are its options.

    Raises:
        OptionError: An option is out of range.
    """

    def __post_init__(self) -> None:
        if problem := problem_of(self):
            raise OptionError(problem)

    def __str__(self) -> str:
        return call_text(self)

    def program(self) -> GrowthProgram:
        """Return the rules."""
        raise NotImplementedError
