"""Deliberately broken operators: each must make a law fail."""

from dataclasses import dataclass, replace

import numpy as np
import torch

from irgrow.axes import NEW
from irgrow.edits import Edits, Impossible, growth, removal
from irgrow.fills import ZERO, Constant, Normal
from irgrow.graph import Graph, Node
from irgrow.morphism import Morphism, Select
from irgrow.ops import Activate
from irgrow.passes import Context, GrowUnits, InsertLayer, PruneUnits
from irgrow.passes.primitives import by_role, resize, splice


@dataclass(frozen=True)
class Grower(GrowUnits):
    """A growing pass that does one thing wrong; negative controls derive from it."""

    def rewrite(self, graph, site, context):
        edits = growth(graph, graph.axis(site), self.count)
        return self.spoiled(resize(graph, edits, by_role(Normal(0.5), ZERO), context.seed, "broken"), graph, edits)

    def spoiled(self, morphism, graph, edits):
        return morphism


@dataclass(frozen=True)
class RandomFanOut(Grower):
    """Reads the new units with weights that are not zero."""

    def spoiled(self, morphism, graph: Graph, edits: Edits):
        return resize(graph, edits, by_role(Normal(0.5), Normal(0.5)), morphism.seed, "broken")


@dataclass(frozen=True)
class WrongOffset(Grower):
    """Puts the new columns of every weight first instead of where they belong."""

    def spoiled(self, morphism, graph, edits):
        transfers = dict(morphism.transfers)
        for name, t in transfers.items():
            if isinstance(t, Select) and len(t.maps) > 1 and t.maps[1] is not None:
                moved = np.concatenate([t.maps[1][t.maps[1] == NEW], t.maps[1][t.maps[1] != NEW]])
                transfers[name] = replace(t, maps=(t.maps[0], moved, *t.maps[2:]))
        return replace(morphism, transfers=transfers)


@dataclass(frozen=True)
class Scaled(Grower):
    """Scales the old rows of a weight, forgetting that this changes the function."""

    def spoiled(self, morphism, graph, edits):
        transfers = dict(morphism.transfers)
        for name, t in transfers.items():
            if isinstance(t, Select) and t.maps[0] is not None:
                factor = np.where(t.maps[0] == NEW, 1.0, 1.001)
                rest = (None,) * (len(t.maps) - 1)
                transfers[name] = replace(t, scale=(factor, *rest), grad=(factor, *rest))
        return replace(morphism, transfers=transfers)


@dataclass(frozen=True)
class WrongGradients(Grower):
    """Says that the gradients of carried entries are twice what they are."""

    def spoiled(self, morphism, graph, edits):
        transfers = dict(morphism.transfers)
        for name, t in transfers.items():
            if isinstance(t, Select) and t.maps[0] is not None:
                transfers[name] = replace(t, grad=(np.full(len(t.maps[0]), 2.0), *(None,) * (len(t.maps) - 1)))
        return replace(morphism, transfers=transfers)


@dataclass(frozen=True)
class Dead(Grower):
    """Zero fan-in and zero fan-out: units that never learn."""

    may_leave_dead = True

    def spoiled(self, morphism, graph, edits):
        return resize(graph, edits, by_role(ZERO, ZERO), morphism.seed, "broken")


@dataclass(frozen=True)
class Moody(Grower):
    """Draws its numbers from the global generator."""

    def spoiled(self, morphism, graph, edits):
        fill = Constant(float(torch.rand(())))
        return resize(graph, edits, by_role(fill, ZERO), morphism.seed, "broken")


@dataclass(frozen=True)
class Meddling(GrowUnits):
    """Changes a parameter while it only ought to look, then refuses."""

    def rewrite(self, graph, site, context: Context):
        assert context.params is not None
        with torch.no_grad():
            next(iter(context.params.values())).view(-1)[:1].add_(1e-3)
        raise Impossible("no")


@dataclass(frozen=True)
class WrongPruner(PruneUnits):
    """Keeps the first columns of every weight instead of those of the units that stay."""

    def rewrite(self, graph, site, context):
        edits = removal(graph, graph.axis(site), self.units)
        morphism = resize(graph, edits, by_role(ZERO, ZERO), context.seed, "broken")
        transfers = dict(morphism.transfers)
        for name, t in transfers.items():
            if isinstance(t, Select) and len(t.maps) > 1 and t.maps[1] is not None:
                transfers[name] = replace(t, maps=(t.maps[0], np.arange(len(t.maps[1])), *t.maps[2:]))
        return replace(morphism, transfers=transfers)


@dataclass(frozen=True)
class Endless(Grower):
    """Reads the new units with weights that are no numbers."""

    def spoiled(self, morphism, graph, edits):
        return resize(graph, edits, by_role(Normal(0.5), Constant(float("nan"))), morphism.seed, "broken")


@dataclass(frozen=True)
class Mumbling(GrowUnits):
    """Says its name and place and leaves out everything else."""

    def __str__(self):
        return f'mumbling("{self.axis}")'


@dataclass(frozen=True)
class Secretive(Normal):
    """Random numbers of a kind that no file knows."""

    kind = "secretive"


@dataclass(frozen=True)
class Unwritable(Grower):
    """Fills new units in a way that JSON cannot hold."""

    def spoiled(self, morphism, graph, edits):
        return resize(graph, edits, by_role(Secretive(0.5), ZERO), morphism.seed, "broken")


@dataclass(frozen=True)
class Lopsided(Activate):
    """Says that it looks at every entry alone, and makes of each what its place asks for."""

    def evaluate(self, e, *inputs):
        (x,) = inputs
        return x * np.linspace(0.5, 1.5, x[0].size).reshape(x.shape[1:])


@dataclass(frozen=True)
class Unruly(InsertLayer):
    """Puts in an op that declares wrongly what becomes of its units, and that no program can name."""

    def match(self, graph, site):
        if site not in graph or graph.types[site].ids is not None:
            return "not here"
        return None

    def rewrite(self, graph, site, context):
        return splice(graph, site, [Node(f"{site}_odd", Lopsided("relu"), (site,))], {}, {}, context.seed)


class _Crooked(Morphism):
    """Thinks that the way back leads to other units."""

    def inverse(self):
        back = super().inverse()
        if back is None:
            return None
        transfers = dict(back.transfers)
        for name, t in transfers.items():
            if isinstance(t, Select):
                turned = tuple(None if m is None else np.roll(m, 1) for m in t.maps)
                transfers[name] = replace(t, maps=turned)
        return replace(back, transfers=transfers)


@dataclass(frozen=True)
class Regretful(Grower):
    """Grows as it should and takes it back wrongly."""

    def spoiled(self, morphism, graph, edits):
        return _Crooked(graph, morphism.after, morphism.transfers, morphism.edits, morphism.seed, "broken")
