"""What an operator is: one frozen dataclass that declares everything the rest of irgrow asks about it.

An op file holds the attributes, the typing rule, the parameters with the role of each of their dimensions, the facts
the preservation prover uses, the cost, the definition in NumPy and the lowering to torch. Nothing else in the code base
names a particular op.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from math import inf
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn, Protocol

from irgrow.attributes import attributes
from irgrow.axes import ONE, Axis, Const, size_of
from irgrow.errors import Diagnostic, Note, Span
from irgrow.fills import ONES, ZERO, Fill
from irgrow.shapes import Array
from irgrow.unify import Axes, SizeConflict, Why

if TYPE_CHECKING:
    from torch import fx, nn

Sizes = Mapping[str, int]


@dataclass(frozen=True, slots=True)
class TensorType:
    """The type of a value, without its batch dimension.

    Args:
        dims: One axis per dimension.
        unit_dim: Index of the dimension that holds the units (channels first for images, last for tokens).
        ids: For integer tokens, one more than the largest id; `None` for floats.
    """

    dims: tuple[Axis, ...]
    unit_dim: int = 0
    ids: int | None = None

    @property
    def rank(self) -> int:
        """Number of dimensions, the batch not counted."""
        return len(self.dims)

    @property
    def units(self) -> Axis:
        """The axis of the units."""
        return self.dims[self.unit_dim]

    def replace(self, dim: int, axis: Axis) -> TensorType:
        """Return this type with one dimension exchanged."""
        dims = list(self.dims)
        dims[dim] = axis
        return TensorType(tuple(dims), self.unit_dim, self.ids)


@dataclass(frozen=True, slots=True)
class Signature:
    """What typing found out about a node.

    Args:
        inputs: Types of its inputs.
        output: Type of its output.
        axes: The widths it declares, by attribute name, and those its typing rule named.
    """

    inputs: tuple[TensorType, ...]
    output: TensorType
    axes: Mapping[str, Axis]


class Role(Enum):
    """What a dimension of a parameter has to do with the units of its axis."""

    MAKES = "makes"
    READS = "reads"
    PER_UNIT = "per_unit"
    FIXED = "fixed"


@dataclass(frozen=True, slots=True)
class ParamSpec:
    """A parameter or buffer an op needs.

    Args:
        name: Its name under the node, such as `weight`.
        dims: One axis per dimension, fan-out first.
        roles: The role of each dimension.
        init: What a fresh tensor is filled with.
        neutral: What new per-unit entries are filled with, so that the op does to them as little as it can.
        trainable: False for buffers.
        integer: True for counters.
    """

    name: str
    dims: tuple[Axis, ...]
    roles: tuple[Role, ...]
    init: Fill = ZERO
    neutral: Fill = ZERO
    trainable: bool = True
    integer: bool = False


MASK = "mask"
"""The name of the buffer that says which entries of a masked weight are on (1) and off (0)."""


def mask_of(weight: ParamSpec) -> ParamSpec:
    """Return the mask of a weight: a buffer of its shape that starts with everything on."""
    return ParamSpec(MASK, weight.dims, weight.roles, ONES, ONES, trainable=False)


class Coupling(Enum):
    """How the outputs of an op depend on the units of its input."""

    PER_UNIT = "per_unit"  # each unit by itself
    MIXING = "mixing"  # weighted sums over the axis that a READS dimension names
    STATISTICS = "statistics"  # units that are normalised together
    MOVEMENT = "movement"  # the same numbers in other places
    SUM = "sum"  # inputs added entry by entry
    PRODUCT = "product"  # inputs multiplied entry by entry
    ATTENTION = "attention"  # dot-product attention over heads
    SOURCE = "source"  # makes units from no units at all


@dataclass(frozen=True, slots=True)
class Facts:
    """What the preservation prover may use about a per-unit function f.

    Args:
        at_zero: f(0); `None` if it depends on parameters.
        slope_at_zero: f'(0), in torch's convention for kinks.
        fixed_on: An interval on which f(x) = x.
        image: An interval that contains every f(x).
        homogeneous: f(a x) = a f(x) for a > 0.
        odd_slope: c with f(x) - f(-x) = c x for every x; `None` if there is none.
        keeps_range: The output lies in the interval hull of the input and zero.
        entrywise: Every entry by itself, whatever dimension it stands in.
        stochastic: Draws random numbers in training mode.
        batch_statistics: In training mode the output depends on the rest of the batch.
        normalising: Every unit is divided by the deviation of its own values, at least while training.
        additive: Its parameters are added to units or put beside them, so the mean of units goes with their mean.
        monotone: f(x) <= f(y) for x <= y.
    """

    at_zero: float | None = 0.0
    slope_at_zero: float = 1.0
    fixed_on: tuple[float, float] | None = None
    image: tuple[float, float] = (-inf, inf)
    homogeneous: bool = False
    odd_slope: float | None = None
    keeps_range: bool = False
    entrywise: bool = False
    stochastic: bool = False
    batch_statistics: bool = False
    normalising: bool = False
    additive: bool = False
    monotone: bool = False


class TypeFailure(Exception):
    """A typing rule that does not hold; carries the diagnostic."""

    def __init__(self, diagnostic: Diagnostic) -> None:
        super().__init__(diagnostic.message)
        self.diagnostic = diagnostic


class Typing:
    """What a typing rule may do: ask for sizes, tie axes, lock them, declare derived atoms, fail."""

    def __init__(self, axes: Axes, node: str, span: Span | None, inputs: Sequence[str], origin: Any) -> None:
        self.axes, self.node, self.span, self.inputs = axes, node, span, inputs
        self._origin = origin
        self.named: dict[str, Axis] = {}

    def size(self, axis: Axis) -> int:
        """Return the size of an axis."""
        return self.axes.size(axis)

    def derived(self, name: str, size: int) -> Axis:
        """Return an axis that this node implies, such as the units a grouped convolution reads in each group.

        It goes into the signature under this name; an axis of one is a constant.
        """
        axis: Axis = ONE if size == 1 else self.axes.atom(f"{self.node}.{name}", size, Axes.DERIVED)
        self.named[name] = axis
        return axis

    def unify(self, left: Axis, right: Axis, reason: str, ends: tuple[int, int] | None = None) -> None:
        """Tie two axes, or fail naming both ends (`ends`: indices of the inputs they belong to)."""
        try:
            self.axes.unify(left, right, Why(reason, self.node, self.span))
        except SizeConflict as conflict:
            notes = []
            for index, size in zip(ends or (), (conflict.left, conflict.right), strict=False):
                maker, span = self._origin(self.inputs[index])
                notes.append(Note(f"`{self.inputs[index]}` got its {size} from `{maker}`", span))
            self.fail(
                f"{reason}: expected equal sizes, found {conflict.left} and {conflict.right}",
                code="shape-conflict",
                notes=tuple(notes),
            )

    def lock(self, axis: Axis, reason: str) -> None:
        """Lock an axis."""
        self.axes.lock(axis, Why(reason, self.node, self.span))

    def fixed(self, axis: Axis, reason: str) -> int:
        """Return the size of an axis that this node needs as a plain number, and lock it."""
        if type(axis) is not Const:
            self.lock(axis, reason)
        return self.size(axis)

    def fail(
        self, message: str, help: str | None = None, code: str = "type-error", notes: tuple[Note, ...] = ()
    ) -> NoReturn:
        """Give up on this node with a located diagnostic."""
        raise TypeFailure(Diagnostic(message, self.span, notes, help, code, (self.node,)))

    def need_rank(self, value: TensorType, ranks: tuple[int, ...], what: str, help: str | None = None) -> None:
        """Fail unless the value has one of these ranks."""
        if value.rank not in ranks:
            wanted = " or ".join(str(r) for r in ranks)
            shape = [self.size(d) for d in value.dims]
            self.fail(f"{what} takes {wanted} dimensions, found {value.rank}: {shape}", help)

    def need_floats(self, *values: TensorType) -> None:
        """Fail unless all values are floats."""
        for name, value in zip(self.inputs, values, strict=False):
            if value.ids is not None:
                self.fail(f"`{name}` holds integer ids, expected floats", "put an `embedding` between them")

    def channels_first(self, value: TensorType, what: str) -> None:
        """Fail unless the units are in the first dimension."""
        if value.unit_dim != 0:
            self.fail(f"{what} works on channels-first values, found units last", "use `transpose` before it")


class Evaluation(Protocol):
    """What the reference interpreter offers to an op's definition."""

    @property
    def training(self) -> bool:
        """Whether batch norms use the statistics of the batch."""

    @property
    def signature(self) -> Signature:
        """The types of the node."""

    def size(self, axis: Axis) -> int:
        """Return the size of an axis."""

    def param(self, name: str) -> Array:
        """Return a parameter or buffer of this node."""

    def update(self, name: str, value: Array) -> None:
        """Record the new value of a buffer."""


class Lowering(Protocol):
    """What the torch.fx backend offers to an op's lowering."""

    @property
    def signature(self) -> Signature:
        """The types of the node."""

    def module(self, make: Callable[[], nn.Module], *args: fx.Node) -> fx.Node:
        """Call a leaf module whose parameters are those of this node, under their own names.

        It is made on the meta device, and only if the one from before a rewrite cannot be kept.
        """

    def call(self, function: Any, *args: Any, **kwargs: Any) -> fx.Node:
        """Call a function."""

    def method(self, name: str, *args: Any) -> fx.Node:
        """Call a tensor method."""

    def param(self, name: str) -> fx.Node:
        """Read a parameter or buffer of this node."""

    def borrows(self) -> bool:
        """Return whether a parameter of this node belongs to another one."""

    def size(self, axis: Axis) -> int:
        """Return the size of an axis."""


@dataclass(frozen=True)
class Op:
    """Base of all operators."""

    kind: ClassVar[str] = ""
    arity: ClassVar[int | None] = 1
    coupling: ClassVar[Coupling] = Coupling.PER_UNIT

    @property
    def facts(self) -> Facts:
        """Facts about the function, for the preservation prover."""
        return Facts()

    @property
    def zero_if(self) -> tuple[tuple[str, float], ...] | None:
        """Say when a per-unit op maps a zero unit to zero: parameter entries that must have these values.

        `()` means always, `None` never.
        """
        return () if self.facts.at_zero == 0.0 else None

    def mixes(self, s: Signature) -> int:
        """Return the dimension over which a mixing op sums; its units stand in the same dimension of the output."""
        return s.inputs[0].unit_dim

    def normalises(self, s: Signature) -> tuple[int, Axis]:
        """Return the dimension a statistics op works along, and the axis of the groups it forms there."""
        return s.inputs[0].rank - 1, ONE

    @property
    def averages(self) -> bool:
        """Whether a statistics op takes means over units, which replicas of all of them leave as they are."""
        return True

    def filled_up(self, ratio: float) -> Op | None:
        """Return the statistics op that leaves old units as they are when units join them that change nothing.

        Those are the mean of the old ones where the op centres, else zeros; gains of old units are to be multiplied
        by sqrt(ratio). `None` if there is no such op.

        Args:
            ratio: Old number of units over the new one.
        """
        return None

    @property
    def centres(self) -> bool:
        """Return whether a statistics op subtracts the mean over the units."""
        return False

    def check(self) -> str | None:
        """Return what is wrong with attributes taken together, or `None`."""
        return None

    def infer(self, t: Typing, *inputs: TensorType) -> TensorType:
        """Return the type of the output, tying axes where the op ties them."""
        t.need_floats(*inputs)
        return inputs[0]

    def params(self, s: Signature) -> tuple[ParamSpec, ...]:
        """Return the parameters and buffers."""
        return ()

    def macs(self, s: Signature, sizes: Sizes) -> int:
        """Return the multiply-accumulate operations for one sample."""
        return 0

    def resized(self, s: Signature, old: Sizes, new: Sizes) -> Op:
        """Return the op with numbers pinned that would otherwise follow the width and change the function."""
        return self

    def evaluate(self, e: Evaluation, *inputs: Array) -> Array:
        """Compute the output, batch first, in NumPy: this is the definition."""
        raise NotImplementedError(f"{self.kind} has no definition")

    def lower(self, b: Lowering, *inputs: fx.Node) -> fx.Node:
        """Return the torch.fx node that computes the output."""
        raise NotImplementedError(f"{self.kind} has no lowering")

    def widths(self) -> dict[str, Axis]:
        """Return the widths this op declares, by attribute name."""
        found = {}
        for a in attributes(type(self)):
            if a.kind == "width" and (axis := getattr(self, a.name)) is not None:
                found[a.name] = axis
        return found

    def problem(self) -> str | None:
        """Return what is wrong with the attributes, or `None`."""
        for a in attributes(type(self)):
            if a.kind != "width" and (found := a.problem(getattr(self, a.name))):
                return found
        return self.check()


def numel(dims: Sequence[Axis], sizes: Sizes) -> int:
    """Return the number of entries of a tensor."""
    total = 1
    for d in dims:
        total *= size_of(d, sizes)
    return total


def spatial(value: TensorType, sizes: Sizes) -> int:
    """Return the number of positions: the entries of all dimensions but the units."""
    return numel([d for i, d in enumerate(value.dims) if i != value.unit_dim], sizes)
