"""`irgrow check` says what each net is, or what is wrong."""

import json

import pytest

TWO = "net a(x: [4]) { return x |> dense(3) }\nnet b(x: [2]) { return x |> dense(1, bias = false) }\n"
BLOCK = "block b(x, w) { return x |> dense(w) |> relu }\n"
BAD = "net n(x: [4]) {\n  return x |> dnese(3)\n}\n"
COUNTS = {
    "lenet": 61_706,
    "densenet": 7_978_856,
    "gpt": 124_439_808,
    "resnet18": 11_689_512,
    "resnet50": 25_557_032,
    "vgg11": 132_863_336,
    "vit": 86_567_656,
    "wrn28": 36_479_194,
}


@pytest.mark.parametrize("name", COUNTS)
def test_examples_have_the_parameters_of_their_papers(fine, examples, name):
    assert f"{COUNTS[name]:,} parameters" in fine("check", examples / f"{name}.irg")


def test_every_example_is_well_formed(fine, examples):
    files = sorted(examples.glob("*.irg"))
    rows = json.loads(fine("check", "--json", *files))
    assert [row["file"] for row in rows] == [str(f) for f in files]
    assert all(row["ok"] for row in rows)


def test_a_net_is_one_line(fine, write):
    assert fine("check", write(TWO), "--net", "a") == "net.irg: ok, net a: 2 nodes, 15 parameters, 12 MACs\n"


def test_every_net_of_a_file_is_checked(fine, write):
    assert [line.split(":")[1] for line in fine("check", write(TWO)).splitlines()] == [" ok, net a", " ok, net b"]


def test_json_has_the_documented_keys(fine, write):
    row, _ = json.loads(fine("check", write(TWO), "--json"))
    row.pop("text")
    assert row == {"file": "net.irg", "ok": True, "net": "a", "nodes": 2, "parameters": 15, "macs": 12}


def test_a_file_of_blocks_is_fine(fine, write):
    assert fine("check", write(BLOCK)) == "net.irg: ok, blocks only\n"


def test_sections_without_a_net_are_a_mistake(write, mistake):
    assert "expected a net, found none" in mistake("check", write(BLOCK + "train { epochs = 1 }"))


def test_settings_reach_the_net(fine, write):
    write("net n(x: [4], w = 3) { return x |> dense(w) }")
    assert "15 parameters" in fine("check", "net.irg")
    assert "25 parameters" in fine("check", "net.irg", "--set", "w=5")
    assert "25 parameters" in fine("check", "net.irg", "--set", " w = 5 ")


def test_true_and_false_are_values(fine, write):
    write("net n(x: [4], b = true) { return x |> dense(3, bias = b) }")
    assert "12 parameters" in fine("check", "net.irg", "--set", "b=false")


def test_the_other_files_are_checked_after_a_bad_one(irgrow, write):
    answer = irgrow("check", write(BAD, "bad.irg"), "gone.irg", write(TWO))
    assert answer.code == 2
    assert "net.irg: ok, net a" in answer.out
    assert "bad.irg:2:15: error: unknown operator `dnese`" in answer.err
    assert "error: gone.irg: no such file" in answer.err


def test_errors_as_json_are_located(irgrow, write):
    answer = irgrow("check", "--json", write(BAD), "gone.irg")
    bad, gone = json.loads(answer.out)
    assert (answer.code, answer.err) == (2, "")
    assert (bad["file"], bad["ok"], gone["ok"]) == ("net.irg", False, False)
    assert set(bad["errors"][0]) == {"message", "code", "line", "column", "help"}
    assert (bad["errors"][0]["line"], bad["errors"][0]["column"]) == (2, 15)
    assert bad["errors"][0]["help"] == "did you mean `dense`?"
    assert gone["errors"][0]["message"] == "gone.irg: no such file or directory"


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ("grow { rule r { when = schedule  apply = grow_units  where = hh } }", "matches no axis"),
        (
            "grow { rule r { when = schedule  apply = grow_units  where = relu_2 } }",
            "net.irg:2:54: error: `where = relu_2` matches no axis; did you mean `relu_1`?",
        ),
        (
            "grow { use gradmax }",
            "net.irg:2:8: error: `grow_units(init = gradmax)` can do nothing at `h`: the slope of",
        ),
        (
            "grow { rule r { when = schedule  apply = grow_units  where = dense_1 } }",
            "net.irg:2:34: error: `grow_units` can do nothing at `dense_1`: axis `dense_1` is locked",
        ),
        ("grow { rule r { when = schedule apply = prune_units(by = apoz) where = [h, dense_1] } }", "is locked"),
        (
            "grow { rule r { when = schedule  apply = grow_units(init = gradmax, zero = fan_out) } }",
            "`gradmax` says itself which side of new units is zero; leave `zero = fan_out` out",
        ),
        ("grow { rule r { when = schedule(3, 8, until = 9)  apply = grow_units } }", "leave `units` out"),
        ("grow { rule r { when = scedule  apply = grow_units } }", "unknown trigger `scedule`"),
        ("train { epohcs = 3 }", "epohcs"),
        ("train { epochs = 0 }", "`epochs` must be at least 1, found 0"),
        ("train { optimizer = adam(lr = -1) }", "lr"),
        ("train { data = imagenet }", "imagenet"),
    ],
)
def test_sections_are_checked_too(write, mistake, section, message):
    write("net n(x: [4]) { return x |> h: dense(3) |> relu |> dense(2) }\n" + section)
    assert message in mistake("check", "net.irg")


SEVEN = """net n(x: [64], c = 3) {
  a = dens(x, 8)
  b = dense(x, 8) + dense(x, 6)
  return b |> dense(10, foo = 1)
}
grow { rule r { every = 0  when = schedul(1)  apply = grow_units(ini = random)  where = hidden } }
train { data = digits epochs = -1 optimiser = adam }
"""


def test_all_errors_of_a_file_are_shown_in_one_run(irgrow, write):
    answer = irgrow("check", write(SEVEN))
    assert (answer.code, answer.out) == (2, "")
    assert [line.split(" error: ") for line in answer.err.splitlines() if " error: " in line] == [
        ["net.irg:2:7:", "unknown operator `dens`"],
        ["net.irg:3:7:", "both sides of add: expected equal sizes, found 8 and 6"],
        ["net.irg:4:25:", "dense has no argument `foo`"],
        ["net.irg:6:25:", "`every` must be at least 1, found 0"],
        ["net.irg:6:35:", "unknown trigger `schedul`"],
        ["net.irg:6:66:", "grow_units has no argument `ini`"],
        ["net.irg:7:32:", "`epochs` must be at least 1, found -1"],
        ["net.irg:7:35:", "`train` has no `optimiser`"],
    ]
    (row,) = json.loads(irgrow("check", "--json", "net.irg").out)
    assert [e["line"] for e in row["errors"]] == [2, 3, 4, 6, 6, 6, 7, 7]


@pytest.mark.parametrize(
    "section",
    [
        "grow { use gradmax }",
        "grow { rule r { when = schedule  apply = grow_units(init = gradmax)  where = editable } }",
        "grow { rule r { when = schedule  apply = grow_units(init = gradmax)  where = t } }",
    ],
)
def test_a_rule_that_can_work_somewhere_is_fine(fine, write, section):
    """Negative control: one site that a word or pattern finds is enough."""
    write("net n(x: [4]) { return x |> h: dense(3) |> relu |> t: dense(3) |> tanh |> dense(2) }\n" + section)
    assert fine("check", "net.irg")


def test_gradmax_behind_batch_norms_is_told_of(fine, write, mistake):
    text = "net n(x: [4]) { return x |> h: dense(3) |> batchnorm |> tanh |> t: dense(3) |> tanh |> dense(2) }\n"
    rule = "grow { rule r { when = schedule  apply = grow_units(init = gradmax)  where = SITE } }"
    write(text + rule.replace("SITE", "h"))
    assert "its variance would be zero" in mistake("check", "net.irg")
    write(text + rule.replace("SITE", "t"))
    assert fine("check", "net.irg")
    write(text + rule.replace("SITE", "h").replace("gradmax", "nest"))
    assert fine("check", "net.irg")


def test_a_rule_without_sites_is_fine(fine, write):
    write("net n(x: [4]) { return x |> dense(2) }\ngrow { use gradmax }")
    assert fine("check", "net.irg")
