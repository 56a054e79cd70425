"""What the documentation says is executed and compared: Python, commands, the grammar, the catalogue, docstrings."""

import doctest
import importlib
import pkgutil
import re
import subprocess
import sys
from pathlib import Path
from shutil import copytree

import pytest

import irgrow
from irgrow.grammar import format_text, parse_program

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
FLAGS = doctest.ELLIPSIS


def blocks(page, kind):
    return re.findall(rf"^```{kind}\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE)


def having(kind):
    return pytest.mark.parametrize("page", [p for p in PAGES if blocks(p, kind)], ids=lambda p: p.stem)


@pytest.fixture
def workplace(tmp_path, monkeypatch):
    copytree(ROOT / "examples", tmp_path / "examples")
    monkeypatch.chdir(tmp_path)


@pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning", "ignore:.*many workers:UserWarning")  # Lightning's own
@having("pycon")
def test_python_examples_do_what_the_page_shows(page, workplace):
    code = "\n".join(blocks(page, "pycon"))
    test = doctest.DocTestParser().get_doctest(code, {}, page.stem, str(page), 0)
    said = []
    result = doctest.DocTestRunner(optionflags=FLAGS).run(test, out=said.append)
    assert result.attempted > 3
    assert result.failed == 0, "".join(said)


@having("console")
def test_commands_print_what_the_page_shows(page, workplace):
    for block in blocks(page, "console"):
        for command, shown in re.findall(r"^\$ (.*)\n((?:(?!\$ ).*\n)*)", block, re.MULTILINE):
            path = f"{Path(sys.executable).parent}:/usr/bin:/bin"
            run = subprocess.run(command, shell=True, capture_output=True, text=True, env={"PATH": path}, check=False)
            said = run.stdout + run.stderr
            assert doctest.OutputChecker().check_output(shown, said, FLAGS), f"$ {command}\n{said}"


@having("irg")
def test_programs_on_the_pages_are_well_formed_and_formatted(page):
    for text in blocks(page, "irg"):
        program = parse_program(text)
        program.graph()
        _ = program.growth, program.training
        assert format_text(text, page.name) == text


def test_the_language_page_begins_with_the_grammar():
    (shown,) = blocks(ROOT / "docs" / "language.md", "lark")
    assert shown == (ROOT / "grammar" / "irgrow.lark").read_text()


def test_the_catalogue_is_up_to_date(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "docs"))
    catalogue = importlib.import_module("catalogue").catalogue()
    assert catalogue == (ROOT / "docs" / "passes.md").read_text(), "run `python docs/catalogue.py`"


def test_the_tables_of_what_is_preserved_have_every_pass_and_every_program(monkeypatch):
    """Their lines are compared with what is computed by the tests of the battery, the matrix and the table."""
    monkeypatch.syspath_prepend(str(ROOT / "docs"))
    operators = importlib.import_module("operators")
    text = operators.PAGE.read_text()
    assert operators.page(operators.written(text)) == text, "run `python docs/operators.py`"
    assert all(operators.written(text)("Idioms", name) for name in operators.IDIOMS)
    assert not re.search(r"fault \d", text)


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.stem)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
        if "://" not in target:
            assert (page.parent / target).exists(), target


MODULES = sorted(m.name for m in pkgutil.walk_packages(irgrow.__path__, "irgrow."))


@pytest.mark.parametrize("name", MODULES)
def test_examples_in_docstrings_hold(name, workplace):
    module = importlib.import_module(name)
    assert doctest.testmod(module, optionflags=FLAGS).failed == 0


def test_there_are_examples_in_docstrings():
    found = [n for n in MODULES if ">>>" in Path(importlib.import_module(n).__file__).read_text()]
    assert len(found) > 15
