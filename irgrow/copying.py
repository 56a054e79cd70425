"""Copies of networks, as `copy.deepcopy` makes them of any module.

Everything goes through one memo, so that an optimizer, a second name or a module around the network that are copied
with it end at the copied parameters. Leaf modules are copied whole, with their modes, hooks and attributes, and put
into lowered code of their own. As of any module gradients are not copied. Attributes of parameters are, as rewrites
carry them.

What belongs to the training of the original stays with it: what it tracks, what it waits for, and the hooks of
controllers and adapters, which record what this very network does. They would say nothing of the copy, and hold on to
the original and break the graph of a compiled copy.
"""

from __future__ import annotations

from copy import deepcopy
from typing import Any

from torch import fx, nn

from irgrow import registry
from irgrow.network import Network, parts

_ANEW = frozenset({"module", "journal", "tracked", "_modules", "_homes", "_pending", "_compiled"})
"""Attributes of a network that are not copied but made anew."""

_HOOKS = tuple(name for name in vars(nn.Module()) if "hook" in name)


def copied(net: Network, memo: dict[int, Any]) -> Network:
    """Return a copy of a network that shares nothing with it but its program.

    Args:
        net: The network.
        memo: What was copied already, by identity; as in `copy.deepcopy`.

    Raises:
        RefusedError: Something took a parameter away from its leaf module.
    """
    made: Network = object.__new__(type(net))
    nn.Module.__init__(made)
    memo[id(net)] = made
    made.tracked, made._pending, made.journal = [], [], net.journal.copy()
    memo[id(net.journal)] = made.journal
    made.install(net.graph, _module(net, memo))
    made.__dict__.update(deepcopy({name: v for name, v in vars(net).items() if name not in _ANEW}, memo))
    for part in (made, *parts(made.module)):
        _forget_recording(part)
    return made


def _module(net: Network, memo: dict[int, Any]) -> fx.GraphModule:
    old, params = net.module, net.params
    leaves: dict[str, nn.Module] = deepcopy(old.meta["leaves"], memo)
    tensors = {name: deepcopy(value, memo) for name, value in params.items()}
    for name, value in params.items():
        tensors[name].__dict__.update(deepcopy(value.__dict__, memo))
    module: fx.GraphModule = registry.call("lower", net.graph, tensors, leaves)
    memo[id(old)] = module
    copies, paths = {id(leaf) for leaf in leaves.values()}, dict(module.named_modules(remove_duplicate=False))
    for path, part in old.named_modules(remove_duplicate=False):
        if path in paths and id(paths[path]) not in copies:
            paths[path].training = part.training
            paths[path].__dict__.update(deepcopy({name: vars(part)[name] for name in _HOOKS}, memo))
    return module


def _forget_recording(part: nn.Module) -> None:
    """Take the hooks off a copied module that irgrow put on the one it was copied from."""
    running = [vars(part)[name] for name in _HOOKS if name.startswith(("_forward", "_backward"))]
    for number in {n for hooks in running for n, hook in hooks.items() if _is_own(hook)}:
        for hooks in running:
            hooks.pop(number, None)


def _is_own(hook: Any) -> bool:
    return str(getattr(hook, "__module__", "")).startswith("irgrow.")
