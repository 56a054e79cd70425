"""What the first of several processes finds out: its own part of a record, and what came from the others."""

import pytest

from irgrow.growth.messages import Message


@pytest.fixture
def come():
    """Return what a record tells as it arrives: in bytes, and nothing pickled."""
    return lambda record: Message.unpacked(Message({}, record.told()).packed()).tensors


@pytest.fixture
def together(come):
    """Return what the first process makes of its record and those of others."""
    return lambda first, *others: first.merged([first.told(), *map(come, others)])
