"""Golden texts: diagnostics as people see them, and rewrites as program before, passes, verdicts, program after.

They are written only by `pytest --update-golden`.
"""

import re
from pathlib import Path

import pytest

from irgrow.errors import ProgramError
from irgrow.grammar import parse, parse_pass, parse_program, render
from irgrow.passes import plan
from irgrow.testing.laws import Case, verdict_is_sound

HERE = Path(__file__).parent / "golden"


@pytest.mark.parametrize("path", sorted((HERE / "diagnostics").glob("*.irg")), ids=lambda p: p.stem)
def test_diagnostics(path, golden):
    program = parse_program(path.read_text(), path.name)
    texts = []
    for part in (program.graph, lambda: program.growth, lambda: program.training):
        try:
            part()
        except ProgramError as error:
            texts.append(render(error.diagnostics))
    assert texts, "a diagnostics case must fail"
    golden(path.with_suffix(".txt"), "\n".join(texts) + "\n")


def cases():
    return sorted((HERE / "rewrites").glob("*.txt"))


@pytest.mark.parametrize("path", cases(), ids=lambda p: p.stem)
def test_rewrites(path, golden):
    lines = path.read_text().splitlines()
    before = (
        "\n".join(line for line in lines[1 : next(i for i, t in enumerate(lines) if t.startswith("# pass"))]) + "\n"
    )
    passes = [parse_pass(line.removeprefix("# pass ")) for line in lines if line.startswith("# pass ")]
    graph = parse(before)
    assert str(graph) == before, "the program before is written as the printer writes it"
    text = f"# before\n{before}" + "".join(f"# pass {p}\n" for p in passes)
    for pass_ in passes:
        verdict_is_sound(Case(graph, pass_))
        planned = plan(pass_, graph)
        text += f"# verdict {_plain(str(planned.verdict))}\n"
        graph = graph if planned.morphism is None else planned.morphism.after
    text += f"# after\n{graph}"
    golden(path, text)
    if path.stem.startswith("must_not_claim"):
        assert "# verdict exact" not in text
    elif path.stem.startswith("must_not"):
        assert "# verdict refused" in text


def _plain(verdict):
    """Leave out the place in the text, which the golden file itself would move."""
    return re.sub(r"^<text>:\d+:\d+: ", "", verdict)


def test_there_are_cases_where_nothing_may_happen():
    assert sum(path.stem.startswith("must_not") for path in cases()) >= 8
