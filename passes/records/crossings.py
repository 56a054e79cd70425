"""The passes that go across a bridge in training, and the hooks that note what each of them says at both ends."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from weakref import ref

from irgrow.graph import Graph
from irgrow.passes.analyses.bridge import Bridge
from irgrow.passes.analyses.lanes import lender, lent
from irgrow.passes.analyses.routes import Route
from irgrow.passes.records.base import Wanted

if TYPE_CHECKING:
    from torch import Tensor, nn

Hook = Callable[..., None]


@dataclass
class Crossing:
    """One forward pass and what its backward passes said.

    Args:
        read: What the maker read, batch first.
        beside: Queries and keys of the attentions on the way, by node, frequencies of rotary positions by name, and of
            borrowed factors the unit that lends it.
        signals: Gradient of the loss by the outputs of the readers, by node.
        lenders: The unit that lends its factor, by layer.
    """

    read: Tensor
    beside: dict[str, Tensor] = field(default_factory=dict)
    signals: dict[str, Tensor] = field(default_factory=dict)
    lenders: dict[str, Tensor] = field(default_factory=dict)

    def hear(self, node: str, weight: Tensor) -> Callable[[Tensor], None]:
        """Return a hook that takes the gradient by the output of a node, of passes that reach the weight it reads with.

        What `torch.autograd.grad` asks on the way, as for a gradient penalty, is not said by the loss. The hook does
        not keep the pass: losses that a loop collects would keep what they were computed from.
        """
        import torch

        own = ref(self)
        leaf = weight.is_leaf and weight.requires_grad
        end = torch.autograd.graph.get_gradient_edge(weight).node if leaf else None

        def hook(gradient: Tensor) -> None:
            heard = own()
            if heard is None or not (end is None or _reaches(end)):
                return
            known = heard.signals.get(node)
            heard.signals[node] = gradient.detach() if known is None else known + gradient.detach()

        return hook


@dataclass
class Ends:
    """What to hook of a bridge.

    Args:
        graph: The network.
        bridge: The bridge.
        leaves: The leaf modules by node.
        wanted: Whether what a module computes now is to be recorded.
        passes: Where every forward pass is added that comes to the maker.
    """

    graph: Graph
    bridge: Bridge
    leaves: Mapping[str, nn.Module]
    wanted: Wanted
    passes: list[Crossing]
    _lent: dict[str, Tensor] = field(default_factory=dict)
    _lenders: dict[str, Tensor] = field(default_factory=dict)

    def hooks(self) -> list[Any]:
        """Hook the maker, the readers and what stands beside the way, and return the handles."""
        import torch

        off: Callable[[Any], Any] = torch.compiler.disable
        found: list[tuple[str, Hook]] = [(self.bridge.maker, self._begin)]
        found += [(node, self._lend(node, layer)) for node, layer in self.bridge.borrowed]
        found += [(node, self._attend(node)) for node in self.bridge.attended]
        found += [(route.node, self._end(route)) for route in self.bridge.routes]
        return [self.leaves[node].register_forward_hook(off(hook)) for node, hook in found]

    def _listening(self, module: nn.Module) -> bool:
        import torch

        return torch.is_grad_enabled() and self.wanted(module)

    def _begin(self, module: nn.Module, inputs: Any, output: Tensor) -> None:
        """Begin a pass with what the maker reads."""
        if self._listening(module):
            read = inputs[0].detach()  # a loop may fill the tensor it gave again before the next pass
            self.passes.append(Crossing(read if inputs[0].requires_grad else read.clone()))

    def _end(self, route: Route) -> Hook:
        """Return a hook that listens to the gradient by what a reader gives."""
        owner: Any = self.leaves[self.graph.params[route.weight].owner]

        def follow(module: nn.Module, inputs: Any, output: Tensor) -> None:
            if self._listening(module) and output.requires_grad and self.passes:
                self.passes[-1].beside |= self._lent
                self.passes[-1].lenders |= self._lenders
                self._lent.clear()
                output.register_hook(self.passes[-1].hear(route.node, owner.weight))

        return follow

    def _attend(self, node: str) -> Hook:
        """Return a hook that notes the queries and keys of an attention."""
        names = self.graph[node].inputs[:2]

        def follow(module: nn.Module, inputs: Any, output: Tensor) -> None:
            if self._listening(module) and self.passes:
                beside = self.passes[-1].beside
                beside |= {name: inputs[i].detach() for i, name in enumerate(names)}
                beside |= {f"{node}.{name}": value.detach() for name, value in module.named_buffers(recurse=False)}

        return follow

    def _lend(self, node: str, layer: str) -> Hook:
        """Return a hook that notes the factor of the unit that lends its own, which may come before the maker does."""

        def follow(module: nn.Module, inputs: Any, output: Tensor) -> None:
            if self._listening(module):
                self._lenders[layer] = self.lender(layer)
                self._lent[node] = lent(self.graph, node, output.detach(), self._lenders[layer])

        return follow

    def lender(self, layer: str) -> Tensor:
        """Return the unit of a layer that lends its factor to new ones, as its weights are now."""
        local = {name: name.rpartition(".")[2] for name in self.graph.own_params[layer]}
        return lender(self.graph, layer, {name: getattr(self.leaves[layer], n) for name, n in local.items()})


def _reaches(end: Any) -> bool:
    """Return whether the backward pass that runs hands gradients to a parameter."""
    import torch

    try:
        return bool(torch._C._will_engine_execute_node(end))
    except RuntimeError:  # `torch.autograd.grad` by the parameter itself
        return False
