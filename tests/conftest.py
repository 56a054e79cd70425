"""Profiles, shape checks of annotated functions, and a clean environment for every test."""

import os
import sys
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # small tensors gain nothing from threads, workers beside them lose a lot

import pytest
from hypothesis import HealthCheck, settings
from jaxtyping import install_import_hook

sys.path.insert(0, str(Path(__file__).parent))  # what tests share stands beside them

# Only modules of array functions: beartype looks at random items of containers, through the global generator.
_ARRAYS = [f"irgrow.passes.analyses.{name}" for name in ("candidates", "novelty", "spectrum")]
install_import_hook(_ARRAYS, "beartype.beartype")

_COMMON: dict[str, Any] = {
    "deadline": None,
    "suppress_health_check": [HealthCheck.too_slow, HealthCheck.data_too_large],
}
settings.register_profile("dev", max_examples=50, **_COMMON)
settings.register_profile("ci", max_examples=200, derandomize=True, **_COMMON)
settings.register_profile("deep", max_examples=3000, **_COMMON)
settings.load_profile(os.environ.get("IRGROW_PROFILE", "dev"))


def pytest_addoption(parser):
    parser.addoption("--update-golden", action="store_true", help="write the golden files instead of comparing")


@pytest.fixture
def golden(request):
    """Compare a text with a golden file, or write it when asked to explicitly."""

    def compare(path, text):
        path = Path(path)
        if request.config.getoption("--update-golden"):
            path.write_text(text, encoding="utf-8")
        assert path.read_text(encoding="utf-8") == text

    return compare
