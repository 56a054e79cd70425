"""`irgrow rewrite` applies passes to programs and checkpoints."""

import json
import os

import pytest
import torch

from irgrow import build, load, save
from irgrow.grammar import parse, parse_pass
from irgrow.passes import Context, plan

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


def by_api(*passes):
    graph = parse(NET)
    for text in passes:
        graph = plan(parse_pass(text), graph, Context(seed=0)).morphism.after
    return graph


def test_the_program_is_printed_and_the_verdict_beside_it(irgrow, net):
    answer = irgrow("rewrite", net, GROWN)
    assert (answer.code, answer.err) == (0, "grow_units(h, 2): exact\n")
    assert parse(answer.out) == by_api(GROWN)


def test_passes_go_in_order(irgrow, net):
    passes = (GROWN, DEEPER, "grow_units(relu_1_deep1.layer, 1)", PRUNED)
    answer = irgrow("rewrite", net, *passes)
    assert [line.split("(")[0] for line in answer.err.splitlines()] == [p.split("(")[0] for p in passes]
    assert parse(answer.out) == by_api(*passes)


def test_a_program_can_be_written(folder, irgrow, net):
    answer = irgrow("rewrite", net, GROWN, "-o", "grown.irg")
    assert (answer.code, answer.out) == (0, "")
    assert parse((folder / "grown.irg").read_text()) == by_api(GROWN)
    assert (folder / "net.irg").read_text() == NET
    assert sorted(os.listdir(folder)) == ["grown.irg", "net.irg"]


def test_a_program_can_be_written_over_itself(folder, fine, net):
    fine("rewrite", net, GROWN, "-o", net)
    fine("rewrite", net, GROWN, "-o", net)
    assert parse((folder / net).read_text()).shape("h") == (7,)


AROUND = """# mine
NET  # behind

net other(x: [4], w = 3) { return x |> relu |> dense(w) }  # not this one
grow {
  # why
  rule r { every = 2  when = schedule(1)  apply = grow_units  where = SITE }
}
train { data = spirals(points = 8)  epochs = 1 }
"""


@pytest.fixture
def whole(write):
    def written(site="hidden", net=NET):
        return write(AROUND.replace("NET", net).replace("SITE", site))

    return written


def test_what_stands_around_the_net_is_kept(folder, irgrow, whole):
    file = whole()
    before = (folder / file).read_text()
    answer = irgrow("rewrite", file, GROWN, "--net", "n", "-o", file)
    assert (answer.code, answer.out, answer.err) == (0, "", "grow_units(h, 2): exact\n")
    after = (folder / file).read_text()
    assert after == before.replace(NET, str(by_api(GROWN)).rstrip("\n"))
    assert irgrow("check", file, "--net", "n").code == 0


def test_what_is_printed_is_what_is_written(folder, fine, whole):
    file = whole()
    fine("rewrite", file, GROWN, "--net", "n", "-o", "out.irg")
    text = (folder / "out.irg").read_text()
    assert fine("rewrite", file, GROWN, "--net", "n") == text
    assert json.loads(fine("rewrite", file, GROWN, "--net", "n", "--json"))["program"] == text


def test_a_rewritten_program_can_be_trained(folder, fine, whole):
    file = whole(net=NET.replace("x: [4]", "x: [2]"))
    fine("rewrite", file, GROWN, "--net", "n", "-o", file)
    fine("train", file, "--net", "n", "--out", "run")
    assert (folder / "run").is_dir()


def test_a_rule_that_does_not_fit_any_more_is_told_of(folder, irgrow, whole):
    layer = NET.replace("|> relu", "|> relu |> extra: dense(w) |> relu")
    file = whole("extra", net=layer)
    assert "error" not in irgrow("check", file, "--net", "n").err
    answer = irgrow("rewrite", file, "remove_layer(extra, exact = false)", "--net", "n", "-o", "out.irg")
    assert answer.code == 0
    told = answer.err.partition("note: its sections do not fit this net; `irgrow check` says:\n")[2]
    assert told.startswith("out.irg:13:63: ")
    assert "`where = extra` matches no axis" in told
    check = irgrow("check", "out.irg", "--net", "n")
    assert check.code == 2
    assert check.err == told


def test_a_refusal_touches_no_program(folder, irgrow, whole):
    file = whole()
    before = (folder / file).read_text()
    assert irgrow("rewrite", file, "grow_units(x, 1)", "--net", "n", "-o", file).code == 1
    assert (folder / file).read_text() == before


def test_the_help_says_what_stays(fine):
    text = " ".join(fine("rewrite", "--help").split())
    assert "other nets, blocks, `grow` and `train` sections and the comments around them stay as they are" in text
    assert "Parameters of the net become numbers, and comments inside it go" in text


def test_json_has_the_documented_keys(fine, net):
    found = json.loads(fine("rewrite", net, GROWN, PRUNED, "--json"))
    assert set(found) == {"rewrites", "program"}
    grown, pruned = found["rewrites"]
    assert grown == {"pass": GROWN, "verdict": "exact", "kind": "exact", "parameters": 14, "macs": 12}
    assert (pruned["kind"], pruned["parameters"], pruned["macs"]) == ("changes", -7, -6)
    assert parse(found["program"]) == by_api(GROWN, PRUNED)


def test_settings_reach_the_net(fine, net):
    assert parse(fine("rewrite", net, GROWN, "--set", "w=9")).shape("h") == (11,)


@pytest.mark.parametrize(
    ("pass_", "reason"),
    [
        ("grow_units(hh, 1)", "no axis or node is called `hh`"),
        ("grow_units(x, 1)", "interface"),
        ("grow_units(head, 1)", "interface"),
        ("prune_units(h, [9])", "9"),
        ("prune_units(h, [0, 1, 2])", "h"),
        ("insert_layer(nowhere)", "nowhere"),
    ],
)
def test_a_refused_pass_is_one_message_and_nothing_is_written(folder, irgrow, net, pass_, reason):
    answer = irgrow("rewrite", net, pass_, "-o", "out.irg")
    assert (answer.code, answer.out) == (1, "")
    assert len(answer.err.splitlines()) == 1
    assert answer.err.startswith(f"{pass_.removesuffix(', 1)')}")
    assert "refused" in answer.err
    assert reason in answer.err
    assert os.listdir(folder) == ["net.irg"]


def test_a_pass_refused_later_leaves_nothing_of_those_before(folder, irgrow, net):
    answer = irgrow("rewrite", net, GROWN, "grow_units(x, 1)", DEEPER, "-o", "out.irg")
    assert (answer.code, answer.out) == (1, "")
    first, second = answer.err.splitlines()
    assert first == "grow_units(h, 2): exact"
    assert (
        second
        == "grow_units(x): net.irg:1:7: refused `x`: axis `x` is locked: interface: `x` is an input of the network"
    )
    assert os.listdir(folder) == ["net.irg"]


def test_a_refusal_as_json_has_no_program(irgrow, net):
    answer = irgrow("rewrite", net, GROWN, "grow_units(x, 1)", "--json")
    found = json.loads(answer.out)
    assert (answer.code, answer.err, found["program"]) == (1, "", None)
    assert [row["kind"] for row in found["rewrites"]] == ["exact", "refused"]


def test_exactness_can_be_required(folder, irgrow, fine, net):
    answer = irgrow("rewrite", net, PRUNED, "--require", "exact", "-o", "out.irg")
    assert answer.code == 1
    assert "an exact rewrite is required, this one changes the function" in answer.err
    assert os.listdir(folder) == ["net.irg"]
    fine("rewrite", net, GROWN, "--require", "exact", "-o", "out.irg")
    assert (folder / "out.irg").exists()


def test_what_can_be_required_is_any_or_exact(mistake, net):
    assert mistake("rewrite", net, GROWN, "--require", "all") == "error: --require takes any or exact, found all\n"


def test_a_pass_that_needs_data_is_refused_without(irgrow, net):
    answer = irgrow("rewrite", net, "grow_units(h, 1, init = north_select)")
    assert (answer.code, answer.out) == (1, "")
    assert "refused" in answer.err


# checkpoints ---------------------------------------------------------------------------------------------------------


def test_a_rewritten_checkpoint_is_what_the_api_makes(folder, irgrow, checkpoint):
    answer = irgrow("rewrite", "ck", GROWN, DEEPER, "-o", "grown")
    assert (answer.code, answer.out) == (0, "")
    checkpoint.rewrite(GROWN)
    checkpoint.rewrite(DEEPER)
    found, wanted = load(folder / "grown").state_dict(), checkpoint.state_dict()
    assert set(found) == set(wanted)
    assert all((found[name] == wanted[name]).all() for name in wanted)
    assert [entry.rewrite for entry in load(folder / "grown").journal] == [GROWN, DEEPER]


def test_a_rewritten_checkpoint_needs_a_place(mistake, checkpoint):
    assert mistake("rewrite", "ck", GROWN) == "error: a rewritten checkpoint needs a place: --output FOLDER\n"


def test_a_checkpoint_can_be_rewritten_in_place(folder, fine, checkpoint):
    fine("rewrite", "ck", GROWN, "-o", "ck")
    assert load(folder / "ck").graph.shape("h") == (5,)
    assert os.listdir(folder) == ["ck"]


def test_a_folder_that_is_no_checkpoint_is_not_replaced(folder, mistake, checkpoint):
    (folder / "mine").mkdir()
    (folder / "mine" / "thesis.tex").write_text("precious")
    assert "mine: cannot be written: exists and is not a checkpoint" in mistake("rewrite", "ck", GROWN, "-o", "mine")


@pytest.mark.parametrize(
    "options", [(PRUNED, "--require", "exact"), (GROWN, "grow_units(x, 1)")], ids=["inexact", "later"]
)
def test_a_refusal_writes_no_checkpoint(folder, irgrow, checkpoint, options):
    answer = irgrow("rewrite", "ck", *options, "-o", "out")
    assert (answer.code, answer.out) == (1, "")
    assert os.listdir(folder) == ["ck"]


# pipelines -----------------------------------------------------------------------------------------------------------


def test_a_pipeline_is_its_passes(irgrow, net, write):
    file = write(f"# twice wider\n{GROWN}; {GROWN}\n\n{DEEPER}  # and deeper\n", "wider.txt")
    found, wanted = irgrow("rewrite", net, "--pipeline", file), irgrow("rewrite", net, GROWN, GROWN, DEEPER)
    assert found == wanted
    assert found.code == 0
    assert len(found.err.splitlines()) == 3


def test_a_pipeline_is_all_or_nothing(folder, irgrow, net, checkpoint, write):
    file = write(f"{GROWN}\ngrow_units(x, 1)\n{DEEPER}", "p.txt")
    for target in (net, "ck"):
        answer = irgrow("rewrite", target, "--pipeline", file, "-o", "out")
        assert (answer.code, answer.out) == (1, "")
        assert [line.split(":")[0] for line in answer.err.splitlines()] == [GROWN, "grow_units(x)"]
        assert sorted(os.listdir(folder)) == ["ck", "net.irg", "p.txt"]


def test_mistakes_in_a_pipeline_are_located_in_its_file(mistake, net, write):
    error = mistake("rewrite", net, "--pipeline", write(f"{GROWN}\n  grow_unit(h, 2)", "p.txt"))
    assert "p.txt:2:3: error: unknown pass `grow_unit`" in error
    assert "did you mean `grow_units`?" in error
    assert "  grow_unit(h, 2)" in error


@pytest.mark.parametrize(
    "options",
    [(), (GROWN, "--explain", GROWN), ("--pipeline", "p.txt", "--replay", "j.json"), (GROWN, "--pipeline", "p.txt")],
    ids=["none", "two", "files", "both"],
)
def test_passes_come_from_one_place(mistake, net, write, options):
    write(GROWN, "p.txt")
    wanted = "error: give passes, or one of --pipeline, --replay and --explain\n"
    assert mistake("rewrite", net, *options) == wanted


def test_options_that_mean_nothing_are_refused(mistake, net, checkpoint, write):
    write(json.dumps(checkpoint.journal.to_json()), "j.json")
    assert "--seed is for programs, ck has its own" in mistake("rewrite", "ck", GROWN, "--seed", 1, "-o", "out")
    assert "--seed is for programs, j.json has its own" in mistake("rewrite", net, "--replay", "j.json", "--seed", 1)
    assert "--require is for passes" in mistake("rewrite", net, "--replay", "j.json", "--require", "exact")
    assert "--explain writes nothing" in mistake("rewrite", net, "--explain", GROWN, "-o", "out.irg")


# why not here --------------------------------------------------------------------------------------------------------


def test_explaining_lists_every_site(folder, fine, net):
    before = os.listdir(folder)
    lines = fine("rewrite", net, "--explain", GROWN).splitlines()
    assert lines[0].split() == ["site", "at", "verdict"]
    assert [line.split()[0] for line in lines[1:]] == ["x", "h", "relu_1", "head"]
    assert lines[1] == "x       1:7   refused: axis `x` is locked: interface: `x` is an input of the network"
    assert lines[2].split() == ["h", "1:39", "exact"]
    assert os.listdir(folder) == before
    assert (folder / net).read_text() == NET


def test_explanations_as_json(fine, net):
    rows = json.loads(fine("rewrite", net, "--explain", "prune_units(h, [0])", "--json"))
    assert [(row["site"], row["kind"]) for row in rows] == [
        ("x", "refused"),
        ("h", "changes"),
        ("relu_1", "changes"),
        ("head", "refused"),
    ]
    assert rows[1] | {"verdict": ""} == {
        "site": "h",
        "pass": "prune_units(h, [0])",
        "kind": "changes",
        "verdict": "",
        "line": 1,
        "column": 39,
    }


def test_explanations_see_the_weights_of_a_checkpoint(folder, fine, checkpoint):
    with torch.no_grad():
        checkpoint.params["head.weight"][:, 0] = 0.0
    save(checkpoint, folder / "zero")
    assert "changes the function" in fine("rewrite", "ck", "--explain", "prune_units(h, [0])")
    assert "changes the function" not in fine("rewrite", "zero", "--explain", "prune_units(h, [0])")


def test_what_is_explained_must_be_a_pass(mistake, net):
    assert "unknown pass `grow`" in mistake("rewrite", net, "--explain", "grow")


def test_the_help_names_every_source(fine):
    text = " ".join(fine("rewrite", "--help").split())
    for option in ("--pipeline", "--replay", "--explain", "--require", "--seed"):
        assert option in text
