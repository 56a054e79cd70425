"""What the adapters share: the network inside a module, its latest inputs, and its program to take up again."""

from __future__ import annotations

import json
from typing import Any

import torch
from torch import Tensor, nn

from irgrow import registry
from irgrow.errors import CheckpointError, OptionError, ProgramError
from irgrow.graph import Graph
from irgrow.growth.controller import Controller
from irgrow.journal import Journal
from irgrow.network import Network, initial_params

VERSION = 1


def find_network(module: nn.Module, name: str | None = None) -> Network:
    """Return the network inside a module.

    Args:
        module: The network itself, or a module that has it somewhere.
        name: Its dotted name there; needed if there are several.

    Raises:
        OptionError: There is none, or there are several and no name was given.
    """
    if name is not None:
        try:
            found = module.get_submodule(name)
        except AttributeError:
            raise OptionError(f"the {type(module).__name__} has no submodule `{name}`") from None
        if not isinstance(found, Network):
            raise OptionError(f"`{name}` is a {type(found).__name__}, not a network of irgrow")
        return found
    networks = {n: m for n, m in module.named_modules() if isinstance(m, Network)}
    if len(networks) != 1:
        names = ", ".join(f"`{n}`" for n in networks)
        found_text = f"several networks of irgrow, {names}; name one" if networks else "no network of irgrow"
        raise OptionError(f"the {type(module).__name__} has {found_text}")
    return next(iter(networks.values()))


class Latest:
    """Remembers the inputs of a network's latest training pass, through a hook before its forward pass."""

    def __init__(self, net: Network) -> None:
        self.inputs: tuple[Tensor, ...] | None = None
        self._handle = net.register_forward_pre_hook(self._take)

    def _take(self, module: nn.Module, inputs: tuple[Any, ...]) -> None:
        if module.training and torch.is_grad_enabled():
            self.inputs = tuple(x.detach() for x in inputs)

    def take(self) -> tuple[Tensor, ...] | None:
        """Return them and let go of them."""
        inputs, self.inputs = self.inputs, None
        return inputs

    def remove(self) -> None:
        """Take the hook off."""
        self._handle.remove()


# structure -----------------------------------------------------------------------------------------------------------


def structure(net: Network) -> dict[str, Any]:
    """Return the program of a network and what else its weights do not say, as JSON values."""
    frozen = [n for n, p in net.named_parameters() if not p.requires_grad]
    return {
        "version": VERSION,
        "program": str(net.graph),
        "seed": net.seed,
        "frozen": frozen,
        "journal": net.journal.to_json(),
    }


def rebuild(net: Network, saved: dict[str, Any]) -> None:
    """Give a network, in place, the program it was saved with; its weights are still to be loaded.

    Args:
        net: The network; what holds it goes on holding it.
        saved: What `structure` returned.

    Raises:
        CheckpointError: It is not what `structure` returned, or of a newer version.
        OptionError: An optimizer holds the parameters of the network as it is.
    """
    try:
        version, text, seed, frozen = saved["version"], saved["program"], saved["seed"], set(saved["frozen"])
        if version > VERSION:
            raise CheckpointError(f"the program was saved in version {version}; this irgrow reads up to {VERSION}")
        graph: Graph = registry.call("parse", text)
        journal = Journal.from_json(saved["journal"])
    except ProgramError as error:
        raise CheckpointError(f"the saved program: {error.diagnostics[0].message}") from None
    except (KeyError, TypeError) as error:
        raise CheckpointError(f"no saved program: {error}") from None
    if graph != net.graph:
        if net.tracked:
            raise OptionError("the network is trained already; restore its program before optimizers are made")
        _install(net, graph)
    net.seed, net.journal = seed, journal
    for name, parameter in net.named_parameters():
        parameter.requires_grad_(name not in frozen)


def _install(net: Network, graph: Graph) -> None:
    like = next((p for p in net.params.values() if p.is_floating_point()), torch.empty(0))
    drawn = initial_params(graph, net.seed, like.dtype)
    tensors = {
        n: nn.Parameter(t.to(like.device)) if isinstance(t, nn.Parameter) else t.to(like.device)
        for n, t in drawn.items()
    }
    net.install(graph, registry.call("lower", graph, tensors))
    net.train(net.training)


# the controller ------------------------------------------------------------------------------------------------------


def dumped(controller: Controller) -> dict[str, Any]:
    """Return what a controller remembers: a JSON text and tensors."""
    state, tensors = controller.state()
    return {"json": json.dumps(state), "tensors": tensors}


def loaded(controller: Controller, saved: dict[str, Any]) -> None:
    """Give a controller what `dumped` returned.

    Raises:
        CheckpointError: It is not that.
    """
    try:
        state, tensors = json.loads(saved["json"]), saved["tensors"]
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"no saved state of a controller: {error}") from None
    device = next((p.device for p in controller.net.params.values()), torch.device("cpu"))
    controller.load(state, {name: value.to(device) for name, value in tensors.items()})
