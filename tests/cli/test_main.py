"""What the verbs share: bad input, exit codes, streams, and how fast they load."""

import signal
import subprocess
import sys

import pytest

import irgrow.cli
from irgrow.errors import CompilerBug

RUN = "from irgrow.cli import main; main()"
TRAIN = "\ntrain { data = spirals(points = 8)  epochs = 1 }\n"
NET = "net n(x: [2], w = 3) { return x |> h: dense(w) |> relu |> head: dense(2) }" + TRAIN
VERBS = {
    "check": ("check", "net.irg"),
    "show": ("show", "net.irg"),
    "draw": ("draw", "net.irg", "-o", "out.svg"),
    "rewrite": ("rewrite", "net.irg", "grow_units(h, 1)", "-o", "out.irg"),
    "train": ("train", "net.irg", "--out", "out"),
    "verify": ("verify", "net.irg"),
    "export": ("export", "net.irg", "out.onnx"),
}
ALL = {**VERBS, "fmt": ("fmt", "net.irg")}


def by_name(table):
    return pytest.mark.parametrize("command", list(table.values()), ids=list(table))


# bad input -----------------------------------------------------------------------------------------------------------


@by_name(ALL)
def test_a_missing_file_is_named(mistake, command):
    assert mistake(*command) == "error: net.irg: no such file or directory\n"


@by_name(ALL)
def test_a_folder_that_is_no_checkpoint_is_named(folder, mistake, command):
    (folder / "net.irg").mkdir()
    assert "net.irg" in mistake(*command)


@by_name(ALL)
def test_bytes_that_are_no_text_are_located(folder, mistake, command):
    (folder / "net.irg").write_bytes(bytes(range(256)))
    assert mistake(*command) == "error: net.irg: expected UTF-8 text, found byte 0x80 at 128\n"


@by_name({k: v for k, v in VERBS.items() if k != "train"})
@pytest.mark.parametrize("text", ["", "# nothing but a comment\n"], ids=["empty", "comment"])
def test_an_empty_file_has_no_net(write, mistake, command, text):
    write(text)
    assert "net.irg:1:1: error: expected a net, found none" in mistake(*command)


@by_name(VERBS)
@pytest.mark.parametrize(
    ("text", "message"),
    [
        (NET.replace("w = 3", "w = 0"), "net.irg:1:45: error: `units` of dense must be at least 1, found 0"),
        (NET.replace("w = 3", "w = -3"), "net.irg:1:46: error: `units` of dense must be at least 1, found -3"),
        (NET.replace("relu", "repeat(1000000000) { relu }"), "net.irg:1:5: error: `n` would have 1,000,000,00"),
        ('import "other.irg"\n' + NET, "other.irg:1:1: error: imports form a cycle: net.irg -> other.irg -> net.irg"),
        ("import std.resnets\n" + NET, "did you mean `std.resnet`?"),
        (NET.replace("relu", "rleu"), "help: did you mean `relu`?"),
        (NET.replace("[2]", "[]"), "net.irg:1:"),
    ],
    ids=["zero width", "negative width", "a billion nodes", "cycle", "import", "op", "no units"],
)
def test_a_bad_program_is_one_located_message(write, mistake, command, text, message):
    write('import "net.irg"', "other.irg")
    write(text)
    assert message in mistake(*command)


@by_name(ALL)
@pytest.mark.parametrize(
    "text",
    [
        NET.replace("relu", "repeat(1) { " * 5000 + "relu" + " }" * 5000),
        NET.replace("w = 3", "w = " + "(" * 5000 + "3" + ")" * 5000),
        "net " * 50000,
    ],
    ids=["braces", "parentheses", "words"],
)
def test_deep_nesting_is_no_crash(write, mistake, command, text):
    write(text)
    assert "net.irg:1:" in mistake(*command)


@by_name(VERBS)
def test_an_unknown_net_is_a_mistake(write, mistake, command):
    write(NET)
    assert mistake(*command, "--net", "m") == "error: net.irg has no net `m`; there are: n\n"


@by_name(VERBS)
@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("w", "error: --set takes name=value, found 'w'"),
        ("=3", "error: --set takes name=value, found '=3'"),
        ("w=", "error: --set takes a number, true or false, found 'w='"),
        ("w=wide", "error: --set takes a number, true or false, found 'w=wide'"),
        ("v=3", "`n` has no compile-time parameter `v`"),
        ("w=0", "net.irg:1:45: error: `units` of dense must be at least 1, found 0"),
        ("w=-1", "net.irg:1:45: error: `units` of dense must be at least 1, found -1"),
        ("w=1.5", "net.irg:1:45: error: `units` of dense takes a number or an axis, found 1.5"),
        ("w=nan", "net.irg:1:45: error: `units` of dense takes a number or an axis, found nan"),
        ("w=99999999999999999999", "must be at most 2147483647, found 99999999999999999999"),
    ],
)
def test_a_bad_setting_is_a_mistake(write, mistake, command, setting, message):
    write(NET)
    assert message in mistake(*command, "--set", setting)


@by_name({k: v for k, v in VERBS.items() if "out" in v[-1]})
@pytest.mark.parametrize("place", ["nowhere/out", "taken", "net.irg/out"], ids=["no folder", "folder", "under a file"])
def test_an_output_that_cannot_be_written_leaves_nothing_behind(folder, write, mistake, command, place):
    write(NET)
    (folder / "taken").mkdir()
    (folder / "taken" / "something").write_text("mine")
    if command[0] == "train" and place == "nowhere/out":
        place = "net.irg"  # folders of a run are made, so this one is not in the way
    assert place in mistake(*command[:-1], place)


@by_name({k: VERBS[k] for k in ("rewrite", "verify", "export")})
def test_a_negative_seed_is_a_mistake(write, irgrow, command):
    write(NET)
    answer = irgrow(*command, "--seed", "-1")
    assert answer.code == 2
    assert "--seed" in answer.err


@pytest.mark.parametrize("verb", ["rewrite", "verify"])
@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("gorw_units(h, 1)", "<pass>:1:1: error: unknown pass `gorw_units`"),
        ("gorw_units(h, 1)", "help: did you mean `grow_units`?"),
        ("grow_units(h, cuont = 1)", "did you mean `count`?"),
        ("grow_units(h, 0)", "<pass>:1:15: error: `count` must be at least 1, found 0"),
        ("grow_units(h, -2)", "<pass>:1:15: error: `count` must be at least 1, found -2"),
        ("grow_units(h", "<pass>:1:13: error: expected `)` or `,`, found the end of the file"),
        ("grow_units(h, 1000000000000)", "count"),
        ("", "<pass>:1:1: error: expected"),
    ],
)
def test_a_bad_pass_is_one_located_message(write, mistake, verb, text, message):
    write(NET)
    assert message in mistake(verb, "net.irg", text)


@pytest.mark.parametrize("args", [("draft",), ("show",), ("show", "a", "--jsno"), ("verify", "a", "--samples", "0")])
def test_a_bad_command_line_is_a_mistake(irgrow, args):
    answer = irgrow(*args)
    assert answer.code == 2
    assert answer.out == ""
    assert "Error" in answer.err


# checkpoints ---------------------------------------------------------------------------------------------------------


ON_CHECKPOINTS = {
    "show": ("show", "ck"),
    "draw": ("draw", "ck", "-o", "out.svg"),
    "rewrite": ("rewrite", "ck", "grow_units(h, 1)", "-o", "out"),
    "verify": ("verify", "ck"),
    "export": ("export", "ck", "out.onnx"),
}


@pytest.fixture
def saved(folder):
    from irgrow import build, save

    save(build(NET.removesuffix(TRAIN)), folder / "ck")
    return folder / "ck"


@by_name(ON_CHECKPOINTS)
@pytest.mark.parametrize("file", ["net.irg", "model.safetensors", "run.json", "manifest.json"])
def test_a_flipped_byte_of_a_checkpoint_is_found(saved, mistake, command, file):
    data = bytearray((saved / file).read_bytes())
    data[len(data) // 2] ^= 1
    (saved / file).write_bytes(data)
    assert f"error: ck/{file}: damaged" in mistake(*command)


@by_name(ON_CHECKPOINTS)
@pytest.mark.parametrize("file", ["net.irg", "model.safetensors", "run.json", "manifest.json"])
def test_a_missing_file_of_a_checkpoint_is_named(saved, mistake, command, file):
    (saved / file).unlink()
    assert f"error: ck/{file}: " in mistake(*command)


@by_name({k: v for k, v in ON_CHECKPOINTS.items() if k not in ("rewrite", "export")})
def test_a_checkpoint_serves_as_a_program(saved, fine, command):
    fine(*command)


# streams and codes ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("verb", [(), *((verb,) for verb in ALL)], ids=["irgrow", *ALL])
def test_there_is_help(fine, verb):
    assert "Usage: " in fine(*verb, "--help")
    assert fine(*verb, "--help") == fine(*verb, "-h")


def test_help_says_which_extra_to_install(fine):
    assert "irgrow[onnx]" in fine("export", "--help")


def test_main_can_be_called_again(fine, examples):
    fine("check", examples / "lenet.irg")
    assert callable(irgrow.cli.main)


def test_a_bug_is_an_internal_error(irgrow, examples, monkeypatch):
    def broken(*args):
        raise CompilerBug("planted")

    monkeypatch.setattr("irgrow.cli.show.graph_of", broken)
    answer = irgrow("show", examples / "lenet.irg")
    assert (answer.code, answer.out, answer.err) == (1, "", "internal error: planted\n")


def test_an_interrupt_is_130(irgrow, examples, monkeypatch):
    def stopped(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr("irgrow.cli.show.graph_of", stopped)
    answer = irgrow("show", examples / "lenet.irg")
    assert answer.code == 130
    assert answer.out == ""
    assert "Traceback" not in answer.err


def test_a_traceback_is_there_for_those_who_ask(irgrow, monkeypatch):
    monkeypatch.setenv("IRGROW_DEBUG", "1")
    answer = irgrow("show", "gone.irg")
    assert answer.code == 2
    assert "Traceback" in answer.err
    assert answer.err.endswith("error: gone.irg: no such file or directory\n")


# processes -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("verb", [("show",), ("show", "--json"), ("draw",), ("draw", "--format", "dot")], ids=" ".join)
def test_a_closed_pipe_ends_quietly(examples, verb):
    command = [sys.executable, "-c", RUN, *verb, str(examples / "densenet.irg")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout.read(1)
        process.stdout.close()
        assert process.stderr.read() == ""
        assert process.wait(60) in (0, 1)


def test_the_package_is_a_command(examples):
    command = [sys.executable, "-m", "irgrow"]
    fine = subprocess.run([*command, "check", examples / "lenet.irg"], capture_output=True, text=True, check=False)
    assert (fine.returncode, fine.stderr) == (0, "")
    assert "61,706 parameters" in fine.stdout
    bad = subprocess.run([*command, "check", "gone.irg"], capture_output=True, text=True, check=False)
    assert (bad.returncode, bad.stdout, bad.stderr) == (2, "", "error: gone.irg: no such file or directory\n")


@pytest.mark.parametrize("verb", ["show", "draw", "rewrite"])
def test_a_full_disk_is_a_message(examples, verb):
    passes = ["grow_units(f1, 1)"] if verb == "rewrite" else []
    command = [sys.executable, "-c", RUN, verb, str(examples / "lenet.irg"), *passes]
    with open("/dev/full", "w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode != 0
    assert "Traceback" not in done.stderr
    assert "no space left" in done.stderr.lower()


def test_looking_at_programs_never_loads_torch(examples, tmp_path):
    script = f"""
import sys
from irgrow.cli import main
lenet, digits = {str(examples / "lenet.irg")!r}, {str(examples / "digits.irg")!r}
for args in (["check", lenet, digits], ["fmt", "--check", lenet], ["show", lenet], ["show", digits, "--json"],
             ["draw", lenet, "-o", {str(tmp_path / "lenet.svg")!r}], ["--help"], ["train", "--help"]):
    sys.argv = ["irgrow", *args]
    try:
        main()
    except SystemExit as stop:
        assert not stop.code, args
    print(f"LOADED {{args[0]}} {{'torch' in sys.modules}}")
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert [line.split()[2] for line in done.stdout.splitlines() if line.startswith("LOADED")] == ["False"] * 7


def test_signals_are_as_they_were_after_a_run(write, fine):
    before = signal.getsignal(signal.SIGINT)
    write(NET)
    fine("train", "net.irg")
    assert signal.getsignal(signal.SIGINT) is before
