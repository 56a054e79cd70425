"""Pruning units that do nothing: exact where their numbers show it, and at no cost to others where they do not."""

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from irgrow.backends import random_params
from irgrow.grammar import parse
from irgrow.network import build
from irgrow.passes import Context, Magnitude, PruneUnits, RemoveDeadUnits, plan
from irgrow.passes.analyses.places import editable_axes
from irgrow.passes.preservation import prover
from irgrow.testing import graphs
from irgrow.testing.laws import LAWS
from irgrow.testing.numbers import gradient_error, output_error, random_inputs
from irgrow.testing.planting import DeadUnits
from irgrow.verdict import Changes, Exact, Refused

DENSE = "net n(x: [4]) {{ return x |> h: dense(5) |> {} |> o: dense(2) }}"
MASKED = "net n(x: [4]) { return x |> h: dense(5, masked = true, bias = false) |> tanh |> o: dense(2, masked = true) }"
NORM = "net n(x: [2, 5, 5]) { return x |> h: conv(4, kernel = 1) |> n: batchnorm |> relu |> flatten |> o: dense(2) }"
STREAM = "net n(x: [4]) { h = dense(x, 5)  y = h + (h |> relu |> g: dense(5))  return y |> tanh |> o: dense(2) }"
GATE = "net n(x: [4]) { h = dense(x, 5)  g = dense(x, 5) |> sigmoid  return h * g |> o: dense(2) }"
TABLE = "net n(t: ids(9)[3]) { return t |> h: embedding(5) |> gelu |> avgpool |> o: dense(2) }"


def zero(*places, to=0.0):
    """Return what sets entries of parameters: `("h.weight", (1, 3))` are rows, `("o.weight", (), (1, 3))` columns."""

    def plant(params):
        for name, *index in places:
            params[name][tuple(slice(None) if i == () else list(i) for i in index)] = to

    return plant


def pruned(text, plant, units=(1, 3), site="h"):
    """Prune units of a network with something planted in its parameters; return verdict, parameters and morphism."""
    graph = parse(text)
    params = random_params(graph, 0)
    plant(params)
    result = plan(PruneUnits(site, units), graph, Context(params))
    return result.verdict, params, result.morphism


ROWS = ("h.weight", (1, 3)), ("h.bias", (1, 3))
ROW = ("h.weight", (3, 0))
on = zero(*((f"{node}.{name}", ()) for node in "ho" for name in ("weight", "mask")), to=1.0)
SILENT = {
    "tanh": (DENSE.format("tanh"), zero(*ROWS), ROW),
    "gelu": (DENSE.format("gelu"), zero(*ROWS), ROW),
    "two layers": (DENSE.format("silu |> dense(3) |> tanh"), zero(*ROWS), ROW),
    "below zero": (DENSE.format("relu"), lambda p: (zero(*ROWS)(p), zero(ROWS[1], to=-0.5)(p)), ROW),
    "rows switched off": (MASKED, lambda p: (on(p), zero(("h.mask", (1, 3)))(p)), ("h.mask", (3, 0))),
    "columns switched off": (MASKED, lambda p: (on(p), zero(("o.mask", (), (1, 3)))(p)), ("o.mask", (0, 3))),
    "gain and shift": (
        NORM,
        lambda p: (zero(("n.weight", (1, 3)))(p), zero(("n.bias", (1, 3)), to=-0.1)(p)),
        ("n.weight", 3),
    ),
    "stream": (STREAM, zero(*ROWS, ("g.weight", (1, 3)), ("g.bias", (1, 3))), ("g.weight", (3, 0))),
    "gate": (GATE, zero(*ROWS), ROW),
    "table": (TABLE, zero(("h.weight", (), (1, 3))), ("h.weight", (slice(None), 3))),
    "read with zeros": (DENSE.format("sigmoid"), zero(("o.weight", (), (1, 3))), ("o.weight", (0, 3))),
    "one of each": (
        DENSE.format("tanh"),
        zero(("h.weight", (1,)), ("h.bias", (1,)), ("o.weight", (), (3,))),
        ("h.bias", 1),
    ),
}
"""Programs, what makes units 1 and 3 of `h` do nothing in them, and a number that makes one of them do something."""


@pytest.mark.parametrize("name", SILENT)
def test_units_that_are_always_zero_or_never_read_go_exactly(name):
    text, plant, _ = SILENT[name]
    verdict, params, morphism = pruned(text, plant)
    assert verdict == Exact()
    for batch in (1, 3):
        inputs = random_inputs(morphism.before, 0, batch)
        assert output_error(morphism, params, inputs) < 1e-12
        assert batch == 1 or output_error(morphism, params, inputs, training=True) < 1e-12
        assert gradient_error(morphism, params, inputs) < 1e-12


@pytest.mark.parametrize("name", SILENT)
def test_one_number_that_is_not_zero_and_something_alive_goes(name):
    """Negative control."""
    text, plant, (param, at) = SILENT[name]

    def almost(params):
        plant(params)
        params[param][at] = 1.0 if param.endswith("mask") else 3.0

    verdict, params, morphism = pruned(text, almost)
    assert isinstance(verdict, Changes)
    assert "gone" in verdict.reason
    assert output_error(morphism, params, random_inputs(morphism.before, 0)) > 1e-6


@pytest.mark.parametrize(
    ("text", "plant"),
    [
        (DENSE.format("tanh"), zero(("h.weight", (1, 3)))),
        (DENSE.format("sigmoid"), zero(*ROWS)),
        (STREAM, zero(*ROWS)),
        (NORM, zero(("n.weight", (1, 3)))),
        (NORM, zero(*ROWS)),
    ],
    ids=["bias", "sigmoid", "other makers", "shift", "behind a norm"],
)
def test_units_that_are_constants_but_not_zero_or_alive_elsewhere_leave_something(text, plant):
    """Negative control: the row is zero, and still what reads the unit misses it; no bias takes over here."""
    verdict, params, morphism = pruned(text, plant)
    assert isinstance(verdict, Changes)
    assert output_error(morphism, params, random_inputs(morphism.before, 0)) > 1e-6


@pytest.mark.parametrize("rewrite", [PruneUnits("h", (0,)), RemoveDeadUnits("h")], ids=str)
def test_weights_that_are_zero_but_read_what_changes_prove_nothing(rewrite):
    """The function would be the same, but what those weights learn next would not: their gradients change."""
    text = "net n(x: [4]) { h = dense(x, 4)  return concat(h |> rmsnorm(eps = 0.01), h) |> o: dense(2) }"
    graph = parse(text)
    params = random_params(graph, 0)
    zero(("h.weight", (0,)), ("h.bias", (0,)))(params)
    alive = plan(rewrite, graph, Context(params))
    assert not alive.verdict.preserves
    zero(("o.weight", (), (0, 1, 2, 3)))(params)
    assert not plan(rewrite, graph, Context(params)).verdict.preserves
    morphism = plan(PruneUnits("h", (0,)), graph, Context(params)).morphism
    inputs = random_inputs(graph, 0)
    assert output_error(morphism, params, inputs) < 1e-12
    assert gradient_error(morphism, params, inputs) > 1e-3


def test_by_a_saliency_as_well():
    graph = parse(DENSE.format("tanh"))
    params = random_params(graph, 0)
    zero(*ROWS)(params)
    assert plan(PruneUnits("h", by=Magnitude(), count=2), graph, Context(params)).verdict == Exact()
    assert isinstance(plan(PruneUnits("h", by=Magnitude(), count=3), graph, Context(params)).verdict, Changes)


def test_in_a_live_network():
    net = build(DENSE.format("tanh"), dtype=torch.float64)
    with torch.no_grad():
        net.get_parameter("h.weight")[2] = 0
        net.get_parameter("h.bias")[2] = 0
    assert net.rewrite(PruneUnits("h", (2,))).verdict == Exact()
    assert isinstance(net.rewrite(PruneUnits("h", (2,))).verdict, Changes)


def test_without_parameters_nothing_is_said():
    assert isinstance(plan(PruneUnits("h", (1,)), parse(DENSE.format("tanh"))).verdict, Changes)


class Watched(np.ndarray):
    """Numbers that note how many entries were asked for."""

    seen: list[int]

    def __getitem__(self, index):
        found = super().__getitem__(index)
        self.seen.append(np.size(found))
        return found

    def __array_finalize__(self, old):
        self.seen = getattr(old, "seen", [])


def watched(params):
    """Return parameters that share one list of how many entries of each were read, and the list."""
    seen = {}
    for name, value in params.items():
        params[name] = value.view(Watched)
        params[name].seen = seen.setdefault(name, [])
    return seen


def test_units_that_are_alive_cost_no_more_than_their_entries(monkeypatch):
    """Nothing is read of layers the axis does not run through, and of the others the entries of the units that go."""
    monkeypatch.setattr(prover, "Numbers", None)  # to ask for all the numbers would be an error
    graph = parse(
        "net n(x: [30]) { return x |> a: dense(40) |> relu |> h: dense(50) |> relu |> o: dense(20) |> dense(2) }"
    )
    params = random_params(graph, 0)
    params["h.weight"][7] = 0  # one of two
    seen = watched(params)
    assert isinstance(plan(PruneUnits("h", (7, 9)), graph, Context(params)).verdict, Changes)
    assert {name for name, sizes in seen.items() if sizes} == {"h.weight", "o.weight"}
    assert max(seen["h.weight"]) == 2 * 40
    assert max(seen["o.weight"]) == 2 * 20
    assert sum(map(sum, seen.values())) <= 3 * 2 * (40 + 20)


def test_the_watch_sees_a_pass_that_reads_everything():
    """Negative control."""
    graph = parse(DENSE.format("tanh"))
    params = random_params(graph, 0)
    zero(*ROWS)(params)
    seen = watched(params)
    assert plan(PruneUnits("h", (1, 3)), graph, Context(params)).verdict == Exact()
    assert max(seen["h.weight"]) == 2 * 4
    assert params["h.weight"][:].size in seen["h.weight"]


# random programs -----------------------------------------------------------------------------------------------------


@st.composite
def planted(draw):
    """Draw a program in which units are dead here and there, and units of it to prune."""
    graph = draw(graphs(dropout=False))
    site = draw(st.sampled_from(editable_axes(graph) or ("x",)))
    units = st.lists(st.integers(0, graph.size(graph.axis(site)) - 1), min_size=1, max_size=2, unique=True)
    rewrite = PruneUnits(site, tuple(sorted(draw(units))))
    return DeadUnits(graph, rewrite, draw(st.integers(0, 10**6)), draw(st.integers(2, 4)))


@settings(suppress_health_check=list(HealthCheck))
@given(planted())
def test_laws_on_random_programs_with_dead_units(case):
    for law in LAWS:
        law(case)


def test_random_programs_have_dead_units_that_go():
    found = []

    @settings(max_examples=100, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
    @given(planted())
    def run(case):
        result = case.plan()
        found.append((result.verdict, result.morphism is not None and result.morphism.by_numbers))

    run()
    assert sum(v.preserves and looked for v, looked in found) >= 5
    assert sum(isinstance(v, Changes) and not looked for v, looked in found) >= 5
    assert sum(isinstance(v, Refused) for v, _ in found) < len(found) // 2
