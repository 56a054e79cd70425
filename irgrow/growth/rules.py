"""Growth programs as data: when, where, how many, how.

A rule joins a cadence (how often to ask), a trigger (how many units), a pass with its initializer, the sites and the
limits. The same dataclasses are what `grow { rule ... }` parses into.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

import numpy as np

from irgrow.attributes import attributes, textual_name
from irgrow.axes import NEW, Atom, atoms
from irgrow.cost import cost
from irgrow.errors import OptionError, did_you_mean
from irgrow.graph import NAME, Graph, remembered
from irgrow.growth.cadences import Cadence, EverySteps
from irgrow.growth.rates import Rates
from irgrow.passes import Pass, Trigger
from irgrow.passes.analyses.places import editable_axes, hidden_axes


@dataclass(frozen=True)
class Where:
    """A set of axes: `hidden`, `editable`, names, or patterns such as `"stage1.*"`.

    `hidden` are the axes whose units are all made by layers with an activation right behind them, gated ones included.
    """

    items: tuple[str, ...] = ("hidden",)

    def __post_init__(self) -> None:
        if not self.items:
            raise OptionError("`where` takes names of axes or patterns, found none")

    def __str__(self) -> str:
        texts = [i if "*" not in i and "?" not in i and "[" not in i else f'"{i}"' for i in self.items]
        return texts[0] if len(texts) == 1 else f"[{', '.join(texts)}]"

    def sites(self, graph: Graph) -> tuple[str, ...]:
        """Return the axes, each once, in program order.

        Raises:
            OptionError: A name or pattern matches nothing.
        """
        return _sites(graph, self)

    def left(self, graph: Graph) -> tuple[str, ...]:
        """Return those of the axes that are there, in program order; rewrites may have taken others away."""
        return _left(graph, self)


@remembered
def _left(graph: Graph, where: Where) -> tuple[str, ...]:
    chosen = {axis for item in where.items for axis in _matching(graph, item)}
    return tuple(a for a in graph.leaves if a in chosen)


@remembered
def _sites(graph: Graph, where: Where) -> tuple[str, ...]:
    chosen: set[str] = set()
    for item in where.items:
        found = _matching(graph, item)
        if not found and item not in ("hidden", "editable"):
            parts = [a.name for a in atoms(graph.types[item].units)] if item in graph else []
            close = did_you_mean(item, dict.fromkeys(["hidden", "editable", *graph.leaves, *graph.by_name]))
            help_ = f"the units of `{item}` are those of {', '.join(parts)}" if parts else close
            raise OptionError(f"`where = {item}` matches no axis" + (f"; {help_}" if help_ else ""))
        chosen.update(found)
    return tuple(a for a in graph.leaves if a in chosen)


def _matching(graph: Graph, item: str) -> set[str]:
    """Return the axes that a word, a name or a pattern means."""
    if item == "hidden":
        return set(hidden_axes(graph))
    if item == "editable":
        return set(editable_axes(graph))
    if item in graph.leaves:
        return {item}
    if item in graph:
        axis = graph.types[item].units
        return {axis.name} if isinstance(axis, Atom) else set()
    return {a for a in editable_axes(graph) if fnmatchcase(a, item)}


@dataclass(frozen=True)
class Limit:
    """A bound: the `width` of each axis, or the `parameters` or `macs` of the network."""

    quantity: str
    most: int

    QUANTITIES = ("width", "parameters", "macs")

    def __str__(self) -> str:
        return f"{self.quantity} <= {self.most}"

    def __post_init__(self) -> None:
        if self.quantity not in self.QUANTITIES:
            close = did_you_mean(self.quantity, self.QUANTITIES) or f"known are: {', '.join(self.QUANTITIES)}"
            raise OptionError(f"`limit` has no quantity `{self.quantity}`; {close}")
        if self.most < 1:
            raise OptionError(f"a limit must be at least 1, found {self.most}")

    def allows(self, graph: Graph, site: str, units: int) -> int:
        """Return how many of the wanted units may be added."""
        if self.quantity == "width":
            return max(0, min(units, self.most - graph.widths[site]))
        low, high, tried = 0, units, units  # a total need not be linear: an axis may be read by what makes it
        while low < high:
            if self._total(_wider(graph, site, tried)) <= self.most:
                low = tried
            else:
                high = tried - 1
            tried = (low + high + 1) // 2
        return low

    def permits(self, before: Graph, after: Graph) -> bool:
        """Return whether a rewrite stays within the bound, or at least adds nothing to what is beyond it."""
        if self.quantity == "width":
            return all(size <= max(self.most, before.widths.get(axis, 0)) for axis, size in after.widths.items())
        return self._total(after) <= max(self.most, self._total(before))

    def _total(self, graph: Graph) -> int:
        return cost(graph).parameters if self.quantity == "parameters" else cost(graph).macs


def _wider(graph: Graph, site: str, units: int) -> Graph:
    return graph.resized({site: np.append(np.arange(graph.widths[site]), np.full(units, NEW))})


@dataclass(frozen=True)
class Rule:
    """One rule of a growth program.

    Args:
        name: What receipts call it.
        apply: The pass; how many units it adds or takes comes from `when`, and its site from `where`, unless it names
            one itself.
        when: How many units, per site.
        every: How often to ask.
        where: The sites. A pass that chooses its own, such as `prune_edges`, is asked once and has none; of one that
            names its site, such as `insert_layer(relu_1)`, the trigger is asked there, or at the one axis named here.
        limit: Bounds; units beyond them are not added.
        require: `exact` to carry out only what is proved to preserve the function, `any` for everything.
        order: `rules` to finish with a rule before the next is asked. Rules that follow one another and all say
            `sites` are taken together, site by site in program order: at each every one of them, then the next site.
    """

    name: str
    apply: Pass
    when: Trigger
    every: Cadence = field(default_factory=EverySteps)
    where: Where = field(default_factory=Where)
    limit: tuple[Limit, ...] = ()
    require: str = "exact"
    order: str = "rules"

    def __post_init__(self) -> None:
        if not NAME.fullmatch(self.name):
            raise OptionError(f"the name of a rule is a word, found `{self.name}`")
        if self.require not in ("exact", "any"):
            raise OptionError(f"`require` takes exact or any, found {self.require}")
        if self.order not in ("rules", "sites"):
            raise OptionError(f"`order` takes rules or sites, found {self.order}")
        if (problem := self.apply.at("", 1).contradiction) is not None:
            raise OptionError(f"`{self.apply}`: {problem}")
        if self.when.removes and not self.apply.removes:
            name, found = textual_name(type(self.when)), textual_name(type(self.apply))
            raise OptionError(f"`{name}` says how many units should go; `{found}` does not take units away")
        self._check_apply()
        if self.apply.whole and self.order == "sites":
            name = textual_name(type(self.apply))
            raise OptionError(f"`{name}` chooses its own sites, so it cannot be taken site by site")

    def _check_apply(self) -> None:
        """Raise `OptionError` if the pass says what the rule says."""
        name, pass_ = textual_name(type(self.apply)), self.apply
        if pass_.whole and self.where != Where():
            raise OptionError(f"`{name}` chooses its own sites; leave `where` out of the rule")
        own = pass_.site and not pass_.whole and not pass_.stays
        if own and self.where not in (Where(), Where((pass_.site,))):
            raise OptionError(f"`{pass_}` names its site, and so does `where = {self.where}`; leave one of them out")
        count = next((getattr(pass_, a.name) for a in attributes(type(pass_)) if a.name == "count"), None)
        if isinstance(count, int) and count > 1 and getattr(pass_.at(pass_.site, count + 1), "count", None) != count:
            raise OptionError(
                f"how many units it is comes from `when = {self.when}`; leave `count = {count}` out of `{pass_}`"
            )

    def sites(self, graph: Graph, rewritten: bool = False) -> tuple[str, ...]:
        """Return where the rule is asked: axes, or what a pass that chooses its own sites is called by.

        Args:
            graph: The network.
            rewritten: Whether it has been rewritten, so that what a name or pattern means may be gone.

        Raises:
            OptionError: A name or pattern matches nothing, and the network is as it was written.
        """
        if self.apply.whole:
            return (self.apply.site,)
        named = bool(self.apply.site) and self.where == Where()
        where = Where((self.apply.site,)) if named else self.where
        if rewritten:
            return where.left(graph)
        try:
            found = where.sites(graph)
        except OptionError as error:
            raise OptionError(str(error).replace(f"`where = {where}`", f"`{self.apply}`") if named else error) from None
        if self.apply.site and len(found) != 1:
            raise OptionError(f"`{self.apply}` works at one place, `where = {where}` are {len(found)}")
        return found

    def problems(self, graph: Graph) -> Iterator[tuple[str, str]]:
        """Yield what of the rule can never work on a network: the entry at fault, and why.

        Sites that are named must all do, of those that a word or a pattern finds one is enough.
        """
        try:
            sites = self.sites(graph)
        except OptionError as error:
            yield "where", str(error)
            return
        if not (self.apply.counted or self.apply.removes) or self.apply.whole:
            return
        reasons = {site: self.apply.at(site, 1).match(graph, site) for site in sites}
        items = (self.apply.site,) if self.apply.site else self.where.items
        names = (item for item in items if item in graph or item in graph.leaves)
        named = {axis for name in names for axis in _matching(graph, name)}
        at_fault = [site for site, why in reasons.items() if why is not None and site in named]
        if not at_fault and None not in reasons.values():
            at_fault = list(reasons)[:1]
        for site in at_fault:
            yield "apply", f"`{self.apply}` can do nothing at `{site}`: {reasons[site]}"

    def __str__(self) -> str:
        lines = [f"  rule {self.name} {{", f"    every = {self.every}", f"    when = {self.when}"]
        lines.append(f"    apply = {self.apply}")
        if not self.apply.whole and (self.where != Where() or not self.apply.site):
            lines.append(f"    where = {self.where}")
        if self.limit:
            texts = [str(limit) for limit in self.limit]
            lines.append(f"    limit = {texts[0] if len(texts) == 1 else '[' + ', '.join(texts) + ']'}")
        if self.require != "exact":
            lines.append(f"    require = {self.require}")
        if self.order != "rules":
            lines.append(f"    order = {self.order}")
        return "\n".join([*lines, "  }"])


@dataclass(frozen=True)
class GrowthProgram:
    """Rules, asked after every training step: one after the other, or site by site where they say so.

    Args:
        rules: The rules.
        rates: A rule for the learning rate of each tensor; `None` for those of the optimizer.
    """

    rules: tuple[Rule, ...]
    rates: Rates | None = None

    def __post_init__(self) -> None:
        names = [r.name for r in self.rules]
        for name in names:
            if names.count(name) > 1:
                raise OptionError(f"two rules are called `{name}`")

    def turns(self) -> tuple[tuple[Rule, ...], ...]:
        """Return the rules in groups, asked one after the other; the rules of a group are taken site by site."""
        found: list[tuple[Rule, ...]] = []
        for rule in self.rules:
            if found and rule.order == found[-1][-1].order == "sites":
                found[-1] += (rule,)
            else:
                found.append((rule,))
        return tuple(found)

    def __str__(self) -> str:
        rates = [] if self.rates is None else [f"  rates = {self.rates}"]
        return "\n".join(["grow {", *rates, *map(str, self.rules), "}\n"])
