"""A random program while it is drawn: what the steps read of it and add to it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from hypothesis import strategies as st

from irgrow.axes import Axis
from irgrow.builder import GraphBuilder
from irgrow.ops import Conv, Dense, Op, TensorType

Draw = Callable[[st.SearchStrategy[Any]], Any]


@dataclass
class Draft:
    """A program while it is drawn."""

    draw: Draw
    build: GraphBuilder
    current: str = ""
    made: list[str] = field(default_factory=list)

    def type(self, name: str | None = None) -> TensorType:
        """Return the type of a value, of the current one unless told."""
        found = self.build.type_of(name or self.current)
        assert found is not None, self.build.diagnostics
        return found

    def units(self, name: str | None = None) -> int:
        """Return how many units a value has."""
        return self.build.axis_size(self.type(name).units)

    def shape(self, name: str | None = None) -> list[int]:
        """Return the shape of a value."""
        return [self.build.axis_size(d) for d in self.type(name).dims]

    def name(self, word: str) -> str:
        """Return a fresh name."""
        return f"{word}{len(self.build.nodes)}"

    def add(self, word: str, op: Op, *inputs: str, tied: str | None = None) -> str:
        """Add a node and make it the current value."""
        name = self.name(word)
        assert self.build.add(name, op, inputs or (self.current,), tied), self.build.diagnostics
        self.current = name
        self.made.append(name)
        return name

    def width(self, suffix: str, size: int, word: str) -> Axis:
        """Declare a width of the node that `add(word, ...)` will make next."""
        return self.build.width(self.name(word) + suffix, size)

    def small(self, low: int = 1, high: int = 5) -> int:
        """Draw a small number."""
        return int(self.draw(st.integers(low, high)))

    def flag(self) -> bool:
        """Draw true or false."""
        return bool(self.draw(st.booleans()))

    def pick(self, *choices: Any) -> Any:
        """Draw one of several."""
        return self.draw(st.sampled_from(choices))

    def dense(self, size: int, bias: bool | None = None, source: str | None = None) -> str:
        """Add a dense layer."""
        op = Dense(self.width("", size, "dense"), self.flag() if bias is None else bias)
        return self.add("dense", op, source or self.current)

    def conv(self, size: int, kernel: int = 1, padding: int = 0, source: str | None = None) -> str:
        """Add a convolution that keeps the positions if `padding` is half of `kernel`."""
        op = Conv(self.width("", size, "conv"), kernel, padding=padding, bias=self.flag())
        return self.add("conv", op, source or self.current)
