"""Learning rates per tensor: rules that scale the update of each, whatever the optimizer.

A rate rule never touches the optimizer's groups or its state, so schedulers stay coupled and momenta are kept: after
every optimizer step a tensor is put where the same step with its own learning rate would have put it, p + f (p' - p).
That is the same for every optimizer whose update is proportional to its learning rate (SGD, Adam, AdamW with its
decay, RMSprop, Adagrad and their variants); Rprop, whose is not, is refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from irgrow.attributes import Options
from irgrow.errors import DataError, OptionError
from irgrow.graph import Graph, remembered
from irgrow.ops import Coupling, Op, integer, real

if TYPE_CHECKING:
    from torch import Tensor
    from torch.optim import Optimizer

    from irgrow.network import Network


@dataclass(frozen=True)
class Rates(Options):
    """Base of rate rules.

    Args:
        every: Steps of a cycle; factors stay the same within one.
        batches: Steps at the end of a cycle whose gradients are looked at; at the start of training the first ones.

    Raises:
        OptionError: An option is out of range.
    """

    every: int = integer(50)
    batches: int = integer(5)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.batches > self.every:
            raise OptionError(f"`batches`, {self.batches}, must be at most `every`, {self.every}")

    def measured(self, name: str, gradient: Tensor, value: Tensor, size: float) -> float:
        """Return what is averaged over the batches for one tensor.

        Args:
            name: Its full name.
            gradient: Its gradient.
            value: The tensor.
            size: Root mean square of all tensors that are looked at.
        """
        raise NotImplementedError

    def factors(self, measured: Mapping[str, float]) -> dict[str, float]:
        """Return by which factor the learning rate of each tensor is multiplied."""
        raise NotImplementedError


@dataclass(frozen=True)
class AutoRGN(Rates):
    """Auto-RGN, surgical fine-tuning: lr_i = lr * RGN_i / max_j RGN_j with RGN_i = mean ||g_i|| / ||theta_i||.

    Per tensor, weights and biases each; tensors of norms keep the base rate (they are not frozen), and so do tensors
    that are new in this cycle. A tensor that starts at zero would have an infinite RGN and silence all others, so its
    norm counts as at least `guard` times what a tensor of its size has on average. The printed form is `guard = 0`
    with no tensor at zero. Gradients are those of the training steps, so no pass is added.

    Args:
        every: Steps of a cycle; 50 as DYNO, or an epoch as the original.
        batches: Gradients averaged; 5 in the original, 3 in DYNO's code.
        guard: The smallest root mean square that counts, as a share of that of all tensors.

    Source: Lee et al. (2023), Surgical fine-tuning improves adaptation to distribution shifts; Maile (2023), 7.

    >>> str(AutoRGN(batches=3))
    'auto_rgn(batches = 3)'
    """

    textual: ClassVar[str] = "auto_rgn"

    guard: float = real(0.1, low=0.0)

    def measured(self, name: str, gradient: Tensor, value: Tensor, size: float) -> float:
        norm = max(float(value.detach().double().norm()), self.guard * size * value.numel() ** 0.5)
        found = float(gradient.double().norm())
        return 0.0 if norm == 0 else found / norm

    def factors(self, measured: Mapping[str, float]) -> dict[str, float]:
        largest = max(measured.values(), default=0.0)
        return {name: value / largest for name, value in measured.items()} if largest > 0 else {}


RATES: tuple[type[Rates], ...] = (AutoRGN,)


@dataclass
class Tuner:
    """Runs a rate rule on the tracked optimizers of a network, through their step hooks.

    Args:
        net: The network.
        rule: The rule.

    Raises:
        OptionError: No optimizer is tracked, or one whose update is not proportional to its learning rate.
    """

    net: Network
    rule: Rates
    count: int = 0
    sums: dict[str, list[float]] = field(default_factory=dict)
    factors: dict[str, float] = field(default_factory=dict)
    known: list[str] = field(default_factory=list)
    _before: list[tuple[Tensor, Tensor, float]] = field(default_factory=list)

    def __post_init__(self) -> None:
        if not self.net.tracked:
            raise OptionError(f"{self.rule} needs an optimizer: track it (`net.track(optimizer)`) before")
        self.known = list(self.net.graph.params)
        self._hooked: list[Optimizer] = []
        self._handles: list[Any] = []
        self._follow()

    def _follow(self) -> None:
        """Hook the optimizers that are tracked now."""
        tracked = [t.optimizer for t in self.net.tracked]
        if [id(o) for o in tracked] == [id(o) for o in self._hooked]:
            return
        if any(type(optimizer).__name__ == "Rprop" for optimizer in tracked):
            raise OptionError(f"{self.rule} scales updates; those of Rprop are not proportional to a learning rate")
        self.close()
        self._hooked = tracked
        for optimizer in tracked:
            self._handles.append(optimizer.register_step_pre_hook(self._look))
            self._handles.append(optimizer.register_step_post_hook(self._scale))

    def close(self) -> None:
        """Let the optimizers go; rates are the base rates again."""
        for handle in self._handles:
            handle.remove()
        self._handles, self._hooked = [], []

    def _look(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        """Before a step: take the gradients, at the end of a cycle the new factors, and copies of what is scaled."""
        params = self.net.params
        held = {id(p) for group in optimizer.param_groups for p in group["params"]}
        if optimizer is self._hooked[0]:
            self.count += 1
        if not self.factors or (self.count - 1) % self.rule.every >= self.rule.every - self.rule.batches:
            self._measure({n: p for n, p in params.items() if id(p) in held and n in tuned(self.net.graph)})
        scaled = {n: f for n, f in self.factors.items() if f != 1.0 and n in params and id(params[n]) in held}
        self._before = [(params[n], params[n].detach().clone(), f) for n, f in scaled.items()]

    def _measure(self, params: Mapping[str, Tensor]) -> None:
        total = sum(float(p.detach().double().square().sum()) for p in params.values())
        size = (total / max(sum(p.numel() for p in params.values()), 1)) ** 0.5
        for name, value in params.items():
            if value.grad is None:
                continue
            found = self.rule.measured(name, value.grad.detach(), value, size)
            if not found < float("inf"):
                raise DataError(f"`{name}` or its gradient is not finite; rates cannot follow it")
            self.sums.setdefault(name, []).append(found)

    def _scale(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        """After a step: put every tensor where its own learning rate would have put it."""
        for new, old, factor in self._before:
            new.detach().copy_(old.lerp_(new.detach(), factor))
        self._before = []

    def end_step(self) -> None:
        """Close a training step; set the factors at the end of a cycle, at first as soon as batches are enough.

        Optimizers tracked since the last one are scaled from the next step on.
        """
        self._follow()
        enough = any(len(v) >= self.rule.batches for v in self.sums.values())
        if enough and (not self.factors or self.count % self.rule.every == 0):
            old = self.net.params.keys() & set(self.known)
            self.factors = self.rule.factors({n: sum(v) / len(v) for n, v in self.sums.items() if n in old})
            self.sums, self.known = {}, list(self.net.graph.params)

    def state(self) -> dict[str, Any]:
        """Return what it remembers, as JSON."""
        sums = {n: list(v) for n, v in self.sums.items()}
        return {"count": self.count, "sums": sums, "factors": dict(self.factors), "known": list(self.known)}

    def load(self, state: Mapping[str, Any]) -> None:
        """Take back what `state` returned."""
        self.count, self.factors, self.known = state["count"], dict(state["factors"]), list(state["known"])
        self.sums = {n: list(v) for n, v in state["sums"].items()}


@remembered
def tuned(graph: Graph) -> frozenset[str]:
    """Return the parameters that can have rates of their own: all that are trained, except those of norms."""
    return frozenset(
        name for name, param in graph.params.items() if param.spec.trainable and not _normalises(graph[param.owner].op)
    )


def _normalises(op: Op) -> bool:
    return op.coupling is Coupling.STATISTICS or op.facts.normalising
