"""Values of optimizers and schedulers as JSON and tensors, so that they come back as they were, bit for bit.

JSON has no tuples, sets or tensors, and its keys are texts. A value that it would change is an object with one entry:

    (0.9, 0.999)              {"$tuple": [0.9, 0.999]}
    Counter({4: 1})           {"$Counter": [[4, 1]]}
    torch.tensor(0.01)        {"$tensor": "0/value/0"}
    np.int64(4)               {"$numpy": "0/value/1"}

Every other value is what JSON makes of it. What cannot be kept is refused by name; nothing is left out.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from irgrow.errors import CheckpointError

_PLAIN = (type(None), bool, int, float, str)
_LISTS: dict[str, Any] = {"tuple": tuple, "set": set, "frozenset": frozenset}
_DICTS: dict[str, Any] = {"dict": dict, "Counter": Counter, "OrderedDict": OrderedDict}


def encoded(value: Any, what: str, put: Callable[[Tensor], str]) -> Any:
    """Return a value as JSON.

    Args:
        value: Numbers, texts, `None`, tensors, and lists, tuples, sets, dicts and counters of them.
        what: What it is called in an error.
        put: Takes a tensor in and returns the name it is found by.

    Raises:
        CheckpointError: It is something else, or within itself.

    >>> encoded({"betas": (0.9, 0.999), 4: None}, "options", str)
    {'$dict': [['betas', {'$tuple': [0.9, 0.999]}], [4, None]]}
    """
    try:
        return _encoded(value, what, put)
    except RecursionError:
        raise CheckpointError(f"{what}: it is within itself, and cannot be kept in a checkpoint") from None


def _encoded(value: Any, what: str, put: Callable[[Tensor], str]) -> Any:
    kind: Any = type(value)
    if kind in _PLAIN:
        return value
    if isinstance(value, Tensor):
        return {"$tensor": put(value)}
    if isinstance(value, np.number | np.bool_):
        return {"$numpy": put(torch.from_numpy(np.asarray(value)))}
    if kind is list:
        return [_encoded(v, what, put) for v in value]
    if isinstance(value, torch.dtype | torch.device):
        return {f"${kind.__name__}": str(value).removeprefix("torch.")}
    if kind is torch.Size:
        return {"$tuple": list(value)}
    if kind in _LISTS.values():
        return {f"${kind.__name__}": [_encoded(v, what, put) for v in value]}
    if kind is dict and all(type(key) is str and not key.startswith("$") for key in value):
        return {key: _encoded(v, what, put) for key, v in value.items()}
    if kind in _DICTS.values():
        return {f"${kind.__name__}": [[_encoded(k, what, put), _encoded(v, what, put)] for k, v in value.items()]}
    raise CheckpointError(
        f"{what}: a `{kind.__name__}` cannot be kept in a checkpoint; what can are numbers, texts, None, tensors, and "
        "lists, tuples, sets, dicts and counters of them"
    )


def decoded(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    """Return the value that was encoded.

    Args:
        value: The JSON.
        tensors: The tensors that were put, by name.

    Raises:
        CheckpointError: It was not written by `encoded`, or a tensor is missing.
    """
    try:
        return _decoded(value, tensors)
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise CheckpointError(f"damaged: a value cannot be read: {error!r}") from None


def _decoded(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    if isinstance(value, list):
        return [_decoded(v, tensors) for v in value]
    if not isinstance(value, dict):
        return value
    word = next((key[1:] for key in value if key.startswith("$")), None)
    if word is None:
        return {key: _decoded(v, tensors) for key, v in value.items()}
    (inner,) = value.values()
    if word == "tensor":
        return tensors[inner].clone()
    if word == "numpy":
        return tensors[inner].numpy()[()]
    if word == "dtype" and isinstance(getattr(torch, inner, None), torch.dtype):
        return getattr(torch, inner)
    if word == "device":
        return torch.device(inner)
    if word in _LISTS:
        return _LISTS[word](_decoded(v, tensors) for v in inner)
    pairs = [(_decoded(key, tensors), _decoded(v, tensors)) for key, v in inner]
    return _DICTS[word](dict(pairs))
