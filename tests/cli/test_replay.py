"""`irgrow rewrite --replay` does again what a journal says."""

import json
import os

import pytest
import torch

from irgrow import build, load, save
from irgrow.grammar import parse

NET = "net n(x: [4], w = 3) { return x |> h: dense(w) |> relu |> head: dense(2) }"
GROWN = "grow_units(h, 2)"
DEEPER = "insert_layer(relu_1)"
PRUNED = "prune_units(h, [0])"


@pytest.fixture
def net(write):
    return write(NET)


@pytest.fixture
def checkpoint(folder):
    network = build(NET, seed=3)
    save(network, folder / "ck")
    return network


@pytest.fixture
def grown(folder, write, checkpoint):
    """A network that was rewritten, with its journal as a file and in a checkpoint."""
    network = load(folder / "ck")
    for text in (GROWN, DEEPER, PRUNED, GROWN):
        assert network.rewrite(text, step=3).applied
    network.journal.write(folder / "journal.json")
    save(network, folder / "grown")
    return network


@pytest.mark.parametrize("journal", ["journal.json", "grown", "grown/run.json"])
def test_a_program_is_replayed(folder, irgrow, net, grown, journal):
    answer = irgrow("rewrite", net, "--replay", journal, "-o", "again.irg")
    assert (answer.code, answer.out) == (0, "")
    assert [line.split(":")[0] for line in answer.err.splitlines()] == [GROWN, DEEPER, PRUNED, GROWN]
    assert parse((folder / "again.irg").read_text()).digest == grown.graph.digest


def test_a_checkpoint_is_replayed_bit_for_bit(folder, fine, grown):
    fine("rewrite", "ck", "--replay", "journal.json", "-o", "again")
    again = load(folder / "again")
    assert again.graph == grown.graph
    found, wanted = again.state_dict(), grown.state_dict()
    assert set(found) == set(wanted)
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)
    assert again.journal.to_json() == grown.journal.to_json()


def test_seeds_of_undone_rewrites_are_not_used_again(folder, fine, write, checkpoint):
    network = load(folder / "ck")
    network.rewrite(GROWN)
    network.undo()
    network.rewrite(GROWN)
    network.journal.write(folder / "journal.json")
    fine("rewrite", "ck", "--replay", "journal.json", "-o", "again")
    assert torch.equal(load(folder / "again").params["h.weight"], network.params["h.weight"])
    network = load(folder / "ck")
    network.rewrite(GROWN)
    assert not torch.equal(load(folder / "again").params["h.weight"], network.params["h.weight"])


@pytest.mark.parametrize("field", ["before", "after"])
@pytest.mark.parametrize("target", ["net.irg", "ck"])
def test_a_digest_that_does_not_match_stops_and_names_the_entry(folder, irgrow, net, grown, target, field):
    data = grown.journal.to_json()
    data["entries"][2][field] = "0" * 64
    (folder / "journal.json").write_text(json.dumps(data, indent=1))
    there = sorted(os.listdir(folder))
    answer = irgrow("rewrite", target, "--replay", "journal.json", "-o", "out")
    assert (answer.code, answer.out) == (1, "")
    assert f"entry 2 `{PRUNED}`: it " in answer.err
    assert "000000000000" in answer.err
    line = next(
        i for i, text in enumerate((folder / "journal.json").read_text().splitlines(), 1) if '"number": 2' in text
    )
    assert f"journal.json:{line}:4: error" in answer.err
    assert sorted(os.listdir(folder)) == there
    found = json.loads(irgrow("rewrite", target, "--replay", "journal.json", "-o", "out", "--json").out)
    assert (found["program"], [row["kind"] for row in found["rewrites"]]) == (None, ["exact", "exact", "mismatch"])


def test_another_program_is_a_mismatch_at_once(irgrow, write, grown):
    answer = irgrow("rewrite", write(NET.replace("w = 3", "w = 4"), "other.irg"), "--replay", "journal.json")
    assert answer.code == 1
    assert "entry 0 `grow_units(h, 2)`: it was done on the program" in answer.err
    assert "is this the program the journal started from?" in answer.err


def test_a_pass_that_is_refused_now_is_a_mismatch(folder, irgrow, net, grown):
    data = grown.journal.to_json()
    data["entries"][0]["rewrite"] = "grow_units(x, 2)"
    (folder / "journal.json").write_text(json.dumps(data))
    answer = irgrow("rewrite", net, "--replay", "journal.json")
    assert answer.code == 1
    assert "entry 0 `grow_units(x, 2)`: " in answer.err
    assert "is locked" in answer.err


def test_what_looked_at_a_batch_is_not_replayed(folder, irgrow, net, checkpoint):
    network = load(folder / "ck")
    images = torch.randn(5, 4)
    assert network.rewrite("grow_units(h, 1, init = north_select(8))", statistics=images).applied
    network.journal.write(folder / "journal.json")
    for target in (net, "ck"):
        answer = irgrow("rewrite", target, "--replay", "journal.json", "-o", "out")
        assert (answer.code, answer.out) == (1, "")
        assert "it looked at the values of a batch, which the journal does not hold" in answer.err
        assert not (folder / "out").exists()


def test_statistics_of_norms_are_not_in_the_program(folder, irgrow, write):
    """The graph can be replayed, the tensors of the network cannot."""
    program = write("net n(x: [4]) { return x |> h: dense(3) |> batchnorm |> relu |> dense(2) }", "bn.irg")
    network = build((folder / program).read_text(), seed=1)
    save(network, folder / "seed")
    assert network.rewrite(GROWN, statistics=torch.randn(9, 4)).applied
    network.journal.write(folder / "journal.json")
    assert parse(irgrow("rewrite", program, "--replay", "journal.json").out) == network.graph
    answer = irgrow("rewrite", "seed", "--replay", "journal.json", "-o", "out")
    assert answer.code == 1
    assert "running statistics of new units from a batch" in answer.err


ENTRY = {"number": 0, "rewrite": GROWN, "verdict": "exact", "seed": 1, "before": "", "after": "", "parameters": 1}


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", "not a journal"),
        ("{", "not a journal"),
        ("[1, 2]", "not a journal: expected a journal, with its `entries`"),
        ('{"layers": 3}', "not a journal: expected a journal, with its `entries`"),
        ('{"entries": 3, "counter": 1}', "with its `entries`"),
        ('{"entries": []}', "a journal has a `counter`"),
        ('{"entries": [3], "counter": 1}', "expected an entry, found 3"),
        ('{"entries": [{"number": 0}], "counter": 1}', "an entry has no `rewrite`"),
        (json.dumps({"entries": [{**ENTRY, "seed": "x"}], "counter": 1}), "`seed` of an entry cannot be"),
        (json.dumps({"entries": [{**ENTRY, "seed": True}], "counter": 1}), "`seed` of an entry cannot be true"),
        (json.dumps({"entries": [{**ENTRY, "rewrite": "grow_unit(h)"}], "counter": 1}), "did you mean `grow_units`?"),
        (json.dumps({"entries": [{**ENTRY, "rewrite": "((("}], "counter": 1}), "entry 0 `(((`: expected"),
        ("[" * 100_000, "not a journal"),
        ('{"entries": [{"number": ' + "9" * 5000 + "}]}", "not a journal"),
    ],
)
def test_damaged_and_foreign_journals_are_bad_input(mistake, net, write, text, found):
    error = mistake("rewrite", net, "--replay", write(text, "journal.json"))
    assert "journal.json" in error
    assert found in error


def test_journals_that_cannot_be_read_are_bad_input(folder, mistake, net, checkpoint):
    assert "no such file" in mistake("rewrite", net, "--replay", "nowhere.json")
    (folder / "binary.json").write_bytes(b"\xff\xfe\x00")
    assert "expected UTF-8 text" in mistake("rewrite", net, "--replay", "binary.json")
    data = bytearray((folder / "ck" / "run.json").read_bytes())
    data[-3] ^= 1
    (folder / "ck" / "run.json").write_bytes(bytes(data))
    assert "damaged" in mistake("rewrite", net, "--replay", "ck")


def test_entries_of_earlier_and_later_versions_are_read(fine, net, write, grown, folder):
    data = grown.journal.to_json()
    for entry in data["entries"]:
        del entry["used"]
        entry["colour"] = "blue"
    write(json.dumps(data), "journal.json")
    assert parse(fine("rewrite", net, "--replay", "journal.json")) == grown.graph
