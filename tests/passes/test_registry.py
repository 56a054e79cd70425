"""One file, one class, one textual name, one test file, one registry line: they agree."""

import inspect
from dataclasses import fields
from pathlib import Path

import pytest

from irgrow import registry
from irgrow.attributes import attributes, call_text, textual_name
from irgrow.grammar import parse_pass
from irgrow.passes import INITIALIZERS, PASSES, SALIENCIES, TRIGGERS

FOLDERS = {"rewrites": PASSES, "initializers": INITIALIZERS, "saliency": SALIENCIES, "triggers": TRIGGERS}
PYTHON_ONLY = {"given"}
CASES = [(folder, cls) for folder, classes in FOLDERS.items() for cls in classes]


@pytest.mark.parametrize(("folder", "cls"), CASES, ids=lambda v: getattr(v, "__name__", v))
def test_file_class_name_and_test_agree(folder, cls):
    path = Path(inspect.getfile(cls)).resolve()
    assert path.parent.name == folder
    assert path.stem == textual_name(cls)
    assert (Path("tests/passes") / folder / f"test_{path.stem}.py").exists()
    assert cls.__doc__
    assert inspect.getmodule(cls).__doc__
    assert len(path.read_text().splitlines()) <= 200
    assert {f.name for f in fields(cls)} == {a.name for a in attributes(cls)}, "undeclared option"
    assert cls.__dataclass_params__.frozen


@pytest.mark.parametrize("folder", FOLDERS)
def test_every_file_is_registered(folder):
    files = {p.stem for p in (Path("passes") / folder).glob("*.py")} - {"__init__", "base", *PYTHON_ONLY}
    assert files == {textual_name(cls) for cls in FOLDERS[folder]}


@pytest.mark.parametrize("cls", PASSES, ids=lambda c: c.__name__)
def test_default_passes_have_a_text(cls):
    assert parse_pass(call_text(cls())) == cls()


def test_groups_hold_what_is_registered():
    assert {"grow_edges", "prune_edges", "rewire_edges"} <= set(registry.group("pass"))
    folding = {"fold_batch_norm", "fuse_linear", "fold_scale", "bake_mask", "simplify"}
    assert folding <= set(registry.group("pass"))
    assert {"remove_layer", "add_connection", "remove_connection"} <= set(registry.group("pass"))
    assert {"remove_dead_units", "merge_units"} <= set(registry.group("pass"))
    assert set(registry.group("pass")) >= {"grow_units", "prune_units", "prune_globally", "insert_layer"}
    initializers = {"random", "north_select", "north_pre", "north_weight", "north_opt", "gradmax", "nest"}
    initializers |= {"variance_transfer", "uniform_noise"}
    assert set(registry.group("initializer")) == initializers
    saliencies = {"magnitude", "taylor", "fisher", "variance", "apoz", "dormancy", "redundancy", "norm_gain", "random"}
    assert set(registry.group("saliency")) == saliencies
    triggers = {"effective_dimension", "orthogonality_gap", "weight_rank", "gradient_rank", "plateau", "schedule"}
    assert set(registry.group("trigger")) == triggers | {"dyno_prune", "dyno_grow"}
    assert set(registry.group("cadence")) >= {"epochs", "steps", "plateau"}
    assert set(registry.group("bundle")) == {
        *("north_select", "north_random", "north_pre", "north_weight", "gradmax", "firefly", "nest"),
        *("dyno", "dyno_sft", "linear", "batched", "static", "set", "rigl"),
    }
    assert set(registry.group("rates")) == {"auto_rgn"}
    assert set(registry.group("data")) == {
        "digits",
        "spirals",
        "toy_features",
        "only",
        "shifted",
        "held_out",
        "npz",
        "mnist",
        "cifar",
    }


def test_plugins_add_to_the_groups(monkeypatch):
    class Entry:
        name = "mine"

        @staticmethod
        def load():
            return PASSES[0]

    registry.group.cache_clear()
    monkeypatch.setattr(registry, "entry_points", lambda group: [Entry] if group == "irgrow.pass" else [])
    assert registry.group("pass")["mine"] is PASSES[0]
    registry.group.cache_clear()
