"""Uniform noise: a baseline, new units start at random numbers whose size is given and nothing else.

Every entry is uniform in +-scale / sqrt(fan_in), `scale = 1` being what layers start from. The side the pass starts at
zero stays zero (`zero = fan_out` or `fan_in`, exact as ever); with `zero = neither` both sides are noise. Zeros on both
sides are not offered: such units would never learn.

Source: the zero and noise baselines of Evci et al. (2022), GradMax, and Maile (2023), 6.
"""

from __future__ import annotations

from dataclasses import dataclass

from irgrow.fills import FanInUniform, Fill
from irgrow.ops import real
from irgrow.passes.initializers.base import Initializer


@dataclass(frozen=True)
class UniformNoise(Initializer):
    """Start new units with uniform noise.

    Args:
        scale: Its size, relative to what a layer starts from; at least 1e-6, below which float32 keeps little of it.

    >>> str(UniformNoise(0.5))
    'uniform_noise(scale = 0.5)'
    """

    scale: float = real(0.1, low=1e-6)

    def default(self) -> Fill:
        return FanInUniform(self.scale)
