"""Live networks: a graph, its lowered module and the journal of its rewrites."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.optim import Optimizer

from irgrow import registry
from irgrow.closed import Closed
from irgrow.cost import cost
from irgrow.errors import DataError, OptionError, RefusedError
from irgrow.fills import Fill, generator
from irgrow.graph import Graph
from irgrow.journal import Journal, Receipt
from irgrow.pending import Forwards, outstanding, watch
from irgrow.probing import Evidence
from irgrow.slots import known_slots

Source = Graph | str


class Network(Closed):
    """A network that trains like any module and whose program can be rewritten.

    Parameters and buffers are called what the graph calls them: `net.state_dict()`, `net.named_parameters()` and
    `net.graph.params` have the same names. `net.module` is the lowered `torch.fx.GraphModule`; every rewrite makes a
    fresh one, so hold on to the network and not to its module.

    Attributes:
        graph: The program.
        module: The lowered module.
        journal: What was rewritten.
        seed: What initial values and the random numbers of rewrites are derived from.
    """

    graph: Graph
    module: fx.GraphModule

    def __init__(self, graph: Graph, tensors: Mapping[str, Tensor], seed: int = 0) -> None:
        super().__init__()
        self.graph = graph
        self.seed = seed
        self.journal = Journal()
        self.tracked: list[Tracked] = []
        self._pending: Forwards = []
        self._compile: dict[str, Any] | None = None
        self._compiled: Callable[..., Any] | None = None
        self._homes: dict[str, tuple[nn.Module, str]] = {}
        self.install(graph, registry.call("lower", graph, tensors))
        self.register_load_state_dict_pre_hook(_to_paths)  # type: ignore[no-untyped-call]

    def install(self, graph: Graph, module: fx.GraphModule) -> None:
        """Put a graph and its lowered module in place; what was compiled before is dropped.

        The network's children are those of the module, so that names, devices and modes work as in any `nn.Module`,
        also when the network is a part of another one.
        """
        self.graph = graph
        object.__setattr__(self, "module", module)
        self._modules.clear()
        self._modules.update(module._modules)
        self._homes = homes(graph, module)
        self._compiled = None

    # running --------------------------------------------------------------------------------------------------------

    def forward(self, *inputs: Tensor) -> Any:
        """Run the network on its inputs, batch first."""
        if self._compile is not None:
            if self._compiled is None:
                made = torch.compile(self.module, **self._compile)
                object.__setattr__(self, "_compiled", made)  # it is a module, and no part of the network
            outputs = self.__dict__["_compiled"](*inputs)
        else:
            outputs = self.module(*inputs)
        if torch.is_grad_enabled() and not torch.compiler.is_compiling():
            watch(self._pending, outputs)
        return outputs

    @property
    def shareable(self) -> fx.GraphModule | None:
        """The lowered module, if the next one may share its code; torch compiles the same code only so many times."""
        return self.module if self._compile is None else None

    def compile_with(self, **options: Any) -> Network:
        """Run through `torch.compile` with these options from now on, compiled anew after every rewrite."""
        self._compile = options
        self._compiled = None
        return self

    @property
    def has_pending_backward(self) -> bool:
        """Whether a forward pass was recorded whose backward pass has not run and can still come."""
        return outstanding(self._pending)

    # names ----------------------------------------------------------------------------------------------------------

    @property
    def params(self) -> dict[str, Tensor]:
        """Every parameter and buffer by full name; the live objects.

        Raises:
            RefusedError: A leaf module has one no more, because it was parametrized, pruned or taken away.
        """
        found: dict[str, Tensor] = {}
        for name, (holder, local) in self._homes.items():
            value = holder._parameters.get(local)
            held = holder._buffers.get(local) if value is None else value
            if held is None:
                raise _taken_away(name)
            found[name] = held
        return found

    def named_parameters(
        self, prefix: str = "", recurse: bool = True, remove_duplicate: bool = True
    ) -> Iterator[tuple[str, nn.Parameter]]:
        """Yield the parameters by their names in the graph."""
        start = f"{prefix}." if prefix else ""
        for name, value in self.params.items():
            if isinstance(value, nn.Parameter):
                yield start + name, value

    def named_buffers(
        self, prefix: str = "", recurse: bool = True, remove_duplicate: bool = True
    ) -> Iterator[tuple[str, Tensor]]:
        """Yield the buffers by their names in the graph."""
        start = f"{prefix}." if prefix else ""
        for name, value in self.params.items():
            if not isinstance(value, nn.Parameter):
                yield start + name, value

    def state_dict(self, *args: Any, destination: Any = None, prefix: str = "", keep_vars: bool = False) -> Any:
        """Return parameters and buffers by their names in the graph."""
        found: Any = OrderedDict() if destination is None else destination
        for name, value in self.params.items():
            found[prefix + name] = value if keep_vars else value.detach()
        return found

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """Load parameters and buffers by their names in the graph.

        Raises:
            DataError: A name is missing or unknown, or a shape differs; nothing was loaded.
        """
        known = self.graph.params
        for name in known if strict else ():
            if name not in state_dict:
                raise DataError(f"`{name}` is missing from the state dict")
        for name, value in state_dict.items():
            if name not in known:
                if strict:
                    raise DataError(f"the network has no parameter `{name}`")
                continue
            shape = self.graph.param_shape(name)
            if tuple(value.shape) != shape:
                raise DataError(f"`{name}`: expected shape {list(shape)}, found {list(value.shape)}")
        return super().load_state_dict(dict(state_dict), strict=strict, assign=assign)

    # rewriting ------------------------------------------------------------------------------------------------------

    def track(
        self,
        optimizer: Optimizer,
        scheduler: Any = None,
        scaler: Any = None,
        average: Any = None,
        carry: str = "siblings",
    ) -> Network:
        """Name what must follow every rewrite.

        Args:
            optimizer: Its parameters are replaced in place in their groups, its state is carried.
            scheduler: A learning-rate scheduler of that optimizer; stays coupled.
            scaler: A `GradScaler`; stays valid.
            average: A `torch.optim.swa_utils.AveragedModel` of this network; averages follow by the same maps.
            carry: How new entries of the optimizer's state start: `siblings`, `zero` or `fresh`.

        Raises:
            RefusedError: The state of this optimizer cannot be carried.
            OptionError: The scheduler drives another optimizer, the average is of another program, or the optimizer
                holds no parameter of this network, one twice, or one that another tracked optimizer holds.
        """
        from irgrow.invariants import track

        self.tracked.append(track(self, optimizer, scheduler, scaler, average, carry))
        return self

    def untrack(self, optimizer: Optimizer) -> Network:
        """Let an optimizer go, with its scheduler, scaler and average, so that another one can take its place.

        Rewrites leave it alone from then on: it goes on holding the parameters it has.

        Raises:
            OptionError: It is not tracked.
        """
        kept = [tracked for tracked in self.tracked if tracked.optimizer is not optimizer]
        if len(kept) == len(self.tracked):
            raise OptionError("this optimizer is not tracked")
        self.tracked[:] = kept
        return self

    def rewrite(
        self,
        pass_: Any,
        batch: Any = None,
        loss: Callable[..., Tensor] | None = None,
        step: int | None = None,
        statistics: Any = None,
        require: str = "any",
    ) -> Receipt:
        """Run one pass as a transaction: everything follows, or nothing changes.

        Args:
            pass_: A pass, or its text such as `"grow_units(f1, 8)"`.
            batch: Inputs to measure the error on, and to record what an initializer needs: a tensor or a tuple of them.
            loss: Called with the outputs on the batch; measured before and after.
            step: The training step, for the journal.
            statistics: Inputs to record what an initializer needs on, without measuring; `batch` unless given.
            require: `any`, or `exact` to refuse what is not proved to preserve the function.

        Returns:
            The receipt. A refused rewrite is a receipt with that verdict, and has changed nothing.

        Raises:
            RefusedError: A backward pass is outstanding.
            CompilerBug: An invariant does not hold afterwards; everything was restored.
        """
        from irgrow.transaction import rewrite

        if isinstance(pass_, str):
            pass_ = registry.call("parse_pass", pass_)
        return rewrite(self, pass_, Evidence.of(batch, loss, statistics), step, require)

    def undo(self) -> Receipt:
        """Take the latest rewrite back, where nothing was lost: grown units are pruned, inserted layers removed.

        Raises:
            RefusedError: There is nothing to undo, something was lost, or it lies too many rewrites back
                (`irgrow.journal.DEPTH`).
        """
        from irgrow.transaction import undo

        return undo(self)

    # people ---------------------------------------------------------------------------------------------------------

    def summary(self) -> str:
        """Return a table of the nodes with shapes, parameters and operations."""
        costs = cost(self.graph)
        rows = [("node", "op", "output", "parameters", "MACs")]
        for node in self.graph:
            shape = "x".join(map(str, self.graph.shape(node.name)))
            c = costs.nodes[node.name]
            rows.append((node.name, str(registry.call("word", node.op)), shape, f"{c.parameters:,}", f"{c.macs:,}"))
        rows.append(("total", "", "", f"{costs.parameters:,}", f"{costs.macs:,}"))
        widths = [max(len(r[i]) for r in rows) for i in range(5)]
        aligned = [
            "  ".join(c.ljust(w) if i < 3 else c.rjust(w) for i, (c, w) in enumerate(zip(r, widths, strict=True)))
            for r in rows
        ]
        return "\n".join(line.rstrip() for line in aligned)

    def extra_repr(self) -> str:
        """Show name and size."""
        return f"{self.graph.name}: {len(self.graph)} nodes, {self.graph.count():,} parameters"

    def __deepcopy__(self, memo: dict[int, Any]) -> Network:
        from irgrow.copying import copied

        return copied(self, memo)

    def __reduce_ex__(self, protocol: Any) -> Any:
        raise TypeError("a network is not pickled; use irgrow.save and irgrow.load")


def _to_paths(net: nn.Module, state: dict[str, Any], prefix: str, *rest: Any) -> None:
    """Rename the entries of a state dict to module paths, in place, before torch loads them."""
    assert isinstance(net, Network)
    for name in net.graph.params:
        if prefix + name in state:
            state[prefix + registry.call("param_path", net.graph, name)] = state.pop(prefix + name)


def _taken_away(name: str) -> RefusedError:
    owner, _, local = name.rpartition(".")
    return RefusedError(
        f"the module of `{owner}` has no `{local}` of its own any more: a parametrization, weight norm or pruning put "
        "something in its place, which no rewrite can carry; take it off (`remove_parametrizations`, `prune.remove`) "
        "and use it on a module beside the network; synapses are pruned in a layer with `masked = true`"
    )


class Tracked:
    """One optimizer that follows a network, with what goes with it."""

    def __init__(self, optimizer: Optimizer, scheduler: Any, scaler: Any, average: Any, carry: Any) -> None:
        self.optimizer, self.scheduler, self.scaler = optimizer, scheduler, scaler
        self.average, self.carry = average, carry
        self.slots = known_slots(optimizer)

    @property
    def averaged(self) -> Network | None:
        """The network that averages the weights of the one that is trained."""
        inner = getattr(self.average, "module", None)
        return inner if isinstance(inner, Network) else None


def parts(module: nn.Module) -> Iterator[nn.Module]:
    """Yield a module and all that it is made of; `nn.Module.modules` goes through every level again for each."""
    yield module
    pending = [module]
    while pending:
        inner = [part for part in pending.pop()._modules.values() if part is not None]
        yield from inner
        pending += inner


def homes(graph: Graph, module: fx.GraphModule) -> dict[str, tuple[nn.Module, str]]:
    """Return for every parameter the module that holds it and the name there."""
    leaves: dict[str, nn.Module] = module.meta["leaves"]
    found = {}
    for name, param in graph.params.items():
        leaf = leaves.get(param.owner)
        holder = module.get_submodule(registry.call("module_path", param.owner)) if leaf is None else leaf
        found[name] = (holder, param.spec.name)
    return found


def initial_params(
    graph: Graph, seed: int, dtype: torch.dtype = torch.float32, init: Fill | None = None
) -> dict[str, Tensor]:
    """Draw the initial parameters and buffers of a graph, each from the seed and its own name.

    Args:
        graph: The network.
        seed: The seed.
        dtype: Precision of floats.
        init: What weights with a fan-in start from, instead of what their ops say; biases are zero then.
    """
    found: dict[str, Tensor] = {}
    for name, param in graph.params.items():
        spec, shape = param.spec, graph.param_shape(name)
        first = graph.specs[param.owner][0]
        fan_in = 1
        for d in first.dims[1:]:
            fan_in *= graph.size(d)
        fill = spec.init
        if init is not None and spec.trainable and first.name == "weight" and len(first.dims) > 1:
            fill = init if len(shape) > 1 else spec.neutral
        values = torch.from_numpy(fill.draw(shape, generator(seed, name), fan_in if len(first.dims) > 1 else None))
        tensor = values.to(torch.int64 if spec.integer else dtype)
        found[name] = nn.Parameter(tensor) if spec.trainable else tensor
    return found


def build(
    source: Source,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
    init: str | None = None,
    device: str | torch.device = "cpu",
    **values: Any,
) -> Network:
    """Build a network from a graph or a program.

    Args:
        source: A graph, or the text of a program.
        seed: What the initial values are drawn from; the global generators are not touched.
        dtype: Precision of parameters and floats.
        init: `xavier_uniform` for all weights; else what each op says, which is what the stock modules do.
        device: Where the tensors live.
        **values: Compile-time parameters, if the source is a text.

    Raises:
        ProgramError: The program is not well-formed.
        OptionError: `init` is not known.

    >>> net = build("net tiny(x: [4]) { return x |> dense(3) }", seed=1)
    >>> sorted(net.state_dict())
    ['dense_1.bias', 'dense_1.weight']
    """
    from irgrow.fills import XavierUniform

    graph: Graph = registry.call("parse", source, **values) if isinstance(source, str) else source
    schemes: dict[str, Fill] = {"xavier_uniform": XavierUniform()}
    if init is not None and init not in schemes:
        raise OptionError(f"unknown initialisation `{init}`; known are {', '.join(schemes)}")
    return Network(graph, initial_params(graph, seed, dtype, schemes.get(init or "")), seed).to(device)
