"""Runs that go on from a network: its values are where they start, and it must be of the job's graph."""

from dataclasses import replace

import pytest
import torch
from small_runs import NET, STEADY, job, trained

from irgrow.errors import OptionError
from irgrow.network import build
from irgrow.training.loop import Run


def state(net):
    return {name: value.clone() for name, value in net.state_dict().items()}


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[n], b[n]) for n in a)


def test_a_run_starts_from_the_values_it_is_given(tmp_path):
    first, _ = trained(tmp_path / "first", growth="")
    found = state(first.net)
    run = Run(job(growth=""), tmp_path / "second", net=first.net)
    assert same(state(run.net), found)
    fresh = Run(job(growth=""), tmp_path / "third")
    assert not same(state(fresh.net), found)
    run.run()
    assert not same(state(run.net), found), "it trains on"


def test_a_fresh_network_is_what_a_run_starts_from_by_itself(tmp_path):
    task = job(growth=STEADY)
    given = Run(task, tmp_path / "a", net=build(task.graph, task.settings.seed))
    given.run()
    by_itself = Run(task, tmp_path / "b")
    by_itself.run()
    assert same(state(given.net), state(by_itself.net))
    assert given.net.graph.widths != task.graph.widths, "it grew"


def test_it_is_taken_to_the_precision_of_the_run(tmp_path):
    task = job(growth="")
    double = replace(task, settings=replace(task.settings, precision="float64"))
    run = Run(double, tmp_path / "a", net=build(task.graph, 1))
    assert {p.dtype for p in run.net.parameters()} == {torch.float64}
    run.run()


def test_a_run_from_a_network_goes_on_from_its_checkpoint(tmp_path):
    task = job(growth=STEADY)
    run = Run(task, tmp_path / "a", net=build(task.graph, 77))
    run.run()
    assert same(state(Run.resume(tmp_path / "a").net), state(run.net))


def test_a_network_of_another_graph_is_refused(tmp_path):
    other = build(job(net=NET.replace("dense(2)", "dense(3)")).graph, 0)
    before = state(other)
    with pytest.raises(OptionError, match="is not of the graph of the job"):
        Run(job(), tmp_path / "a", net=other)
    assert same(state(other), before)
    assert not (tmp_path / "a").exists()
