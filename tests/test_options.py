"""What programs write as calls checks its options however it is made, and prints as it is written."""

from dataclasses import MISSING
from typing import Any

import numpy as np
import pytest
import torch

from irgrow.attributes import Options, attributes
from irgrow.errors import OptionError
from irgrow.grammar import parse
from irgrow.network import build
from irgrow.passes import (
    Context,
    EffectiveDimension,
    GradientRank,
    GrowUnits,
    Magnitude,
    PruneUnits,
    Schedule,
    SplitUnits,
    plan,
)
from irgrow.registry import group
from irgrow.training.data import Digits

GROUPS = ("trigger", "initializer", "saliency", "cadence", "bundle", "rates", "data", "optimizer", "schedule")
WORD: Any = "word"
NOTHING: Any = None
NET = "net n(x: [4]) { return x |> h: dense(3) |> relu |> dense(2) }"


def classes():
    return [cls for name in GROUPS for cls in group(name).values()]


def wrong(a):
    """Return a value that an option does not take."""
    return {"integer": 1.5, "real": "much", "flag": "yes", "word": "nonsense", "text": 3, "plan": "nonsense"}.get(
        a.kind, {}
    )


@pytest.mark.parametrize("cls", classes(), ids=lambda c: c.__name__)
def test_wrong_options_are_refused_in_python_too(cls):
    assert issubclass(cls, Options)
    given = {a.name: Digits() if a.kind == "plan" else "there" for a in attributes(cls) if a.default is MISSING}
    for a in attributes(cls):
        with pytest.raises(OptionError, match=f"`{a.name}`"):
            cls(**{**given, a.name: wrong(a)})


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (lambda: GradientRank(factor=-1.0), "`gradient_rank`: `factor` must be above 0.0, found -1.0"),
        (lambda: Magnitude(norm=7), "`magnitude`: `norm` must be at most 2, found 7"),
    ],
)
def test_the_message_names_who_takes_it(make, why):
    with pytest.raises(OptionError) as error:
        make()
    assert str(error.value) == why


@pytest.mark.parametrize(
    ("rewrite", "why"),
    [
        (GrowUnits("h", 2, init=WORD), "`init` takes an initializer, found word"),
        (GrowUnits("h", 0), "`count` must be at least 1, found 0"),
        (GrowUnits(NOTHING, 1), "`axis` must be given"),
        (PruneUnits("h", by=WORD, count=1), "`by` takes a saliency, found word"),
    ],
    ids=["plan", "range", "site", "saliency"],
)
def test_a_pass_with_wrong_options_is_refused(rewrite, why):
    assert plan(rewrite, parse(NET), Context()).verdict.reason == why
    net = build(NET)
    assert net.rewrite(rewrite, batch=torch.zeros(2, 4)).verdict.reason == why
    assert net.graph == parse(NET)


def test_numbers_of_numpy_and_lists_are_what_they_are():
    assert Schedule(np.int64(2)).units == 2
    assert str(EffectiveDimension(gamma=np.float32(0.5))) == "effective_dimension(gamma = 0.5)"
    for units in ([0], (np.int64(0),), (0,)):
        assert plan(SplitUnits("h", units), parse(NET), Context()).verdict.preserves
    with pytest.raises(OptionError, match="`units` takes an integer, found true"):
        Schedule(True)
