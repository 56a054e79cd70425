"""A battery of small programs, one for every way in which networks are commonly put together.

Widths are odd where they can be, norms have an eps of 1e-2 and values have a mean, so that a mistake in an index or a
formula shows in the numbers. `IDIOMS` holds the programs by name; `OPERATORS` holds one for every word of the language
that stands for an operator, in which the node of that operator is called `it` and stands on axes that can be edited.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from types import MappingProxyType

from irgrow.grammar import parse
from irgrow.graph import Graph
from irgrow.ops import ACTIVATIONS

_VECTOR, _IMAGE, _TOKENS = "x: [3]", "image: [2, 4, 4]", "tokens: ids(7)[3]"


def _net(inputs: str, body: str) -> str:
    return f"net n({inputs}) {{\n  {body.strip()}\n}}\n"


_ON_VECTORS = {
    "layers in a row": "return x |> a: dense(5) |> tanh |> b: dense(3, bias = false) |> sigmoid |> dense(2)",
    "linear layers in a row": "return x |> a: dense(5) |> b: dense(3) |> s: scale |> dense(2)",
    "one unit": "return x |> a: dense(1) |> gelu |> dense(1)",
    "activation with parameters": "return x |> a: dense(5) |> leaky_relu(slope = 0.2) |> relu |> relu |> dense(2)",
    "gate by two layers": "a = dense(x, 5)  b = dense(x, 5) |> silu  return a * b |> dense(2)",
    "gate by chunk": "h = dense(x, 6)  a, b = chunk(h, 2)  return a * sigmoid(b) |> dense(2)",
    "swiglu": """
  h = x |> stem: dense(5)
  m = h |> rmsnorm(eps = 1e-2)
  gate = m |> gate_proj: dense(7, bias = false) |> silu
  up = dense(m, 7, bias = false)
  return h + (gate * up |> down: dense(5, bias = false)) |> dense(2)
""",
    "concat with the raw input": "h = dense(x, 4) |> relu  return concat(x, h, x) |> dense(5) |> gelu |> dense(2)",
    "concat with itself": "h = dense(x, 3) |> tanh  return concat(h, h) |> dense(2)",
    "chunk used twice": "h = dense(x, 12)  a, b = chunk(h, 2)  c, d = chunk(a, 2)  return concat(d, b, c) |> dense(2)",
    "split in unequal parts": "h = dense(x, 8)  a, b = split(h, [3, 5])  return concat(b |> tanh, a) |> dense(2)",
    "flip added to its source": "h = dense(x, 5) |> relu  return h + flip(h) |> dense(2)",
    "flip before a layer": "return x |> h: dense(5) |> flip |> dense(2)",
    "layer used twice": "return x |> h: dense(5) |> a: dense(5) |> relu |> dense(5, tied = a) |> relu |> dense(2)",
    "masked layers": """
  return x |> a: dense(7, masked = true) |> relu |> b: dense(5, bias = false, masked = true) |> gelu |> dense(2)
""",
    "dropout": "return x |> a: dense(5) |> relu |> dropout(p = 0.3) |> b: dense(3) |> identity |> dense(2)",
    "batch norm": "return x |> a: dense(5) |> batchnorm(eps = 1e-2) |> relu |> b: dense(3) |> batchnorm |> dense(2)",
    "layer norm": "return x |> a: dense(5) |> layernorm(eps = 1e-2) |> gelu |> b: dense(3) |> dense(2)",
    "root-mean-square norm": "return x |> a: dense(5) |> rmsnorm(eps = 1e-2) |> tanh |> b: dense(3) |> dense(2)",
    "centred stream": "return x |> a: dense(5) |> layernorm(eps = 1e-2, affine = false) |> layernorm |> dense(2)",
    "groups of a vector": "return x |> a: dense(6) |> groupnorm(2, eps = 1e-2) |> relu |> dense(2)",
    "softmax": "return x |> a: dense(5) |> softmax |> dense(2)",
    "several outputs": "h = x |> stem: dense(5) |> relu  return h |> a: dense(2), h |> b: dense(3) |> tanh",
    "hidden value as an output": "h = x |> stem: dense(5) |> relu  return h, h |> b: dense(3) |> tanh |> dense(2)",
    "declared width": "axis d = 5  h = x |> a: dense(d) |> relu  return h + (h |> b: dense(d) |> gelu) |> dense(2)",
}

_ON_IMAGES = {
    "residual": """
  return image |> c: conv(3, kernel = 3, padding = 1) |> relu |> residual { i: conv(5, kernel = 3, padding = 1)
      |> gelu |> conv(3, kernel = 1) } |> avgpool |> dense(2)
""",
    "residual with batch norms": """
  return image |> c: conv(3, kernel = 1) |> batchnorm(eps = 1e-2) |> relu
      |> residual { i: conv(5, kernel = 3, padding = 1, bias = false) |> batchnorm(eps = 1e-2) |> relu
      |> conv(3, kernel = 1) |> batchnorm(eps = 1e-2) } |> relu |> avgpool |> dense(2)
""",
    "residual with projection": """
  return image |> c: conv(3, kernel = 1) |> relu |> sum { conv(5, kernel = 3, padding = 1, stride = 2)
      ; p: conv(5, kernel = 1, stride = 2) } |> relu |> avgpool |> dense(2)
""",
    "zero-padded shortcut": """
  return image |> c: conv(3, kernel = 1) |> relu |> sum { padunits(before = 1, after = 2)
      ; q: conv(6, kernel = 1) } |> avgpool |> dense(2)
""",
    "dense concatenation": """
  return image |> c: conv(3, kernel = 1) |> concat { identity ; relu |> conv(5, kernel = 1) }
      |> concat { identity ; batchnorm(eps = 1e-2) |> relu |> conv(3, kernel = 1) } |> avgpool |> dense(2)
""",
    "flatten of channels": """
  return image |> c: conv(3, kernel = 3) |> relu |> flatten |> h: dense(5) |> relu |> dense(2)
""",
    "flatten of positions": """
  return image |> c: conv(3, kernel = 1) |> gelu |> flatten(start = 1) |> transpose |> h: dense(5) |> relu
      |> flatten |> dense(2)
""",
    "channel shuffle": """
  return image |> c: conv(6, kernel = 1) |> channelshuffle(3) |> g: conv(6, kernel = 1, groups = 2) |> relu
      |> avgpool |> dense(2)
""",
    "pixel shuffle": """
  return image |> c: conv(12, kernel = 1) |> pixelshuffle(2) |> d: conv(3, kernel = 1) |> avgpool |> dense(2)
""",
    "groups over unequal parts": """
  a = conv(image, 4, kernel = 1)
  b = conv(image, 2, kernel = 1)
  return concat(a, b) |> g: conv(9, kernel = 3, padding = 1, groups = 3) |> relu |> avgpool |> dense(2)
""",
    "grouped layers": """
  return image |> c: conv(6, kernel = 1) |> g: conv(9, kernel = 3, padding = 1, groups = 3) |> relu
      |> conv(3, kernel = 1) |> avgpool |> dense(2)
""",
    "depthwise": """
  return image |> c: conv(3, kernel = 1) |> relu |> d: depthwise(kernel = 3, padding = 1, multiplier = 2)
      |> relu |> conv(5, kernel = 1) |> avgpool |> dense(2)
""",
    "squeeze and excite": """
  return image |> c: conv(3, kernel = 1) |> relu |> product { identity ; avgpool |> s: dense(5) |> relu
      |> e: dense(3) |> sigmoid } |> avgpool |> dense(2)
""",
    "masked convolutions": """
  return image |> c: conv(3, kernel = 3, padding = 1, masked = true) |> relu
      |> d: conv(5, kernel = 1, masked = true) |> batchnorm(eps = 1e-2) |> avgpool |> dense(2)
""",
    "convolution and batch norm": """
  return image |> c: conv(3, kernel = 3, padding = 1, bias = false) |> batchnorm(eps = 1e-2) |> relu
      |> d: depthwise(kernel = 3) |> batchnorm(eps = 1e-2, affine = false) |> conv(5, kernel = 1) |> avgpool
      |> dense(2)
""",
    "group norm": """
  return image |> c: conv(6, kernel = 1) |> n: groupnorm(3, eps = 1e-2) |> relu |> avgpool |> dense(2)
""",
    "instance norm": """
  return image |> c: conv(3, kernel = 1) |> instancenorm(eps = 1e-2) |> relu |> flatten |> dense(2)
""",
    "zero padding": """
  return image |> c: conv(3, kernel = 1) |> pad(1) |> d: conv(5, kernel = 3) |> maxpool(2) |> avgpool
      |> dense(2)
""",
    "pooling": """
  return image |> c: conv(3, kernel = 3, padding = 1) |> relu |> maxpool(2) |> d: conv(5, kernel = 1)
      |> avgpool(2) |> flatten |> dense(2)
""",
    "vision transformer": """
  axis d = 6
  t = image |> p: conv(d, kernel = 2, stride = 2) |> flatten(start = 1) |> transpose |> classtoken |> positions
  return t |> residual { layernorm(eps = 1e-2) |> attn: attention(2, 3) } |> layernorm(eps = 1e-2)
      |> slice(0, 1, dim = 0) |> flatten |> dense(2)
""",
}

_ON_TOKENS = {
    "pre-norm transformer": """
  axis d = 6
  return tokens |> e: embedding(d) |> positions |> residual { layernorm(eps = 1e-2)
      |> attn: attention(2, 3, causal = true) } |> residual { layernorm(eps = 1e-2) |> up: dense(5) |> gelu
      |> down: dense(d) } |> layernorm(eps = 1e-2) |> dense(2)
""",
    "post-norm transformer": """
  axis d = 5
  return tokens |> e: embedding(d) |> residual { attn: attention(1, 3) } |> layernorm(eps = 1e-2)
      |> residual { up: dense(7) |> relu |> down: dense(d) } |> layernorm(eps = 1e-2) |> dense(2)
""",
    "fewer key and value heads": """
  return tokens |> e: embedding(5) |> residual { attn: attention(4, 3, kv_heads = 2, causal = true) } |> avgpool
      |> dense(2)
""",
    "rotary attention": """
  axis d = 5
  return tokens |> e: embedding(d) |> residual { rmsnorm(eps = 1e-2)
      |> attn: attention(2, 4, rotary = true, bias = false) } |> rmsnorm(eps = 1e-2) |> dense(2, bias = false)
""",
    "packed queries, keys and values": """
  p = tokens |> e: embedding(5) |> h: dense(18)
  q, k, v = chunk(p, 3)
  return dot_product_attention(q, k, v, heads = 2) |> out: dense(5) |> avgpool |> dense(2)
""",
    "tied embedding and head": """
  return tokens |> e: embedding(5) |> positions |> h: dense(5) |> gelu |> dense(7, bias = false, tied = e)
""",
    "flatten of tokens": "return tokens |> e: embedding(5) |> h: dense(3) |> relu |> flatten |> dense(2)",
    "mixer": """
  return tokens |> e: embedding(5) |> residual { layernorm(eps = 1e-2) |> transpose |> m: dense(7) |> gelu
      |> dense(3) |> transpose } |> residual { layernorm(eps = 1e-2) |> c: dense(3) |> gelu |> dense(5) }
      |> avgpool |> dense(2)
""",
    "layer norm of positions": """
  return tokens |> e: embedding(5) |> transpose |> layernorm(eps = 1e-2) |> m: dense(3) |> avgpool |> dense(2)
""",
}

_OTHERS = {
    "several inputs": _net(
        "x: [3], y: [4]", "return (x |> a: dense(5) |> relu) + (y |> b: dense(5) |> tanh) |> c: dense(3) |> dense(2)"
    ),
    "gate from another input": _net(
        "image: [2, 4, 4], y: [3]",
        """c = conv(image, 3, kernel = 1) |> relu
  return c * (y |> g: dense(3) |> sigmoid) |> d: conv(5, kernel = 1) |> avgpool |> dense(2)""",
    ),
    "signal": _net(
        "signal: [2, 6]",
        """return signal |> c: conv(3, kernel = 3) |> batchnorm(eps = 1e-2) |> relu |> flatten |> h: dense(5)
    |> dense(2)""",
    ),
}

IDIOMS: Mapping[str, str] = MappingProxyType(
    {name: _net(_VECTOR, body) for name, body in _ON_VECTORS.items()}
    | {name: _net(_IMAGE, body) for name, body in _ON_IMAGES.items()}
    | {name: _net(_TOKENS, body) for name, body in _ON_TOKENS.items()}
    | _OTHERS
)
"""Programs by the name of what they show."""

_UNITS = "return x |> a: dense(6) |> it: {} |> dense(2)"
_CHANNELS = "return image |> a: conv(8, kernel = 1) |> it: {} |> flatten |> dense(2)"
_STREAM = "h = tokens |> e: embedding(6)  return h |> a: dense(6) |> it: {} |> flatten |> dense(2)"

OPERATORS: Mapping[str, str] = MappingProxyType(
    {
        "input": _net("it: [3]", "return it |> a: dense(5) |> relu |> dense(2)"),
        "dense": _net(_VECTOR, _UNITS.format("dense(5)")),
        "dense (masked)": _net(_VECTOR, _UNITS.format("dense(5, masked = true)")),
        "conv (masked)": _net(_IMAGE, _CHANNELS.format("conv(3, kernel = 3, masked = true)")),
        "conv": _net(_IMAGE, _CHANNELS.format("conv(4, kernel = 3, padding = 1, groups = 2)")),
        "depthwise": _net(_IMAGE, _CHANNELS.format("depthwise(kernel = 3)")),
        "embedding": _net(_TOKENS, "return tokens |> it: embedding(5) |> a: dense(3) |> tanh |> flatten |> dense(2)"),
        "positions": _net(_TOKENS, _STREAM.format("positions")),
        "classtoken": _net(_TOKENS, _STREAM.format("classtoken")),
        "dot_product_attention": _net(
            _TOKENS,
            """e = tokens |> embedding(5)
  it = dot_product_attention(e |> q: dense(6), e |> k: dense(6), e |> v: dense(6), heads = 2)
  return it |> flatten |> dense(2)""",
        ),
        **{w: _net(_IMAGE, _CHANNELS.format(f"{w}(eps = 1e-2)")) for w in ("batchnorm", "instancenorm")},
        **{w: _net(_VECTOR, _UNITS.format(f"{w}(eps = 1e-2)")) for w in ("layernorm", "rmsnorm")},
        "groupnorm": _net(_IMAGE, _CHANNELS.format("groupnorm(2, eps = 1e-2)")),
        **{w: _net(_VECTOR, _UNITS.format(w)) for w in (*ACTIVATIONS, "leaky_relu", "softmax", "scale", "identity")},
        "dropout": _net(_VECTOR, _UNITS.format("dropout(p = 0.3)")),
        "add": _net(_VECTOR, "a = dense(x, 5)  b = dense(x, 5)  it = add(a, b)  return it |> dense(2)"),
        "mul": _net(_VECTOR, "a = dense(x, 5)  b = dense(x, 5)  it = mul(a, b)  return it |> dense(2)"),
        "concat": _net(_VECTOR, "a = dense(x, 5)  b = dense(x, 3)  it = concat(a, b)  return it |> dense(2)"),
        "part": _net(_VECTOR, _UNITS.format("part(before = 2, take = 3, after = 1)")),
        "flip": _net(_VECTOR, _UNITS.format("flip")),
        "channelshuffle": _net(_IMAGE, _CHANNELS.format("channelshuffle(2)")),
        "pixelshuffle": _net(_IMAGE, _CHANNELS.format("pixelshuffle(2)")),
        "flatten": _net(_IMAGE, "return image |> a: conv(3, kernel = 1) |> it: flatten |> dense(2)"),
        "transpose": _net(_TOKENS, _STREAM.format("transpose")),
        "pad": _net(_IMAGE, _CHANNELS.format("pad(1)")),
        "padunits": _net(_VECTOR, _UNITS.format("padunits(before = 1, after = 2)")),
        "maxpool": _net(_IMAGE, _CHANNELS.format("maxpool(2)")),
        "avgpool": _net(_IMAGE, _CHANNELS.format("avgpool(2)")),
    }
)
"""Programs by the word of an operator, which is that of the node called `it`; in brackets what is special about it."""


@cache
def idiom(name: str) -> Graph:
    """Return the graph of an idiom.

    >>> idiom("one unit").widths["a"]
    1
    """
    return parse(IDIOMS[name])


@cache
def operator(word: str) -> Graph:
    """Return the graph in which an operator's node is called `it`.

    >>> operator("relu")["it"].op.kind
    'activate'
    """
    return parse(OPERATORS[word])
