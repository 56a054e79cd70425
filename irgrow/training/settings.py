"""What a `train` section says, as data: the data, the loss, the optimizer, the schedule and the lengths."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from irgrow.attributes import Options, plan
from irgrow.errors import OptionError
from irgrow.ops import attributes, flag, integer, real, word
from irgrow.training.data import DataSource, Digits

if TYPE_CHECKING:
    from collections.abc import Iterable

    from torch import Tensor
    from torch.optim import Optimizer
    from torch.optim.lr_scheduler import LRScheduler


@dataclass(frozen=True)
class OptimizerSettings(Options):
    """Base of optimizer settings."""

    def make(self, params: Iterable[Any]) -> Optimizer:
        """Return the optimizer for parameters, plain or with names."""
        raise NotImplementedError


@dataclass(frozen=True)
class Adam(OptimizerSettings):
    """Adam (Kingma and Ba 2015)."""

    lr: float = real(1e-3, low=0.0, open_low=True)
    weight_decay: float = real(0.0, low=0.0)
    beta1: float = real(0.9, low=0.0, high=1.0, open_high=True)
    beta2: float = real(0.999, low=0.0, high=1.0, open_high=True)
    eps: float = real(1e-8, low=0.0, open_low=True)

    def make(self, params: Iterable[Any]) -> Optimizer:
        import torch

        return torch.optim.Adam(params, self.lr, (self.beta1, self.beta2), self.eps, self.weight_decay)


@dataclass(frozen=True)
class AdamW(Adam):
    """Adam with decoupled weight decay (Loshchilov and Hutter 2019)."""

    textual: ClassVar[str] = "adamw"

    weight_decay: float = real(0.01, low=0.0)

    def make(self, params: Iterable[Any]) -> Optimizer:
        import torch

        return torch.optim.AdamW(params, self.lr, (self.beta1, self.beta2), self.eps, self.weight_decay)


@dataclass(frozen=True)
class Sgd(OptimizerSettings):
    """Stochastic gradient descent with momentum."""

    lr: float = real(0.01, low=0.0, open_low=True)
    momentum: float = real(0.0, low=0.0, high=1.0)
    weight_decay: float = real(0.0, low=0.0)
    nesterov: bool = flag(False)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.nesterov and not self.momentum:
            raise OptionError("`nesterov` needs `momentum` above 0.0")

    def make(self, params: Iterable[Any]) -> Optimizer:
        import torch

        options = {"momentum": self.momentum, "weight_decay": self.weight_decay, "nesterov": self.nesterov}
        return torch.optim.SGD(params, self.lr, **options)  # type: ignore[arg-type]


@dataclass(frozen=True)
class RmsProp(OptimizerSettings):
    """RMSprop (Tieleman and Hinton 2012)."""

    textual: ClassVar[str] = "rmsprop"

    lr: float = real(0.01, low=0.0, open_low=True)
    momentum: float = real(0.0, low=0.0, high=1.0)
    weight_decay: float = real(0.0, low=0.0)

    def make(self, params: Iterable[Any]) -> Optimizer:
        import torch

        return torch.optim.RMSprop(params, self.lr, momentum=self.momentum, weight_decay=self.weight_decay)


@dataclass(frozen=True)
class ScheduleSettings(Options):
    """Base of learning-rate schedules; one step of them is one training step."""

    def make(self, optimizer: Optimizer, steps: int) -> LRScheduler:
        """Return the scheduler for a run of this many steps."""
        raise NotImplementedError


@dataclass(frozen=True)
class Cosine(ScheduleSettings):
    """Half a cosine from the learning rate to `floor` times it over the whole run."""

    floor: float = real(0.0, low=0.0, high=1.0)

    def make(self, optimizer: Optimizer, steps: int) -> LRScheduler:
        from torch.optim.lr_scheduler import CosineAnnealingLR

        return CosineAnnealingLR(optimizer, steps, self.floor * optimizer.param_groups[0]["lr"])


@dataclass(frozen=True)
class StepDecay(ScheduleSettings):
    """Multiply the learning rate by `factor` every `every` steps."""

    every: int = integer(1000)
    factor: float = real(0.1, low=0.0, high=1.0)

    def make(self, optimizer: Optimizer, steps: int) -> LRScheduler:
        from torch.optim.lr_scheduler import StepLR

        return StepLR(optimizer, self.every, self.factor)


OPTIMIZERS: tuple[type[OptimizerSettings], ...] = (Adam, AdamW, Sgd, RmsProp)
SCHEDULES: tuple[type[ScheduleSettings], ...] = (Cosine, StepDecay)
LOSSES = ("cross_entropy", "mse")


@dataclass(frozen=True)
class TrainSettings:
    """The settings of a run.

    Args:
        data: Where the data comes from.
        loss: `cross_entropy` for labels, `mse` for values.
        optimizer: The optimizer.
        schedule: The learning-rate schedule.
        epochs: Passes over the training data.
        batch: Samples of a step.
        seed: Of initial values, data order, splits and dropout.
        init: `default` (as the stock modules do) or `xavier_uniform`.
        precision: `float32`, `float64`, or `bf16` (autocast).
        carry: How new entries of the optimizer's state start.
    """

    data: DataSource = plan("data", Digits())
    loss: str = word(*LOSSES, default="cross_entropy")
    optimizer: OptimizerSettings = plan("optimizer", Adam())
    schedule: ScheduleSettings | None = plan("schedule", None)
    epochs: int = integer(10)
    batch: int = integer(128)
    seed: int = integer(0, low=0)
    init: str = word("default", "xavier_uniform", default="default")
    precision: str = word("float32", "float64", "bf16", default="float32")
    carry: str = word("siblings", "zero", "fresh", default="siblings")

    def __str__(self) -> str:
        lines = []
        for a in attributes(type(self)):
            value = getattr(self, a.name)
            if value is not None:
                lines.append(f"  {a.name} = {value}")
        return "train {\n" + "\n".join(lines) + "\n}\n"


def loss_function(name: str, outputs: Tensor, targets: Tensor) -> Tensor:
    """Return the mean loss of a batch."""
    from torch.nn import functional as F

    if name == "cross_entropy":
        return F.cross_entropy(outputs.float() if outputs.dtype.itemsize < 4 else outputs, targets)
    if name == "mse":
        return F.mse_loss(outputs.reshape(targets.shape), targets)
    raise OptionError(f"unknown loss `{name}`; known are {', '.join(LOSSES)}")
