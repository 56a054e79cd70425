"""The JSON form of transfers: how the parts of a rewrite are written down, and sent from process to process.

How an array is written is the caller's choice: as nested lists, unless something else is given. A file holds the
numbers as text; a message puts them among its tensors and writes their names.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from irgrow.errors import CompilerBug
from irgrow.fills import Given, ReadArray, WriteArray, fill_from_json, fill_to_json
from irgrow.morphism import Chain, Compute, Cut, Gather, Keep, New, Select, Step, Transfer


def transfer_to_json(t: Transfer, array: WriteArray = np.ndarray.tolist) -> dict[str, Any]:
    """Return a JSON form of a transfer.

    Args:
        t: The transfer.
        array: Returns what is written for an array.

    >>> transfer_to_json(Cut("w", np.array([True, False])))
    {'kind': 'cut', 'name': 'w', 'kept': [True, False]}
    """
    match t:
        case Keep(name):
            return {"kind": "keep", "name": name}
        case Select():
            return {
                "kind": "select",
                "name": t.name,
                "maps": _written(t.maps, array),
                "fills": [fill_to_json(f, array) for f in t.fills],
                "scale": _written(t.scale, array),
                "grad": _written(t.grad, array),
                "noise": list(t.noise),
                "plus": _plus_to_json(t.plus, array),
                "drawn": t.drawn,
            }
        case Cut(name, kept):
            return {"kind": "cut", "name": name, "kept": array(kept)}
        case Gather():
            fill = fill_to_json(t.fill, array)
            return {"kind": "gather", "name": t.name, "index": array(t.index), "shape": list(t.shape), "fill": fill}
        case Compute(rule, names, options):
            return {"kind": "compute", "rule": rule, "names": list(names), "options": dict(options)}
        case New(fill, fan_in):
            return {"kind": "new", "fill": fill_to_json(fill, array), "fan_in": fan_in}
        case Chain(steps):
            return {"kind": "chain", "steps": [_step_to_json(s, array) for s in steps]}


def transfer_from_json(data: Mapping[str, Any], array: ReadArray = np.array) -> Transfer:
    """Read a transfer back.

    Args:
        data: What `transfer_to_json` returned.
        array: Returns the array for what was written.

    >>> transfer_from_json({"kind": "cut", "name": "w", "kept": [True, False]}).kept
    array([ True, False])
    """
    match data["kind"]:
        case "keep":
            return Keep(data["name"])
        case "select":
            return _select_from_json(data, array)
        case "cut":
            return Cut(data["name"], np.array(array(data["kept"]), dtype=bool))
        case "gather":
            index = np.array(array(data["index"]), dtype=np.int64)
            return Gather(data["name"], index, tuple(data["shape"]), fill_from_json(data["fill"], array))
        case "compute":
            options = tuple((key, _tuples(value)) for key, value in data["options"].items())
            return Compute(data["rule"], tuple(data["names"]), options)
        case "new":
            return New(fill_from_json(data["fill"], array), data["fan_in"])
        case "chain":
            return Chain(tuple(_step_from_json(array, *step) for step in data["steps"]))
    raise CompilerBug(f"unknown transfer {data['kind']!r}")


def _select_from_json(data: Mapping[str, Any], array: ReadArray) -> Select:
    return Select(
        data["name"],
        _read(data["maps"], np.int64, array),
        tuple(fill_from_json(f, array) for f in data["fills"]),
        _read(data["scale"], np.float64, array),
        _read(data["grad"], np.float64, array),
        tuple(data["noise"]),
        _plus_from_json(data["plus"], array),
        data.get("drawn", "normal"),
    )


def _step_to_json(s: Step, array: WriteArray) -> list[Any]:
    reads = [_step_to_json(r, array) for r in s.reads]
    return [transfer_to_json(s.transfer, array), s.seed, s.name, list(s.shape), reads]


def _step_from_json(
    array: ReadArray, t: Any, seed: int, name: str, shape: Sequence[int], reads: Sequence[Any] = ()
) -> Step:
    back = tuple(_step_from_json(array, *r) for r in reads)
    return Step(transfer_from_json(t, array), seed, name, tuple(shape), back)


def _plus_to_json(plus: Compute | Given | None, array: WriteArray) -> dict[str, Any] | None:
    if plus is None:
        return None
    return fill_to_json(plus, array) if isinstance(plus, Given) else transfer_to_json(plus, array)


def _plus_from_json(data: Mapping[str, Any] | None, array: ReadArray) -> Any:
    if data is None:
        return None
    return fill_from_json(data, array) if data["kind"] == "given" else transfer_from_json(data, array)


def _written(parts: Sequence[NDArray[Any] | None], array: WriteArray) -> list[Any]:
    return [None if part is None else array(part) for part in parts]


def _read(parts: Sequence[Any], dtype: DTypeLike, array: ReadArray) -> tuple[NDArray[Any] | None, ...]:
    return tuple(None if part is None else np.array(array(part), dtype=dtype) for part in parts)


def _tuples(value: Any) -> Any:
    """Return a value with tuples for lists, as the options of a rule have them."""
    return tuple(map(_tuples, value)) if isinstance(value, list) else value
