"""What a pass is: a frozen dataclass with options, a pure `match` and a pure `rewrite` that returns a morphism.

A pass never touches a tensor and never asserts a verdict. `plan` runs one: match, rewrite, verify, prove.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from irgrow.attributes import call_text, problem_of, textual_name
from irgrow.edits import Impossible
from irgrow.errors import ProgramError
from irgrow.fills import generator
from irgrow.graph import Graph
from irgrow.morphism import Morphism
from irgrow.passes.contracts import check_ensured, unmet
from irgrow.passes.preservation import Prover, inseparable_copies, newborns_without_gradient
from irgrow.verdict import Refused, Verdict
from irgrow.verify import check_level, check_params, verify

if TYPE_CHECKING:
    from irgrow.passes.records.base import Watch
    from irgrow.passes.triggers.base import View
    from irgrow.probing import Probed


@dataclass(frozen=True)
class Context:
    """What a rewrite may look at beside the graph.

    Args:
        params: Parameters and buffers by full name; `None` if there are none yet.
        seed: What the random numbers of this rewrite are derived from.
        statistics: What a probe recorded, by the name of the node it was recorded at, batch first.
        gradients: Gradient of the loss by parameter, of masked weights as if all were on; `None` without a loss.
        signals: Gradient of the loss by the values in `statistics`; `None` without a loss.
        trial: The loss on the batch if something were added to the values of nodes, given by name and batch first;
            one forward pass a call. `None` without a loss.
    """

    params: Mapping[str, Any] | None = None
    seed: int = 0
    statistics: Mapping[str, Any] = field(default_factory=dict)
    gradients: Mapping[str, Any] | None = None
    signals: Mapping[str, Any] | None = None
    trial: Callable[[Mapping[str, Any]], float] | None = None

    @classmethod
    def seeing(cls, params: Mapping[str, Any] | None, seed: int, probed: Probed) -> Context:
        """Return what may be looked at where this was probed."""
        return cls(params, seed, probed.values, probed.gradients, probed.signals, probed.trial)

    def generator(self, *names: object) -> np.random.Generator:
        """Return a generator of its own for whatever the names say."""
        return generator(self.seed, *names)


@dataclass(frozen=True)
class Pass:
    """Base of all passes; the fields of a subclass are its options.

    Class attributes:
        may_leave_dead: Whether new units without gradient are allowed; no pass of irgrow does.
        counted: Whether `at` adds as many units to the site as it is given, so that limits can cut the number.
        removes: Whether it takes units away, which triggers that say how many should go ask for.
        stays: Whether `at` leaves a site that it names itself, so that only the trigger is asked elsewhere.
        whole: Whether it chooses its own sites, so that a rule applies it once and not at every site.
        requires: Properties the graph must have, by name; see `irgrow.passes.contracts`.
        ensures: Properties its result has.
    """

    may_leave_dead: ClassVar[bool] = False
    counted: ClassVar[bool] = False
    removes: ClassVar[bool] = False
    stays: ClassVar[bool] = False
    whole: ClassVar[bool] = False
    requires: ClassVar[tuple[str, ...]] = ()
    ensures: ClassVar[tuple[str, ...]] = ()

    def __str__(self) -> str:
        return call_text(self)

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        """Print as the language writes it, in Hypothesis and IPython."""
        printer.text(str(self))

    @property
    def site(self) -> str:
        """The axis or node it works on."""
        raise NotImplementedError

    def at(self, site: str, units: int) -> Pass:
        """Return the same pass at another site, for this many units; what a rule applies."""
        raise NotImplementedError

    def during(self, step: int) -> Pass:
        """Return the pass as it is at a training step; what a rule applies."""
        return self

    @property
    def contradiction(self) -> str | None:
        """What is wrong with its options, alone or together, whatever the network; `None` if nothing is."""
        return problem_of(self)

    def match(self, graph: Graph, site: str) -> str | None:
        """Return the reason why it does not apply, or `None`."""
        raise NotImplementedError

    def needs(self, graph: Graph, site: str) -> tuple[str, ...]:
        """Return the nodes whose values on a batch the rewrite wants in `context.statistics`."""
        return ()

    def wants_gradients(self, graph: Graph, site: str) -> bool:
        """Return whether the rewrite wants `context.gradients` and `context.signals`."""
        return False

    def batch_size(self, graph: Graph, site: str) -> int:
        """Return how many samples those values should be of, at least; 0 if any batch will do."""
        return 0

    def watches(self, graph: Graph, site: str) -> tuple[Watch, ...]:
        """Return what to record in training, so that no batch need be run when a rule applies it at a site."""
        return ()

    def informed(self, view: View) -> Pass:
        """Return the pass with what it takes from what was recorded in training; itself where that is not enough."""
        return self

    def recorded(self, view: View) -> Probed | None:
        """Return what was recorded in training in the place of what a probe would say; `None` if that is not enough."""
        return None

    @property
    def decided_by_numbers(self) -> bool:
        """Whether numbers that change in training decide if it applies, so that a rule tries again when refused."""
        return False

    @property
    def used(self) -> str:
        """What its numbers come from beside the network, for the journal: `records` if it was informed by some."""
        return ""

    def rewrite(self, graph: Graph, site: str, context: Context) -> Morphism:
        """Return what happens to the graph and to every parameter.

        Raises:
            Impossible: It turns out not to apply; carries the reason.
        """
        raise NotImplementedError


@dataclass(frozen=True)
class Plan:
    """A rewrite that was worked out but not carried out."""

    verdict: Verdict
    morphism: Morphism | None = None


def plan(pass_: Pass, graph: Graph, context: Context | None = None) -> Plan:
    """Work out a rewrite and derive its verdict.

    Returns:
        The verdict, with the morphism unless it is `Refused`.

    Raises:
        CompilerBug: The result does not have a property the pass ensures.
        OptionError: The parameters are not those of the graph; looked at from `IRGROW_CHECK=2` on.
    """
    context = context or Context()
    if check_level() > 1 and context.params is not None:
        check_params(graph, context.params)
    site = pass_.site
    span = graph[site].span if site in graph else None
    if (lacking := unmet(pass_.requires, graph)) is not None:
        return Plan(Refused(f"`{textual_name(type(pass_))}` requires {lacking}", site, span))
    reason = pass_.contradiction or pass_.match(graph, site)
    if reason is not None:
        return Plan(Refused(reason, site, span))
    try:
        morphism = pass_.rewrite(graph, site, context)
    except Impossible as impossible:
        return Plan(Refused(impossible.reason, site, span))
    except ProgramError as error:
        return Plan(Refused(f"the result would not be well-formed: {error.diagnostics[0].message}", site, span))
    if check_level() > 0 and (violations := verify(morphism.after, graph)):
        return Plan(Refused(f"the result would not be well-formed: {violations[0].message}", site, span))
    check_ensured(pass_.ensures, pass_, context.seed, graph, morphism.after)
    prover = Prover(morphism, context.params)
    prover.run()
    if not pass_.may_leave_dead and (dead := newborns_without_gradient(prover) or inseparable_copies(prover)):
        return Plan(Refused(dead, site, span))
    return Plan(prover.verdict(), morphism)


def needs(pass_: Pass, graph: Graph) -> tuple[tuple[str, ...], bool]:
    """Return the nodes whose values a pass wants recorded and whether it wants gradients; nothing if it is refused."""
    if pass_.contradiction is not None or pass_.match(graph, pass_.site) is not None:
        return (), False
    return tuple(dict.fromkeys(pass_.needs(graph, pass_.site))), pass_.wants_gradients(graph, pass_.site)
