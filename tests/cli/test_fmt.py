"""`irgrow fmt` changes the layout of programs and nothing else."""

import os
import stat

import pytest

UGLY = """# about the net
net   n( x:[4] ){   # in front
  return x|>dense( 3 )   # the layer
     |>relu
}
# the end
"""
PRETTY = "net n(x: [4]) { return x |> relu }\n"


def test_comments_stay(folder, fine, write):
    fine("fmt", write(UGLY))
    text = (folder / "net.irg").read_text()
    assert text != UGLY
    for comment in ("# about the net", "# in front", "# the layer", "# the end"):
        assert text.count(comment) == 1


def test_the_second_time_changes_nothing(folder, fine, write):
    assert fine("fmt", write(UGLY)) == "net.irg: reformatted\n"
    before = (folder / "net.irg").stat()
    assert fine("fmt", "net.irg") == ""
    after = (folder / "net.irg").stat()
    assert (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns)


def test_the_graph_stays(folder, fine, write):
    from irgrow.grammar import read

    before = read(folder / write(UGLY))
    fine("fmt", "net.irg")
    assert read(folder / "net.irg") == before


def test_examples_are_formatted(fine, examples):
    assert fine("fmt", "--check", *sorted(examples.glob("*.irg"))) == ""


def test_check_writes_nothing(folder, irgrow, write):
    answer = irgrow("fmt", "--check", write(UGLY), write(PRETTY, "pretty.irg"))
    assert (answer.code, answer.out) == (1, "net.irg: would be reformatted\n")
    assert (folder / "net.irg").read_text() == UGLY


def test_standard_input_goes_to_standard_output(folder, fine, write):
    fine("fmt", write(UGLY))
    assert fine("fmt", "-", stdin=UGLY) == (folder / "net.irg").read_text()


def test_standard_input_can_be_checked(irgrow):
    assert irgrow("fmt", "--check", "-", stdin=PRETTY).code == 0
    assert irgrow("fmt", "--check", "-", stdin=UGLY).code == 1


def test_errors_in_standard_input_are_located(mistake):
    assert "<stdin>:2:1: error: expected" in mistake("fmt", "-", stdin="\n}")


@pytest.mark.parametrize("mode", [0o644, 0o600, 0o755, 0o664])
def test_the_mode_of_a_file_stays(folder, fine, write, mode):
    (folder / write(UGLY)).chmod(mode)
    fine("fmt", "net.irg")
    assert stat.S_IMODE((folder / "net.irg").stat().st_mode) == mode


def test_a_link_stays_a_link(folder, fine, write):
    (folder / "link.irg").symlink_to(write(UGLY))
    fine("fmt", "link.irg")
    assert (folder / "link.irg").is_symlink()
    assert (folder / "net.irg").read_text() != UGLY


def test_nothing_else_is_left_in_the_folder(folder, fine, write):
    fine("fmt", write(UGLY))
    assert os.listdir(folder) == ["net.irg"]


def test_a_failure_to_write_keeps_the_old_file(folder, mistake, write, monkeypatch):
    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("irgrow.files.os.replace", full)
    assert mistake("fmt", write(UGLY)) == "error: net.irg: cannot be written: no space left on device\n"
    assert (folder / "net.irg").read_text() == UGLY


def test_a_program_that_does_not_parse_is_left_alone(mistake, write):
    assert "net.irg:3:1: error: expected `if` or a name, found `}`" in mistake(
        "fmt", write("net n(x: [4]) {\n  return x |> \n}\n")
    )


def test_programs_that_parse_need_not_be_well_formed(folder, fine, write):
    fine("fmt", write("net n(x:[4]){ return x |> dense(0) |> nothing }"))
    assert (folder / "net.irg").read_text() == "net n(x: [4]) { return x |> dense(0) |> nothing }\n"
