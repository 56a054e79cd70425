"""Random: a score from the generator of the rewrite; what every other saliency should be better than.

Source: the baseline of Mittal et al. (2019), Studying the plasticity in deep convolutional neural networks using
random pruning.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from irgrow.graph import Graph
from irgrow.passes.base import Context
from irgrow.passes.saliency.base import Saliency
from irgrow.shapes import Array


@dataclass(frozen=True)
class RandomSaliency(Saliency):
    """Keep units by lot; written `random`.

    >>> str(RandomSaliency())
    'random'
    """

    textual: ClassVar[str] = "random"

    def scores(self, graph: Graph, axis: str, context: Context) -> Array:
        return context.generator("random", axis).random(graph.widths[axis])
