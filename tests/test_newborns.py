"""Batch norms start the statistics of new units from the batch."""

import pytest
import torch

import irgrow
from irgrow.errors import DataError
from irgrow.passes import GrowUnits

TEXT = """net n(x: [3, 7, 5]) {
  return x |> h: conv(4, 3, bias = false) |> bn: batchnorm |> relu |> deep: conv(5, 3) |> bn2: batchnorm
    |> flatten |> dense(2)
}"""


def grown(batch, axis="h", text=TEXT, **options):
    net = irgrow.build(text, seed=1, dtype=torch.float64)
    receipt = net.rewrite(GrowUnits(axis, 3), **{"batch": batch, **options})
    return net, receipt


def values(net, name, batch):
    """Return what a node gives on a batch in evaluation mode."""
    from irgrow.probing import probe

    return probe(net.graph, net.module, net.params, (batch,), (name,)).values[name]


def test_new_units_have_the_statistics_of_the_batch():
    batch = torch.randn(6, 3, 7, 5, dtype=torch.float64) + 0.5
    net, receipt = grown(batch)
    columns = values(net, "h", batch).transpose(0, 1).flatten(1)[4:]
    torch.testing.assert_close(net.params["bn.running_mean"][4:], columns.mean(1))
    torch.testing.assert_close(net.params["bn.running_var"][4:], columns.var(1))
    assert receipt.verdict.preserves
    assert receipt.error < 1e-12
    assert receipt.notes == ()


def test_old_units_keep_theirs_and_the_norm_behind_is_left_alone():
    batch = torch.randn(6, 3, 7, 5, dtype=torch.float64)
    net, _ = grown(batch)
    assert torch.equal(net.params["bn.running_mean"][:4], torch.zeros(4, dtype=torch.float64))
    assert torch.equal(net.params["bn2.running_var"], torch.ones(5, dtype=torch.float64))


def test_without_a_batch_they_start_at_zero_and_one():
    net, receipt = grown(None)
    assert receipt.notes == (
        "the running mean and variance of the new units of `bn` are 0 and 1, there was no batch to measure them on; "
        "give `batch` or `statistics`",
    )
    assert torch.equal(net.params["bn.running_var"], torch.ones(7, dtype=torch.float64))
    assert torch.equal(net.params["bn.running_mean"], torch.zeros(7, dtype=torch.float64))


def test_a_norm_behind_another_sees_what_the_first_now_gives():
    text = """net n(x: [3]) { return x |> h: dense(4) |> a: batchnorm |> relu |> b: batchnorm |> dense(2) }"""
    batch = 3.0 * torch.randn(50, 3, dtype=torch.float64) + 1.0
    net, _ = grown(batch, text=text)
    seen = values(net, "relu_1", batch)[:, 4:]
    torch.testing.assert_close(net.params["b.running_mean"][4:], seen.mean(0))
    torch.testing.assert_close(net.params["b.running_var"][4:], seen.var(0))


@pytest.mark.parametrize("samples", [0, 1])
def test_a_single_value_has_no_variance(samples):
    text = "net n(x: [3]) { return x |> h: dense(4) |> bn: batchnorm |> relu |> dense(2) }"
    net, receipt = grown(torch.randn(samples, 3, dtype=torch.float64), text=text)
    assert torch.equal(net.params["bn.running_var"], torch.ones(7, dtype=torch.float64))
    assert "the new units of `bn` are 0 and 1, the batch has too few samples" in str(receipt)
    assert net.journal[0].used == ""
    images = (
        "net n(x: [3, 4, 4]) { return x |> h: conv(4, kernel = 1) |> bn: batchnorm |> relu |> avgpool |> dense(2) }"
    )
    net, receipt = grown(torch.randn(max(samples, 1), 3, 4, 4, dtype=torch.float64), text=images)
    assert not receipt.notes, "positions are values enough"
    assert net.journal[0].used == "norms"


def test_averages_have_statistics_of_their_own():
    from torch.optim.swa_utils import AveragedModel

    net = irgrow.build(TEXT, seed=1, dtype=torch.float64)
    average = AveragedModel(net, use_buffers=True)
    net.track(torch.optim.SGD(net.parameters(), lr=0.1), average=average)
    batch = torch.randn(6, 3, 7, 5, dtype=torch.float64)
    net.rewrite(GrowUnits("h", 3), statistics=batch)
    columns = values(average.module, "h", batch).transpose(0, 1).flatten(1)[4:]
    torch.testing.assert_close(average.module.params["bn.running_mean"][4:], columns.mean(1))


def test_values_that_are_not_finite_change_nothing():
    net = irgrow.build(TEXT, seed=1, dtype=torch.float64)
    before = net.graph.digest
    batch = torch.full((4, 3, 7, 5), torch.inf, dtype=torch.float64)
    with pytest.raises(DataError, match="new units of `bn` are not finite"):
        net.rewrite(GrowUnits("h", 3), statistics=batch)
    assert net.graph.digest == before
    assert len(net.journal) == 0


def test_training_mode_and_generators_are_left_alone():
    net = irgrow.build(TEXT, seed=1, dtype=torch.float64).train()
    state = torch.get_rng_state()
    net.rewrite(
        GrowUnits("h", 3), statistics=torch.randn(4, 3, 7, 5, generator=torch.Generator().manual_seed(1)).double()
    )
    assert net.module.training
    assert torch.equal(torch.get_rng_state(), state)
    assert int(net.params["bn.num_batches_tracked"]) == 0
