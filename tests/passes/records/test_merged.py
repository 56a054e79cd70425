"""What several processes recorded, as one: each tells its part, and one of them merges the parts."""

import pytest
import torch
from live import MLP

from irgrow.edits import Impossible
from irgrow.growth import GrowthProgram, Rule, Steps, Where
from irgrow.growth.controller import Controller
from irgrow.network import build
from irgrow.passes import (
    Dormancy,
    Fisher,
    GradientRank,
    GradMax,
    GrowFirefly,
    GrowUnits,
    PruneUnits,
    Redundancy,
    Schedule,
    Taylor,
)
from irgrow.passes.analyses.spectrum import Gram, effective_rank
from irgrow.passes.records.activity import Activity
from irgrow.passes.records.base import added
from irgrow.passes.records.bridge import Bridging
from irgrow.passes.records.crossed import Crossings
from irgrow.passes.records.gates import Gating
from irgrow.passes.records.levels import Leveling
from irgrow.passes.records.slopes import Sloping

TANH = MLP.replace("relu", "tanh")
KINDS = {
    "activity": (PruneUnits(by=Redundancy()), Schedule(), Activity(node="tanh_1")),
    "gates": (PruneUnits(by=Fisher()), Schedule(), Gating(axis="a")),
    "levels": (PruneUnits(by=Dormancy()), Schedule(), Leveling(axis="a")),
    "slopes of readers": (PruneUnits(by=Taylor("fan_out")), Schedule(), Sloping(axis="a")),
    "slopes of makers": (PruneUnits(by=Taylor("fan_in")), Schedule(), Sloping(axis="a", role="makes")),
    "bridge": (GrowUnits(), GradientRank(), Bridging(axis="a")),
    "crossings": (GrowUnits(init=GradMax()), Schedule(), Crossings(axis="a")),
    "crossings and weights": (GrowFirefly(), Schedule(), Crossings(axis="a", weights=True)),
}
AVERAGED = [kind for kind in KINDS if kind != "bridge"]
"""Records of the mean of the losses; bridges are summed, and what they are compared with as well."""


def loss(y):
    return ((y - 0.3).square() * torch.tensor([1.0, -2.0, 0.5], dtype=y.dtype)).sum(1).mean()


def recorded(kind, *batches, shared=True, dtype=torch.float64):
    """What one process recorded in a step of these passes."""
    apply, when, watch = KINDS[kind]
    net = build(TANH, seed=1, dtype=dtype)
    controller = Controller(net, GrowthProgram((Rule("r", apply, when, Steps((1,)), Where(("a",)), require="any"),)))
    record = controller.recorded[watch.key]
    record.shared = shared
    for x in batches:
        loss(net(x.to(dtype))).backward()
    return record


def batch(seed=0, size=9):
    return torch.randn(size, 6, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def same(one, two):
    """Whether two records tell the same, bit for bit."""
    one, two = one.told(), two.told()
    return one.keys() == two.keys() and all(torch.equal(one[n], two[n]) for n in one)


def near(one, two, within=1e-12):
    return one.keys() == two.keys() and all(
        one[n].shape == two[n].shape and torch.allclose(one[n].double(), two[n].double(), rtol=within, atol=1e-14)
        for n in one
    )


# any record ----------------------------------------------------------------------------------------------------------


def whole(record):
    """What a record tells, passes put one behind the other."""
    told = record.told()
    passes = sorted({name.partition("/")[0] for name in told} - {"weights"}) if "0/read" in told else []
    rest = {n: t for n, t in told.items() if n.partition("/")[0] not in passes}
    ends = {n.partition("/")[2] for n in told if n.partition("/")[0] in passes}
    return rest | {end: torch.cat([told[f"{p}/{end}"] for p in passes]) for end in ends}


@pytest.mark.parametrize("kind", AVERAGED)
def test_shares_of_a_batch_are_one_batch(kind, together):
    x = batch(size=27)
    found = together(*(recorded(kind, part) for part in x.split(9)))
    wanted = whole(recorded(kind, x))
    assert found.ready
    assert near(whole(found), wanted)
    assert not near(whole(recorded(kind, x[:9])), wanted, 0.01), "negative control: one alone says something else"
    assert not near(whole(together(*(recorded(kind, part) for part in x[:18].split(9)))), wanted, 0.01), "nor do two"


@pytest.mark.parametrize("kind", KINDS)
def test_it_does_not_matter_who_merges(kind, come):
    records = [recorded(kind, batch(i), batch(i + 9, 3)) for i in range(3)]
    parts = [come(record) for record in records]
    found = [record.merged(parts) for record in records]
    assert same(found[0], found[1])
    assert same(found[0], found[2])
    assert not same(found[0], records[0].merged(parts[:2])), "negative control: all parts count"


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_parts_arrive_bit_for_bit(kind, dtype, come):
    record = recorded(kind, batch(), dtype=dtype)
    told, arrived = record.told(), come(record)
    assert told.keys() == arrived.keys()
    assert told
    for name, value in told.items():
        assert arrived[name].dtype == value.dtype
        assert torch.equal(arrived[name], value), name


@pytest.mark.parametrize("kind", KINDS)
def test_telling_and_merging_change_nothing(kind):
    one, two, twin = recorded(kind, batch()), recorded(kind, batch(1)), recorded(kind, batch())
    parts = [one.told(), two.told()]
    kept = [{n: t.clone() for n, t in part.items()} for part in parts]
    first = one.merged(parts)
    assert same(one, twin)
    assert same(one.merged(parts), first), "and again"
    assert all(torch.equal(part[n], t) for part, own in zip(parts, kept, strict=True) for n, t in own.items())
    before = {n: t.clone() for n, t in first.told().items()}
    one.clear()
    two.clear()
    assert first.ready, "it is its own"
    assert all(torch.equal(first.told()[n], t) for n, t in before.items())
    full = recorded(kind, batch())
    full.merged(parts).clear()
    assert same(full, twin), "nor does it share what it holds"


@pytest.mark.parametrize("kind", KINDS)
def test_one_process_keeps_its_numbers(kind, together):
    record = recorded(kind, batch(), batch(1))
    found = together(record)
    assert type(found) is type(record)
    assert found.ready
    assert same(found, record)
    assert same(together(found), found), "and so does what is merged again"


@pytest.mark.parametrize("kind", KINDS)
def test_what_nobody_told_is_empty(kind, together):
    full, nothing = recorded(kind, batch()), recorded(kind)
    for record in (full.merged([]), nothing.merged([]), together(nothing), together(nothing, nothing)):
        assert type(record) is type(full)
        assert not record.ready
        assert record.told() == {}
    assert full.ready, "and what was recorded stays"


@pytest.mark.parametrize("kind", KINDS)
def test_a_process_that_recorded_nothing_takes_part(kind, together):
    """It counts as one of those whose losses are averaged."""
    full, nothing = recorded(kind, batch()), recorded(kind)
    assert not nothing.ready
    one, two = together(nothing, full), together(full, nothing)
    assert one.ready
    assert same(one, two)
    twice = together(full, full).told()
    half = {n: t / 2 for n, t in twice.items()}
    if kind == "levels":
        half = {n: t * torch.tensor([0.5, 0.5, 0.5, 1.0, 0.5])[:, None, None] for n, t in twice.items()}
    elif "crossings" in kind:  # a pass and its signals are there once, not twice
        half = {n: half[n] if n.startswith("weights/") else t for n, t in twice.items() if not n.startswith("1/")}
    assert near(one.told(), half)
    assert not near(one.told(), twice), "negative control"


def test_sums_are_in_float64_and_term_by_term():
    parts = [torch.tensor([1e8]), torch.tensor([1.0]), torch.tensor([-1e8])]
    assert added(iter(parts)).tolist() == [1.0]
    assert sum(parts).tolist() == [0.0], "negative control: in float32 the small one is lost"
    parts = [torch.tensor([value], dtype=torch.float64) for value in (1.0, 1e16, -1e16)]
    assert added(parts).tolist() == [0.0]
    assert added(parts[1:] + parts[:1]).tolist() == [1.0], "negative control: the order is what it is"
    (own,) = parts[:1]
    assert added([own]) is not own


# activity ------------------------------------------------------------------------------------------------------------


def test_gram_matrices_and_counts_are_summed(together):
    x = torch.randn(90, 6, dtype=torch.float64)
    one, two, both = Gram(0, 90), Gram(0, 90), Gram(0, 90)
    one.add(x[:50])
    two.add(x[50:])
    both.add(x)
    found = together(one, two)
    torch.testing.assert_close(found.total, both.total, rtol=1e-13, atol=1e-13)
    assert found.count == 90
    assert effective_rank(found, 0.5) == effective_rank(both, 0.5)
    assert (one.count, two.count) == (50, 40), "the processes keep their own"


def test_columns_of_a_process_that_has_none_are_those_of_the_others(together):
    one, two = Gram(0, 50), Gram(0, 50)
    two.add(torch.randn(40, 6))
    found = together(one, two)
    assert found.count == 40
    torch.testing.assert_close(found.total, two.total, rtol=0, atol=0)
    found.add(torch.randn(30, 6))
    assert found.count == 70, "and it goes on"
    assert two.count == 40


# levels --------------------------------------------------------------------------------------------------------------


def test_processes_are_like_passes_of_one(together):
    """Bit for bit: both are put together in the same way."""
    found = together(*(recorded("levels", batch(i, 3 + i)) for i in range(3)))
    assert same(found, recorded("levels", *(batch(i, 3 + i) for i in range(3))))
    assert not same(found, recorded("levels", *(batch(i, 3 + i) for i in (0, 2)))), "negative control"


# bridges -------------------------------------------------------------------------------------------------------------


def bridged(*batches, shared=True):
    net = build(MLP, seed=1, dtype=torch.float64)
    controller = Controller(net, GrowthProgram((Rule("r", GrowUnits(), GradientRank()),)))
    record = controller.recorded[Bridging(axis="a").key]
    record.shared = shared
    for x in batches:
        net(x).square().sum().backward()
    return record


def test_bridges_are_summed_and_norms_are_those_of_the_sums(together):
    x = torch.randn(20, 6, dtype=torch.float64)
    one, two, both = bridged(x[:8]), bridged(x[8:]), bridged(x)
    found = together(one, two)
    torch.testing.assert_close(found.matrix(), both.matrix(), rtol=1e-12, atol=1e-12)
    assert found.gradients() == pytest.approx(both.gradients(), rel=1e-12)
    assert found.gradients() < 0.999 * (one.gradients() + two.gradients()), "negative control: norms do not add up"
    assert found.ready
    assert found.estimate(8) == pytest.approx(float(both.matrix().norm()), rel=1e-12)


def test_one_process_keeps_its_matrix_and_its_norms(together):
    record = bridged(torch.randn(9, 6, dtype=torch.float64))
    found = together(record)
    assert torch.equal(found.matrix(), record.matrix())
    assert found.gradients() == pytest.approx(record.gradients(), rel=1e-14)


def test_a_process_without_a_backward_pass_and_one_with_a_bad_number_take_part(together):
    x = torch.randn(8, 6, dtype=torch.float64)
    found = together(bridged(), bridged(x))
    torch.testing.assert_close(found.matrix(), bridged(x).matrix())
    bad = x.clone()
    bad[0, 0] = float("inf")
    for records in ((bridged(bad), bridged(x)), (bridged(x), bridged(bad))):
        found = together(*records)
        with pytest.raises(Impossible, match="not finite"):
            found.matrix()
        with pytest.raises(Impossible, match="not finite"):
            together(found, bridged(x)).matrix()


def test_gradients_are_kept_for_others_only_if_there_are_others():
    """They take as much room as the weights."""
    x = torch.randn(8, 6, dtype=torch.float64)
    assert bridged(x, shared=False).told().keys() == {"blocks"}
    assert bridged(x).told().keys() == {"blocks", "a.weight", "b.weight"}


def test_what_is_frozen_is_known_even_if_nothing_is():
    net = build(MLP, seed=1)
    net.params["b.weight"].requires_grad_(False)
    controller = Controller(net, GrowthProgram((Rule("r", GrowUnits(), GradientRank(), where=Where(("a",))),)))
    assert controller.recorded[Bridging(axis="a").key].merged([]).frozen == ("b.weight",)


# crossings -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("weights", [False, True])
def test_what_was_said_stands_in_order_of_rank(weights, together):
    kind = "crossings and weights" if weights else "crossings"
    parts = batch(size=15).split(5)
    one, two, three = (recorded(kind, part) for part in parts)
    graph, wanted = one.graph, recorded(kind, torch.cat(parts)).said(one.graph)
    found = together(one, two, three).said(graph)
    for own, all_ in ((found.values, wanted.values), (found.signals, wanted.signals)):
        assert near(own, all_)
    assert near(found.gradients, wanted.gradients) if weights else found.gradients is None
    other = together(two, one, three).said(graph)
    assert not near(other.values, wanted.values), "negative control: in another order it is another batch"
    assert near(other.signals, {n: s[[*range(5, 10), *range(5), *range(10, 15)]] for n, s in found.signals.items()})


@pytest.mark.parametrize("weights", [False, True])
def test_one_process_keeps_what_was_said(weights, together):
    record = recorded("crossings and weights" if weights else "crossings", batch(), batch(1))
    one, all_ = record.said(record.graph), together(record).said(record.graph)
    for own, found in ((one.values, all_.values), (one.signals, all_.signals)):
        assert own.keys() == found.keys()
        assert all(torch.equal(own[n], found[n]) for n in own)
    assert (all_.gradients is not None) == weights


def test_a_pass_without_a_backward_pass_is_not_told():
    record = recorded("crossings", batch())
    told = record.told()
    record.passes.append(type(record.passes[0])(batch(3)))
    assert record.told().keys() == told.keys()
