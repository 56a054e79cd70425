"""`irgrow verify` measures claims; a false one is exit code 1."""

import json

import pytest

from irgrow.passes.preservation.prover import Prover
from irgrow.verdict import Exact

NET = "net n(x: [4], w = 3) { return x |> h: dense(w) |> relu |> head: dense(2) }"
GROWN, PRUNED = "grow_units(h, 2)", "prune_units(h, [0, 1])"


@pytest.fixture
def net(write):
    return write(NET)


@pytest.mark.parametrize("name", ["lenet", "digits", "mobilenet"])
def test_lowered_examples_compute_what_the_reference_does(fine, examples, name):
    assert fine("verify", examples / f"{name}.irg").startswith("ok: the lowered module of")


def test_true_claims_hold(fine, net):
    lines = fine("verify", net, GROWN, "insert_layer(relu_1)").splitlines()
    assert [line.split("(")[0] for line in lines] == ["ok: grow_units", "ok: insert_layer"]


def test_passes_go_in_order(fine, net):
    assert "exact" in fine("verify", net, "insert_layer(relu_1)", "grow_units(relu_1_deep1.layer, 1)").splitlines()[1]


def test_a_pass_that_claims_nothing_is_measured_all_the_same(fine, net):
    assert "no sameness was claimed" in fine("verify", net, PRUNED)


def test_json_has_the_documented_keys(fine, net):
    for args in ((), (GROWN,), (PRUNED,)):
        (row,) = json.loads(fine("verify", net, *args, "--json"))
        assert set(row) == {"claim", "holds", "error", "detail"}
        assert row["holds"] is True


def test_a_false_claim_does_not_hold(irgrow, net, monkeypatch):
    monkeypatch.setattr(Prover, "verdict", lambda self: Exact())
    answer = irgrow("verify", net, PRUNED)
    assert answer.code == 1
    assert answer.out.startswith(f"FAILED: {PRUNED}: exact, measured ")


def test_one_false_claim_of_several_is_enough(irgrow, net, monkeypatch):
    monkeypatch.setattr(Prover, "verdict", lambda self: Exact())
    answer = irgrow("verify", net, GROWN, PRUNED, GROWN, "--json")
    assert answer.code == 1
    assert [row["holds"] for row in json.loads(answer.out)] == [True, False, True]


def test_a_wrong_lowering_is_found(irgrow, net, monkeypatch):
    from irgrow.testing import numbers

    real = numbers.run_lowered

    def wrong(*args, **kwargs):
        outputs, module = real(*args, **kwargs)
        return tuple(y * (1 + 1e-6) for y in outputs), module

    monkeypatch.setattr(numbers, "run_lowered", wrong)
    answer = irgrow("verify", net)
    assert answer.code == 1
    assert answer.out.startswith("FAILED: the lowered module of `n`")


def test_a_refused_rewrite_has_nothing_to_verify(mistake, net):
    said = "error: a rewrite that is refused has nothing to verify: grow_units(zzz, 4): refused `zzz`: no axis or node"
    assert mistake("verify", net, "grow_units(zzz, 4)").startswith(said)


def test_what_comes_before_a_refusal_is_measured_and_what_comes_after_is_not(irgrow, net):
    answer = irgrow("verify", net, GROWN, "grow_units(x, 1)", PRUNED)
    assert answer.code == 2
    assert [line.split("(")[0] for line in answer.out.splitlines()] == ["ok: grow_units"]
    assert "has nothing to verify: grow_units(x): " in answer.err


def test_a_refusal_as_json(irgrow, net):
    answer = irgrow("verify", net, GROWN, "grow_units(zzz, 4)", "--json")
    grown, refused = json.loads(answer.out)
    assert (answer.code, answer.err) == (2, "")
    assert grown["holds"] is True
    assert set(refused) == {"claim", "holds", "error", "detail"}
    assert (refused["holds"], refused["error"]) == (None, None)
    assert "nothing to verify" in refused["detail"]


def test_a_false_claim_before_a_refusal_is_a_false_claim(irgrow, net, monkeypatch):
    monkeypatch.setattr(Prover, "verdict", lambda self: Exact())
    assert irgrow("verify", net, PRUNED, "grow_units(zzz, 4)").code == 1


def test_seed_and_samples_change_what_is_measured(fine, write):
    net = write(NET.replace("relu", "tanh"))

    def measured(*args):
        return json.loads(fine("verify", net, PRUNED, "--json", *args))[0]["error"]

    assert measured() == measured("--seed", "0", "--samples", "4")
    assert len({measured(), measured("--seed", "1"), measured("--samples", "9")}) == 3


def test_the_settings_of_a_net_reach_it(fine, net):
    assert "exact" in fine("verify", net, GROWN, "--set", "w=1")
