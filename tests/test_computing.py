"""Rules over old parameters against the same formulas in NumPy, and what a computed parameter inherits."""

import numpy as np
import pytest
import torch

from irgrow.computing import RULES, compute
from irgrow.morphism import Compute, describe, predecessor
from irgrow.transfer_json import transfer_from_json, transfer_to_json

RNG = np.random.default_rng(0)
OLD = {
    "w": RNG.normal(size=(5, 3, 2, 2)),
    "m": RNG.normal(size=(4, 3)),
    "outer": RNG.normal(size=(2, 5, 1, 1)),
    "top": RNG.normal(size=(2, 4)),
    "mask": RNG.integers(0, 2, (5, 3, 2, 2)).astype(float),
    **{name: RNG.normal(size=5) for name in ("b", "gain", "shift", "mean")},
    **{name: RNG.normal(size=2) for name in ("b2",)},
    **{name: RNG.normal(size=3) for name in ("columns",)},
    **{name: RNG.normal(size=4) for name in ("b1",)},
    "var": RNG.uniform(0.1, 3.0, 5),
}
SD = np.sqrt(OLD["var"] + 1e-2)
FLAT = OLD["w"].reshape(5, -1)
CASES = {
    "fold_norm_weight": (("w", "var", "gain"), {"eps": 1e-2}, OLD["w"] * (OLD["gain"] / SD)[:, None, None, None]),
    "fold_norm_weight, not affine": (("w", "var"), {"eps": 1e-2}, OLD["w"] / SD[:, None, None, None]),
    "fold_norm_bias": (
        ("shift", "gain", "b", "mean", "var"),
        {"eps": 1e-2, "bias": True, "affine": True},
        (OLD["b"] - OLD["mean"]) * OLD["gain"] / SD + OLD["shift"],
    ),
    "fold_norm_bias, no bias": (
        ("shift", "gain", "mean", "var"),
        {"eps": 1e-2, "bias": False, "affine": True},
        -OLD["mean"] * OLD["gain"] / SD + OLD["shift"],
    ),
    "fold_norm_bias, not affine": (
        ("b", "mean", "var"),
        {"eps": 1e-2, "bias": True, "affine": False},
        (OLD["b"] - OLD["mean"]) / SD,
    ),
    "fold_norm_bias, neither": (("mean", "var"), {"eps": 1e-2, "bias": False, "affine": False}, -OLD["mean"] / SD),
    "fuse_weight, dense": (("outer", "w"), {}, (OLD["outer"].reshape(2, 5) @ FLAT).reshape(2, 3, 2, 2)),
    "fuse_weight": (("top", "m"), {}, OLD["top"] @ OLD["m"]),
    "fuse_bias": (("b2", "b1", "top"), {}, OLD["top"] @ OLD["b1"] + OLD["b2"]),
    "fuse_bias, first only": (("b1", "top"), {}, OLD["top"] @ OLD["b1"]),
    "scale_rows": (("w", "gain"), {}, OLD["w"] * OLD["gain"][:, None, None, None]),
    "scale_rows, a bias": (("b", "gain"), {}, OLD["b"] * OLD["gain"]),
    "scale_columns": (("w", "columns"), {}, OLD["w"] * OLD["columns"][:, None, None]),
    "scale_columns, dense": (("m", "columns"), {}, OLD["m"] * OLD["columns"]),
    "bake_mask": (("w", "mask"), {}, OLD["w"] * OLD["mask"]),
}


def tensors(dtype=torch.float64):
    return {name: torch.as_tensor(value, dtype=dtype) for name, value in OLD.items()}


@pytest.mark.parametrize("case", CASES)
def test_rules_are_the_formulas(case):
    names, options, wanted = CASES[case]
    found = compute(case.partition(",")[0], names, tuple(options.items()), tensors())
    np.testing.assert_allclose(found.numpy(), wanted, rtol=1e-13, atol=1e-15)


def test_every_rule_of_folding_has_a_case():
    rules = {
        "fold_norm_weight",
        "fold_norm_bias",
        "fuse_weight",
        "fuse_bias",
        "scale_rows",
        "scale_columns",
        "bake_mask",
    }
    assert {case.partition(",")[0] for case in CASES} == rules <= set(RULES)


def test_single_precision_is_rounded_once():
    names, options = CASES["fold_norm_weight"][:2]
    single = tensors(torch.float32)
    found = compute("fold_norm_weight", names, tuple(options.items()), single)
    assert found.dtype == torch.float32
    exact = compute("fold_norm_weight", names, tuple(options.items()), {n: t.double() for n, t in single.items()})
    assert torch.equal(found, exact.float())
    assert not torch.equal(found.double(), exact), "the control: rounding is there to be seen"


def test_no_rule_records_a_gradient():
    old = {name: t.requires_grad_() for name, t in tensors().items()}
    names, options, _ = CASES["fold_norm_bias"]
    assert not compute("fold_norm_bias", names, tuple(options.items()), old).requires_grad


def test_the_first_name_is_whose_place_is_taken():
    transfer = Compute("fold_norm_bias", ("bn.bias", "bn.weight", "bn.running_mean", "bn.running_var"), (("eps", 0.1),))
    assert predecessor(transfer) == "bn.bias"
    assert describe(transfer) == "fold_norm_bias of bn.bias, bn.weight, bn.running_mean, bn.running_var"
    assert transfer_from_json(transfer_to_json(transfer)) == transfer
