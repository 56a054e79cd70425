"""What an editable install hides: folders missing from the list of packages, links, versions, long files."""

import tomllib
from pathlib import Path

import pytest

import irgrow

ROOT = Path(__file__).parent.parent
CONFIG = tomllib.loads((ROOT / "pyproject.toml").read_text())
MAPPED = ("grammar", "passes", "backends")
SOURCES = sorted(p for folder in ("irgrow", *MAPPED) for p in (ROOT / folder).rglob("*.py"))


def test_every_package_is_listed():
    found = set()
    for folder in ("irgrow", *MAPPED):
        for init in (ROOT / folder).rglob("__init__.py"):
            parts = init.parent.relative_to(ROOT).parts
            if folder == "irgrow" and len(parts) > 1 and parts[1] in MAPPED:
                continue
            found.add(".".join(parts if folder == "irgrow" else ("irgrow", *parts)))
    data = {name for name in CONFIG["tool"]["setuptools"]["package-data"] if name.endswith(".std")}
    assert set(CONFIG["tool"]["setuptools"]["packages"]) == found | data


@pytest.mark.parametrize("name", MAPPED)
def test_links_point_to_the_folders(name):
    link = ROOT / "irgrow" / name
    assert link.is_symlink()
    assert link.readlink() == Path("..") / name


def test_one_version():
    assert irgrow.__version__ == CONFIG["project"]["version"]


def test_every_public_name_is_there():
    for name in irgrow.__all__:
        assert getattr(irgrow, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = irgrow.nothing


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_no_module_is_longer_than_400_lines(path):
    assert len(path.read_text().splitlines()) <= 400


def test_what_is_tested_is_pinned():
    pins = {line.split("==")[0] for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line}
    extras = CONFIG["project"]["optional-dependencies"].values()
    wanted = [*CONFIG["project"]["dependencies"], *(w for extra in extras for w in extra)]
    names = {w.split(">=")[0] for w in wanted if not w.startswith("irgrow")}
    assert names <= pins


@pytest.mark.parametrize("folder", ["rewrites", "initializers", "saliency", "triggers"])
def test_every_pass_has_a_test_file_of_its_name(folder):
    for path in (ROOT / "passes" / folder).glob("*.py"):
        if path.stem not in ("__init__", "base"):
            assert (ROOT / "tests" / "passes" / folder / f"test_{path.stem}.py").exists()
