"""The growth loop: one object that runs a growth program in anyone's training loop.

    controller = Controller(net, program)
    for x, y in batches:
        loss = criterion(net(x), y); optimizer.zero_grad(); loss.backward(); optimizer.step()
        for receipt in controller.step(x, loss):
            print(receipt)

After every step the rules are asked in order, each at every site in program order (Maile 2023, Algorithm 4). Statistics
come from the forward passes that train, through hooks on the leaf modules; no pass is added.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import replace
from math import isfinite
from typing import Any

import torch
from torch import Tensor, nn

from irgrow.axes import atoms
from irgrow.errors import DataError, OptionError
from irgrow.growth.cadences import Moment
from irgrow.growth.rules import GrowthProgram, Rule
from irgrow.journal import DEPTH, Receipt
from irgrow.network import Network, as_inputs
from irgrow.passes import View, plan
from irgrow.passes.analyses.spectrum import Gram
from irgrow.verdict import Refused


class Controller:
    """Runs a growth program on a network.

    Args:
        net: The network; its optimizers should be tracked.
        program: The rules.
        steps_per_epoch: For rules that count epochs.

    Raises:
        OptionError: A rule's sites match nothing, or a trigger cannot work at one of them.
    """

    def __init__(self, net: Network, program: GrowthProgram, steps_per_epoch: int | None = None) -> None:
        self.net, self.program = net, program
        self.steps_per_epoch = steps_per_epoch
        self.count = 0
        self.memory: dict[str, dict[str, Any]] = {}
        self.refused: dict[str, str] = {}
        self.recorded: dict[str, Gram] = {}
        self._hooks: list[Any] = []
        self._module: nn.Module | None = None
        self._rewrites = net.journal.counter
        for rule in program.rules:
            rule.sites(net.graph)
        self._attach()

    # recording ------------------------------------------------------------------------------------------------------

    def _attach(self) -> None:
        """Hook the nodes that triggers watch; what was recorded of units that changed is forgotten."""
        for hook in self._hooks:
            hook.remove()
        graph = self.net.graph
        wanted: dict[str, int] = {}
        for rule in self.program.rules:
            for site in rule.sites(graph):
                for node, window in rule.when.watches(graph, site).items():
                    wanted[node] = max(window, wanted.get(node, 0))
        leaves: dict[str, nn.Module] = self.net.module.meta["leaves"]
        morphisms = self.net.journal.morphisms
        recent = (morphisms[n] for n in range(self._rewrites, self.net.journal.counter) if n in morphisms)
        edited = {atom for morphism in recent for atom in morphism.edits}
        if self.net.journal.counter - self._rewrites > DEPTH:  # more than the journal remembers
            self.recorded = {}
        self._rewrites = self.net.journal.counter
        kept = {}
        for node, window in wanted.items():
            if node not in leaves:
                raise OptionError(f"nothing can be recorded at `{node}`: it has no module of its own")
            gram = self.recorded.get(node)
            axis = graph.types[node].units
            same = gram is not None and gram.window == window and gram.units in (0, graph.size(axis))
            same = same and edited.isdisjoint(a.name for a in atoms(axis))
            kept[node] = gram if same and gram is not None else Gram(graph.types[node].features, window)
        self.recorded = kept
        self._hooks = [leaves[n].register_forward_hook(self._recorder(g)) for n, g in kept.items()]
        self._module = self.net.module

    def _recorder(self, gram: Gram) -> Callable[[nn.Module, Any, Tensor], None]:
        def record(module: nn.Module, inputs: Any, output: Tensor) -> None:
            if module.training and torch.is_grad_enabled() and self._wanted():
                gram.add(output)

        # A compiled network breaks its graph here; what is counted stays out of it.
        disabled: Callable[[nn.Module, Any, Tensor], None] = torch.compiler.disable(record)
        return disabled

    def _wanted(self) -> bool:
        """Return whether a rule may soon ask, so that what happens now matters."""
        within = max((self._lead(g) for g in self.recorded.values()), default=0)
        moment = Moment(self.count, self.steps_per_epoch)
        return any(r.every.soon(moment, within) for r in self.program.rules)

    def _lead(self, gram: Gram) -> int:
        """Return how many steps it takes to fill a window."""
        if not gram.parts:
            return 64
        return 4 + max(gram.window, 2 * gram.units) // max(gram.parts[-1][1], 1)

    # the loop -------------------------------------------------------------------------------------------------------

    def step(
        self,
        batch: Any = None,
        loss: Tensor | float | None = None,
        criterion: Callable[..., Tensor] | None = None,
    ) -> list[Receipt]:
        """Ask the rules; call it after `optimizer.step()`.

        Args:
            batch: The inputs of this step, a tensor or several; initializers look at it.
            loss: The loss of this step, for triggers that follow it.
            criterion: The loss of this step as a function of the outputs, for passes that look at gradients.

        Returns:
            A receipt for every rewrite, refused ones included (each refusal of a site once).

        Raises:
            DataError: The loss is not finite.
        """
        self.count += 1
        value = None if loss is None else float(loss.detach() if isinstance(loss, Tensor) else loss)
        if value is not None and not isfinite(value):
            raise DataError(f"the loss of step {self.count} is {value}; nothing was grown")
        if self._module is not self.net.module:
            self._attach()
        moment = Moment(self.count, self.steps_per_epoch)
        receipts: list[Receipt] = []
        for rule in self.program.rules:
            cadence = self.memory.setdefault(rule.name, {})
            if value is not None:
                rule.every.observe(value, cadence)
            sites = rule.sites(self.net.graph)
            for site in sites if value is not None else ():
                rule.when.observe(value or 0.0, self._remembered(rule, site))
            if rule.every.due(moment, cadence):
                for site in sites:
                    receipts.extend(self._ask(rule, site, batch, value, criterion))
        return receipts

    def _remembered(self, rule: Rule, site: str) -> dict[str, Any]:
        return self.memory.setdefault(f"{rule.name}: {site}", {})

    def _ask(
        self, rule: Rule, site: str, batch: Any, loss: float | None, criterion: Callable[..., Tensor] | None
    ) -> Iterator[Receipt]:
        """Ask a trigger at one site and carry out what it wants, within the limits."""
        graph = self.net.graph
        if not (rule.apply.whole or site in graph.leaves) or f"{rule.name}: {site}" in self.refused:
            return
        memory = self._remembered(rule, site)
        units = rule.when.wanted(View(graph, self.count, loss, self.recorded), site, memory)
        for limit in rule.limit if units > 0 and rule.apply.counted else ():
            units = limit.allows(graph, site, units)
        if units <= 0:
            return
        inputs = None if batch is None else as_inputs(batch)
        wanted = rule.apply.at(site, units).during(self.count)
        if rule.limit and not rule.apply.counted:  # what else it adds is known only once it is planned
            morphism = plan(wanted, graph).morphism
            if morphism is not None and not all(limit.permits(graph, morphism.after) for limit in rule.limit):
                return
        receipt = self.net.rewrite(wanted, statistics=inputs, loss=criterion, step=self.count, require=rule.require)
        if isinstance(receipt.verdict, Refused):
            self.refused[f"{rule.name}: {site}"] = receipt.verdict.reason
        else:
            self._attach()
        yield replace(receipt, sites=(site,))

    # saving ---------------------------------------------------------------------------------------------------------

    def state(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """Return what it remembers: JSON and tensors."""
        tensors = {
            f"{node}/{key}": value.clone()
            for node, gram in self.recorded.items()
            for key, value in gram.state().items()
        }
        return deepcopy({"count": self.count, "memory": self.memory, "refused": self.refused}), tensors

    def load(self, state: dict[str, Any], tensors: dict[str, Tensor]) -> None:
        """Take back what `state` returned, for the network as it was then."""
        state = deepcopy(state)
        self.count, self.memory, self.refused = state["count"], state["memory"], state["refused"]
        self._attach()
        for node, gram in self.recorded.items():
            prefix = f"{node}/"
            gram.load({k[len(prefix) :]: v for k, v in tensors.items() if k.startswith(prefix)})
