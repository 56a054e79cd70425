"""What JSON cannot say comes back as it was, bit for bit, or is refused by name."""

import json
from collections import Counter, OrderedDict, defaultdict, namedtuple
from enum import Enum
from functools import partial
from math import isnan

import numpy as np
import pytest
import torch

from irgrow.encoding import decoded, encoded
from irgrow.errors import CheckpointError


def there_and_back(value):
    tensors = {}

    def put(tensor):
        name = f"t/{len(tensors)}"
        tensors[name] = tensor.detach().clone()
        return name

    return decoded(json.loads(json.dumps(encoded(value, "it", put))), tensors)


def same(a, b):
    if type(a) is not type(b):
        return False
    if isinstance(a, torch.Tensor):
        return a.dtype == b.dtype and a.shape == b.shape and torch.equal(a, b)
    if isinstance(a, dict):
        return list(map(type, a)) == list(map(type, b)) and list(a) == list(b) and all(same(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b or (isnan(a) and isnan(b))


Size = namedtuple("Size", "w h")

KEPT = [
    None,
    True,
    0,
    1 << 80,
    0.1,
    float("inf"),
    float("nan"),
    "text \U0001f600 \x00",
    [],
    [1, [2.5, None]],
    (),
    (0.9, 0.999),
    [(1,), [2]],
    {1, 2, (3, 4)},
    frozenset({"a"}),
    {"a": 1, "b": {"c": [1]}},
    {1: "one", "1": "text", (2, 3): 4, None: 5, False: 6, 2.5: 7},
    {"$tuple": [1]},
    {"a": {"$tensor": "t/0"}},
    Counter({4: 1, 9: 2}),
    Counter("hello"),
    OrderedDict([("b", 1), ("a", 2)]),
    torch.tensor(0.1),
    torch.tensor(0.1, dtype=torch.bfloat16),
    torch.tensor([[1.0, 2.0]], dtype=torch.float64),
    torch.tensor(3),
    torch.empty(0, 2),
    {"lr": [torch.tensor(1e-2), {"x": (torch.tensor(True),)}]},
    np.float64(0.1),
    np.float32(0.1),
    np.int64(7),
    np.bool_(True),
    Counter({np.int64(4): 1}),
]


@pytest.mark.parametrize("value", KEPT, ids=repr)
def test_it_comes_back_as_it_was(value):
    assert same(there_and_back(value), value)


def test_what_json_says_as_well_is_plain_json():
    for value in (None, 1, 0.5, "x", [1, 2], {"a": [1, {"b": None}]}):
        assert encoded(value, "it", None) == value


class Kind(Enum):
    ONE = 1


class Number(float):
    pass


REFUSED = [
    object(),
    lambda: 1,
    partial(max, 1),
    Kind.ONE,
    Number(1.0),
    Size(1, 2),
    1j,
    b"bytes",
    defaultdict(list, a=[1]),
    np.zeros(3),
    np.str_("x"),
]


@pytest.mark.parametrize("value", REFUSED, ids=lambda v: type(v).__name__)
def test_what_cannot_is_refused_by_name(value):
    for held in (value, [1, value], {"a": (value,)}, {1: value}):
        with pytest.raises(CheckpointError, match=f"the momentum: a `{type(value).__name__}` cannot be kept"):
            encoded(held, "the momentum", lambda t: "t")


def test_a_value_within_itself_is_refused():
    value = [1]
    value.append(value)
    with pytest.raises(CheckpointError, match="the momentum: it is within itself"):
        encoded(value, "the momentum", lambda t: "t")


@pytest.mark.parametrize(
    "said",
    [{"$tensor": "nowhere"}, {"$tuple": 3}, {"$Counter": [1]}, {"$what": []}, {"$set": [{"$dict": []}]}],
    ids=str,
)
def test_what_was_never_written_is_damaged(said):
    with pytest.raises(CheckpointError, match="damaged"):
        decoded([said], {})


@pytest.mark.parametrize("value", [torch.float32, torch.device("cpu"), torch.device("cuda", 1)], ids=str)
def test_dtypes_and_devices(value):
    assert decoded(encoded(value, "it", str), {}) == value


def test_sizes_are_tuples():
    assert decoded(encoded(torch.Size([2, 3]), "it", str), {}) == (2, 3)


def test_a_dtype_is_nothing_else():
    with pytest.raises(CheckpointError):
        decoded({"$dtype": "load"}, {})
