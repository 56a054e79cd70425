"""The laws of rewrites on random programs, each with a broken operator that must break it."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from broken import (
    Dead,
    Endless,
    Meddling,
    Moody,
    Mumbling,
    RandomFanOut,
    Regretful,
    Scaled,
    Unruly,
    Unwritable,
    WrongGradients,
    WrongOffset,
    WrongPruner,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from irgrow.axes import NEW
from irgrow.backends import interpret, random_params
from irgrow.errors import CompilerBug
from irgrow.fills import ONES, ZERO
from irgrow.grammar import parse
from irgrow.morphism import Keep, Select
from irgrow.ops import ACTIVATIONS
from irgrow.passes import Context, GrowUnits, InsertLayer, Pass, Prover, PruneUnits, plan
from irgrow.passes.analyses.places import editable_axes
from irgrow.passes.primitives import by_role, resize
from irgrow.testing import graphs, rewrites
from irgrow.testing.laws import (
    LAWS,
    OPTIMIZERS,
    SMOOTH,
    Broken,
    Case,
    gradients_follow,
    inert_training,
    morphism_survives_json,
    newborns_learn,
    permuting_changes_nothing,
    prune_is_mask,
    refused_changes_nothing,
    result_is_a_program,
    same_seed_same_numbers,
    smooth,
    text_of_options,
    training_goes_on,
    undo_restores,
    verdict_is_sound,
)
from irgrow.testing.numbers import NETWORK_BOUND, carried, difference, output_error, planned, random_inputs
from irgrow.testing.rewriting import pass_of
from irgrow.verdict import Approximate, Changes, Exact

# the laws ------------------------------------------------------------------------------------------------------------


@st.composite
def cases(draw, /, cls=None, **options):
    graph = draw(graphs(**options))
    rewrite = draw(rewrites(graph) if cls is None else pass_of(cls, graph))
    return Case(graph, rewrite, draw(st.integers(0, 10**6)), draw(st.integers(2, 4)))


@given(cases())
def test_1_results_print_and_parse(case):
    result_is_a_program(case)
    text_of_options(case)
    morphism_survives_json(case)


@given(cases())
def test_3_exact_verdicts_hold(case):
    verdict_is_sound(case)


@given(cases(), st.integers(0, 1000))
def test_3_also_on_single_samples(case, seed):
    verdict_is_sound(replace(case, batch=1, seed=seed))


@given(cases())
def test_4_gradients_follow(case):
    gradients_follow(case)


@given(cases(GrowUnits, dropout=False), st.sampled_from((*OPTIMIZERS, "NAdam", "Adagrad", "Adamax", "Rprop")))
def test_5_training_on_after_an_inert_rewrite(case, optimizer):
    inert_training(case, optimizer)


@given(cases())
def test_6_undoing_restores_bitwise(case):
    undo_restores(case)


@given(st.data())
def test_6_pruning_what_was_grown_is_the_identity(data):
    graph = data.draw(graphs())
    grow = data.draw(pass_of(GrowUnits, graph))
    grown = plan(grow, graph, Context(seed=1)).morphism
    if grown is None or grown.scales or any(getattr(t, "plus", None) for t in grown.transfers.values()):
        return  # gains behind norms were rescaled, or biases took over, which pruning does not take back
    new = {name: tuple(np.flatnonzero(m == NEW).tolist()) for name, m in grown.edits.items()}
    back = grown
    for name, units in new.items():
        pruned = plan(PruneUnits(name, units), back.after, Context(seed=2)).morphism
        assert pruned is not None
        back = back.then(pruned)
    assert back.after.sizes == graph.sizes
    old = {n: torch.as_tensor(v) for n, v in random_params(graph, 3).items()}
    for name, transfer in back.transfers.items():
        from irgrow.transfer import move

        assert torch.equal(move(transfer, old, tuple(old[name].shape), name, 0), old[name]), name


@given(st.data())
def test_6_permuting_an_axis_leaves_the_function(data):
    graph = data.draw(graphs(dropout=False))
    editable = editable_axes(graph)
    if not editable:
        return
    atom = data.draw(st.sampled_from(editable))
    order = np.array(data.draw(st.permutations(range(graph.widths[atom]))), dtype=np.int64)
    morphism = resize(graph, {atom: order}, by_role(ZERO, ZERO))
    params, inputs = random_params(graph, 1), random_inputs(graph, 1)
    for training in (False, True):
        assert output_error(morphism, params, inputs, training) <= NETWORK_BOUND, f"{atom} {order}\n{graph}"
    prover = Prover(morphism)
    prover.run()
    if any(m is not None and not np.array_equal(m, np.arange(len(m))) for m in morphism.edits.values()):
        assert isinstance(prover.verdict(), Exact | Changes)


@given(cases())
def test_6_also_of_what_a_rewrite_made(case):
    permuting_changes_nothing(case)


def test_6_permuting_one_side_only_changes_the_function():
    """Negative control."""
    graph = parse("net n(x: [4]) { return x |> h: dense(5) |> relu |> dense(2) }")
    order = np.array([1, 0, 2, 3, 4])
    morphism = resize(graph, {"h": order}, by_role(ZERO, ZERO))
    transfers = dict(morphism.transfers) | {"dense_1.weight": Keep("dense_1.weight")}
    broken = replace(morphism, transfers=transfers)
    assert output_error(broken, random_params(graph, 1), random_inputs(graph, 1)) > 1e-3


@given(cases(GrowUnits, dropout=False))
def test_7_every_new_unit_receives_gradient(case):
    newborns_learn(case)


@given(st.data())
def test_7_and_has_moved_after_ten_steps(data):
    graph = smooth(data.draw(graphs(dropout=False)))
    if graph is None:
        return
    from irgrow.testing.laws import train_step, trained

    case = Case(graph, data.draw(pass_of(GrowUnits, graph)), 3, 6)
    net = trained(case)
    receipt = net.rewrite(case.rewrite)
    if not receipt.applied or not net.tracked:
        return
    start = {n: p.detach().clone() for n, p in net.named_parameters()}
    for _ in range(10):
        train_step(net, case)
    for atom, m in receipt.morphism.edits.items():
        moved, old_moved = np.zeros(len(m), dtype=bool), False
        for name, p in net.named_parameters():
            transfer = receipt.morphism.transfers[name]
            if not isinstance(transfer, Select):
                continue
            for dim, index in enumerate(transfer.maps):
                if index is not None and len(index) == len(m) and np.array_equal(index, m):
                    over = tuple(d for d in range(p.dim()) if d != dim)
                    changed = (p.detach() != start[name]).double()
                    line = (changed.sum(over) if over else changed).numpy() > 0
                    moved |= line
                    old_moved = old_moved or bool(line[m != NEW].all())
        if old_moved:
            assert moved[m == NEW].all(), f"{case.rewrite}: a new unit of {atom} has not moved\n{graph}"


@given(cases())
def test_8_refused_rewrites_change_nothing(case):
    refused_changes_nothing(case)


@given(cases())
def test_9_same_seed_same_numbers(case):
    same_seed_same_numbers(case)


@given(cases(PruneUnits))
def test_10_pruning_is_masking(case):
    prune_is_mask(case)


# no vacuous caution --------------------------------------------------------------------------------------------------

NOT_EXACT = [
    ("net n(x: [4]) { return x |> h: dense(5) |> layernorm |> dense(2) }", GrowUnits("h", 2)),
    ("net n(x: [4]) { return x |> h: dense(5) |> rmsnorm |> dense(2) }", GrowUnits("h", 2)),
    ("net n(x: [4]) { return x |> h: dense(5) |> softmax |> dense(2) }", GrowUnits("h", 2)),
    ("net n(x: [4]) { return x |> h: dense(6) |> groupnorm(2) |> dense(2) }", GrowUnits("h", 2)),
    ("net n(x: [4]) { return x |> h: dense(5) |> sigmoid |> dense(2) }", GrowUnits("h", 2, zero="fan_in")),
    ("net n(x: [4]) { return x |> h: dense(5) |> relu |> dense(2) }", PruneUnits("h", (1,))),
    ("net n(x: [4]) { return x |> h: dense(5) |> gelu |> dense(2) }", InsertLayer("gelu_1", activation="gelu")),
    ("net n(x: [4]) { return x |> h: dense(5) |> dense(2) }", InsertLayer("h")),
    ("net n(x: [4]) { return x |> h: dense(5) |> leaky_relu |> dense(2) }", InsertLayer("leaky_relu_1")),
]


@pytest.mark.parametrize(("text", "rewrite"), NOT_EXACT, ids=lambda v: str(v)[:40])
def test_3_where_a_verdict_is_not_exact_the_function_really_changes(text, rewrite):
    graph = parse(text)
    params, inputs = random_params(graph, 0), random_inputs(graph, 0)
    result = planned(rewrite, graph, params, inputs, 0)
    assert isinstance(result.verdict, Changes)
    assert output_error(result.morphism, params, inputs) > 1e-4


# negative controls ---------------------------------------------------------------------------------------------------


def claims_exact(monkeypatch):
    """Make the prover say that everything is exact, so that only the numbers can object."""
    monkeypatch.setattr(Prover, "verdict", lambda self: Exact())


CONTROLS = [
    (RandomFanOut, verdict_is_sound),
    (WrongOffset, verdict_is_sound),
    (Scaled, verdict_is_sound),
    (WrongGradients, gradients_follow),
    (WrongGradients, training_goes_on),
    (Dead, newborns_learn),
    (Moody, same_seed_same_numbers),
    (Meddling, refused_changes_nothing),
    (WrongPruner, prune_is_mask),
    (Regretful, undo_restores),
    (Unruly, permuting_changes_nothing),
    (Unruly, result_is_a_program),
    (Unwritable, morphism_survives_json),
    (Mumbling, text_of_options),
]


def breaking(broken, law):
    """Return the message with which a law rejects a broken operator on random programs."""

    @settings(
        max_examples=300,
        derandomize=True,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        report_multiple_bugs=False,  # one that is random breaks a law in more than one way
    )
    @given(cases(broken, dropout=False))
    def run(case):
        law(replace(case, batch=6))

    with pytest.raises(Broken) as error:
        run()
    return str(error.value)


@pytest.mark.parametrize(("broken", "law"), CONTROLS, ids=lambda v: v.__name__)
def test_a_broken_operator_breaks_the_law(monkeypatch, broken, law):
    claims_exact(monkeypatch)
    message = breaking(broken, law)
    assert "program:" in message
    assert "seed:" in message


def test_every_law_has_a_broken_operator():
    assert {law for _, law in CONTROLS} == set(LAWS)


def test_what_is_said_to_be_approximate_is_a_number(monkeypatch):
    monkeypatch.setattr(Prover, "verdict", lambda self: Approximate("goes to zero"))
    assert "said to be approximate" in breaking(Endless, verdict_is_sound)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_wrong_gradients_are_noticed_by_every_optimizer(monkeypatch, optimizer):
    claims_exact(monkeypatch)
    message = breaking(WrongGradients, lambda case: inert_training(case, optimizer))
    assert message.startswith(f"optimizer law: {optimizer}: after ")


def test_a_lost_optimizer_state_breaks_law_5(monkeypatch):
    from irgrow import swap

    monkeypatch.setattr(swap, "carried_state", lambda *args: {})

    @settings(max_examples=300, derandomize=True, database=None, deadline=None, suppress_health_check=list(HealthCheck))
    @given(cases(GrowUnits, dropout=False))
    def run(case):
        inert_training(case, "Adam")

    with pytest.raises(Broken, match="optimizer law"):
        run()


def test_a_wrong_inverse_breaks_undo(monkeypatch):
    from irgrow import morphism

    real = morphism._inverse_map

    def rolled(m, old):
        back = real(m, old)
        return None if back is None else np.roll(back, 1)

    monkeypatch.setattr(morphism, "_inverse_map", rolled)

    @settings(max_examples=300, derandomize=True, database=None, deadline=None, suppress_health_check=list(HealthCheck))
    @given(cases(GrowUnits))
    def run(case):
        undo_restores(case)

    with pytest.raises((Broken, CompilerBug, AssertionError)):
        run()


@pytest.mark.parametrize("broken", [RandomFanOut, WrongOffset, Scaled])
def test_the_prover_itself_sees_through_broken_operators(broken):
    """Without the planted verdict the prover says that the function changes."""
    graph = parse("net n(x: [4]) { return x |> a: dense(5) |> relu |> b: dense(5) |> relu |> dense(2) }")
    result = plan(broken("a", 2), graph)
    assert isinstance(result.verdict, Changes), str(result.verdict)


def test_a_case_is_small_and_says_everything():
    case = Case(parse("net n(x: [2]) { return x |> h: dense(2) |> dense(1) }"), GrowUnits("h", 1), 5)
    text = str(case.broken("law", "found"))
    assert text.splitlines()[:3] == ["law: found", "  pass: grow_units(h)", "  seed: 5"]
    assert issubclass(Broken, AssertionError)
    assert isinstance(Pass, type)
    assert set(SMOOTH) <= set(ACTIVATIONS)
    assert smooth(parse("net n(x: [2, 4, 4]) { return x |> conv(2, kernel = 1) |> maxpool(2) }")) is None
    assert not ONES.is_zero
    outputs = interpret(case.graph, case.params, case.inputs).outputs
    assert difference(outputs, outputs) == 0.0
    assert carried(case.plan().morphism, case.params)["h.weight"].shape == (3, 2)
