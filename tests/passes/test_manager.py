"""Pipelines as data, on a graph and on a live network, and their traces."""

from dataclasses import dataclass

import pytest
import torch
from live import CNN, MLP, batch, step, trained

from irgrow import swap, transaction
from irgrow.backends import random_params
from irgrow.errors import CompilerBug, OptionError, ProgramError, RefusedError
from irgrow.grammar import parse
from irgrow.journal import seed_of
from irgrow.passes import (
    Context,
    GrowUnits,
    InsertLayer,
    Nest,
    NorthSelect,
    Pipeline,
    PruneUnits,
    plan,
    run,
)
from irgrow.passes.trace import combined
from irgrow.testing.laws import same_snapshot, snapshot
from irgrow.transfer import carried_params
from irgrow.verdict import Approximate, Changes, Exact, Improving, Refused

GRAPH = parse(MLP)
WIDER, DEEPER, SMALLER = GrowUnits("a", 2), InsertLayer("relu_1"), PruneUnits("b", (0, 3))
NOWHERE = GrowUnits("head", 1)
THREE = Pipeline((WIDER, DEEPER, SMALLER))


def params(graph=GRAPH, seed=0):
    return {n: torch.as_tensor(v) for n, v in random_params(graph, seed).items()}


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


# as text -------------------------------------------------------------------------------------------------------------


def test_a_pipeline_is_text_and_back():
    text = """
    # widths first
    grow_units(a, 2)   # wider; not deeper
    insert_layer(relu_1); prune_units(b, [0, 3]) ;
    """
    assert Pipeline.parse(text) == THREE
    assert Pipeline.parse(str(THREE)) == THREE
    assert str(THREE).splitlines() == ["grow_units(a, 2)", "insert_layer(relu_1)", "prune_units(b, [0, 3])"]


def test_a_pass_may_go_over_several_lines_and_hold_signs_in_strings():
    text = 'grow_units(\n  a,  # the first\n  2,\n)\ngrow_units("a; # b", 1)'
    assert Pipeline.parse(text) == Pipeline((WIDER, GrowUnits("a; # b", 1)))


@pytest.mark.parametrize("text", ["", "\n ; \n", "# nothing"])
def test_there_may_be_nothing_to_do(text):
    pipeline = Pipeline.parse(text)
    assert pipeline == Pipeline()
    trace = run(pipeline, GRAPH)
    assert (trace.after, trace.verdict, trace.morphism) == (GRAPH, Exact(), None)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (
            "grow_units(a, 2)\n grow_unit(b, 1)",
            ["p:2:2: error: unknown pass `grow_unit`\nhelp: did you mean `grow_units`?"],
        ),
        (
            "grow_units(a, wide = 2)",
            ["p:1:15: error: grow_units has no argument `wide`\nhelp: its arguments are: axis"],
        ),
        ("# x\n\ngrow_units(a, 0)", ["p:3:15: error: `count` must be at least 1, found 0"]),
        ("grow_units(a\ninsert_layer(b)", ["p:2:1: error: expected"]),
        ("grow_units(a; insert_layer(b)", ["p:1:13: error: expected"]),
        ("grow_units(a, 2) insert_layer(b)", ["p:1:18: error: expected"]),
        (
            "nope\ngrow_units(a)\n nope2; ?",
            ["p:1:1: error: unknown", "p:3:2: error: unknown", "p:3:9: error: expected"],
        ),
    ],
)
def test_mistakes_are_located_all_of_them(text, found):
    with pytest.raises(ProgramError) as error:
        Pipeline.parse(text, "p")
    diagnostics = error.value.diagnostics
    assert len(diagnostics) == len(found)
    for diagnostic, start in zip(diagnostics, found, strict=True):
        assert diagnostic.full.startswith(start), diagnostic.full


def test_a_pipeline_is_made_of_passes():
    with pytest.raises(OptionError, match="is made of passes, found 'grow_units"):
        Pipeline(("grow_units(a, 2)",))
    assert Pipeline([WIDER]) + Pipeline([DEEPER, SMALLER]) == THREE
    assert list(THREE) == [WIDER, DEEPER, SMALLER]


# on a graph ----------------------------------------------------------------------------------------------------------


def test_a_run_is_one_pass_after_the_other_bitwise():
    old = params()
    trace = run(THREE, GRAPH, Context(old, 5))
    graph, values = GRAPH, old
    for number, (pass_, found) in enumerate(zip(THREE, trace, strict=True)):
        planned = plan(pass_, graph, Context(values, seed_of(5, number, pass_)))
        assert (found.rewrite, found.verdict, found.before, found.after) == (
            pass_,
            planned.verdict,
            graph,
            planned.morphism.after,
        )
        assert found.digests == (graph.digest, planned.morphism.after.digest)
        graph, values = planned.morphism.after, carried_params(planned.morphism, values)
    assert trace.after == graph
    assert same(trace.params, values)
    assert same(carried_params(trace.morphism, old), values)
    assert (trace.morphism.before, trace.morphism.after) == (GRAPH, graph)
    assert same(old, params())


def test_a_trace_says_what_it_cost():
    trace = run(THREE, GRAPH)
    assert [s.parameters for s in trace] == [2 * 7 + 2 * 7, 110, -2 * 11 - 2 * 3]
    assert sum(s.macs for s in trace) == 6 * 10 + 10 * 10 + 10 * 5 + 5 * 3 - 6 * 8 - 8 * 7 - 7 * 3
    text = str(trace).splitlines()
    assert text[0].split() == ["pass", "program", "parameters", "MACs", "ms", "verdict"]
    assert text[1].startswith("grow_units(a, 2)")
    assert f"{GRAPH.digest[:8]} -> {trace[0].after.digest[:8]}" in text[1]
    assert text[-1] == "changes the function: `head` reads 2 units that are gone"


def test_what_is_refused_is_left_out_and_says_why():
    trace = run(Pipeline((WIDER, NOWHERE, DEEPER)), GRAPH)
    assert [s.applied for s in trace] == [True, False, True]
    assert trace.refused == (trace[1],)
    assert trace[1].remark == "axis `head` is locked: interface: `head` is an output of the network"
    assert trace[0].remark is None
    assert trace[1].digests == (trace[0].after.digest,) * 2
    assert trace.after == run(Pipeline((WIDER, DEEPER)), GRAPH).after
    assert trace.verdict == Exact()
    assert "refused `head`" in str(trace)
    assert run(Pipeline((NOWHERE,)), GRAPH).verdict.reason == trace[1].remark


def test_all_or_nothing():
    trace = run(Pipeline((WIDER, NOWHERE, DEEPER)), GRAPH, atomic=True)
    assert len(trace) == 2
    assert (trace.given_up, trace.after, trace.morphism) == (True, GRAPH, None)
    assert isinstance(trace.verdict, Refused)
    assert str(trace).endswith("given up, nothing was done")


def test_exactness_can_be_required():
    trace = run(THREE, GRAPH, require="exact")
    assert [s.applied for s in trace] == [True, True, False]
    assert "an exact rewrite is required" in trace[2].remark
    with pytest.raises(OptionError, match="any or exact"):
        run(THREE, GRAPH, require="all")


def test_the_same_pass_twice_draws_other_numbers():
    twice = run(Pipeline((WIDER, WIDER)), GRAPH, Context(params(), 1))
    new = twice.params["a.weight"][8:]
    assert not torch.equal(new[:2], new[2:])
    first = plan(WIDER, GRAPH, Context(params(), 1)).morphism
    second = plan(WIDER, first.after, Context(params(), 1)).morphism
    grown = carried_params(second, carried_params(first, params()))["a.weight"][8:]
    ratio = grown[:2] / grown[2:]
    assert torch.allclose(ratio, ratio[0, 0].expand_as(ratio)), "negative control: one seed for both draws alike"


def test_what_was_recorded_counts_while_the_graph_is_the_same():
    values = {"x": torch.randn(6, 6), "relu_1": torch.rand(6, 8)}
    informed = GrowUnits("a", 1, NorthSelect(candidates=8))
    context = Context(params(), 1, values)
    assert run(Pipeline((informed,)), GRAPH, context)[0].applied
    assert run(Pipeline((NOWHERE, informed)), GRAPH, context)[1].applied
    stale = run(Pipeline((WIDER, informed)), GRAPH, context)
    assert not stale[1].applied


@pytest.mark.parametrize(
    ("parts", "whole"),
    [
        ((), Exact()),
        ((Exact(), Exact()), Exact()),
        ((Exact("eval"), Exact()), Exact("eval")),
        ((Exact("eval"), Approximate("b")), Approximate("b")),
        ((Approximate("b", 0.1), Exact()), Approximate("b", 0.1)),
        ((Approximate("a", 0.1), Approximate("b", 0.2)), Approximate("a plus b")),
        ((Improving(-1.0), Approximate("b"), Improving(-0.5)), Improving(-1.5)),
        ((Changes("first"), Improving(-1.0), Changes("second")), Changes("first")),
    ],
)
def test_the_weakest_verdict_holds_of_the_whole(parts, whole):
    assert combined(parts) == whole


# on a network --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("atomic", [False, True])
def test_on_a_network_it_is_one_rewrite_after_the_other(atomic):
    (net, opt), (other, other_opt) = trained(), trained()
    trace = THREE.apply(net, atomic, step=7)
    receipts = [other.rewrite(pass_, step=7) for pass_ in THREE]
    assert [(s.verdict, s.parameters, s.macs) for s in trace] == [(r.verdict, r.parameters, r.macs) for r in receipts]
    assert (trace.before, trace.after, trace.given_up) == (GRAPH, net.graph, False)
    assert net.journal.to_json() == other.journal.to_json()
    assert same(net.state_dict(), other.state_dict())
    for name, p in net.named_parameters():
        mine, theirs = opt.state.get(p, {}), other_opt.state.get(other.params[name], {})
        assert same(
            {k: torch.as_tensor(v) for k, v in mine.items()}, {k: torch.as_tensor(v) for k, v in theirs.items()}
        )
    assert step(net, opt) == step(other, other_opt)
    assert Pipeline((WIDER,)).apply(net, atomic).after == net.graph
    assert net.undo().morphism.after == trace.after


def test_on_a_network_what_is_refused_is_left_out():
    net, _ = trained()
    trace = Pipeline((WIDER, NOWHERE, DEEPER)).apply(net)
    assert [s.applied for s in trace] == [True, False, True]
    assert [e.rewrite for e in net.journal] == [str(WIDER), str(DEEPER)]
    assert trace.after == net.graph


@pytest.mark.parametrize("options", [{}, {"require": "exact"}], ids=["refused", "inexact"])
def test_nothing_is_touched_unless_everything_applies(options, monkeypatch):
    net, _ = trained()
    before = snapshot(net)

    def touched(*args):
        raise AssertionError("the network was touched")

    monkeypatch.setattr(transaction, "apply", touched)
    last = SMALLER if options else NOWHERE
    trace = Pipeline((WIDER, DEEPER, last)).apply(net, atomic=True, **options)
    assert trace.given_up
    assert isinstance(trace.verdict, Refused)
    assert same_snapshot(before, snapshot(net)) is None
    with pytest.raises(AssertionError, match="was touched"):
        THREE.apply(net, atomic=True)


@pytest.mark.parametrize("text", [MLP, CNN])
@pytest.mark.parametrize("fails_at", [1, 2, 3])
def test_what_fails_in_the_swap_takes_everything_back(monkeypatch, fails_at, text):
    net, opt = trained(text, optimizer=torch.optim.AdamW)
    axis, place = ("a", "relu_1") if text is MLP else ("c1", "relu_1")
    pipeline = Pipeline((GrowUnits(axis, 2), InsertLayer(place), GrowUnits(axis, 1)))
    before = snapshot(net)
    calls = []

    def check(*args):
        calls.append(args)
        if len(calls) == fails_at:
            raise CompilerBug("planted")

    monkeypatch.setattr(swap, "check_invariants", check)
    with pytest.raises(CompilerBug, match="planted"):
        pipeline.apply(net, atomic=True)
    assert same_snapshot(before, snapshot(net)) is None
    monkeypatch.undo()
    twin, twin_opt = trained(text, optimizer=torch.optim.AdamW)
    assert step(net, opt) == step(twin, twin_opt)
    assert pipeline.apply(net, atomic=True).after == net.graph


def test_what_is_refused_only_in_the_swap_takes_everything_back(monkeypatch):
    """The plan was fine; a pass that changes its mind is refused, and what was swapped in is restored."""
    net, _ = trained()
    before = snapshot(net)
    asked = []

    @dataclass(frozen=True)
    class Fickle(InsertLayer):
        def match(self, graph, site):
            asked.append(site)
            return super().match(graph, site) if len(asked) == 1 else "not any more"

    trace = Pipeline((WIDER, Fickle("relu_1"))).apply(net, atomic=True)
    assert trace.given_up
    assert trace[1].remark == "not any more"
    assert same_snapshot(before, snapshot(net)) is None


def test_a_pending_backward_pass_is_refused_as_ever():
    net, _ = trained()
    kept = net(batch(net)).sum()
    before = net.graph
    for atomic in (False, True):
        with pytest.raises(RefusedError, match="backward"):
            THREE.apply(net, atomic)
    assert net.graph is before
    del kept


def test_each_step_records_on_the_network_as_it_is_then():
    """The second pass looks at a layer that the first one made."""
    informed = GrowUnits("relu_1_deep1.layer", 1, NorthSelect(candidates=16))
    pipeline = Pipeline((DEEPER, informed))
    (net, _), (other, _) = trained(), trained()
    images = batch(net, 3, 9)
    trace = pipeline.apply(net, atomic=True, statistics=images)
    assert [s.applied for s in trace] == [True, True]
    receipts = [other.rewrite(pass_, statistics=images) for pass_ in pipeline]
    assert all(r.applied for r in receipts)
    assert same(net.state_dict(), other.state_dict())
    assert [e.used for e in net.journal] == ["", "statistics"]
    without = pipeline.apply(trained()[0], atomic=True)
    assert without.given_up


def test_losses_can_be_tried_on_the_network_as_it_is_then():
    """Candidates of convolutions are tried one by one, in a transaction and in a pipeline alike."""
    tried = Pipeline((GrowUnits("c1", 1), GrowUnits("c1", 1, Nest(candidates=3))))
    nets = [trained(CNN)[0] for _ in range(2)]
    images, loss = batch(nets[0], 3, 9), lambda y: y.square().mean()
    for net, atomic in zip(nets, (True, False), strict=True):
        assert [s.applied for s in tried.apply(net, atomic, statistics=images, loss=loss)] == [True, True]
    assert same(nets[0].state_dict(), nets[1].state_dict())
    assert tried.apply(trained(CNN)[0], atomic=True).given_up


def test_errors_and_losses_are_measured_on_the_batch():
    net, _ = trained()
    for atomic in (False, True):
        trace = Pipeline((WIDER,)).apply(net, atomic, batch=batch(net), loss=lambda y: y.square().mean())
        assert 0.0 <= trace[0].error < 1e-12
