"""Two processes, played one after the other until each has heard the other."""

import pytest
import torch


class Pretended:
    """What one process gives is added for the other; played three times, since what it gives may depend on what it got."""

    def __init__(self, monkeypatch):
        self.given, self.now = ([], []), 0
        monkeypatch.setattr(torch.distributed, "all_reduce", self.all_reduce)
        monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)

    def all_reduce(self, value, group=None):
        assert group == "workers"
        own, other = self.given[self.now], self.given[1 - self.now]
        at = len(own)
        own.append(value.clone())
        if at < len(other):
            value += other[at]

    def both(self, *records):
        """Return what the second has after both were reduced."""
        self.given = ([], [])
        for turn in range(6):
            self.now = turn % 2
            self.given[self.now].clear()
            found = records[self.now].reduced("workers")
        return found


@pytest.fixture
def pretended(monkeypatch):
    return Pretended(monkeypatch)
