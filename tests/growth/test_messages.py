"""Messages between processes: morphisms, verdicts and anything else arrive as they were sent."""

import numpy as np
import pytest
import torch
from live import CNN, MLP

from irgrow.axes import NEW
from irgrow.fills import ZERO, Given
from irgrow.growth.messages import (
    Message,
    ParallelError,
    morphism_message,
    morphism_of,
    verdict_from_json,
    verdict_to_json,
)
from irgrow.morphism import Cut, Keep, Morphism, Select
from irgrow.network import build
from irgrow.transfer_json import transfer_to_json
from irgrow.verdict import Approximate, Changes, Exact, Improving, Refused


def sent(morphism):
    return morphism_of(Message.unpacked(morphism_message(morphism).packed()), morphism.before)


@pytest.mark.parametrize("text", [MLP, CNN], ids=["mlp", "cnn"])
def test_a_morphism_arrives_bit_for_bit(text):
    net = build(text, seed=1, dtype=torch.float64)
    net.rewrite("grow_units(a, 3)" if text == MLP else "grow_units(c1, 3)")
    morphism = net.journal.morphisms[0]
    found = sent(morphism)
    assert found.after == morphism.after
    assert list(found.transfers) == list(morphism.transfers)
    assert found.seed == morphism.seed
    assert str(found) == str(morphism)
    for name, transfer in morphism.transfers.items():
        assert transfer_to_json(found.transfers[name]) == transfer_to_json(transfer)


def test_all_of_a_morphism_arrives_and_every_array_as_a_tensor():
    """Transfers of every kind: `tests/test_transfer_json.py`."""
    graph, numbers = build(MLP).graph, np.random.default_rng(0).normal(size=(2, 6)) * 1e-300
    grown = np.append(np.arange(8), [NEW, NEW])
    transfers = dict.fromkeys(graph.params, Keep("a.weight")) | {
        "a.weight": Select("a.weight", (grown, None), (Given(numbers), ZERO)),
        "b.weight": Cut("b.weight", np.arange(56).reshape(7, 8) % 3 == 0),
    }
    morphism = Morphism(graph, graph, transfers, {"a": grown}, 2**62 + 1, "all", True, ("a note",))
    message = morphism_message(morphism)
    assert sorted(str(t.dtype) for t in message.tensors.values()) == [
        "torch.bool",
        "torch.float64",
        "torch.int64",
        "torch.int64",
    ]
    found = sent(morphism)
    assert (found.seed, found.summary, found.by_numbers, found.notes) == (2**62 + 1, "all", True, ("a note",))
    assert np.array_equal(found.edits["a"], grown)
    assert list(found.transfers) == list(graph.params)
    for name, transfer in transfers.items():
        assert transfer_to_json(found.transfers[name]) == transfer_to_json(transfer)
    assert isinstance(found.transfers["b.weight"], Cut)
    assert found.transfers["b.weight"].kept.dtype == bool


def test_an_edit_of_another_program_is_refused():
    net = build(MLP)
    net.rewrite("grow_units(a, 3)")
    with pytest.raises(ParallelError, match="the edit is of the program"):
        morphism_of(morphism_message(net.journal.morphisms[0]), net.graph)


@pytest.mark.parametrize(
    "verdict",
    [Exact("eval"), Approximate("eta^2", 0.5), Improving(-0.1), Changes("why"), Refused("why", "a")],
    ids=lambda v: v.word,
)
def test_verdicts_arrive(verdict):
    assert verdict_from_json(verdict_to_json(verdict)) == verdict


@pytest.mark.parametrize("size", [0, 1, 500, 511, 512, 513, 5000])
def test_messages_of_any_length(size):
    message = Message({"text": "x" * size, "of": [1, None, 0.1]}, {"t": torch.arange(size, dtype=torch.int64)})
    found = Message.unpacked(message.packed())
    assert dict(found) == dict(message)
    assert torch.equal(found.tensors["t"], message.tensors["t"])
