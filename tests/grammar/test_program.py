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


def test_programs_hold_their_sections(tmp_path):
    path = tmp_path / "p.irg"
    path.write_text(NET.replace("b(3)", "dense(3) |> relu") + "grow { use north_random }\ntrain { epochs = 2 }")
    program = read_program(path)
    assert program.growth.rules[0].name == "north_random"
    assert program.training.epochs == 2
    assert parse_program("net n(x: [1]) { return x }").growth is None
    assert parse_program("net n(x: [1]) { return x }").training is None
