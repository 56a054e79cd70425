"""Hypothesis strategies for random programs over the whole op set, and for their inputs.

A program is drawn as a list of steps. Each step looks only at the value it continues from, so a failing program shrinks
to the steps that matter.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from hypothesis import strategies as st

from irgrow.axes import Axis, Const, prod
from irgrow.builder import GraphBuilder
from irgrow.graph import Graph
from irgrow.ops import (
    ACTIVATIONS,
    Activate,
    Add,
    AvgPool,
    BatchNorm,
    ChannelShuffle,
    ClassToken,
    Concat,
    Conv,
    Dense,
    Depthwise,
    DotProductAttention,
    Dropout,
    Embedding,
    Flatten,
    Flip,
    GroupNorm,
    Identity,
    Input,
    InstanceNorm,
    LayerNorm,
    LeakyReLU,
    MaxPool,
    Mul,
    Op,
    Pad,
    PadUnits,
    Part,
    PixelShuffle,
    Positions,
    RMSNorm,
    Scale,
    Softmax,
    TensorType,
    Transpose,
)
from irgrow.testing.numbers import random_inputs

Draw = Callable[[st.SearchStrategy[Any]], Any]
EPS = 1e-2
"""The eps of every norm in a random program: large, so that a forgotten one shows."""


@dataclass
class Drawing:
    """A program while it is drawn."""

    draw: Draw
    build: GraphBuilder
    current: str = ""
    made: list[str] = field(default_factory=list)

    def type(self, name: str | None = None) -> TensorType:
        """Return the type of a value, of the current one unless told."""
        found = self.build.type_of(name or self.current)
        assert found is not None, self.build.diagnostics
        return found

    def units(self, name: str | None = None) -> int:
        """Return how many units a value has."""
        return self.build.axis_size(self.type(name).units)

    def shape(self, name: str | None = None) -> list[int]:
        """Return the shape of a value."""
        return [self.build.axis_size(d) for d in self.type(name).dims]

    def name(self, word: str) -> str:
        """Return a fresh name."""
        return f"{word}{len(self.build.nodes)}"

    def add(self, word: str, op: Op, *inputs: str, tied: str | None = None) -> str:
        """Add a node and make it the current value."""
        name = self.name(word)
        assert self.build.add(name, op, inputs or (self.current,), tied), self.build.diagnostics
        self.current = name
        self.made.append(name)
        return name

    def width(self, suffix: str, size: int, word: str) -> Axis:
        """Declare a width of the node that `add(word, ...)` will make next."""
        return self.build.width(self.name(word) + suffix, size)

    def small(self, low: int = 1, high: int = 5) -> int:
        """Draw a small number."""
        return int(self.draw(st.integers(low, high)))

    def flag(self) -> bool:
        """Draw true or false."""
        return bool(self.draw(st.booleans()))

    def pick(self, *choices: Any) -> Any:
        """Draw one of several."""
        return self.draw(st.sampled_from(choices))

    def dense(self, size: int, bias: bool | None = None, source: str | None = None) -> str:
        """Add a dense layer."""
        op = Dense(self.width("", size, "dense"), self.flag() if bias is None else bias)
        return self.add("dense", op, source or self.current)

    def conv(self, size: int, kernel: int = 1, padding: int = 0, source: str | None = None) -> str:
        """Add a convolution that keeps the positions if `padding` is half of `kernel`."""
        op = Conv(self.width("", size, "conv"), kernel, padding=padding, bias=self.flag())
        return self.add("conv", op, source or self.current)


Step = Callable[[Drawing], object]


# anywhere ------------------------------------------------------------------------------------------------------------


def _activation(d: Drawing) -> object:
    return d.add("act", Activate(d.pick(*ACTIVATIONS)))


def _relu(d: Drawing) -> object:
    return d.add("relu", Activate("relu"))


def _leaky(d: Drawing) -> object:
    return d.add("leaky", LeakyReLU(d.pick(0.01, 0.3, -0.5)))


def _identity(d: Drawing) -> object:
    return d.add("id", Identity())


def _dropout(d: Drawing) -> object:
    return d.add("drop", Dropout(d.pick(0.0, 0.4)))


def _scale(d: Drawing) -> object:
    return d.add("scale", Scale())


def _flip(d: Drawing) -> object:
    return d.add("flip", Flip())


def _residual(d: Drawing) -> object:
    """X + f(x) with one or two layers in f."""
    source = d.current
    _layer(d, d.small())
    _activation(d)
    if d.flag():
        _norm(d)
    _layer(d, d.units(source))
    return d.add("add", Add(), source, d.current)


def _layer(d: Drawing, size: int) -> str:
    return d.dense(size) if d.type().features == d.type().rank - 1 else d.conv(size, 3, 1)


def _norm(d: Drawing) -> object:
    if d.type().features != 0:
        return d.add("norm", d.pick(LayerNorm(EPS), RMSNorm(EPS)))
    return d.add("norm", BatchNorm(EPS))


def _gate(d: Drawing) -> object:
    """X * sigmoid(f(x)), with f over everything where there are positions (squeeze and excite)."""
    source, size = d.current, d.units()
    if d.type().rank > 1:
        d.add("pool", AvgPool())
        d.dense(d.small())
        _relu(d)
    d.dense(size)
    d.add("gate", Activate("sigmoid"))
    return d.add("mul", Mul(), source, d.current)


def _concat(d: Drawing) -> object:
    """Dense concatenation: [x, f(x)], or x with itself."""
    source = d.current
    if d.flag():
        _layer(d, d.small(1, 3))
    return d.add("concat", Concat(), source, d.current)


def _concat_input(d: Drawing) -> object:
    """Concatenation with an earlier value of the same layout."""
    shape, features = d.shape(), d.type().features
    fitting = [
        n
        for n in [node.name for node in d.build.nodes]
        if (t := d.build.type_of(n)) is not None
        and t.ids is None
        and (t.rank, t.features) == (len(shape), features)
        and all(a == b for i, (a, b) in enumerate(zip(d.shape(n), shape, strict=True)) if i != features)
    ]
    return d.add("concat", Concat(), d.current, d.pick(*fitting))


def _halves(d: Drawing) -> object:
    """Cut in two parts, then gate, add or swap them."""
    source, size = d.current, d.units()
    if size < 2:
        return _identity(d)
    way = d.pick("add", "mul", "swap", "drop")
    cut = size // 2 if way in ("add", "mul") else d.small(1, size - 1)
    if way in ("add", "mul") and size % 2:
        return _identity(d)
    parts = []
    for before, take, after in ((0, cut, size - cut), (cut, size - cut, 0)):
        widths = [
            d.width(s, n, "part") if n else Const(0)
            for s, n in zip((".before", ".take", ".after"), (before, take, after), strict=True)
        ]
        parts.append(d.add("part", Part(widths[0], widths[1], widths[2]), source))
    if way == "drop":
        d.current = parts[0]
        return d.current
    joins = {"add": Add(), "mul": Mul(), "swap": Concat()}
    return d.add("join", joins[way], parts[1], parts[0])


def _pad_units(d: Drawing) -> object:
    """A shortcut that is padded with zero units, added to a layer."""
    source, size = d.current, d.units()
    more = d.small(1, 2)
    before = d.small(0, more)
    widths = [d.width(s, n, "padded") if n else Const(0) for s, n in ((".before", before), (".after", more - before))]
    padded = d.add("padded", PadUnits(widths[0], widths[1]))
    d.current = source
    _layer(d, size + more)
    return d.add("add", Add(), padded, d.current)


def _again(d: Drawing) -> object:
    """A layer used twice."""
    size = d.units()
    first = _layer(d, size)
    _activation(d)
    node = next(n for n in d.build.nodes if n.name == first)
    word = "conv" if isinstance(node.op, Conv) else "dense"
    again = type(node.op)(**{**vars(node.op), "units": d.width("", size, word)})
    return d.add(word, again, tied=first)


ANYWHERE: tuple[Step, ...] = (
    _activation,
    _relu,
    _leaky,
    _identity,
    _dropout,
    _scale,
    _flip,
    _residual,
    _gate,
    _concat,
    _concat_input,
    _halves,
    _pad_units,
    _again,
)


# by layout -----------------------------------------------------------------------------------------------------------


def _dense(d: Drawing) -> object:
    return d.dense(d.small())


def _softmax(d: Drawing) -> object:
    return d.add("softmax", Softmax())


def _batchnorm(d: Drawing) -> object:
    return d.add("bn", BatchNorm(EPS, affine=d.flag()))


def _layernorm(d: Drawing) -> object:
    return d.add("ln", LayerNorm(EPS, affine=d.flag()))


def _rmsnorm(d: Drawing) -> object:
    return d.add("rms", RMSNorm(EPS))


def _groupnorm(d: Drawing) -> object:
    divisors = [g for g in range(1, d.units() + 1) if d.units() % g == 0]
    return d.add("gn", GroupNorm(d.width(".groups", d.pick(*divisors), "gn"), EPS))


def _instancenorm(d: Drawing) -> object:
    if all(n == 1 for n in d.shape()[1:]):
        return _identity(d)
    return d.add("in", InstanceNorm(EPS, affine=d.flag()))


def _conv(d: Drawing) -> object:
    kernel = d.pick(1, 3) if min(d.shape()[1:]) >= 3 else 1
    op = Conv(d.width("", d.small(), "conv"), kernel, d.pick(1, 2), d.pick(0, 1), d.pick(1, 1 + (kernel == 1)))
    return d.add("conv", op)


def _grouped(d: Drawing) -> object:
    divisors = [g for g in range(1, d.units() + 1) if d.units() % g == 0]
    groups = d.pick(*divisors)
    size = groups * d.small(1, 2)
    axis = d.width(".groups", groups, "grouped")
    return d.add("grouped", Conv(d.width("", size, "grouped"), 3, padding=1, groups=axis))


def _depthwise(d: Drawing) -> object:
    return d.add("dw", Depthwise(3, padding=1, multiplier=d.pick(1, 2), bias=d.flag()))


def _pool(d: Drawing) -> object:
    if min(d.shape()[1:]) < 2:
        return _identity(d)
    kind = d.pick(MaxPool, AvgPool)
    return d.add("pool", kind(2, d.pick(None, 1), d.pick(0, 1)))


def _global(d: Drawing) -> object:
    return d.add("pool", d.pick(MaxPool, AvgPool)())


def _flatten(d: Drawing) -> object:
    return d.add("flat", Flatten())


def _pad(d: Drawing) -> object:
    return d.add("pad", Pad(1)) if max(d.shape()[1:]) < 6 else _identity(d)


def _shuffle(d: Drawing) -> object:
    divisors = [g for g in range(1, d.units() + 1) if d.units() % g == 0]
    return d.add("shuffle", ChannelShuffle(d.width(".groups", d.pick(*divisors), "shuffle")))


def _pixelshuffle(d: Drawing) -> object:
    if d.type().rank != 3 or max(d.shape()[1:]) > 4:
        return _identity(d)
    d.conv(4 * d.small(1, 2))
    return d.add("ps", PixelShuffle(2))


def _to_tokens(d: Drawing) -> object:
    if d.type().rank == 3:
        d.add("flat", Flatten(1))
    return d.add("swap", Transpose())


def _to_channels(d: Drawing) -> object:
    return d.add("swap", Transpose((1, 0)))


def _positions(d: Drawing) -> object:
    return d.add("pos", Positions(d.pick("learned", "sinusoidal")))


def _classtoken(d: Drawing) -> object:
    return d.add("cls", ClassToken(d.small(1, 2))) if d.shape()[0] < 5 else _identity(d)


def _mix_positions(d: Drawing) -> object:
    """Swap units and positions, mix the positions, swap back (MLP-Mixer)."""
    length = d.shape()[0]
    source = d.current
    d.add("swap", Transpose())
    d.dense(d.small())
    _activation(d)
    d.dense(length)
    d.add("swap", Transpose())
    return d.add("add", Add(), source, d.current)


def _attention(d: Drawing) -> object:
    """Attention with grouped queries and rotary positions as options, packed projections as another."""
    source = d.current
    groups, repeats, head = d.small(1, 2), d.small(1, 2), d.small(1, 2)
    rotary = d.flag()
    head *= 2 if rotary else 1
    tag = d.name("head")
    heads = d.build.axis(f"{tag}.n", groups * repeats)
    kv = heads if repeats == 1 else d.build.axis(f"{tag}.kv", groups)
    size = d.build.axis(f"{tag}.dim", head)
    packed = d.flag()
    if packed:
        widths = [prod([heads, size]), prod([kv, size]), prod([kv, size])]
        totals = [d.build.axis_size(w) for w in widths]
        whole = d.dense(sum(totals))
        names = []
        for i in range(3):
            before, after = sum(totals[:i]), sum(totals[i + 1 :])
            cuts = [d.width(s, n, "part") if n else Const(0) for s, n in ((".before", before), (".after", after))]
            names.append(d.add("part", Part(cuts[0], d.width(".take", totals[i], "part"), cuts[1]), whole))
    else:
        names = []
        for count in (heads, kv, kv):
            names.append(d.add("proj", Dense(prod([count, size]), d.flag()), source))
    d.add("attend", DotProductAttention(heads, kv, d.flag(), rotary), *names)
    return d.dense(d.units(source)) if d.flag() else d.current


VECTOR: tuple[Step, ...] = (*ANYWHERE, _dense, _batchnorm, _layernorm, _rmsnorm, _groupnorm, _softmax)
CHANNELS: tuple[Step, ...] = (
    *ANYWHERE,
    _conv,
    _grouped,
    _depthwise,
    _batchnorm,
    _groupnorm,
    _instancenorm,
    _pool,
    _global,
    _flatten,
    _pad,
    _shuffle,
    _pixelshuffle,
    _to_tokens,
)
TOKENS: tuple[Step, ...] = (
    *ANYWHERE,
    _dense,
    _layernorm,
    _rmsnorm,
    _positions,
    _classtoken,
    _mix_positions,
    _attention,
    _global,
    _flatten,
    _to_channels,
    _softmax,
)


def _steps(value: TensorType) -> tuple[Step, ...]:
    if value.rank == 1:
        return VECTOR
    return CHANNELS if value.features == 0 else TOKENS


@st.composite
def graphs(draw: Draw, steps: int = 6, dropout: bool = True) -> Graph:
    """Draw a well-formed graph over the whole op set.

    Args:
        draw: Given by Hypothesis.
        steps: The most steps; a step is one op, or an idiom of a few.
        dropout: Whether dropout may occur.

    Example::

        @given(graphs())
        def test_something(graph):
            assert irgrow.parse(str(graph)) == graph
    """
    d = Drawing(draw, GraphBuilder("random"))
    kind = d.pick("vector", "image", "signal", "ids")
    shapes: dict[str, Callable[[], tuple[int, ...]]] = {
        "vector": lambda: (d.small(),),
        "image": lambda: (d.small(1, 3), d.small(2, 4), d.small(2, 4)),
        "signal": lambda: (d.small(1, 3), d.small(2, 5)),
        "ids": lambda: (d.small(2, 4),),
    }
    d.build.add("x", Input(shapes[kind](), 7 if kind == "ids" else None))
    d.current = "x"
    if kind == "ids":
        d.add("embed", Embedding(d.width("", d.small(2, 5), "embed")))
    else:
        _layer(d, d.small())
    for _ in draw(st.lists(st.just(None), min_size=1, max_size=steps)):
        allowed = [s for s in _steps(d.type()) if dropout or s is not _dropout]
        if int(np.prod(d.shape())) <= 400:
            d.pick(*allowed)(d)
    _head(d)
    return d.build.finish([d.current])


def _head(d: Drawing) -> None:
    """End in a layer, so that the axes before it are not part of the interface; tied to the embedding if it fits."""
    value = d.type()
    embed = next((n.name for n in d.build.nodes if isinstance(n.op, Embedding)), None)
    last = value.features == value.rank - 1
    if embed is not None and last and d.units() == d.units(embed) and d.flag():
        d.add("head", Dense(d.width("", 7, "head"), d.flag()), tied=embed)
    elif last:
        d.dense(d.small())
    elif d.flag():
        d.conv(d.small())
    else:
        d.add("flat", Flatten())
        d.dense(d.small())


def inputs(graph: Graph) -> st.SearchStrategy[dict[str, Any]]:
    """Draw inputs of a graph by name, batch first; the batch may be a single sample."""
    return st.builds(lambda seed, batch: random_inputs(graph, seed, batch), st.integers(0, 2**31), st.integers(1, 4))
