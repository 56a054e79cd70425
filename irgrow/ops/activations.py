"""Elementwise activations.

To add one, add an entry to `ACTIVATIONS`: its definition, its torch module and its facts. Nothing else changes.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from math import inf
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from irgrow.attributes import real, word
from irgrow.ops.base import Coupling, Evaluation, Facts, Lowering, Op
from irgrow.shapes import Array

if TYPE_CHECKING:
    from torch import fx, nn

REAL = (-inf, inf)
NON_NEGATIVE = (0.0, inf)


@dataclass(frozen=True, slots=True)
class Activation:
    """One activation.

    Args:
        define: The definition on arrays.
        module: Name of the module in `torch.nn`, or else in `irgrow.ops.leaves`, with its keyword arguments.
        facts: What the prover may use.
    """

    define: Callable[[Array], Array]
    module: str
    facts: Facts
    options: tuple[tuple[str, object], ...] = ()

    def layer(self) -> nn.Module:
        """Return a torch module of it."""
        from torch import nn

        from irgrow.ops import leaves

        made = getattr(nn, self.module, None) or getattr(leaves, self.module)
        found: nn.Module = made(**dict(self.options))
        return found


def _sigmoid(x: Array) -> Array:
    return 0.5 * (1.0 + np.tanh(0.5 * x))


def _softplus(x: Array) -> Array:
    return np.logaddexp(0.0, x)


_erf = np.vectorize(math.erf, otypes=[np.float64])


def _gelu(x: Array) -> Array:
    return 0.5 * x * (1.0 + _erf(x / np.sqrt(2.0)))


def _gelu_tanh(x: Array) -> Array:
    return 0.5 * x * (1.0 + np.tanh(np.sqrt(2.0 / np.pi) * (x + 0.044715 * x**3)))


def _relu6(x: Array) -> Array:
    return np.clip(x, 0.0, 6.0)


ACTIVATIONS: dict[str, Activation] = {
    "relu": Activation(
        lambda x: np.maximum(x, 0.0),
        "ReLU",
        Facts(
            slope_at_zero=0.0,
            fixed_on=NON_NEGATIVE,
            image=NON_NEGATIVE,
            homogeneous=True,
            odd_slope=1.0,
            monotone=True,
        ),
    ),
    "right_relu": Activation(  # the slope at zero is that from the right: units that are zero can learn
        lambda x: np.maximum(x, 0.0),
        "RightReLU",
        Facts(fixed_on=NON_NEGATIVE, image=NON_NEGATIVE, homogeneous=True, odd_slope=1.0, monotone=True),
    ),
    "relu6": Activation(
        _relu6, "ReLU6", Facts(slope_at_zero=0.0, fixed_on=(0.0, 6.0), image=(0.0, 6.0), monotone=True)
    ),
    "hardtanh": Activation(
        lambda x: np.clip(x, -1.0, 1.0), "Hardtanh", Facts(fixed_on=(-1.0, 1.0), image=(-1.0, 1.0), monotone=True)
    ),
    "gelu": Activation(_gelu, "GELU", Facts(slope_at_zero=0.5, image=(-0.17, inf), odd_slope=1.0)),
    "gelu_tanh": Activation(
        _gelu_tanh,
        "GELU",
        Facts(slope_at_zero=0.5, image=(-0.18, inf), odd_slope=1.0),
        (("approximate", "tanh"),),
    ),
    "silu": Activation(lambda x: x * _sigmoid(x), "SiLU", Facts(slope_at_zero=0.5, image=(-0.28, inf), odd_slope=1.0)),
    "hardswish": Activation(
        lambda x: x * _relu6(x + 3.0) / 6.0,
        "Hardswish",
        Facts(slope_at_zero=0.5, image=(-0.375, inf), odd_slope=1.0),
    ),
    "tanh": Activation(np.tanh, "Tanh", Facts(image=(-1.0, 1.0), monotone=True)),
    "sigmoid": Activation(_sigmoid, "Sigmoid", Facts(at_zero=0.5, slope_at_zero=0.25, image=(0.0, 1.0), monotone=True)),
    "hardsigmoid": Activation(
        lambda x: _relu6(x + 3.0) / 6.0,
        "Hardsigmoid",
        Facts(at_zero=0.5, slope_at_zero=1 / 6, image=(0.0, 1.0), monotone=True),
    ),
    "softplus": Activation(
        _softplus, "Softplus", Facts(at_zero=0.6931471805599453, slope_at_zero=0.5, image=NON_NEGATIVE, monotone=True)
    ),
    "elu": Activation(
        lambda x: np.where(x > 0, x, np.expm1(np.minimum(x, 0.0))),
        "ELU",
        Facts(fixed_on=NON_NEGATIVE, image=(-1.0, inf), monotone=True),
    ),
    "mish": Activation(lambda x: x * np.tanh(_softplus(x)), "Mish", Facts(slope_at_zero=0.6, image=(-0.31, inf))),
    "softsign": Activation(lambda x: x / (1.0 + np.abs(x)), "Softsign", Facts(image=(-1.0, 1.0), monotone=True)),
}
"""All activations without parameters, by their name in the language."""


@dataclass(frozen=True)
class Activate(Op):
    """Apply the activation `function` to every entry."""

    kind: ClassVar[str] = "activate"

    function: str = word(*ACTIVATIONS)

    @property
    def facts(self) -> Facts:
        return replace(ACTIVATIONS[self.function].facts, entrywise=True)

    def evaluate(self, e: Evaluation, *inputs: Array) -> Array:
        return ACTIVATIONS[self.function].define(inputs[0])

    def lower(self, b: Lowering, *inputs: fx.Node) -> fx.Node:
        return b.module(ACTIVATIONS[self.function].layer, *inputs)


@dataclass(frozen=True)
class LeakyReLU(Op):
    """x for x >= 0, `slope` * x below."""

    kind: ClassVar[str] = "leaky_relu"

    slope: float = real(0.01)

    @property
    def facts(self) -> Facts:
        image = NON_NEGATIVE if self.slope <= 0 else REAL
        odd = 1.0 + self.slope
        return Facts(
            slope_at_zero=self.slope,
            fixed_on=REAL if self.slope == 1 else NON_NEGATIVE,
            image=image,
            homogeneous=True,
            odd_slope=odd or None,
            entrywise=True,
            monotone=self.slope >= 0,
        )

    def evaluate(self, e: Evaluation, *inputs: Array) -> Array:
        return np.where(inputs[0] > 0, inputs[0], self.slope * inputs[0])

    def lower(self, b: Lowering, *inputs: fx.Node) -> fx.Node:
        from torch import nn

        return b.module(lambda: nn.LeakyReLU(self.slope), *inputs)


@dataclass(frozen=True)
class Softmax(Op):
    """exp(x) / sum(exp(x)) over the last dimension."""

    kind: ClassVar[str] = "softmax"
    coupling: ClassVar[Coupling] = Coupling.STATISTICS

    @property
    def facts(self) -> Facts:
        return Facts(at_zero=None, image=(0.0, 1.0))

    @property
    def averages(self) -> bool:
        return False

    def evaluate(self, e: Evaluation, *inputs: Array) -> Array:
        weights = np.exp(inputs[0] - inputs[0].max(-1, keepdims=True))
        return weights / weights.sum(-1, keepdims=True)

    def lower(self, b: Lowering, *inputs: fx.Node) -> fx.Node:
        from torch import nn

        return b.module(lambda: nn.Softmax(-1), *inputs)
