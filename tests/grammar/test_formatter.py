"""The formatter: idempotent, keeps comments, never changes a token."""

from pathlib import Path

import pytest
from hypothesis import given

from irgrow.errors import ProgramError
from irgrow.grammar import format_text, parse
from irgrow.testing import graphs

SHIPPED = sorted([*Path("examples").glob("*.irg"), *Path("grammar/std").glob("*.irg")])


@pytest.mark.parametrize("path", SHIPPED, ids=lambda p: p.stem)
def test_shipped_programs_are_formatted(path):
    assert format_text(path.read_text()) == path.read_text()


@given(graphs(steps=3))
def test_formatting_is_idempotent_and_keeps_the_program(graph):
    text = format_text(str(graph))
    assert format_text(text) == text
    assert parse(text) == graph


def test_comments_stay_where_they_are():
    text = "# first\nnet n(x:[3]){# why\n  # alone\n  return x|>relu   # last\n}\n# end\n"
    assert format_text(text) == ("# first\nnet n(x: [3]) {  # why\n  # alone\n  return x |> relu  # last\n}\n# end\n")


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("net n(x:[3],k=-1){return x}", "net n(x: [3], k = -1) { return x }\n"),
        ("net n(x:ids(5)[3]){return x|>embedding(2)}", "net n(x: ids(5)[3]) { return x |> embedding(2) }\n"),
        ("net n(x:[3]){a=relu(x) return a}", "net n(x: [3]) {\n  a = relu(x)\n  return a\n}\n"),
        (
            "net n(x:[3]){return x|>if 1==1{relu}else{gelu}}",
            "net n(x: [3]) { return x |> if 1 == 1 { relu } else { gelu } }\n",
        ),
        ("net n(x:[3]){return x\n|>relu\n|>relu}", "net n(x: [3]) { return x\n    |> relu\n    |> relu }\n"),
        ("net n(x:[3]){\n\n\n\nreturn x}", "net n(x: [3]) {\n\n  return x }\n"),
        ("train{epochs=3 batch=4}", "train {\n  epochs = 3\n  batch = 4\n}\n"),
        ("net n(x:[3]){return x|>dense(2- -1*3)}", "net n(x: [3]) { return x |> dense(2 - -1 * 3) }\n"),
        ("net n(x:[3]){return x|>concat{relu;gelu}}", "net n(x: [3]) { return x |> concat { relu ; gelu } }\n"),
        ("", ""),
    ],
)
def test_layout(text, wanted):
    assert format_text(text) == wanted
    assert format_text(wanted) == wanted


def test_a_program_that_does_not_parse_is_not_touched():
    with pytest.raises(ProgramError):
        format_text("net n(x: [3]) { return }")
