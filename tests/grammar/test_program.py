"""Files, imports and the choice of a net."""

import pytest

from irgrow.errors import OptionError, ProgramError
from irgrow.grammar import parse_program, read, read_program

BLOCK = "block b(x, w) { return x |> dense(w) |> relu }\n"
NET = "net n(x: [4]) { return x |> b(3) |> dense(1) }\n"


def test_imports_take_blocks_from_beside_the_file(tmp_path):
    (tmp_path / "blocks.irg").write_text(BLOCK + "net unrelated(x: [1]) { return x }")
    (tmp_path / "main.irg").write_text('import "blocks.irg"\n' + NET)
    graph = read(tmp_path / "main.irg")
    assert graph.name == "n"
    assert "b_1.dense_1" in graph


def test_imports_may_import_and_the_same_file_twice(tmp_path):
    (tmp_path / "a.irg").write_text(BLOCK)
    (tmp_path / "b.irg").write_text('import "a.irg"\nblock c(x) { return x |> b(2) }')
    (tmp_path / "main.irg").write_text(
        'import "a.irg"\nimport "b.irg"\nnet n(x: [4]) { return x |> b(3) |> c |> dense(1) }'
    )
    assert len(read(tmp_path / "main.irg")) == 6


def test_shipped_blocks():
    text = "import std.resnet\nnet n(image: [3, 8, 8]) { return image |> conv(4, kernel = 1) |> basic(4) |> avgpool |> dense(2) }"
    assert parse_program(text).graph().shape("dense_1") == (2,)
    with pytest.raises(ProgramError, match=r"nothing shipped is called `std.resnets`"):
        parse_program("import std.resnets")


@pytest.mark.parametrize("target", ["../secret.irg", "/etc/passwd", "sub/../../secret.irg"])
def test_imports_stay_in_the_folder(tmp_path, target):
    folder = tmp_path / "inside"
    folder.mkdir()
    (tmp_path / "secret.irg").write_text(BLOCK)
    (folder / "main.irg").write_text(f'import "{target}"\n' + NET)
    with pytest.raises(ProgramError, match="lies outside the folder"):
        read(folder / "main.irg")


def test_a_link_does_not_lead_out(tmp_path):
    folder = tmp_path / "inside"
    folder.mkdir()
    (tmp_path / "secret.irg").write_text(BLOCK)
    (folder / "link.irg").symlink_to(tmp_path / "secret.irg")
    (folder / "main.irg").write_text('import "link.irg"\n' + NET)
    with pytest.raises(ProgramError, match="lies outside the folder"):
        read(folder / "main.irg")


def test_cycles_are_named(tmp_path):
    (tmp_path / "a.irg").write_text('import "b.irg"')
    (tmp_path / "b.irg").write_text('import "c.irg"')
    (tmp_path / "c.irg").write_text('import "a.irg"')
    with pytest.raises(ProgramError, match=r"imports form a cycle: a.irg -> b.irg -> c.irg -> a.irg"):
        read(tmp_path / "a.irg")
    (tmp_path / "self.irg").write_text('import "self.irg"')
    with pytest.raises(ProgramError, match="imports form a cycle: self.irg -> self.irg"):
        read(tmp_path / "self.irg")


def test_a_text_without_a_file_cannot_import_one():
    with pytest.raises(ProgramError, match="a program that is not in a file cannot import one"):
        parse_program('import "x.irg"')


def test_missing_and_unreadable_files(tmp_path):
    (tmp_path / "main.irg").write_text('import "gone.irg"\n' + NET)
    with pytest.raises(ProgramError, match=r"gone.irg: no such file or directory"):
        read(tmp_path / "main.irg")
    with pytest.raises(OptionError, match="no such file"):
        read(tmp_path / "nothing.irg")
    (tmp_path / "binary.irg").write_bytes(bytes(range(256)))
    with pytest.raises(OptionError, match="expected UTF-8 text, found byte 0x80 at 128"):
        read(tmp_path / "binary.irg")
    (tmp_path / "large.irg").write_bytes(b"#" * ((1 << 20) + 1))
    with pytest.raises(OptionError, match="at most 1048576 bytes"):
        read(tmp_path / "large.irg")
    with pytest.raises(OptionError):
        read(tmp_path)


def test_two_definitions_of_one_name(tmp_path):
    with pytest.raises(ProgramError, match="two definitions are called `b`"):
        parse_program(BLOCK + BLOCK)
    (tmp_path / "a.irg").write_text(BLOCK)
    (tmp_path / "main.irg").write_text('import "a.irg"\n' + BLOCK + NET)
    with pytest.raises(ProgramError, match="two definitions are called `b`"):
        read(tmp_path / "main.irg")


def test_a_block_of_ones_own_replaces_a_built_in_one():
    text = "block attention(x) { return x |> dense(2) }\nnet n(x: [4]) { return x |> attention }"
    assert parse_program(text).graph().shape("attention_1.dense_1") == (2,)


def test_the_net_is_chosen():
    text = "net a(x: [1]) { return x |> relu }\nnet b(x: [2]) { return x |> relu }"
    program = parse_program(text, "two.irg")
    assert program.graph("b").shape("x") == (2,)
    with pytest.raises(OptionError, match="two.irg has several nets, name one: a, b"):
        program.graph()
    with pytest.raises(OptionError, match="two.irg has no net `c`"):
        program.graph("c")
    with pytest.raises(ProgramError, match="expected a net, found none"):
        parse_program("").graph()


SECTIONS = "grow { rule r { every = 0 when = schedule apply = grow_units } }\ntrain { epochs = 0 }\n"


def told(program, *args):
    with pytest.raises(ProgramError) as caught:
        program.check(*args)
    return [(str(d.span).partition(":")[2], d.message) for d in caught.value.diagnostics]


def test_a_check_tells_of_everything_in_order_of_place():
    text = SECTIONS + "net a(x: [4]) { return x |> dens(3) }\n" + BLOCK + "net b(x: [4]) { return x |> b }\n"
    assert told(parse_program(text + "net c(x: [4]) { return x |> dense(2) }")) == [
        ("1:25", "`every` must be at least 1, found 0"),
        ("2:18", "`epochs` must be at least 1, found 0"),
        ("3:29", "unknown operator `dens`"),
        ("5:29", "block `b` needs `w`"),
    ]
    assert [place for place, _ in told(parse_program(text), "b")] == ["1:25", "2:18", "5:29"]


def test_a_check_tells_once_of_what_two_nets_share():
    text = "block b(x) { return x |> rel }\nnet a(x: [4]) { return x |> b }\nnet c(x: [4]) { return x |> b }"
    assert told(parse_program(text)) == [("1:26", "unknown operator `rel`")]


def test_a_check_asks_every_rule_of_every_net():
    rules = "grow { rule r { when = schedule apply = grow_units where = h } rule s { every = 0 } rule t { when = sched } }\n"
    text = rules + "net a(x: [4]) { return x |> h: dense(3) |> dense(1) }\nnet b(x: [4]) { return x |> dense(1) }"
    with pytest.raises(ProgramError) as caught:
        parse_program(text).check()
    found = caught.value.diagnostics
    assert [d.message.partition(";")[0] for d in found] == [
        "`where = h` matches no axis",
        "rule `s` needs `when`",
        "rule `s` needs `apply`",
        "`every` must be at least 1, found 0",
        "rule `t` needs `apply`",
        "unknown trigger `sched`",
    ]
    assert [n.message for n in found[0].notes] == ["on net `b`"]


def test_a_check_gives_the_graphs():
    text = "net a(x: [4], w = 3) { return x |> h: dense(w) |> dense(1) }\nnet b(x: [2]) { return x |> dense(1) }"
    program = parse_program(text)
    assert [g.name for g in program.check()] == ["a", "b"]
    assert program.check("a", {"w": 5}) == (program.graph("a", {"w": 5}),)


def test_everything_that_cannot_be_loaded_is_told_and_the_sections_too(tmp_path):
    (tmp_path / "bad.irg").write_text("block c(x) {")
    text = 'import "gone.irg"\nimport "bad.irg"\nimport std.resnets\n' + BLOCK + BLOCK + NET + SECTIONS
    (tmp_path / "main.irg").write_text(text)
    with pytest.raises(ProgramError) as caught:
        read_program(tmp_path / "main.irg")
    assert [d.message.partition(",")[0] for d in caught.value.diagnostics] == [
        "gone.irg: no such file or directory",
        "nothing shipped is called `std.resnets`",
        "two definitions are called `b`",
        "`every` must be at least 1",
        "`epochs` must be at least 1",
        "expected `axis`",
    ]


def test_programs_hold_their_sections(tmp_path):
    path = tmp_path / "p.irg"
    path.write_text(NET.replace("b(3)", "dense(3) |> relu") + "grow { use north_random }\ntrain { epochs = 2 }")
    program = read_program(path)
    assert program.growth.rules[0].name == "north_random"
    assert program.training.epochs == 2
    assert parse_program("net n(x: [1]) { return x }").growth is None
    assert parse_program("net n(x: [1]) { return x }").training is None
