"""`check_pass` on irgrow's own passes and on broken ones, and how it draws options."""

from dataclasses import dataclass
from typing import Any

import pytest
from broken import WrongGradients
from hypothesis import given, settings
from hypothesis import strategies as st

from irgrow.attributes import attributes, flag, integer, integers, real, site, text, window, word
from irgrow.attributes import plan as nested
from irgrow.errors import OptionError
from irgrow.grammar import parse
from irgrow.passes import INITIALIZERS, PASSES, GrowUnits, Pass
from irgrow.testing import check_pass, checking
from irgrow.testing.laws import Broken
from irgrow.testing.rewriting import pass_of


@pytest.mark.parametrize("cls", PASSES, ids=lambda c: c.__name__)
def test_check_pass_accepts_the_passes_of_irgrow(cls):
    check_pass(cls, examples=8)


@pytest.mark.slow
@pytest.mark.parametrize("cls", PASSES, ids=lambda c: c.__name__)
def test_check_pass_accepts_them_on_many_programs(cls):
    check_pass(cls)


@pytest.mark.parametrize("number", [7, 11])
def test_check_pass_tries_as_many_cases_as_the_profile_says(monkeypatch, number):
    seen = []
    monkeypatch.setattr(checking, "LAWS", (seen.append,))
    settings.register_profile("counted", settings.default, max_examples=number, derandomize=True)
    current = settings.get_current_profile_name()
    settings.load_profile("counted")
    try:
        check_pass(GrowUnits)
        assert len(seen) == number
        check_pass(GrowUnits, examples=3)
        assert len(seen) == number + 3
    finally:
        settings.load_profile(current)


def test_check_pass_rejects_a_broken_pass():
    with pytest.raises(Broken) as error:
        check_pass(WrongGradients, examples=200)
    text = str(error.value)
    assert "gradient law" in text
    assert "wrong_gradients(" in text
    assert "net random(" in text


def test_check_pass_keeps_the_options_of_a_pass():
    seen = []

    @dataclass(frozen=True)
    class Seen(GrowUnits):
        def match(self, graph, site):
            seen.append(self)
            return super().match(graph, site)

    check_pass(Seen("h", 3), examples=10)
    assert {s.count for s in seen} == {3}
    assert len({s.axis for s in seen}) > 1
    seen.clear()
    graph = parse("net n(x: [4]) { return x |> h: dense(5) |> relu |> dense(2) }")
    check_pass(Seen("h", 3), examples=10, programs=st.just(graph))
    assert set(seen) == {Seen("h", 3)}


def test_check_pass_says_when_nothing_was_checked():
    @dataclass(frozen=True)
    class Shy(GrowUnits):
        def match(self, graph, site):
            return "not in front of everybody"

    with pytest.raises(Broken, match=r"nothing was checked: shy was refused on all \d+ programs(.|\n)*not in front of"):
        check_pass(Shy, examples=5)


def test_options_of_every_kind_are_drawn():
    """Also nested objects of registered groups, and options that exclude each other."""

    @dataclass(frozen=True, kw_only=True)
    class Picky(Pass):
        axis: str = site("")
        share: float | None = real(None, low=0.0, high=0.25, open_low=True, open_high=True)
        size: int = integer(2, low=2, high=3)
        where: tuple[int, ...] | None = integers(None)
        kind: str = word("a", "b", default="a")
        loud: bool = flag(False)
        label: str = text("none")
        kernel: Any = window(3)
        inside: Any = nested("initializer")
        by: Any = nested("saliency", None)

        @property
        def site(self):
            return self.axis

        def match(self, graph, site):
            return None

        def __post_init__(self):
            if self.share is not None and self.where is not None:
                raise OptionError("share or where")

    found = []

    @settings(max_examples=200, derandomize=True, database=None, deadline=None)
    @given(st.data())
    def run(data):
        graph = parse("net n(x: [4]) { return x |> h: dense(9) |> relu |> dense(2) }")
        found.append(data.draw(pass_of(Picky, graph)))

    run()
    for a in attributes(Picky):
        values = {getattr(p, a.name) for p in found}
        assert all(a.problem(v) is None for v in values if v is not None), a.name
        assert len(values) > 1 or a.kind == "text", a.name
    assert {type(p.inside) for p in found} == set(INITIALIZERS)
    assert all(p.share is None or p.where is None for p in found)
    assert max(u for p in found for u in p.where or ()) > 5
