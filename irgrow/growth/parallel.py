"""Growth in data-parallel training: decided once, carried out by every process as the same edit.

    net = irgrow.build(program, seed=0)
    model = DataParallel(net)
    optimizer = torch.optim.Adam(net.parameters())
    net.track(optimizer)
    controller = ParallelController(net, growth)
    for x, y in batches:                                      # every process has its share of the batch
        loss = criterion(model(x), y); optimizer.zero_grad(); loss.backward(); optimizer.step()
        controller.step(x, loss)

The first process leads: it asks the triggers, which see what all processes recorded, summed; it plans the rewrite with
the values, gradients and losses of all shares of the batch; and it sends the edit with every number an initializer
computed. No process works out an edit a second time, because two results that differ in the last bit, or two draws,
would train two networks. After every rewrite all compare 32 bytes (`irgrow.growth.agreement`); if they differ, every
process takes the rewrite back and raises the same `ParallelError`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from irgrow import errors, registry
from irgrow.errors import DataError, OptionError, RefusedError
from irgrow.growth.agreement import compare, fingerprints
from irgrow.growth.controller import Controller
from irgrow.growth.messages import (
    Channel,
    Message,
    ParallelError,
    morphism_message,
    morphism_of,
    verdict_from_json,
    verdict_to_json,
)
from irgrow.growth.recent import joined
from irgrow.growth.rules import GrowthProgram, Rule
from irgrow.growth.shares import Criterion, Shares, norms_message, running, take_norms
from irgrow.growth.wrapper import DataParallel
from irgrow.journal import Entry, Receipt
from irgrow.morphism import Morphism, with_notes
from irgrow.network import Network
from irgrow.newborns import settled, unsettled
from irgrow.passes import Pass, View
from irgrow.passes.records.base import Record
from irgrow.probing import Evidence, Probed, as_inputs
from irgrow.swap import Swap, apply, networks
from irgrow.transaction import prepare

__all__ = ["DataParallel", "ParallelController", "ParallelError"]

_RAISED = {e.__name__: e for e in (DataError, OptionError, RefusedError, errors.CheckpointError, errors.CompilerBug)}


class ParallelController(Controller):
    """Runs a growth program in a data-parallel training; every process makes one and asks it after every step.

    Args:
        net: The network, not its wrapper; its optimizers should be tracked.
        program: The rules.
        steps_per_epoch: For rules that count epochs.
        group: The processes; all of them unless given.
        timeout: Seconds that one process waits for another, such as for the first while it plans.

    Raises:
        OptionError: A rule's sites match nothing, a trigger cannot work at one of them, or there is no process group.
        ParallelError: The processes differ from the start.
    """

    def __init__(
        self,
        net: Network,
        program: GrowthProgram,
        steps_per_epoch: int | None = None,
        group: Any = None,
        timeout: float = 120.0,
    ) -> None:
        if not dist.is_initialized():
            raise OptionError("call torch.distributed.init_process_group first")
        self.channel = Channel(group, timeout)
        self._sums: dict[str, Record] = {}
        self._morphisms: list[Morphism] = []
        super().__init__(net, program, steps_per_epoch)
        self._shares = Shares(self.channel, net, self.recent)
        own = fingerprints(net) | {"values": b""}  # the first wrapper makes all start with the leader's values
        own["program"] += f"{program} {steps_per_epoch}".encode()
        compare(self.channel, "at the start", own)

    def _attach(self) -> None:
        self._sums = {}
        super()._attach()
        for record in self.recorded.values():
            record.shared = True

    # asking ---------------------------------------------------------------------------------------------------------

    def _step(self, batch: Any, loss: Tensor | float | None, criterion: Criterion) -> list[Receipt]:
        """Count a step; the first process asks the rules, the others do what it says."""
        self._shares.take(None if batch is None else as_inputs(batch), criterion)
        self._sums, self._morphisms = {}, []
        mean = self._mean_loss(loss)
        failure: BaseException | None = None
        receipts: list[Receipt] = []
        try:
            receipts = super()._step(batch, mean, criterion)
        except ParallelError:  # everybody raises it
            raise
        except BaseException as error:
            failure = error
        if self.channel.leads:
            said = None if failure is None else [type(failure).__name__, str(failure)]
            self.channel.tell(
                Message({"do": "done", "failed": said, "receipts": [_receipt_to_json(r) for r in receipts]})
            )
        else:
            receipts = self._follow()
        if failure is not None:
            raise failure
        return receipts

    def _mean_loss(self, loss: Tensor | float | None) -> float | None:
        """Compare where the processes stand, and return the mean of their losses, which is what all together train on.

        Raises:
            ParallelError: They are at different steps or programs, or were not given the same things.
        """
        value = 0.0 if loss is None else float(loss.detach() if isinstance(loss, Tensor) else loss)
        given = (loss is not None, self._shares.inputs is not None, self._shares.criterion is not None)
        program = int(self.net.graph.digest[:12], 16)
        own = torch.tensor([self.count, program, *given, value], dtype=torch.float64)
        found = torch.stack(self.channel.exchange(own))
        names = (
            "at the same step",
            "of the same program",
            "all given a loss",
            "all given a batch",
            "all given a criterion",
        )
        for column, name in enumerate(names):
            if len(found[:, column].unique()) > 1:
                step = int(found[0, 0]) + 1
                raise ParallelError(f"step {step}: the processes are not {name}; nothing was changed")
        return None if loss is None else float(found[:, -1].mean())

    def _ask(self, rule: Rule, site: str, batch: Any, loss: float | None, criterion: Criterion) -> Iterator[Receipt]:
        if self.channel.leads:
            yield from super()._ask(rule, site, batch, loss, criterion)

    def _view(self, loss: float | None) -> View:
        return View(self.net.graph, self.count, loss, _Summed(self), self.net.params)

    def _follow(self) -> list[Receipt]:
        """Do what the first process says until it is done with the step."""
        while True:
            told = self.channel.hear()
            if told["do"] == "sum":
                self.channel.collect(self._part(told["key"]))
            elif told["do"] == "probe":
                self.channel.collect(self._shares.probe(told))
            elif told["do"] == "trial":
                self.channel.collect(self._shares.trial(told))
            elif told["do"] == "edit":
                receipt = self._carry_out(told, partial(morphism_of, told, self.net.graph))
                assert receipt.morphism is not None
                self._attach()
                if any(rule.when.fresh for rule in self.program.rules):
                    self._renew(receipt.morphism)
            else:
                return self._finished(told)

    def _finished(self, told: Message) -> list[Receipt]:
        if told["failed"] is not None:
            name, text = told["failed"]
            raise _RAISED[name](text) if name in _RAISED else ParallelError(f"process 0: {name}: {text}")
        morphisms = iter(self._morphisms)
        receipts = [_receipt_from_json(r) for r in told["receipts"]]
        return [replace(r, morphism=next(morphisms)) if r.applied else r for r in receipts]

    # what all recorded ----------------------------------------------------------------------------------------------

    def _part(self, key: str) -> Message:
        """Return what this process recorded of a watch, if that is enough to say something."""
        record = self.recorded[key]
        return Message({"ready": record.ready}, record.told() if record.ready else {})

    def summed(self, key: str) -> Record:
        """Return what all processes recorded of a watch; an empty record if one of them has nothing to say yet.

        The first process calls it, while it asks the rules.
        """
        if key not in self._sums:
            self.channel.tell(Message({"do": "sum", "key": key}))
            found = self.channel.collect(self._part(key))
            device = next(iter(self.net.params.values())).device
            told = [{n: t.to(device) for n, t in m.tensors.items()} for m in found]
            self._sums[key] = self.recorded[key].merged(told if all(m["ready"] for m in found) else [])
        return self._sums[key]

    # rewriting ------------------------------------------------------------------------------------------------------

    def _rewrite(self, wanted: Pass, known: Probed | None, batch: Any, criterion: Criterion, require: str) -> Receipt:
        """Plan a rewrite, send it, and carry it out with all others; only the first process does."""
        net = self.net
        nodes, gradients = registry.call("needs", wanted, net.graph)
        gradients = gradients and criterion is not None
        probed, seen = known or Probed(), 0
        if batch is not None:
            seen = self._shares.reaching(wanted.batch_size(net.graph, wanted.site))
            if known is None and (nodes or gradients):
                probed = self._shares.probed(nodes, gradients, seen)
        evidence = Evidence(statistics=None if batch is None else as_inputs(batch), probed=probed)
        prepared = prepare(net, wanted, evidence, self.count, require, net.journal.counter)
        morphism, entry = prepared.morphism, prepared.entry
        if morphism is None or entry is None:
            return prepared.receipt()
        told = morphism_message(morphism)
        told |= {
            "do": "edit",
            "verdict": verdict_to_json(prepared.verdict),
            "batch": batch is not None,
            "settles": batch is not None and bool(morphism.edits) and bool(running(net)),
            "entry": entry.to_json(),
            "site": wanted.site,
            "batches": seen,
        }
        told.tensors |= norms_message(net)
        self.channel.tell(told)
        receipt = self._carry_out(told, lambda: morphism)
        return replace(receipt, seconds=time.perf_counter() - prepared.started)

    def _carry_out(self, told: Message, read: Callable[[], Morphism]) -> Receipt:
        """Put an edit in place, compare with the others, and keep it or take it back.

        Raises:
            ParallelError: It failed somewhere, or the processes differ; nothing was changed on any of them.
        """
        started, net = time.perf_counter(), self.net
        entry = Entry.from_json(told["entry"])
        failure: Exception | None = None
        swap: Swap | None = None
        morphism: Morphism | None = None
        measured: list[str] = []
        try:
            if net.has_pending_backward:
                raise RefusedError("a forward pass was recorded and its backward pass has not run")
            morphism = read()
            take_norms(net, told)
            swap = apply(net, morphism)
        except Exception as error:
            failure = error
        if told["settles"]:
            measured, failure = self._settle(morphism, failure, told["batches"])
        where = f"after `{entry.rewrite}` at step {self.count}"
        try:
            parts = None if failure is not None or morphism is None else fingerprints(net, morphism.touched)
            compare(self.channel, where, parts, failure)
        except BaseException:
            if swap is not None:
                swap.restore()
            raise
        assert swap is not None
        assert morphism is not None
        swap.commit()
        net.journal.add(replace(entry, used=entry.used or ("norms" if measured else "")), morphism)
        self._morphisms.append(morphism)
        verdict, seconds = verdict_from_json(told["verdict"]), time.perf_counter() - started
        said = with_notes(morphism, unsettled(morphism, measured, told["batch"]))
        return Receipt(entry.rewrite, verdict, (told["site"],), None, None, seconds, said)

    def _settle(
        self, morphism: Morphism | None, failure: Exception | None, batches: int
    ) -> tuple[list[str], Exception | None]:
        """Set the running statistics of new units; return the norms the first process measured on whole batches."""
        nets = networks(self.net)
        inputs = joined(self._shares.batches(batches))
        found = self.channel.collect(
            Message({"failed": failure is not None}, {str(i): x for i, x in enumerate(inputs)})
        )
        if self.channel.leads:
            measured, tensors = list[str](), dict[str, Tensor]()
            if not any(m["failed"] for m in found) and morphism is not None:
                try:
                    shares = [[m.tensors[str(i)].to(x.device) for m in found] for i, x in enumerate(inputs)]
                    whole = tuple(torch.cat(share) for share in shares)
                    measured = sorted(settled(nets, morphism, whole))
                    tensors = {f"{i}/{n}": v for i, net in enumerate(nets) for n, v in running(net).items()}
                except Exception as error:
                    failure = error
            self.channel.tell(Message({"measured": measured}, tensors))
            return measured, failure
        told = self.channel.hear()
        for i, net in enumerate(nets if failure is None else ()):
            for name, value in running(net).items():
                if f"{i}/{name}" in told.tensors:
                    value.copy_(told.tensors[f"{i}/{name}"])
        return told["measured"], failure

    # saving ---------------------------------------------------------------------------------------------------------

    def state(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """Return what all processes remember; every process must call it, and each gets the same."""
        state, tensors = super().state()
        found = self.channel.collect(Message({}, tensors))
        if self.channel.leads:
            joined = {f"{rank}/{name}": t for rank, m in enumerate(found) for name, t in m.tensors.items()}
            told = Message({**state, "processes": self.channel.size}, joined)
            self.channel.tell(told)
        else:
            told = self.channel.hear()
        return dict(told), told.tensors

    def load(self, state: dict[str, Any], tensors: dict[str, Tensor]) -> None:
        """Take back what `state` returned; what was recorded starts anew if there were more or fewer processes."""
        own = f"{self.channel.rank}/" if state.get("processes") == self.channel.size else "-/"
        super().load(state, {n[len(own) :]: t for n, t in tensors.items() if n.startswith(own)})


class _Summed(Mapping[str, Any]):
    """What all processes recorded, summed when it is looked at."""

    def __init__(self, controller: ParallelController) -> None:
        self.controller = controller

    def __getitem__(self, key: str) -> Any:
        if key not in self.controller.recorded:
            raise KeyError(key)
        return self.controller.summed(key)

    def __iter__(self) -> Iterator[str]:
        return iter(self.controller.recorded)

    def __len__(self) -> int:
        return len(self.controller.recorded)


def _receipt_to_json(receipt: Receipt) -> dict[str, Any]:
    return {"rewrite": receipt.rewrite, "verdict": verdict_to_json(receipt.verdict), "sites": list(receipt.sites)} | {
        "seconds": receipt.seconds
    }


def _receipt_from_json(data: Mapping[str, Any]) -> Receipt:
    verdict = verdict_from_json(data["verdict"])
    return Receipt(data["rewrite"], verdict, tuple(data["sites"]), seconds=data["seconds"])
