"""A net of a program is exchanged for a graph, and nothing else is touched."""

import pytest

from irgrow.errors import OptionError, ProgramError
from irgrow.grammar import exchange, parse_pass, parse_program, print_graph, read_program
from irgrow.passes import Context, plan

PROGRAM = """# top
import std.resnet
# before
net n(  # in the net
  x: [4], w = 3
) { return x |> h: dense(w) |> relu |> head: dense(2) }  # behind

block b(x, w) { return x |> dense(w) }  # a block

net m(x: [4], deep = true) {
  return x |> b(3) |> if deep { b(2) }  # another net
}
grow {  # g
  rule r { every = 2  when = schedule(1)  apply = grow_units  where = hidden }  # rule
}
train { epochs = 2 }  # end"""
NET = PROGRAM[PROGRAM.index("net n") : PROGRAM.index("  # behind")]


def rewritten(graph, *passes):
    for text in passes:
        graph = plan(parse_pass(text), graph, Context(seed=0)).morphism.after
    return graph


@pytest.mark.parametrize("passes", [(), ("grow_units(h, 2)",), ("insert_layer(relu_1)", "prune_units(h, [0])")])
def test_all_but_the_net_stays_character_by_character(passes):
    program = parse_program(PROGRAM)
    graph = rewritten(program.graph("n"), *passes)
    changed = exchange(program, graph)
    assert changed.source.text == PROGRAM.replace(NET, print_graph(graph).rstrip("\n")) + "\n"
    assert changed.graph("n") == graph
    assert changed.graph("m", {"deep": False}) == program.graph("m", {"deep": False})
    assert (changed.growth, changed.training) == (program.growth, program.training)
    assert exchange(changed, graph).source.text == changed.source.text


def test_the_net_that_is_named_is_the_one():
    program = parse_program(PROGRAM)
    changed = exchange(program, rewritten(program.graph("m"), "grow_units(b_1.dense_1, 1)"))
    assert changed.graph("m").shape("b_1.dense_1") == (4,)
    assert changed.graph("n") == program.graph("n")
    assert NET in changed.source.text
    with pytest.raises(OptionError, match="has no net `k`"):
        exchange(program, parse_program("net k(x: [4]) { return x |> relu }").graph())


def test_line_breaks_stay_what_they_are(tmp_path):
    (tmp_path / "p.irg").write_bytes(("\ufeff" + PROGRAM.replace("\n", "\r\n")).encode())
    program = read_program(tmp_path / "p.irg")
    text = exchange(program, program.graph("n")).source.text
    assert text.count("\n") == text.count("\r\n")
    assert text.startswith("# top\r\n")


def test_definitions_may_share_a_line():
    program = parse_program("block b(x) { return x |> relu } net n(x: [4]) { return x |> b } train { epochs = 1 }")
    changed = exchange(program, program.graph())
    assert changed.graph() == program.graph()
    assert changed.training == program.training


@pytest.mark.parametrize("word", ["dense", "relu"])
def test_a_block_that_goes_by_the_name_of_an_op_is_refused(word):
    text = f"block {word}(x) {{ return x |> flip }}\nnet m(x: [4]) {{ return x |> {word} }}\n"
    shadowed = parse_program(text + "net n(x: [4]) { return x |> tanh }")
    changed = exchange(shadowed, shadowed.graph("m"))
    assert changed.graph("m") == shadowed.graph("m"), "negative control: no such op is printed"
    grown = parse_program("net n(x: [4]) { return x |> h: dense(3) |> relu |> dense(1) }").graph()
    with pytest.raises(OptionError, match="a block has the name of an op or function that `n` is printed with"):
        exchange(shadowed, grown)


# imports -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def library(tmp_path):
    (tmp_path / "lib").mkdir()
    (tmp_path / "out").mkdir()
    (tmp_path / "lib" / "b.irg").write_text("block b(x, w) { return x |> dense(w) |> relu }")
    (tmp_path / "p.irg").write_text(
        'import std.resnet\nimport "lib/b.irg"\nnet n(x: [4]) { return x |> b(3) |> dense(1) }\n'
    )
    return tmp_path


def test_imports_stay_where_they_lead_somewhere(library):
    program = read_program(library / "p.irg")
    for place in (None, library / "q.irg"):
        assert 'import "lib/b.irg"' in exchange(program, program.graph(), place).source.text


def test_imports_that_nothing_needs_go_in_another_folder(library):
    program = read_program(library / "p.irg")
    text = exchange(program, program.graph(), library / "out" / "p.irg").source.text
    assert "lib/b.irg" not in text
    assert text.startswith("import std.resnet\n")
    (library / "out" / "p.irg").write_text(text)
    assert read_program(library / "out" / "p.irg").graph() == program.graph()


def test_imports_that_are_needed_must_lead_somewhere(library):
    with (library / "p.irg").open("a") as file:
        file.write("net m(x: [4]) { return x |> b(2) }")
    program = read_program(library / "p.irg")
    place = library / "out" / "p.irg"
    with pytest.raises(ProgramError, match=r"lib/b.irg: no such file or directory") as caught:
        exchange(program, program.graph("n"), place)
    assert str(caught.value.diagnostics[0].span) == f"{place}:2:1"
