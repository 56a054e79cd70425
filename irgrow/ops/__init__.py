"""The operators. To add one, write its file and name its class here."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from irgrow.attributes import (
    Attribute,
    attributes,
    flag,
    integer,
    integers,
    plan,
    real,
    show,
    site,
    width,
    window,
    word,
)
from irgrow.ops.activations import ACTIVATIONS, Activate, Activation, LeakyReLU, Softmax
from irgrow.ops.arithmetic import Add, Mul
from irgrow.ops.attention import DotProductAttention
from irgrow.ops.base import (
    MASK,
    Coupling,
    Facts,
    Op,
    ParamSpec,
    Role,
    Signature,
    Sizes,
    TensorType,
    TypeFailure,
    Typing,
    numel,
    spatial,
)
from irgrow.ops.conv import Conv, Depthwise
from irgrow.ops.dense import Dense
from irgrow.ops.elementwise import Dropout, Identity, Scale
from irgrow.ops.embedding import ClassToken, Embedding, Positions
from irgrow.ops.io import Input
from irgrow.ops.movement import (
    ChannelShuffle,
    Concat,
    Flatten,
    Flip,
    Pad,
    PadUnits,
    Part,
    PixelShuffle,
    Transpose,
)
from irgrow.ops.norms import BatchNorm, GroupNorm, InstanceNorm, LayerNorm, RMSNorm
from irgrow.ops.pooling import AvgPool, MaxPool

OPS: tuple[type[Op], ...] = (
    Input,
    Dense,
    Conv,
    Depthwise,
    Embedding,
    Positions,
    ClassToken,
    DotProductAttention,
    BatchNorm,
    LayerNorm,
    RMSNorm,
    GroupNorm,
    InstanceNorm,
    Activate,
    LeakyReLU,
    Softmax,
    Add,
    Mul,
    Concat,
    Part,
    Flip,
    ChannelShuffle,
    PixelShuffle,
    Flatten,
    Transpose,
    Pad,
    PadUnits,
    MaxPool,
    AvgPool,
    Dropout,
    Scale,
    Identity,
)

WORDS: Mapping[str, type[Op]] = MappingProxyType(
    {op.kind: op for op in OPS if op not in (Input, Activate)} | dict.fromkeys(ACTIVATIONS, Activate)
)
"""The words of the language that stand for an op; an activation stands for itself."""


def word_of(op: Op) -> str:
    """Return the word that stands for an op in the language."""
    return op.function if isinstance(op, Activate) else op.kind


__all__ = [
    "Activate",
    "Activation",
    "ACTIVATIONS",
    "Add",
    "Attribute",
    "attributes",
    "AvgPool",
    "BatchNorm",
    "ChannelShuffle",
    "ClassToken",
    "Concat",
    "Conv",
    "Coupling",
    "Dense",
    "Depthwise",
    "DotProductAttention",
    "Dropout",
    "Embedding",
    "Facts",
    "flag",
    "Flatten",
    "Flip",
    "GroupNorm",
    "Identity",
    "Input",
    "InstanceNorm",
    "integer",
    "integers",
    "LayerNorm",
    "LeakyReLU",
    "MASK",
    "MaxPool",
    "Mul",
    "numel",
    "Op",
    "OPS",
    "Pad",
    "PadUnits",
    "ParamSpec",
    "Part",
    "PixelShuffle",
    "plan",
    "Positions",
    "real",
    "RMSNorm",
    "Role",
    "Scale",
    "show",
    "Signature",
    "site",
    "Sizes",
    "Softmax",
    "spatial",
    "TensorType",
    "Transpose",
    "TypeFailure",
    "Typing",
    "width",
    "window",
    "word",
    "word_of",
    "WORDS",
]
