"""Lowering: a graph becomes a `torch.fx.GraphModule` whose leaves are the stock modules.

Module paths are the graph's node names, so `state_dict` has the graph's parameter names. A name that Python or
`nn.Module` needs for itself is escaped with a trailing underscore; `module_path` gives the mapping. No width stands in
the generated code: modules hold the sizes. So a graph that differs from an earlier one in sizes only is lowered by
exchanging leaves (`exchanged`); any other makes a fresh module class.
"""

from __future__ import annotations

import keyword
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

from torch import Tensor, fx, nn

from irgrow.axes import Axis
from irgrow.graph import Graph
from irgrow.ops import Signature
from irgrow.ops.leaves import ChannelShuffle, DotProductAttention, Pad, Part

_LOCAL = frozenset({"weight", "bias", "running_mean", "running_var", "num_batches_tracked", "frequencies", "mask"})


@lru_cache(maxsize=1)
def _taken() -> frozenset[str]:
    """Names that Python, a network, a GraphModule or a leaf module uses itself."""
    from irgrow.network import Network

    leaves = [nn.Linear(1, 1), nn.Conv1d(1, 1, 1), nn.Conv2d(1, 1, 1), nn.Embedding(1, 1), nn.BatchNorm2d(1)]
    leaves += [nn.InstanceNorm2d(1), nn.GroupNorm(1, 1), nn.LayerNorm(1), nn.RMSNorm(1), nn.MaxPool2d(1)]
    leaves += [nn.AvgPool2d(1), nn.PixelShuffle(1), nn.Dropout(), nn.ELU(), nn.Hardtanh(), nn.GELU(), nn.Softmax()]
    leaves += [Part(0, 0, 0), Pad((0,)), ChannelShuffle(1), DotProductAttention(1, 1, False, None, None)]
    leaves += [fx.GraphModule(nn.Module(), fx.Graph())]
    used = {name for leaf in leaves for name in (*dir(leaf), *vars(leaf))}
    used |= {*dir(Network), "module", "journal", "seed", "tracked"}
    return frozenset(used | _LOCAL | {"self", "torch", "device", *keyword.kwlist, *keyword.softkwlist})


def _clashes(part: str) -> bool:
    """Whether a part of a name is taken, or is what escaping a taken one gives."""
    while part not in _taken():
        if not part.endswith("_"):
            return False
        part = part[:-1]
    return True


@lru_cache(maxsize=65536)
def module_path(name: str) -> str:
    """Return the module path of a node: its name, but what Python or `nn.Module` needs gets an underscore.

    >>> module_path("stage1.0.conv_1"), module_path("class.forward")
    ('stage1.0.conv_1', 'class_.forward_')
    """
    return ".".join(part + "_" if _clashes(part) else part for part in name.split("."))


def param_path(graph: Graph, name: str) -> str:
    """Return the path of a parameter in the lowered module."""
    param = graph.params[name]
    return f"{module_path(param.owner)}.{param.spec.name}"


class _Lowering:
    """Builds the fx graph node by node; what ops see of it is the `Lowering` protocol."""

    def __init__(self, graph: Graph, tensors: Mapping[str, Tensor], reuse: Mapping[str, nn.Module]) -> None:
        self.graph, self.tensors, self.reuse = graph, tensors, reuse
        self.fx = fx.Graph()
        self.root = nn.Module()
        self.leaves: dict[str, nn.Module] = {}
        self.node = ""
        self._reads: dict[str, fx.Node] = {}

    @property
    def signature(self) -> Signature:
        return self.graph.signatures[self.node]

    def size(self, axis: Axis) -> int:
        return self.graph.size(axis)

    def borrows(self) -> bool:
        return self.node in self.graph.typed.owners

    def call(self, function: Any, *args: Any, **kwargs: Any) -> fx.Node:
        return self.fx.call_function(function, args, kwargs)

    def method(self, name: str, *args: Any) -> fx.Node:
        return self.fx.call_method(name, args)

    def param(self, name: str) -> fx.Node:
        full = self.graph.param_name(self.node, name)
        if full not in self._reads:
            self._install(full)
            self._reads[full] = self.fx.get_attr(param_path(self.graph, full))
        return self._reads[full]

    def module(self, make: Callable[[], nn.Module], *args: fx.Node) -> fx.Node:
        """Call a leaf module with this node's tensors in it; one kept from before is taken as it is."""
        kept = self.reuse.get(self.node)
        leaf = make() if kept is None else kept
        if kept is None:
            for spec in self.graph.specs[self.node]:
                _assign(leaf, spec.name, self.tensors[self.graph.param_name(self.node, spec.name)])
        self.leaves[self.node] = leaf
        path = module_path(self.node)
        self._attach(path, leaf)
        return self.fx.call_module(path, args)

    def _attach(self, path: str, leaf: nn.Module) -> None:
        """Put a leaf at its path; where children stand already, move them into it."""
        *parents, last = path.split(".")
        holder = self._holder(parents)
        placed = holder._modules.get(last)
        if placed is not None:
            for name, child in placed._modules.items():
                leaf.add_module(name, child)
        holder.add_module(last, leaf)

    def _holder(self, parents: list[str]) -> nn.Module:
        holder = self.root
        for part in parents:
            inner = holder._modules.get(part)
            if inner is None:
                inner = nn.Module()
                holder.add_module(part, inner)
            holder = inner
        return holder

    def _install(self, full: str) -> None:
        """Make sure a parameter read directly stands at its path."""
        *parents, last = param_path(self.graph, full).split(".")
        holder = self._holder(parents)
        if last not in holder._parameters and last not in holder._buffers:
            _assign(holder, last, self.tensors[full])


def _assign(module: nn.Module, name: str, tensor: Tensor) -> None:
    if isinstance(tensor, nn.Parameter):
        module._buffers.pop(name, None)
        module.register_parameter(name, tensor)
    else:
        module._parameters.pop(name, None)
        module._buffers.pop(name, None)
        module.register_buffer(name, tensor)


def lower(
    graph: Graph,
    tensors: Mapping[str, Tensor],
    reuse: Mapping[str, nn.Module] | None = None,
    like: fx.GraphModule | None = None,
) -> fx.GraphModule:
    """Lower a graph.

    Args:
        graph: The network.
        tensors: Every parameter (`nn.Parameter`) and buffer by full name; the module holds these very objects.
        reuse: Leaf modules of nodes that did not change, by node.
        like: An earlier lowered module, whose code is shared if this graph needs the same.

    Returns:
        A GraphModule with the inputs in order; one output, or a tuple of several. Its `meta` holds `leaves`, the leaf
        module of every node that has one, and `values`, the name of the fx node that computes every node.
    """
    if like is not None and same_code(like, graph):
        return exchanged(like, graph, tensors, reuse or {})
    building = _Lowering(graph, tensors, reuse or {})
    values: dict[str, fx.Node] = {}
    for i, name in enumerate(graph.inputs):
        values[name] = building.fx.placeholder(f"x{i}")
    for node in graph:
        if node.name not in values:
            building.node = node.name
            made = node.op.lower(building, *(values[i] for i in node.inputs))
            made.meta.setdefault("irgrow", node.name)
            values[node.name] = made
    outputs = tuple(values[o] for o in graph.outputs)
    building.fx.output(outputs[0] if len(outputs) == 1 else outputs)
    for name in graph.params:
        building._install(name)
    module = fx.GraphModule(building.root, building.fx, class_name="Network")
    module.meta["graph"] = graph
    module.meta["leaves"] = building.leaves
    module.meta["values"] = {name: value.name for name, value in values.items()}
    return module


# the same code ------------------------------------------------------------------------------------------------------


def same_code(module: fx.GraphModule, graph: Graph) -> bool:
    """Return whether a graph differs from that of a lowered module only in what leaf modules hold."""
    before: Graph = module.meta["graph"]
    leaves: dict[str, nn.Module] = module.meta["leaves"]
    if len(before) != len(graph) or before.outputs != graph.outputs or any(leaf._modules for leaf in leaves.values()):
        return False
    for old, new in zip(before, graph, strict=True):
        if (old.name, old.inputs, old.tied, type(old.op)) != (new.name, new.inputs, new.tied, type(new.op)):
            return False
        if old.op != new.op and old.name not in leaves:
            return False
    return True


class _Leaves(_Lowering):
    """Makes the leaf module of a node and nothing else; what ops see of the rest stands for any fx node."""

    def call(self, function: Any, *args: Any, **kwargs: Any) -> Any:
        return None

    def method(self, name: str, *args: Any) -> Any:
        return None

    def param(self, name: str) -> Any:
        return None

    def module(self, make: Callable[[], nn.Module], *args: Any) -> Any:
        leaf = make()
        for spec in self.graph.specs[self.node]:
            _assign(leaf, spec.name, self.tensors[self.graph.param_name(self.node, spec.name)])
        self.leaves[self.node] = leaf


def exchanged(
    module: fx.GraphModule, graph: Graph, tensors: Mapping[str, Tensor], reuse: Mapping[str, nn.Module]
) -> fx.GraphModule:
    """Return a module with the code of another one and with leaves and tensors of its own where they differ."""
    building = _Leaves(graph, tensors, reuse)
    before: Graph = module.meta["graph"]
    for node in graph:
        leaf = module.meta["leaves"].get(node.name)
        if leaf is None:
            continue
        if node.name in reuse:
            building.leaves[node.name] = reuse[node.name]
        elif node.op == before[node.name].op and (other := _resized(leaf, graph, node.name, tensors)) is not None:
            building.leaves[node.name] = other
        else:
            building.node = node.name
            node.op.lower(building, *((None,) * len(node.inputs)))  # type: ignore[arg-type]
    new = {id(leaf): building.leaves[name] for name, leaf in module.meta["leaves"].items()}
    twin = _twin(module, new)
    assert isinstance(twin, fx.GraphModule)
    twin.graph.owning_module = None  # the graph is shared; it must not keep one of its modules alive
    twin.meta = {**module.meta, "graph": graph, "leaves": building.leaves}
    for name, tensor in tensors.items():
        if graph.params[name].owner not in building.leaves:
            path, _, last = param_path(graph, name).rpartition(".")
            _assign(twin.get_submodule(path), last, tensor)
    return twin


_STOCK: tuple[tuple[nn.Module, dict[str, tuple[str, int]]], ...] = (
    (nn.Linear(1, 1, device="meta"), {"out_features": ("weight", 0), "in_features": ("weight", 1)}),
    (nn.Conv1d(1, 1, 1, device="meta"), {"out_channels": ("weight", 0), "in_channels": ("weight", 1)}),
    (nn.Conv2d(1, 1, 1, device="meta"), {"out_channels": ("weight", 0), "in_channels": ("weight", 1)}),
    (nn.BatchNorm1d(1, device="meta"), {"num_features": ("running_mean", 0)}),
    (nn.BatchNorm2d(1, device="meta"), {"num_features": ("running_mean", 0)}),
)
_SIZES = {type(leaf): (vars(leaf).keys(), sizes) for leaf, sizes in _STOCK}
"""Leaf modules in which nothing but these attributes, each a size of one of its tensors, follows a width."""


def _resized(leaf: nn.Module, graph: Graph, node: str, tensors: Mapping[str, Tensor]) -> nn.Module | None:
    """Return the leaf of the same op at other sizes; `None` if it has to be made.

    Making a stock module takes twenty times as long: it makes its tensors, and fills them, for nothing.
    """
    names, sizes = _SIZES.get(type(leaf), (None, {}))
    if vars(leaf).keys() != names:  # not known, or somebody put more into it
        return None
    own = {spec.name: tensors[full] for spec, full in zip(graph.specs[node], graph.own_params[node], strict=True)}
    reads = graph.size(graph.signatures[node].inputs[0].units)
    if "in_channels" in sizes and not (leaf.groups == 1 and own["weight"].shape[1] == reads):
        return None  # groups follow widths as well
    twin = _shell(leaf)
    for name, (holder, dim) in sizes.items():
        twin.__dict__[name] = own[holder].shape[dim]
    for name, tensor in own.items():
        (twin._parameters if name in twin._parameters else twin._buffers)[name] = tensor  # type: ignore[assignment]
    return twin


def _shell(part: nn.Module) -> nn.Module:
    """Return a module of the same class with the same contents in containers of its own."""
    shell: nn.Module = object.__new__(type(part))
    containers: dict[str, Any] = {name: dict(vars(part)[name]) for name in ("_parameters", "_buffers", "_modules")}
    shell.__dict__.update(vars(part), **containers)
    return shell


def _twin(part: nn.Module, leaves: Mapping[int, nn.Module]) -> nn.Module:
    """Return a module of the same class with containers of its own and other leaves."""
    leaf = leaves.get(id(part))
    if leaf is not None:
        return leaf
    twin = _shell(part)
    twin._modules.update({name: child and _twin(child, leaves) for name, child in part._modules.items()})
    return twin
