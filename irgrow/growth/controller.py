"""The growth loop: one object that runs a growth program in anyone's training loop.

    controller = Controller(net, program)
    for x, y in batches:
        loss = criterion(net(x), y); optimizer.zero_grad(); loss.backward(); optimizer.step()
        for receipt in controller.step(x, loss):
            print(receipt)

After every step the rules are asked in order, each at every site in program order (Maile 2023, Algorithm 4); rules with
`order = sites` that follow one another take turns at every site (Algorithm 5). What triggers look at comes from the
passes that train, through hooks on the leaf modules, and so does what passes look at, as far as they say what to
record. The rest is recorded on the batch, which is run again; triggers that compare with what was right after a change,
and initializers that need more samples, have the latest batches run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from copy import deepcopy
from dataclasses import replace
from functools import partial
from math import isfinite
from typing import Any

import torch
from torch import Tensor, nn

from irgrow.errors import DataError, OptionError
from irgrow.graph import Graph
from irgrow.growth.cadences import Moment
from irgrow.growth.rates import Tuner
from irgrow.growth.recent import Batch, Recent, joined
from irgrow.growth.rules import GrowthProgram, Rule
from irgrow.journal import DEPTH, Receipt
from irgrow.morphism import Morphism, with_notes
from irgrow.network import Network
from irgrow.passes import Pass, View, needs, plan
from irgrow.passes.records.base import Record, Watch
from irgrow.probing import Evidence, Probed, as_inputs
from irgrow.transaction import rewrite
from irgrow.verdict import Refused

UNTRACKED = "no optimizer is tracked, so the new parameters do not learn; call `net.track(optimizer)`"


class Controller:
    """Runs a growth program on a network.

    Args:
        net: The network; its optimizers should be tracked, or what is new does not learn (receipts say so).
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
        self._refused_by: dict[str, str] = {}
        self.recorded: dict[str, Record] = {}
        self.recent = Recent()
        self._watches: dict[str, Watch] = {}
        self._hooks: list[Any] = []
        self._hooked: set[nn.Module] = set()
        self._renewing: set[str] | None = None
        self._trained = False
        self._module: nn.Module | None = None
        self._rewrites = net.journal.counter
        self._tuner = None if program.rates is None else Tuner(net, program.rates)
        self._attach()

    # recording ------------------------------------------------------------------------------------------------------

    def _attach(self) -> None:
        """Hook what triggers watch; what was recorded of units that changed is forgotten."""
        for hook in self._hooks:
            hook.remove()
        graph = self.net.graph
        leaves: dict[str, nn.Module] = self.net.module.meta["leaves"]
        wanted: dict[str, Watch] = {}
        for rule, site in ((r, site) for r in self.program.rules for site in self._places(r)):
            asked = rule.when.watches(graph, site)
            for watch in asked:
                _recordable(watch, graph, leaves, f"`{rule.name}` at `{site}`")
            also = (w for w in rule.apply.at(site, 1).watches(graph, site) if leaves.keys() >= set(w.nodes(graph)))
            for watch in (*asked, *also):
                known = wanted.setdefault(watch.key, watch)
                wanted[watch.key] = watch if watch.samples > known.samples else known
        edited = self._edited()
        kept: dict[str, Record] = {}
        for key, watch in wanted.items():
            record = self.recorded.get(key)
            same = record is not None and self._watches.get(key) == watch and record.fits(graph)
            same = same and edited is not None and edited.isdisjoint(watch.units(graph))
            kept[key] = record if same and record is not None else watch.record(graph)
        self.recorded, self._watches = kept, wanted
        self._hooked = set(leaves.values())
        self._hooks = [h for key, record in kept.items() for h in record.attach(leaves, partial(self._wanted, key))]
        self._module = self.net.module
        self.recent.samples = self._samples()

    def _places(self, rule: Rule) -> tuple[str, ...]:
        """Return where a rule is asked now."""
        return rule.sites(self.net.graph, rewritten=self.net.journal.counter > 0)

    def _edited(self) -> set[str] | None:
        """Return the axes edited since it was last asked; `None` if they are more than the journal remembers."""
        journal, since = self.net.journal, self._rewrites
        self._rewrites = journal.counter
        if journal.counter - since > DEPTH:
            return None
        recent = (journal.morphisms[n] for n in range(since, journal.counter) if n in journal.morphisms)
        return {atom for morphism in recent for atom in morphism.edits}

    def _wanted(self, key: str, module: nn.Module) -> bool:
        """Return whether a pass trains and a rule may soon ask, so that what happens now matters to a record."""
        if not self._is_meant(key, module):
            return False
        if self._renewing is not None:
            return key in self._renewing
        if not (module.training and torch.is_grad_enabled()):
            return False
        self._trained = True
        within = max((record.lead for record in self.recorded.values()), default=0)
        moment = Moment(self.count, self.steps_per_epoch)
        return any(r.every.soon(moment, within) for r in self.program.rules)

    def _is_meant(self, key: str, module: nn.Module) -> bool:
        """Return whether a record is of this module: copies have its hooks, and so has what took its place by hand."""
        if self._module is self.net.module:
            return module in self._hooked
        return module in self.net.module.meta["leaves"].values() and self.recorded[key].fits(self.net.graph)

    # what must be known at once -------------------------------------------------------------------------------------

    def _samples(self) -> int:
        """Return of how many samples the latest batches are needed.

        Triggers that are told of changes want the longest window, and the most that any pass looks at is enough.
        """
        graph, rules = self.net.graph, self.program.rules
        wanted = [r.apply.at(site, 1).batch_size(graph, site) for r in rules for site in self._places(r)]
        if any(rule.when.fresh for rule in rules):
            wanted += [*(watch.samples for watch in self._watches.values()), *(2 * w for w in graph.widths.values())]
        return max(wanted, default=0)

    def _refresh(self, receipt: Receipt) -> None:
        """After a rewrite, run the latest batches again and tell triggers that must know what it changed.

        The records of the units that changed and of all that follow them are made anew (Maile 2023, section 7). The
        passes are those of training, dropout and batch statistics included, without gradients; buffers and generators
        are put back.
        """
        morphism = receipt.morphism
        told = [rule for rule in self.program.rules if rule.when.fresh]
        if morphism is None or not told:
            return
        self._renew(morphism)
        view = self._view(None)
        for rule in told:
            for site in self._places(rule):
                if site in morphism.edits:
                    rule.when.settle(view, site, self._remembered(rule, site))

    def _renew(self, morphism: Morphism) -> None:
        """Record the latest batches once more, where a rewrite made what was recorded stale."""
        graph = self.net.graph
        stale = following(graph, set(morphism.edits))
        renewing = {key for key, watch in self._watches.items() if not stale.isdisjoint(watch.nodes(graph))}
        if not renewing:
            return
        for key in renewing:
            self.recorded[key].clear()
        buffers = {name: b.clone() for name, b in self.net.named_buffers()}
        devices = sorted({b.device.index for b in self.net.params.values() if b.device.type == "cuda"})
        self._renewing = renewing
        try:
            with torch.no_grad(), torch.random.fork_rng(devices=devices):
                for batch in self.recent:
                    self.net.module(*batch)
        finally:
            self._renewing = None
            for name, value in self.net.named_buffers():
                value.detach().copy_(buffers[name])

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
            A receipt for every rewrite, refused ones included (each reason of a site once).

        Raises:
            DataError: The loss is not finite, or the network was never run in training mode and a trigger looks at
                what is recorded then.
            OptionError: A trigger cannot say anything about a site, or what was recorded of it is not finite.
        """
        try:
            return self._step(batch, loss, criterion)
        finally:
            for record in self.recorded.values():
                record.settle()

    def _step(self, batch: Any, loss: Tensor | float | None, criterion: Callable[..., Tensor] | None) -> list[Receipt]:
        """Count a step and ask the rules that are due."""
        self.count += 1
        value = None if loss is None else float(loss.detach() if isinstance(loss, Tensor) else loss)
        if value is not None and not isfinite(value):
            raise DataError(f"the loss of step {self.count} is {value}; nothing was grown")
        if self._module is not self.net.module:
            self._attach()
        if self._tuner is not None:
            self._tuner.end_step()
        moment = Moment(self.count, self.steps_per_epoch)
        self.recent.add(() if batch is None else as_inputs(batch))
        receipts: list[Receipt] = []
        for rules in self.program.turns():
            asked = [(rule, self._sites(rule, moment, value)) for rule in rules]
            for site in _in_program_order(self.net.graph, (sites for _, sites in asked)):
                for rule in (rule for rule, sites in asked if site in sites):
                    receipts.extend(self._ask(rule, site, batch, value, criterion))
        return receipts

    def _sites(self, rule: Rule, moment: Moment, loss: float | None) -> tuple[str, ...]:
        """Let a rule take the loss of a step; return where it is asked now."""
        cadence, sites = self.memory.setdefault(rule.name, {}), self._places(rule)
        if loss is not None:
            rule.every.observe(loss, cadence)
            for site in sites:
                rule.when.observe(loss, self._remembered(rule, site))
        if not rule.every.due(moment, cadence):
            return ()
        if not self._trained and any(rule.when.watches(self.net.graph, site) for site in sites):
            raise DataError(
                f"rule `{rule.name}` has nothing to look at: since its controller was made, the network has not been "
                "run in training mode with gradients; call `train()` on it before the forward pass"
            )
        return sites

    def _view(self, loss: float | None) -> View:
        return View(self.net.graph, self.count, loss, self.recorded, self.net.params)

    def _remembered(self, rule: Rule, site: str) -> dict[str, Any]:
        return self.memory.setdefault(f"{rule.name}: {site}", {})

    def _ask(
        self, rule: Rule, site: str, batch: Any, loss: float | None, criterion: Callable[..., Tensor] | None
    ) -> Iterator[Receipt]:
        """Ask a trigger at one site and carry out what it wants, within the limits.

        What was refused is not tried again before the program is another one, unless it may depend on numbers that
        change in training; and it is not told again for the same reason.
        """
        graph, place = self.net.graph, f"{rule.name}: {site}"
        if not (rule.apply.whole or site in graph.leaves) or self._refused_by.get(place) == graph.digest:
            return
        memory = self._remembered(rule, site)
        units = rule.when.wanted(self._view(loss), site, memory)
        for limit in rule.limit if units > 0 and rule.apply.counted else ():
            units = limit.allows(graph, site, units)
        if units <= 0:
            return
        wanted = rule.apply.at(site, units).during(self.count)
        if rule.limit and not rule.apply.counted:  # what else it adds is known only once it is planned
            morphism = plan(wanted, graph).morphism
            if morphism is not None and not all(limit.permits(graph, morphism.after) for limit in rule.limit):
                return
        view = self._view(loss)
        receipt = self._rewrite(wanted.informed(view), wanted.recorded(view), batch, criterion, rule.require)
        if isinstance(receipt.verdict, Refused):
            told = self.refused.get(place) == receipt.verdict.reason
            self.refused[place] = receipt.verdict.reason
            if wanted.match(graph, wanted.site) is not None or not (
                wanted.decided_by_numbers or any(needs(wanted, graph))
            ):
                self._refused_by[place] = graph.digest
            if told:
                return
        else:
            self._attach()
            self._refresh(receipt)
        yield self._told(receipt, site)

    def _told(self, receipt: Receipt, site: str) -> Receipt:
        """Return what to tell people of a rewrite: where it was asked for, and if what is new will not learn."""
        morphism = receipt.morphism
        if morphism is not None and morphism.touched and self.net.training and not self.net.tracked:
            morphism = with_notes(morphism, [UNTRACKED])
        return replace(receipt, sites=(site,), morphism=morphism)

    def _rewrite(
        self,
        wanted: Pass,
        known: Probed | None,
        batch: Any,
        criterion: Callable[..., Tensor] | None,
        require: str,
    ) -> Receipt:
        """Carry out a pass; what it looks at and is not known is recorded on the batch, and on those before it."""
        inputs = None if batch is None else joined(self._seen(wanted)) or as_inputs(batch)
        return rewrite(self.net, wanted, Evidence(None, criterion, inputs, known), self.count, require)

    def _seen(self, wanted: Pass) -> list[Batch]:
        """Return the latest batches, as many as a pass wants to look at; none if any one will do."""
        return self.recent.last(self.recent.reaching(wanted.batch_size(self.net.graph, wanted.site)))

    def close(self) -> None:
        """Take its hooks off the network and its optimizers; it is not to be asked again."""
        for hook in self._hooks:
            hook.remove()
        self._hooks.clear()
        if self._tuner is not None:
            self._tuner.close()

    # saving ---------------------------------------------------------------------------------------------------------

    def state(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """Return what it remembers: JSON and tensors."""
        tensors = {
            f"{key}/{name}": value.clone()
            for key, record in self.recorded.items()
            for name, value in record.state().items()
        }
        tensors |= self.recent.state()
        known: dict[str, Any] = {"count": self.count, "memory": self.memory}
        known |= {"refused": self.refused, "refused_by": self._refused_by}
        if self._tuner is not None:
            known["rates"] = self._tuner.state()
        return deepcopy(known), tensors

    def load(self, state: dict[str, Any], tensors: dict[str, Tensor]) -> None:
        """Take back what `state` returned, for the network as it was then."""
        state, self._trained = deepcopy(state), True
        self.count, self.memory = state["count"], state["memory"]
        self.refused, self._refused_by = state["refused"], state.get("refused_by", {})
        if self._tuner is not None:
            self._tuner.load(state["rates"])
        self._attach()
        for key, record in self.recorded.items():
            prefix = f"{key}/"
            record.clear()
            record.load({k[len(prefix) :]: v for k, v in tensors.items() if k.startswith(prefix)})
        self.recent.load(tensors)


def _recordable(watch: Watch, graph: Graph, leaves: Mapping[str, nn.Module], who: str) -> None:
    """Raise `OptionError` if a node that is to be recorded computes nothing that can be hooked."""
    for node in watch.nodes(graph):
        if node not in leaves:
            raise OptionError(f"nothing can be recorded at `{node}`: it has no module of its own; {who} asks for it")


def _in_program_order(graph: Graph, sites: Iterable[tuple[str, ...]]) -> list[str]:
    """Return sites of several rules, each once: axes in program order; what is none stands alone."""
    place = {axis: i for i, axis in enumerate(graph.leaves)}
    return sorted({site for some in sites for site in some}, key=lambda site: place.get(site, -1))


def following(graph: Graph, edited: set[str]) -> set[str]:
    """Return the nodes an edit reaches, and all that depend on them."""
    found: set[str] = set()
    for node in graph:
        touched = not graph.reach[node.name].isdisjoint(edited)
        if touched or not found.isdisjoint(node.inputs):
            found.add(node.name)
    return found
