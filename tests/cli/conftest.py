"""The command line in this process, in an empty folder."""

import io
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from irgrow.cli import main

sys.path.insert(0, str(Path(__file__).parent))  # what tests share stands beside them


@dataclass(frozen=True)
class Answer:
    """What a command said."""

    code: int
    out: str
    err: str


def everything(folder):
    """Return all files of a folder with their contents, and the folders in it."""
    return {p: p.read_bytes() if p.is_file() else None for p in folder.rglob("*")}


@pytest.fixture
def examples():
    return Path(__file__).parents[2] / "examples"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty folder, in which commands run."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def write(folder):
    def writing(text, name="net.irg"):
        (folder / name).write_text(text, encoding="utf-8")
        return name

    return writing


@pytest.fixture
def irgrow(folder, monkeypatch, capsys):
    """Run a command; what it raises is a failure of the test, as it would be a traceback."""

    def run(*args, stdin=""):
        monkeypatch.setattr(sys, "argv", ["irgrow", *map(str, args)])
        monkeypatch.setattr(sys, "stdin", io.StringIO(stdin))
        capsys.readouterr()
        code = 0
        try:
            main()
        except SystemExit as stop:
            code = stop.code or 0
        return Answer(code, *capsys.readouterr())

    return run


@pytest.fixture
def fine(irgrow):
    """Run a command that is to work and return what it printed."""

    def run(*args, **kwargs):
        answer = irgrow(*args, **kwargs)
        assert answer.code == 0, answer.err
        return answer.out

    return run


@pytest.fixture
def mistake(irgrow, folder):
    """Run a command that is to fail with exit code 2, one message on stderr, and no file touched; return the message."""

    def run(*args, **kwargs):
        before = everything(folder)
        answer = irgrow(*args, **kwargs)
        assert answer.code == 2, answer
        assert answer.out == ""
        assert answer.err.lower().count("error") == 1, answer.err
        assert "Traceback" not in answer.err
        assert everything(folder) == before
        return answer.err

    return run
