"""One rewrite of one program with one set of random numbers: what every law is asked about."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from irgrow.backends import random_params
from irgrow.graph import Graph
from irgrow.network import Network
from irgrow.passes import Pass, Plan
from irgrow.testing.numbers import as_tensors, planned, random_inputs


class Broken(AssertionError):
    """A law that does not hold."""


@dataclass(frozen=True)
class Case:
    """One rewrite of one program with one set of random numbers."""

    graph: Graph
    rewrite: Pass
    seed: int = 0
    batch: int = 3

    def broken(self, law: str, found: str) -> Broken:
        """Return the error for a law that does not hold here."""
        return Broken(f"{law}: {found}\n  pass: {self.rewrite}\n  seed: {self.seed}\n  program:\n{self.graph}")

    @property
    def params(self) -> dict[str, Any]:
        """Random parameters, norm statistics included."""
        return random_params(self.graph, self.seed)

    @property
    def inputs(self) -> dict[str, Any]:
        """Random inputs."""
        return random_inputs(self.graph, self.seed, self.batch)

    def plan(self) -> Plan:
        """Work the rewrite out."""
        return planned(self.rewrite, self.graph, self.params, self.inputs, self.seed)

    def network(self) -> Network:
        """Return a live network with the random parameters, in float64."""
        return Network(self.graph, as_tensors(self.graph, self.params), self.seed)
