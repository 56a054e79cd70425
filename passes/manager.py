"""The pass manager: pipelines as data, worked out on a graph or carried out on a live network.

A pipeline is a tuple of passes; as text, one pass to a line or several with `;` between them, with `#` for comments:

    grow_units(f1, 8)            # wider
    insert_layer(relu_1); prune_units(f2, [0])

`run` works it out on a graph, with parameters if there are any, and touches nothing; `Pipeline.apply` carries it out on
a live network. A step that is refused is left out and says why, and the others follow; with `atomic` all of them are
carried out or none. Every step has its own seed, derived from the seed of the run, its place and the pass.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from irgrow import registry
from irgrow.errors import Diagnostic, OptionError, ProgramError, Source, Span
from irgrow.graph import Graph
from irgrow.journal import Receipt, seed_of
from irgrow.morphism import Morphism, predecessor
from irgrow.passes.base import Context, Pass, needs, plan
from irgrow.passes.trace import Trace, TraceStep
from irgrow.verdict import Refused, required

if TYPE_CHECKING:
    from torch import Tensor

    from irgrow.network import Network
    from irgrow.probing import Evidence, Probed

Record = Callable[[Graph, Mapping[str, Any], tuple[str, ...], bool], "Probed"]
"""Runs a graph with its parameters and records values of nodes, and gradients if asked to."""


@dataclass(frozen=True)
class Pipeline:
    """Passes to be done in order.

    >>> print(Pipeline.parse("grow_units(f1, 8); insert_layer(relu_1)  # deeper"))
    grow_units(f1, 8)
    insert_layer(relu_1)
    """

    passes: tuple[Pass, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "passes", tuple(self.passes))
        for pass_ in self.passes:
            if not isinstance(pass_, Pass):
                raise OptionError(f"a pipeline is made of passes, found {pass_!r}")

    def __str__(self) -> str:
        return "\n".join(map(str, self.passes))

    def __iter__(self) -> Iterator[Pass]:
        return iter(self.passes)

    def __len__(self) -> int:
        return len(self.passes)

    def __add__(self, other: Pipeline) -> Pipeline:
        return Pipeline((*self.passes, *other.passes))

    @classmethod
    def parse(cls, text: str, name: str = "<pipeline>") -> Pipeline:
        """Read a pipeline from text.

        Args:
            text: Passes, one to a line or with `;` between them.
            name: What messages call it.

        Raises:
            ProgramError: Something does not parse or is unknown; carries every diagnostic, with line and column.
        """
        source, found, wrong = Source(name, text), [], []
        for start, part in _parts(text):
            try:
                found.append(registry.call("parse_pass", part))
            except ProgramError as error:
                wrong += [_moved(d, source, start) for d in error.diagnostics]
        if wrong:
            raise ProgramError(wrong)
        return cls(tuple(found))

    def apply(
        self,
        net: Network,
        atomic: bool = False,
        batch: Any = None,
        loss: Callable[..., Any] | None = None,
        statistics: Any = None,
        step: int | None = None,
        require: str = "any",
    ) -> Trace:
        """Carry it out on a live network.

        Without `atomic` every step is a transaction of its own, and one that is refused is left out. With it the whole
        pipeline is worked out first, on the graph and on parameters of its own; if a step is refused the network is
        never touched, and if one fails in the swap everything is put back.

        Args:
            net: The network.
            atomic: Whether it is all or nothing.
            batch: Inputs to measure on, and to record what passes need.
            loss: Called with the outputs on the batch.
            statistics: Inputs to record what passes need on, without measuring.
            step: The training step, for the journal.
            require: `any`, or `exact` to refuse what is not proved to preserve the function.

        Raises:
            RefusedError: A backward pass is outstanding, or the state of an optimizer cannot be carried.
            CompilerBug: A pass does not keep what it ensures, or an invariant does not hold; everything was restored.
        """
        from irgrow.probing import Evidence
        from irgrow.transaction import rewrite, rewrite_all

        before, evidence = net.graph, Evidence.of(batch, loss, statistics)
        if not atomic:
            receipts = [rewrite(net, pass_, evidence, step, require) for pass_ in self]
            return _traced(before, self, receipts, atomic=False)
        context, record = Context(net.params, net.seed), _recorder(evidence)
        planned = run(self, before, context, True, require, net.journal.counter, record)
        if planned.given_up:
            return replace(planned, params=None)
        return _traced(before, self, rewrite_all(net, self.passes, evidence, step, require))


_TOKENS = re.compile(r'#[^\n]*|"[^"\n]*"|[;\n()\[\]{}]')


def _parts(text: str) -> Iterator[tuple[int, str]]:
    """Yield the passes of a pipeline with their places; inside brackets a line may end."""
    depth, start = 0, 0
    blank = re.sub(r'("[^"\n]*")|#[^\n]*', lambda m: m.group(1) or " " * len(m.group()), text)
    for token in _TOKENS.finditer(blank):
        first = token.group()[0]
        depth = max(0, depth + (first in "([{") - (first in ")]}"))
        if first == ";" or (first == "\n" and depth == 0):
            yield from _part(blank, start, token.start())
            depth, start = 0, token.end()
    yield from _part(blank, start, len(blank))


def _part(text: str, start: int, end: int) -> Iterator[tuple[int, str]]:
    if text[start:end].strip():
        yield start, text[start:end]


def _moved(d: Diagnostic, source: Source, by: int) -> Diagnostic:
    """Return a diagnostic of a part as one of the whole."""
    span = None if d.span is None else Span(source, d.span.start + by, d.span.end + by)
    return replace(d, span=span)


# running -------------------------------------------------------------------------------------------------------------


def run(
    pipeline: Pipeline,
    graph: Graph,
    context: Context | None = None,
    atomic: bool = False,
    require: str = "any",
    first: int = 0,
    record: Record | None = None,
) -> Trace:
    """Work a pipeline out; nothing is touched.

    Args:
        pipeline: The passes.
        graph: The network.
        context: Its parameters and seed. What was recorded counts as long as the graph is the one it was recorded on.
        atomic: Whether a refusal ends it, with nothing done.
        require: `any`, or `exact` to refuse what is not proved to preserve the function.
        first: The number of the first step, from which with the seed and the pass its own seed is derived.
        record: Records what a pass needs on the graph as it is in front of it.

    Raises:
        CompilerBug: A pass does not keep what it ensures.
    """
    context = context or Context()
    params = None if context.params is None else _tensors(graph, context.params)
    steps: list[TraceStep] = []
    current = graph
    for number, pass_ in enumerate(pipeline, first):
        started = time.perf_counter()
        own = replace(context, params=params, seed=seed_of(context.seed, number, pass_))
        planned = plan(pass_, current, _recorded(pass_, current, own, record, current is graph))
        verdict = required(planned.verdict, require, pass_.site)
        seconds = time.perf_counter() - started
        if isinstance(verdict, Refused) or planned.morphism is None:
            steps.append(TraceStep(pass_, verdict, current, current, seconds))
            if atomic:
                return Trace(tuple(steps), graph, graph, True, context.params)
            continue
        after = planned.morphism.after
        params = None if params is None else _carried(planned.morphism, params)
        steps.append(TraceStep(pass_, verdict, current, after, seconds, None, planned.morphism))
        current = after
    return Trace(tuple(steps), graph, current, False, params)


def _recorded(pass_: Pass, graph: Graph, context: Context, record: Record | None, unchanged: bool) -> Context:
    """Return what a pass may look at: what is recorded for it, or what was recorded while the graph has not changed."""
    if record is None or context.params is None:
        return context if unchanged else Context(context.params, context.seed)
    nodes, gradients = needs(pass_, graph)
    if not nodes and not gradients:
        return context
    found = record(graph, context.params, nodes, gradients)
    return Context.seeing(context.params, context.seed, found)


def _recorder(evidence: Evidence) -> Record | None:
    """Return what records on a batch, as a transaction does."""
    from irgrow.probing import probe

    batch, loss = evidence.statistics, evidence.loss
    if batch is None:
        return None

    def record(graph: Graph, params: Mapping[str, Any], nodes: tuple[str, ...], gradients: bool) -> Probed:
        module = registry.call("lower", graph, params)
        return probe(graph, module, params, batch, nodes, loss if gradients else None)

    return record


def _tensors(graph: Graph, params: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return parameters as tensors, trainable ones as parameters; those that are stay the same objects."""
    import torch

    found: dict[str, Tensor] = {}
    for name, param in graph.params.items():
        value = torch.as_tensor(params[name])
        wanted = param.spec.trainable and not isinstance(value, torch.nn.Parameter)
        found[name] = torch.nn.Parameter(value) if wanted else value
    return found


def _carried(morphism: Morphism, params: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the parameters behind a rewrite; what was frozen stays frozen."""
    from torch import nn

    from irgrow.transfer import carried_params

    found = carried_params(morphism, params)
    for name, param in morphism.after.params.items():
        if param.spec.trainable and not isinstance(found[name], nn.Parameter):
            source = params.get(predecessor(morphism.transfers[name]) or "")
            found[name] = nn.Parameter(found[name], source is None or source.requires_grad)
    return found


def _traced(before: Graph, pipeline: Pipeline, receipts: list[Receipt], atomic: bool = True) -> Trace:
    """Return the trace of what was done to a network."""
    steps, current = [], before
    for pass_, receipt in zip(pipeline, receipts, strict=False):
        after = current if receipt.morphism is None else receipt.morphism.after
        found = TraceStep(pass_, receipt.verdict, current, after, receipt.seconds, receipt.error, receipt.morphism)
        steps.append(found)
        current = after
    given_up = atomic and any(not step.applied for step in steps)
    return Trace(tuple(steps), before, before if given_up else current, given_up)
