"""The steps random programs are made of: an op, or an idiom of a few, that continues from the current value.

Together they use the whole op set. A step looks only at the value it continues from.
"""

from __future__ import annotations

from collections.abc import Callable

from irgrow.axes import Const, prod
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
    Flatten,
    Flip,
    GroupNorm,
    Identity,
    InstanceNorm,
    LayerNorm,
    LeakyReLU,
    MaxPool,
    Mul,
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
from irgrow.testing.drafts import Draft

EPS = 1e-2
"""The eps of every norm in a random program: large, so that a forgotten one shows."""

Step = Callable[[Draft], object]


# anywhere ------------------------------------------------------------------------------------------------------------


def _activation(d: Draft) -> object:
    return d.add("act", Activate(d.pick(*ACTIVATIONS)))


def _relu(d: Draft) -> object:
    return d.add("relu", Activate("relu"))


def _leaky(d: Draft) -> object:
    return d.add("leaky", LeakyReLU(d.pick(0.01, 0.3, -0.5)))


def _identity(d: Draft) -> object:
    return d.add("id", Identity())


def _dropout(d: Draft) -> object:
    return d.add("drop", Dropout(d.pick(0.0, 0.4)))


def _scale(d: Draft) -> object:
    return d.add("scale", Scale())


def _flip(d: Draft) -> object:
    return d.add("flip", Flip())


def _residual(d: Draft) -> object:
    """X + f(x) with one or two layers in f."""
    source = d.current
    layer(d, d.small())
    _activation(d)
    if d.flag():
        _norm(d)
    layer(d, d.units(source))
    return d.add("add", Add(), source, d.current)


def layer(d: Draft, size: int) -> str:
    """Add a layer that fits the current value."""
    return d.dense(size) if d.type().unit_dim == d.type().rank - 1 else d.conv(size, 3, 1)


def _norm(d: Draft) -> object:
    if d.type().unit_dim != 0:
        return d.add("norm", d.pick(LayerNorm(EPS), RMSNorm(EPS)))
    return d.add("norm", BatchNorm(EPS))


def _gate(d: Draft) -> object:
    """X * sigmoid(f(x)), with f over everything where there are positions (squeeze and excite)."""
    source, size = d.current, d.units()
    if d.type().rank > 1:
        d.add("pool", AvgPool())
        d.dense(d.small())
        _relu(d)
    d.dense(size)
    d.add("gate", Activate("sigmoid"))
    return d.add("mul", Mul(), source, d.current)


def _concat(d: Draft) -> object:
    """Dense concatenation: [x, f(x)], or x with itself."""
    source = d.current
    if d.flag():
        layer(d, d.small(1, 3))
    return d.add("concat", Concat(), source, d.current)


def _concat_input(d: Draft) -> object:
    """Concatenation with an earlier value of the same layout."""
    shape, unit_dim = d.shape(), d.type().unit_dim
    fitting = [
        n
        for n in [node.name for node in d.build.nodes]
        if (t := d.build.type_of(n)) is not None
        and t.ids is None
        and (t.rank, t.unit_dim) == (len(shape), unit_dim)
        and all(a == b for i, (a, b) in enumerate(zip(d.shape(n), shape, strict=True)) if i != unit_dim)
    ]
    return d.add("concat", Concat(), d.current, d.pick(*fitting))


def _halves(d: Draft) -> object:
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


def _pad_units(d: Draft) -> object:
    """A shortcut that is padded with zero units, added to a layer."""
    source, size = d.current, d.units()
    more = d.small(1, 2)
    before = d.small(0, more)
    widths = [d.width(s, n, "padded") if n else Const(0) for s, n in ((".before", before), (".after", more - before))]
    padded = d.add("padded", PadUnits(widths[0], widths[1]))
    d.current = source
    layer(d, size + more)
    return d.add("add", Add(), padded, d.current)


def _again(d: Draft) -> object:
    """A layer used twice."""
    size = d.units()
    first = layer(d, size)
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


def _dense(d: Draft) -> object:
    return d.add("dense", Dense(d.width("", d.small(), "dense"), d.flag(), masked=d.flag()))


def _softmax(d: Draft) -> object:
    return d.add("softmax", Softmax())


def _batchnorm(d: Draft) -> object:
    return d.add("bn", BatchNorm(EPS, affine=d.flag()))


def _layernorm(d: Draft) -> object:
    return d.add("ln", LayerNorm(EPS, affine=d.flag()))


def _rmsnorm(d: Draft) -> object:
    return d.add("rms", RMSNorm(EPS))


def _groupnorm(d: Draft) -> object:
    several = d.units() if any(n > 1 for n in d.shape()[1:]) else d.units() - 1
    divisors = [g for g in range(1, several + 1) if d.units() % g == 0]
    if not divisors:
        return _identity(d)
    return d.add("gn", GroupNorm(d.width(".groups", d.pick(*divisors), "gn"), EPS))


def _instancenorm(d: Draft) -> object:
    if all(n == 1 for n in d.shape()[1:]):
        return _identity(d)
    return d.add("in", InstanceNorm(EPS, affine=d.flag()))


def _conv(d: Draft) -> object:
    kernel = d.pick(1, 3) if min(d.shape()[1:]) >= 3 else 1
    dilation = d.pick(1, 1 + (kernel == 1))
    op = Conv(d.width("", d.small(), "conv"), kernel, d.pick(1, 2), d.pick(0, 1), dilation, masked=d.flag())
    return d.add("conv", op)


def _grouped(d: Draft) -> object:
    divisors = [g for g in range(1, d.units() + 1) if d.units() % g == 0]
    groups = d.pick(*divisors)
    size = groups * d.small(1, 2)
    axis = d.width(".groups", groups, "grouped")
    return d.add("grouped", Conv(d.width("", size, "grouped"), 3, padding=1, groups=axis))


def _depthwise(d: Draft) -> object:
    return d.add("dw", Depthwise(3, padding=1, multiplier=d.pick(1, 2), bias=d.flag(), masked=d.flag()))


def _pool(d: Draft) -> object:
    if min(d.shape()[1:]) < 2:
        return _identity(d)
    kind = d.pick(MaxPool, AvgPool)
    return d.add("pool", kind(2, d.pick(None, 1), d.pick(0, 1)))


def _global(d: Draft) -> object:
    return d.add("pool", d.pick(MaxPool, AvgPool)())


def _flatten(d: Draft) -> object:
    return d.add("flat", Flatten())


def _pad(d: Draft) -> object:
    return d.add("pad", Pad(1)) if max(d.shape()[1:]) < 6 else _identity(d)


def _shuffle(d: Draft) -> object:
    several = d.units() if any(n > 1 for n in d.shape()[1:]) else d.units() - 1
    divisors = [g for g in range(1, several + 1) if d.units() % g == 0]
    if not divisors:
        return _identity(d)
    return d.add("shuffle", ChannelShuffle(d.width(".groups", d.pick(*divisors), "shuffle")))


def _pixelshuffle(d: Draft) -> object:
    if d.type().rank != 3 or max(d.shape()[1:]) > 4:
        return _identity(d)
    d.conv(4 * d.small(1, 2))
    return d.add("ps", PixelShuffle(2))


def _to_tokens(d: Draft) -> object:
    if d.type().rank == 3:
        d.add("flat", Flatten(1))
    return d.add("swap", Transpose())


def _to_channels(d: Draft) -> object:
    return d.add("swap", Transpose((1, 0)))


def _positions(d: Draft) -> object:
    return d.add("pos", Positions(d.pick("learned", "sinusoidal")))


def _classtoken(d: Draft) -> object:
    return d.add("cls", ClassToken(d.small(1, 2))) if d.shape()[0] < 5 else _identity(d)


def _mix_positions(d: Draft) -> object:
    """Swap units and positions, mix the positions, swap back (MLP-Mixer)."""
    length = d.shape()[0]
    source = d.current
    d.add("swap", Transpose())
    d.dense(d.small())
    _activation(d)
    d.dense(length)
    d.add("swap", Transpose())
    return d.add("add", Add(), source, d.current)


def _attention(d: Draft) -> object:
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


def steps_for(value: TensorType, dropout: bool = True) -> tuple[Step, ...]:
    """Return the steps that can continue from a value."""
    found = VECTOR if value.rank == 1 else CHANNELS if value.unit_dim == 0 else TOKENS
    return found if dropout else tuple(s for s in found if s is not _dropout)
