import sys
from pathlib import Path

import pytest

from irgrow.passes.analyses.spectrum import Gram

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture
def added(monkeypatch):
    """The steps of a training in which something was recorded, once for each record."""
    steps, add = [], Gram.add

    def counted(gram, value):
        steps.append(1)
        add(gram, value)

    monkeypatch.setattr(Gram, "add", counted)
    return steps
