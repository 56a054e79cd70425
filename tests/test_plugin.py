"""`pytest --irgrow-passes`, in runs of pytest of its own."""

import pytest

pytest_plugins = ["pytester"]

GOOD = '''
"""Passes somebody wrote."""
from dataclasses import dataclass
import numpy as np
from irgrow.axes import Atom
from irgrow.fills import ZERO
from irgrow.ops import site
from irgrow.passes import GrowUnits, Pass
from irgrow.passes.primitives import by_role, resize


class _Base(Pass):
    """Private."""


class Unfinished(Pass):
    """Nothing yet."""


@dataclass(frozen=True)
class ReverseUnits(_Base):
    axis: str = site("")

    @property
    def site(self):
        return self.axis

    def match(self, graph, site):
        if site not in graph.leaves:
            return "not an axis of its own"
        why = graph.locked(Atom(site))
        return None if why is None else f"locked: {why}"

    def rewrite(self, graph, site, context):
        order = np.arange(graph.widths[site])[::-1]
        return resize(graph, {site: order}, by_role(ZERO, ZERO), context.seed, "reverse")
'''
BAD = (
    GOOD
    + """

@dataclass(frozen=True)
class Careless(ReverseUnits):
    def rewrite(self, graph, site, context):
        order = np.random.permutation(graph.widths[site])
        return resize(graph, {site: order}, by_role(ZERO, ZERO), context.seed, "shuffle")
"""
)


@pytest.fixture
def project(pytester):
    """A project with passes; pytest runs in a process of its own, with the plugin as it is installed."""
    pytester.makepyprojecttoml("[tool.pytest.ini_options]\npythonpath = ['.']\naddopts = ['-W', 'error']\n")

    def run(*options, **files):
        pytester.makepyfile(**files)
        return pytester.runpytest_subprocess("-p", "no:cacheprovider", *options)

    return run


def test_every_pass_of_a_module_is_an_item(project):
    found = project("--irgrow-passes", "mine", "--irgrow-examples", "5", "-v", mine=GOOD)
    found.assert_outcomes(passed=1)
    found.stdout.fnmatch_lines(["*mine::ReverseUnits PASSED*"])
    assert "Unfinished" not in found.stdout.str()
    assert "GrowUnits" not in found.stdout.str()


def test_a_broken_pass_fails_with_its_program(project):
    found = project("--irgrow-passes", "mine", "--irgrow-examples", "20", mine=BAD)
    found.assert_outcomes(passed=1, failed=1)
    found.stdout.fnmatch_lines(
        [
            "*mine.Careless*",
            "determinism: the same seed gave other numbers",
            "  pass: careless(*",
            "  seed: *",
            "  program:",
            "net *",
        ]
    )
    assert "Traceback" not in found.stdout.str()


def test_items_are_chosen_like_other_tests(project):
    found = project("--irgrow-passes", "mine", "-k", "Reverse", "--irgrow-examples", "3", mine=BAD)
    found.assert_outcomes(passed=1, deselected=1)
    found = project(
        "--irgrow-passes", "mine:ReverseUnits", "--irgrow-examples", "3", mine=BAD, test_more="def test_it(): pass"
    )
    found.assert_outcomes(passed=2)
    found = project("--irgrow-passes", "mine", "--collect-only", "-q", mine=BAD)
    found.stdout.fnmatch_lines(["mine::ReverseUnits", "mine::Careless"])


def test_passes_of_a_package_and_of_several_modules(project, pytester):
    pytester.mkpydir("pack")
    (pytester.path / "pack" / "inner.py").write_text(GOOD)
    (pytester.path / "pack" / "__init__.py").write_text(
        "from pack.inner import ReverseUnits\nfrom irgrow.passes import GrowUnits\n"
    )
    found = project("--irgrow-passes", "pack", "--irgrow-passes", "mine:Careless", "--collect-only", "-q", mine=BAD)
    found.stdout.fnmatch_lines(["pack::ReverseUnits", "mine::Careless", "", "2 tests collected*"])


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("nowhere", "ModuleNotFoundError: No module named 'nowhere'; is its folder on the path"),
        ("wrong", "NameError: name 'nothing' is not defined"),
        ("empty", "`empty` defines no pass"),
        ("mine:Lost", "`mine` has no pass `Lost`; it has: GrowUnits, _Base, Unfinished, ReverseUnits"),
        ("imports", "ModuleNotFoundError: No module named 'absent'"),
    ],
)
def test_what_cannot_be_checked_is_one_clear_error(project, target, message):
    files = {
        "wrong": "nothing",
        "empty": "from irgrow.passes import GrowUnits",
        "imports": "import absent",
        "mine": GOOD,
    }
    found = project("--irgrow-passes", target, **files, test_it="def test_it(): pass")
    assert found.ret == pytest.ExitCode.USAGE_ERROR
    found.stderr.fnmatch_lines([f"ERROR: --irgrow-passes {target}: {message.replace('[', '[[]')}*"])
    assert "Traceback" not in found.stderr.str()
    assert (target == "nowhere") == ("on the path" in found.stderr.str())


@pytest.mark.parametrize("number", ["0", "-3", "many"])
def test_the_number_of_examples_is_checked(project, number):
    found = project("--irgrow-passes", "mine", f"--irgrow-examples={number}", mine=GOOD)
    assert found.ret == pytest.ExitCode.USAGE_ERROR
    found.stderr.fnmatch_lines([f"*expected a number from 1, found '{number}'*"])


def test_a_run_without_the_option_pays_nothing(project):
    """The plugin is loaded wherever irgrow is installed; it imports neither torch nor Hypothesis nor the language."""
    code = """
import sys

def test_nothing_heavy_was_loaded(pytestconfig):
    assert pytestconfig.pluginmanager.has_plugin("irgrow")
    assert "irgrow.testing.plugin" in sys.modules
    heavy = {"torch", "numpy", "hypothesis", "lark", "irgrow.passes", "irgrow.grammar"} & set(sys.modules)
    assert not heavy, heavy
"""
    project("-p", "no:jaxtyping", test_light=code).assert_outcomes(passed=1)


def test_without_hypothesis_it_says_what_to_install(project):
    conftest = "import sys\nsys.modules['hypothesis'] = None\n"
    found = project(
        "-p", "no:hypothesispytest", "-p", "blocking", "--irgrow-passes", "mine", mine=GOOD, blocking=conftest
    )
    assert found.ret == pytest.ExitCode.USAGE_ERROR
    found.stderr.fnmatch_lines(["ERROR: --irgrow-passes needs irgrow[[]testing]:*"])


def test_workers_share_the_items(project):
    found = project("--irgrow-passes", "mine", "--irgrow-examples", "3", "-n", "2", "-k", "Reverse", mine=GOOD)
    found.assert_outcomes(passed=1)
