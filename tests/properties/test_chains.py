"""Chains of random rewrites keep the laws, and are one rewrite: bit for bit on parameters, buffers and slots."""

from dataclasses import replace
from functools import reduce

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from irgrow import composing, swap
from irgrow.morphism import Morphism, Select
from irgrow.passes import Context, Pipeline, plan, run
from irgrow.passes.trace import combined
from irgrow.slots import Carry
from irgrow.testing import graphs, rewrites
from irgrow.testing.laws import LAWS, OPTIMIZERS, Case, trained, verdict_is_sound
from irgrow.testing.numbers import NETWORK_BOUND, carried, gradient_error, is_stochastic, output_error
from irgrow.transfer import carried_params
from irgrow.verdict import Exact

LONGEST, LARGEST, TRIES = 10, 1500, 4
FEW = settings(
    max_examples=max(15, getattr(settings.default, "max_examples", 50) // 4), suppress_health_check=list(HealthCheck)
)


@st.composite
def chains(draw, /, longest=LONGEST, **options):
    """Draw a program and rewrites of it, each drawn on what the one before it made; refused ones are left out."""
    graph = current = draw(graphs(steps=4, dropout=False, **options))
    seed, passes = draw(st.integers(0, 1000)), []
    params = Case(graph, None, seed).params
    for _ in range(draw(st.integers(2, longest))):
        for _ in range(TRIES):
            rewrite = draw(rewrites(current))
            morphism = plan(rewrite, current, Context(params, len(passes))).morphism
            if morphism is not None and morphism.after.count() <= LARGEST:
                passes.append(rewrite)
                current, params = morphism.after, carried(morphism, params)
                break
    return graph, Pipeline(tuple(passes)), seed


def worked_out(chain):
    """Return the trace of a chain on random parameters, and the parameters."""
    graph, pipeline, seed = chain
    params = Case(graph, None, seed).params
    return run(pipeline, graph, Context(params, seed)), params


@FEW
@given(chains())
def test_a_chain_is_one_rewrite_bitwise(chain):
    trace, params = worked_out(chain)
    if trace.morphism is None:
        return
    old = {name: torch.as_tensor(value) for name, value in params.items()}
    stepwise = old
    for step in trace:
        stepwise = stepwise if step.morphism is None else carried_params(step.morphism, stepwise)
    at_once = carried_params(trace.morphism, old)
    assert at_once.keys() == stepwise.keys() == trace.params.keys()
    for name, value in stepwise.items():
        assert torch.equal(at_once[name], value), f"{name}\n{trace}"
        assert torch.equal(trace.params[name], value), f"{name}\n{trace}"


@FEW
@given(chains(longest=6), st.sampled_from((*OPTIMIZERS, "Adagrad", "NAdam")), st.sampled_from(list(Carry)))
def test_a_chain_is_one_rewrite_on_a_network_with_an_optimizer(chain, optimizer, carry):
    """Parameters, buffers, gradients, frozen flags, groups and slots."""
    graph, pipeline, seed = chain
    stepwise, at_once = (trained(Case(graph, None, seed), optimizer) for _ in range(2))
    for net in (stepwise, at_once):
        for tracked in net.tracked:
            tracked.carry = carry
        for i, p in enumerate(net.parameters()):
            p.requires_grad_(i % 3 > 0)
    trace = run(pipeline, graph, Context(stepwise.params, seed))
    if trace.morphism is None:
        return
    for step in trace:
        if step.morphism is not None:
            swap.apply(stepwise, step.morphism).commit()
    swap.apply(at_once, trace.morphism).commit()
    assert state(at_once) == state(stepwise), str(trace)


def state(net):
    """Return everything a network and its optimizer hold, comparable."""
    found = {"graph": net.graph.digest}
    for name, p in net.params.items():
        found[name] = (p.dtype, p.requires_grad, p.tolist(), None if p.grad is None else p.grad.tolist())
    for tracked in net.tracked:
        names = {id(p): name for name, p in net.params.items()}
        groups = tracked.optimizer.param_groups
        found["groups"] = [sorted(names[id(p)] for p in group["params"]) for group in groups]
        for p, slots in tracked.optimizer.state.items():
            found[f"state of {names[id(p)]}"] = {k: torch.as_tensor(v).tolist() for k, v in slots.items()}
    return found


@FEW
@given(chains())
def test_a_chain_keeps_what_its_verdict_says(chain):
    """The weakest verdict of the parts holds of the whole, for the function and for the gradients."""
    trace, params = worked_out(chain)
    if trace.morphism is None or not isinstance(trace.verdict, Exact):
        return
    assert trace.verdict == combined([s.verdict for s in trace if s.applied])
    inputs = Case(trace.before, None, chain[2]).inputs
    assert output_error(trace.morphism, params, inputs) <= NETWORK_BOUND, str(trace)
    if trace.verdict.mode == "always" and not is_stochastic(trace.before):
        assert output_error(trace.morphism, params, inputs, training=True) <= NETWORK_BOUND, str(trace)
    switched = any(name.endswith(".mask") for name in trace.morphism.touched)
    if not trace.morphism.blends and not switched:
        assert gradient_error(trace.morphism, params, inputs, chain[2]) <= 1e-9, str(trace)


@FEW
@given(chains(), st.sampled_from(LAWS), st.data())
def test_what_a_chain_made_obeys_every_law_again(chain, law, data):
    """The program at the end of a chain is one like any other: the next rewrite obeys each law there."""
    trace, _ = worked_out(chain)
    if trace.after.count() <= LARGEST:
        law(Case(trace.after, data.draw(rewrites(trace.after)), chain[2], 2))


@FEW
@given(chains())
def test_every_step_of_a_chain_is_sound(chain):
    trace, _ = worked_out(chain)
    for number, step in enumerate(trace):
        verdict_is_sound(Case(step.before, step.rewrite, chain[2] + number, 2))


def test_chains_are_long_and_mixed():
    """No vacuous law: what is drawn does something, and does different things."""
    lengths, words = [], set()

    @settings(FEW, derandomize=True, database=None)
    @given(chains())
    def run_all(chain):
        trace, _ = worked_out(chain)
        lengths.append(sum(s.applied for s in trace))
        words.update(s.verdict.word for s in trace)
        words.update(type(s.rewrite) for s in trace if s.applied)

    run_all()
    assert max(lengths) >= 5
    assert sum(n >= 2 for n in lengths) >= len(lengths) // 2
    assert {"exact", "changes"} <= words
    assert len(words) >= 10


# negative controls ---------------------------------------------------------------------------------------------------


def test_a_composition_that_forgets_a_map_is_noticed(monkeypatch):
    real = composing._joined

    def forgetful(first, second):
        return replace(real(first, second), maps=second.maps)

    monkeypatch.setattr(composing, "_joined", forgetful)
    graph, pipeline = _pruned_twice()
    trace = run(pipeline, graph, Context(Case(graph, None, 1).params, 1))
    assert isinstance(trace.morphism.transfers["h.weight"], Select)
    old = {n: torch.as_tensor(v) for n, v in Case(graph, None, 1).params.items()}
    assert not torch.equal(carried_params(trace.morphism, old)["h.weight"], trace.params["h.weight"])


def test_a_chain_with_a_wrong_part_is_noticed():
    """The bound of the whole is not so wide that a wrong part would pass."""
    graph, pipeline = _pruned_twice()
    trace, params = worked_out((graph, pipeline, 3))
    assert output_error(trace.morphism, params, Case(graph, None, 3).inputs) > 1e-3


def test_slots_that_are_warmed_once_at_the_end_are_noticed(monkeypatch):
    from irgrow import slots
    from irgrow.passes import GrowUnits

    graph, _ = _pruned_twice()
    pipeline = Pipeline((GrowUnits("h", 2), GrowUnits("h", 3)))
    nets = [trained(Case(graph, None, 3)) for _ in range(2)]
    trace = run(pipeline, graph, Context(nets[0].params, 3))
    for step in trace:
        swap.apply(nets[0], step.morphism).commit()
    real = slots._carried
    monkeypatch.setattr(
        slots,
        "_carried",
        lambda step, source, value, kind, start: real(
            step, source, value, kind, slots._unchanged if start is slots._warmed else start
        ),
    )
    swap.apply(nets[1], trace.morphism).commit()
    assert state(nets[0]) != state(nets[1])


def _pruned_twice():
    from irgrow.grammar import parse
    from irgrow.passes import PruneUnits

    graph = parse("net n(x: [4]) { return x |> h: dense(6) |> gelu |> dense(2) }")
    return graph, Pipeline((PruneUnits("h", (0, 2)), PruneUnits("h", (1,))))


@pytest.mark.parametrize("longest", [2, 10])
def test_bracketing_makes_no_difference(longest):
    @settings(FEW, derandomize=True, database=None, max_examples=15)
    @given(chains(longest=longest))
    def check(chain):
        trace, params = worked_out(chain)
        parts = [s.morphism for s in trace if s.morphism is not None]
        if len(parts) < 3:
            return
        other = reduce(lambda later, earlier: earlier.then(later), reversed(parts))
        a, b = carried(trace.morphism, params), carried(other, params)
        assert a.keys() == b.keys()
        assert all((a[name] == b[name]).all() for name in a), str(trace)
        assert isinstance(other, Morphism)

    check()
